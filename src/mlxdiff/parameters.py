"""The text that AUTOMATIC1111's web UI keeps in pictures, written and read: what galleries show and people share.

    a red apple, oil
    on canvas
    Negative prompt: worm
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, Model: "a, b"

It says less than a Request: the model by a bare name, and much that mlxdiff does not do.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from . import __version__
from .errors import MlxdiffWarning, RequestError
from .request import Request

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

_SAMPLERS = {name.lower(): sampler for sampler, name in SAMPLER_NAMES.items()} | {
    "euler ancestral": "euler_ancestral",
    "k_euler": "euler",
    "k_euler_a": "euler_ancestral",
    "k_heun": "heun",
    "k_dpmpp_2m": "dpmpp_2m",
}
_SCHEDULES = {name.lower(): schedule for schedule, name in SCHEDULE_NAMES.items()} | {
    "uniform": "linspace",
    "sgm uniform": "trailing",
}
# What "Automatic" means to the web UI; to all other samplers their own spacing.
_AUTOMATIC = {"dpmpp_2m": "karras", "dpmpp_2m_sde": "exponential"}
# The web UI says nothing where it drew on the GPU, as it does unless told otherwise; these are philox's numbers.
_NOISE = {"cpu": "torch", "nv": "philox", "gpu": "philox", "torch": "torch", "philox": "philox", "mlx": "mlx"}

# Settings that make another picture and that a Request has no field for: their names or how these start.
_DIFFERENT = re.compile(
    r"(?:clip skip|ensd|eta|hires|hypernet|control ?net|lora|lyco|ti hashes|addnet|adetailer|refiner|face restoration"
    r"|variation seed|seed resize|tiling|vae|token merging|dynamic thresholding|freeu|mask|inpaint|cfg rescale"
    r"|rescale cfg|sigma|schedule (?:max|min) sigma|schedule rho|emphasis|ngms|skip early cfg|pad conds|latent couple"
    r"|regional prompter|conditional mask|noise multiplier|extra noise|ultimate sd upscale|sd upscale|first pass size)",
    re.IGNORECASE,
)
_NEUTRAL = {("clip skip", "1"), ("clip skip", ""), ("emphasis", "original"), ("vae", "none"), ("vae", "automatic")}
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>\n]{1,200}>", re.IGNORECASE)

_NAME = re.compile(r"\s*(\w[\w \-/.+]{0,60}):[ \t]*")
_KNOWN = {"steps", "sampler", "schedule type", "cfg scale", "seed", "size", "rng", "model", "model hash", "version"} | {
    "denoising strength",
    "batch size",
}
_MAX_FAILURES = 16  # of JSON in a line: each costs as much as the line is long
_NEGATIVE = "Negative prompt:"


def parameters_text(request: Request) -> str:
    """The request in the web UI's format: the prompt, the negative prompt, and one line of `Name: value`.

    Values that hold a comma, a colon or a newline are quoted as JSON strings. Of several images, the first one's seed.
    """
    lines = list(dict.fromkeys(request.prompts))
    if request.negative_prompt:
        lines.append(f"{_NEGATIVE} {request.negative_prompt}")
    values = {
        "Steps": request.steps,
        "Sampler": None if request.sampler is None else SAMPLER_NAMES.get(request.sampler, request.sampler),
        "Schedule type": None if request.schedule is None else SCHEDULE_NAMES.get(request.schedule),
        "CFG scale": _shortest(request.guidance_scale),
        "Seed": None if request.seed is None else request.seeds[0],
        "Size": None if request.width is None else f"{request.width}x{request.height}",
        "Model": None if request.model is None else _model_name(request.model),
        "Denoising strength": _shortest(request.strength),
        "Batch size": None if request.batch_size == 1 else request.batch_size,
        "RNG": RNG_NAMES.get(request.rng, request.rng),
        "Guidance start": _shortest(request.guidance_start),
        "Guidance end": _shortest(request.guidance_end),
        "Cache interval": request.cache_interval,
        "Token merging ratio": _shortest(request.token_merging),
        "Version": f"mlxdiff {__version__}",
    }
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items() if value is not None))
    return "\n".join(lines)


def parse_parameters(text: str, find_model: Callable[[str], str | None] | None = None) -> Request:
    """The Request that a text of the web UI describes, one image; warns of what it says and mlxdiff cannot do.

    `find_model` gives the full reference of a model's bare name, or None. Raises RequestError where the text has no
    line of settings, or one of them makes no sense.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    at, settings = _settings(lines)
    version = settings.get("version", "")
    is_ours = version.startswith("mlxdiff ")
    prompt, negative = _prompts(lines[:at])
    approximations = _approximations(settings) if is_ours else {}
    different = [f"{name}: {value}" for name, value in _unsupported(settings)]
    if not is_ours:
        tags = _TAG.findall(prompt) + _TAG.findall(negative)
        different = [*dict.fromkeys(tags), *different]
        prompt, negative = _TAG.sub("", prompt).strip(), _TAG.sub("", negative).strip()
    sampler, schedule = _sampler(settings, different)
    width, height = _size(settings)
    rng = settings.get("rng", "cpu" if version.startswith("ComfyUI") else "gpu").lower()
    if rng not in _NOISE:
        different.append(f"RNG: {settings['rng']}")
    # For a text-to-image picture that was enlarged, the strength is that of the second pass.
    enlarged = any(name.startswith("hires") for name in settings)
    request = Request(
        prompt=prompt,
        negative_prompt=negative if negative else None,
        steps=_whole(settings, "Steps"),
        guidance_scale=_number(settings, "CFG scale"),
        seed=_whole(settings, "Seed"),
        width=width,
        height=height,
        sampler=sampler,
        schedule=schedule,
        strength=None if enlarged else _number(settings, "Denoising strength"),
        rng=_NOISE.get(rng, "torch"),
        model=_model(settings, find_model),
        **approximations,
    )
    if different:
        _warn(
            f"The picture was made with {_listed(different)}, which mlxdiff leaves out.",
            "Expect another picture.",
        )
    return request


