"""What a picture says about how it was made: a Request as JSON, and the lines that other tools read; and back again.

`mlxdiff` is the canonical JSON of the Request, enough to render the picture again. `parameters` is the text format of
AUTOMATIC1111's web UI, which galleries and other programs show (parameters.py). `Software` names the version.
Files come from anybody: whatever they hold ends in a Request or in an MlxdiffError.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .errors import InputError, MlxdiffWarning, RequestError
from .images import open_picture, stored_texts
from .parameters import parameters_text, parse_parameters
from .png import read_texts
from .printable import printable as printable
from .request import Request

MAX_JSON = 2**20  # characters; a Request with a prompt as long as a book is shorter
# More than a terminal session asks for in one request, less than what fills memory before the first step.
MAX_IMAGES = 10_000
TEXT_FILES = (".txt",)


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
        texts = {} if kind == "PNG" else stored_texts(picture)
    if kind == "PNG":  # Pillow would decode all pixels to get to the texts after them
        texts = read_texts(path, ("mlxdiff", "parameters", "Software"))
    request, notes = None, []
    if "mlxdiff" in texts:
        try:
            request = request_of(texts["mlxdiff"])
        except RequestError as error:
            notes.append(f"What it says about mlxdiff cannot be used. {printable(str(error))}")
    parameters = texts.get("parameters")
    return PictureInfo(request, None if parameters is None else printable(parameters), size, kind, tuple(notes))


def request_from_file(path: str | Path, *, find_model: Callable[[str], str | None] | None = None) -> Request:
    """What renders a picture again: from the picture, or from a .txt file with A1111's text.

    mlxdiff's own words come first and are exact; A1111's say less, and what they say that mlxdiff cannot do is an
    MlxdiffWarning. `find_model` gives the full reference of a model's bare name, or None. Raises InputError.
    """
    path = Path(path)
    if path.suffix.lower() in TEXT_FILES:
        parameters = printable(_read_text(path))
    else:
        found = read_picture(path)
        if found.request is not None:
            return found.request
        if found.parameters is None:
            said = found.notes[0] if found.notes else "It says nothing about how it was made."
            raise InputError(f"{path}: {said}", "Give a picture with metadata, or the options themselves.")
        for note in found.notes:
            warnings.warn(f"{path}: {note} Its A1111 text is read instead.", MlxdiffWarning, stacklevel=2)
        parameters = found.parameters
    try:
        return parse_parameters(parameters, find_model)
    except RequestError as error:
        raise InputError(f"{path}: {error.problem}", error.remedy) from None


def request_of(text: str) -> Request:
    """The Request in a text from a file that anybody may have written; raises RequestError."""
    if len(text) > MAX_JSON:
        raise RequestError(f"The request is {len(text)} characters long.", f"At most {MAX_JSON} are read.")
    request = Request.from_json(text)
    if request.batch_size > MAX_IMAGES:
        raise RequestError(f"The request is for {request.batch_size} images.", f"At most {MAX_IMAGES} are read.")
    return request


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_JSON + 1)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.", "Check its name and folder.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder.", "Name a file in it.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "Check its name and permissions.") from None
    if len(data) > MAX_JSON:
        raise InputError(f"{path} is longer than {MAX_JSON} bytes.", "Give the text of one picture.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from None
