"""What a picture says about how it was made: a Request as JSON, and the lines that other tools read.

`mlxdiff` is the canonical JSON of the Request, enough to render the picture again. `parameters` is the text format of
AUTOMATIC1111's web UI, which galleries and other programs show. `Software` names the version.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from . import __version__
from .errors import RequestError
from .images import open_picture, stored_texts
from .request import Request

MAX_JSON = 2**20  # characters; a Request with a prompt as long as a book is shorter

# The web UI's names, so that its "send to txt2img" finds them.
SAMPLER_NAMES = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "lcm": "LCM",
}
SCHEDULE_NAMES = {"karras": "Karras", "exponential": "Exponential", "beta": "Beta"}
RNG_NAMES = {"torch": "CPU", "philox": "NV"}

# Escape sequences of terminals (ECMA-48): CSI to its final letter, a string (OSC, DCS) to its end, then all others.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)
# What else must not reach a terminal: controls but tab and newline, and marks that turn the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class PictureInfo:
    """What a picture file says. `size` is (width, height) in pixels; `notes` say what could not be read."""

    request: Request | None
    parameters: str | None
    size: tuple[int, int]
    format: str
    notes: tuple[str, ...] = ()


def picture_text(request: Request) -> dict[str, str]:
    """The texts to write into a picture that a resolved `request` made, by name."""
    return {
        "mlxdiff": request.to_json(),
        "parameters": parameters_text(request),
        "Software": f"mlxdiff {__version__}",
    }


def read_picture(path: str | Path) -> PictureInfo:
    """What the picture at `path` was made with, as far as it says so; raises InputError when it is not a picture."""
    with open_picture(path) as picture:
        size, kind = picture.size, str(picture.format)
        texts = stored_texts(picture)
    request, notes = None, []
    if "mlxdiff" in texts:
        try:
            request = request_of(texts["mlxdiff"])
        except RequestError as error:
            notes.append(f"What it says about mlxdiff cannot be used. {printable(str(error))}")
    parameters = texts.get("parameters")
    return PictureInfo(request, None if parameters is None else printable(parameters), size, kind, tuple(notes))


def request_of(text: str) -> Request:
    """The Request in a text from a file that anybody may have written; raises RequestError."""
    if len(text) > MAX_JSON:
        raise RequestError(f"The request is {len(text)} characters long.", f"At most {MAX_JSON} are read.")
    return Request.from_json(text)


def parameters_text(request: Request) -> str:
    """The request in the web UI's format: the prompt, the negative prompt, and one line of `Name: value`.

    Values that hold a comma, a colon or a newline are quoted as JSON strings. Of several images, the first one's seed.
    """
    lines = list(dict.fromkeys(request.prompts))
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    values = {
        "Steps": request.steps,
        "Sampler": None if request.sampler is None else SAMPLER_NAMES.get(request.sampler, request.sampler),
        "Schedule type": None if request.schedule is None else SCHEDULE_NAMES.get(request.schedule),
        "CFG scale": _number(request.guidance_scale),
        "Seed": None if request.seed is None else request.seeds[0],
        "Size": None if request.width is None else f"{request.width}x{request.height}",
        "Model": None if request.model is None else _model_name(request.model),
        "Denoising strength": _number(request.strength),
        "Batch size": None if request.batch_size == 1 else request.batch_size,
        "RNG": RNG_NAMES.get(request.rng, request.rng),
        "Version": f"mlxdiff {__version__}",
    }
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items() if value is not None))
    return "\n".join(lines)


def printable(text: str) -> str:
    """The text without what could drive a terminal: escape sequences, control characters, bidirectional marks."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))
    return _SURROGATES.sub("\ufffd", text)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value


def _number(value: float | None) -> str | None:
    """4 for 4.0, and all digits of anything else."""
    if value is None:
        return None
    return str(int(value)) if float(value).is_integer() else str(value)


def _model_name(reference: str) -> str:
    """The last part, as the web UI names a model by its file: folders are nobody's business."""
    return PurePath(reference).name.removesuffix(".safetensors")