def _approximations(settings: dict[str, str]) -> dict[str, Any]:
    """Takes mlxdiff's own out of the settings. The web UI's ratio is another: it draws what tokens merge into."""
    found = {
        "guidance_start": _number(settings, "Guidance start"),
        "guidance_end": _number(settings, "Guidance end"),
        "cache_interval": _whole(settings, "Cache interval"),
        "token_merging": _number(settings, "Token merging ratio"),
    }
    settings.pop("token merging ratio", None)
    return found


def _settings(lines: list[str]) -> tuple[int, dict[str, str]]:
    """Which line holds the settings, and these by name in lower case: the last line that reads as such."""
    for at in range(len(lines) - 1, -1, -1):
        first = _NAME.match(lines[at])
        if first is None or first[1].lower() not in _KNOWN:
            continue
        found: dict[str, str] = {}
        for name, value in _pairs(lines[at]):
            found.setdefault(name.lower(), value)
        known = _KNOWN & set(found)
        if len(known) >= 3 or "version" in known or found.get("steps", "").isdecimal():
            return at, found
    raise RequestError(
        "The text has no line of settings, such as 'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1'.",
        "Give one as A1111's web UI writes it.",
    )


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """`Name: value` after `Name: value`, each read once: a value is a JSON string, list or object, or has no comma."""
    decoder, at, failures = json.JSONDecoder(), 0, 0
    while at < len(line):
        found = _NAME.match(line, at)
        start = at if found is None else found.end()
        end, value = start, None
        if failures < _MAX_FAILURES and line[start : start + 1] in ('"', "{", "["):
            try:
                value, end = decoder.raw_decode(line, start)
            except (ValueError, RecursionError):  # not JSON after all
                value, end, failures = None, start, failures + 1
        comma = line.find(",", end)
        comma = len(line) if comma < 0 else comma
        if found is not None:
            yield found[1].strip(), value if isinstance(value, str) else line[start:comma].strip()
        at = comma + 1


def _prompts(lines: list[str]) -> tuple[str, str]:
    first = next((at for at, line in enumerate(lines) if line.lstrip().startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[first:]).lstrip().removeprefix(_NEGATIVE).removeprefix(" ")
    return "\n".join(lines[:first]), negative


def _sampler(settings: Mapping[str, str], different: list[str]) -> tuple[str | None, str | None]:
    """The sampler and the schedule; what there is none for joins `different`."""
    name, kind = settings.get("sampler", ""), settings.get("schedule type", "")
    # Until version 1.9 the schedule stood at the end of the sampler's name.
    plain, old = re.fullmatch(r"(.*?)(?: (karras|exponential))?", name.lower().strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    sampler = _SAMPLERS.get(plain)
    if sampler is None and plain:
        different.append(f"Sampler: {name}")
    if not kind:
        return sampler, old
    if kind.lower() == "automatic":
        return sampler, _AUTOMATIC.get(sampler or "")
    if kind.lower() not in _SCHEDULES:
        different.append(f"Schedule type: {kind}")
    return sampler, _SCHEDULES.get(kind.lower())


def _unsupported(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if _DIFFERENT.match(name) and (name, value.lower()) not in _NEUTRAL and not name.endswith("hash"):
            yield name.upper() if name in ("vae", "ensd") else name.capitalize(), value


def _model(settings: Mapping[str, str], find_model: Callable[[str], str | None] | None) -> str | None:
    name = settings.get("model", "")
    if not name and not settings.get("model hash"):
        return None
    found = find_model(name) if name and find_model is not None else None
    if found is None:
        what = f"called {_short(name)}" if name else f"with the hash {_short(settings['model hash'])}"
        _warn(f"The picture was made with a model {what}, which says too little to find it.", "Name it with --model.")
    return found


def _size(settings: Mapping[str, str]) -> tuple[int | None, int | None]:
    if not settings.get("size"):
        return None, None
    found = re.fullmatch(r"([0-9]{1,5}) ?x ?([0-9]{1,5})", settings["size"])
    if found is None:
        raise _nonsense("Size", settings["size"], "Write it as 512x768, width and height in pixels.")
    return int(found[1]), int(found[2])


def _whole(settings: Mapping[str, str], name: str) -> int | None:
    value = settings.get(name.lower(), "")
    if value and not re.fullmatch(r"[0-9]{1,19}", value):
        raise _nonsense(name, value, "Write a whole number.")
    return int(value) if value else None


def _number(settings: Mapping[str, str], name: str) -> float | None:
    value = settings.get(name.lower(), "")
    if value and not re.fullmatch(r"[0-9.]{1,400}(?:[eE][+-]?[0-9]{1,3})?", value):
        raise _nonsense(name, value, "Write a number.")
    try:
        return float(value) if value else None
    except ValueError:
        raise _nonsense(name, value, "Write a number.") from None


def _nonsense(name: str, value: str, remedy: str) -> RequestError:
    return RequestError(f"The text says {name}: {_short(value)!r}.", remedy)


def _warn(problem: str, remedy: str) -> None:
    warnings.warn(f"{problem} {remedy}", MlxdiffWarning, stacklevel=4)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _listed(parts: list[str]) -> str:
    """The parts for one line, each cut, and at most a dozen."""
    shown = [part if len(part) <= 60 else f"{part[:60]}..." for part in parts[:12]]
    return ", ".join(shown) + (f" and {len(parts) - 12} more" if len(parts) > 12 else "")


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def _shortest(value: float | None) -> str | None:
    """4 for 4.0, and all digits of anything else."""
    if value is None:
        return None
    return str(int(value)) if float(value).is_integer() else str(value)


def _model_name(reference: str) -> str:
    """The last part, as the web UI names a model by its file: folders are nobody's business."""
    return PurePath(reference).name.removesuffix(".safetensors")
