"""What a picture says about how it was made: a Request as JSON, and the lines that other tools read; and back again.

`mlxdiff` is the canonical JSON of the Request, enough to render the picture again. `parameters` is the text format of
AUTOMATIC1111's web UI, which galleries and other programs show (parameters.py). `Software` names the version. An XMP
packet says that a model made the picture (provenance.py). What other programs write is read in recipes/. Files may be
hostile: whatever they contain ends in a Request or in an MlxdiffError. No pixel is decoded to find it, except for
NovelAI's pictures without other metadata (stealth.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, backend, recipes
from ..errors import InputError, MlxdiffError, MlxdiffWarning, RequestError
from ..inputs import open_input
from ..named_files import NamedFile, known_part, named_files
from ..picture_files import TEXT_FILES
from ..printable import printable
from ..recipes import Recipe
from ..recipes.recipe import FindModel, json_of, object_of
from ..request import Request, as_recorded
from ..request.declarations import declared
from . import provenance, stealth
from .parameters import parameters_text
from .sheets import Sheet, read_sheet
from .texts import source_type_in, texts_in

MAX_JSON = 2**20  # characters; a Request with a prompt as long as a book is shorter
# More than a terminal session asks for in one request, less than what fills memory before the first step.
MAX_IMAGES = 10_000


@dataclass(frozen=True)
class PictureInfo:
    """What a picture file says. `size` is (width, height) in pixels; `notes` say what could not be read.

    `texts` is everything that a program might have written, by name; `recipe` reads what other programs did.
    """

    request: Request | None
    parameters: str | None
    size: tuple[int, int]
    format: str
    notes: tuple[str, ...] = ()
    sheet: Sheet | None = None
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def provenance(self) -> str | None:
        """IPTC's Digital Source Type, as the address of a term, where the picture names one (xmp.py)."""
        return source_type_in(dict(self.texts))

    def recipe(self, find_model: FindModel | None = None) -> Recipe | None:
        """What another program's texts ask for; None where there are none. Raises RequestError for unusable ones."""
        return recipes.read(self.texts, find_model)


def picture_text(request: Request) -> dict[str, str]:
    """The texts to write into a picture that a resolved `request` made, by name."""
    return {
        "mlxdiff": request.to_json(),
        "parameters": parameters_text(request),
        "Software": f"mlxdiff {__version__}{' (TF32)' if backend.tf32() else ''}",
        **provenance.text_alone(request),
    }


def read_picture(path: str | Path) -> PictureInfo:
    """What the picture at `path` was made with, as far as it says so; raises InputError when it is not a picture."""
    return _info(*texts_in(path))


def read_made(path: str | Path) -> PictureInfo:
    """As `read_picture`, and also of a .txt or .json file with what a program wrote: its size is (0, 0)."""
    path = Path(path)
    return _info("text", (0, 0), _file_texts(path)) if path.suffix.lower() in TEXT_FILES else read_picture(path)


def _info(kind: str, size: tuple[int, int], texts: Mapping[str, str]) -> PictureInfo:
    request, sheet, notes = None, None, []
    try:
        request = request_of(texts["mlxdiff"]) if "mlxdiff" in texts else None
        sheet = read_sheet(texts)
    except RequestError as error:
        notes.append(f"What it says about mlxdiff cannot be used. {printable(str(error))}")
    parameters = texts.get("parameters")
    shown = None if parameters is None else printable(parameters)
    return PictureInfo(request, shown, size, kind, tuple(notes), sheet, texts)


def request_from_file(
    path: str | Path, *, given: Mapping[str, Any] | None = None, find_model: FindModel | None = None
) -> Request:
    """What renders a picture again: from the picture, or from a .txt or .json file with what a program wrote.

    `given` are settings that replace the file's before those are judged. mlxdiff's own words come first and are exact;
    other programs' say less, and what they say that mlxdiff cannot do is an MlxdiffWarning, as is a file that has
    another content than it had then. `find_model` gives the full reference of a model's bare name, or None. Raises
    InputError for the file, RequestError for what is given.
    """
    path, given = Path(path), {} if given is None else dict(given)
    texts = _file_texts(path)
    request = _own(path, texts, given)
    if request is not None:
        return request
    try:
        recipe = recipes.read(texts, find_model)
    except RequestError as error:
        raise InputError(f"{path}: {error.problem}", error.remedy) from None
    if recipe is None:
        raise InputError(f"{path}: It says nothing about how it was made.", _NOTHING)
    request, said = recipes.finished(recipe, given, lambda name, digest: known_part(name, "lora", digest))
    for saying in said:
        _warn(saying)
    return request


_NOTHING = "Give a picture with metadata, or the options themselves."


def request_of(text: str, given: Mapping[str, Any] | None = None) -> Request:
    """The Request in a text from a file that anybody may have written; raises RequestError.

    `given` replaces its settings before they are judged; of several images, a new prompt, seed or number of images
    starts from the first one.
    """
    if len(text) > MAX_JSON:
        raise RequestError(f"The request is {len(text)} characters long.", f"At most {MAX_JSON} are read.")
    request = _overridden(text, given) if given else Request.recorded(text)
    if request.batch_size > MAX_IMAGES:
        raise RequestError(f"The request is for {request.batch_size} images.", f"At most {MAX_IMAGES} are read.")
    return request


def changed_files(request: Request, given: Collection[str] = ()) -> list[str]:
    """The files whose content has changed since the request was recorded, but those that `given` settings name."""
    recorded = dict(request.hashes or ())
    named = {file.name: file for file in named_files(request) if file.setting not in given}
    return [name for name in recorded if name in named and _differs(named[name], recorded[name])]


def _own(path: Path, texts: Mapping[str, str], given: Mapping[str, Any]) -> Request | None:
    """The request in mlxdiff's own words, if there are any that can be used."""
    try:
        sheet = read_sheet(texts)
        request = _recorded(texts["mlxdiff"], given) if "mlxdiff" in texts else None
    except RequestError as error:
        said = f"What it says about mlxdiff cannot be used. {printable(str(error))}"
        others = {name: text for name, text in texts.items() if name != "mlxdiff"}
        if not recipes.programs(others):
            raise InputError(f"{path}: {said}", _NOTHING) from None
        _warn(f"{path}: {said} Its A1111 text is read instead.")
        return None
    if request is not None:
        for name in changed_files(request, given):
            _warn(f"{printable(name)} has changed since {path} was made. Expect another picture.")
        return request_of(texts["mlxdiff"], given) if given else request
    if sheet is None:
        return None
    request = sheet.single(given)
    if request is None:
        raise InputError(f"{path} is {printable(sheet.described)}.", printable(sheet.remedy))
    return request


def _recorded(text: str, given: Mapping[str, Any]) -> Request:
    """The request as it is recorded; where that cannot be used, with what is given in its place."""
    try:
        return request_of(text)
    except RequestError:
        if not given:
            raise
        return request_of(text, given)


def _overridden(text: str, given: Mapping[str, Any]) -> Request:
    try:
        values = json_of(text)
    except RequestError:
        values = None
    if not isinstance(values, dict):
        return Request.recorded(text)  # which says what is wrong
    if {"prompt", "n_images", "seed"} & given.keys() and isinstance(values.get("seed"), list):
        prompts = values.get("prompt")
        first = {"prompt": prompts[0]} if isinstance(prompts, list) and prompts else {}
        values |= {**first, "seed": values["seed"][0] if values["seed"] else None, "n_images": 1}
        values.pop("batch_index", None)
    if "n_images" in given:
        values.pop("batch_index", None)  # of the picture, which is one
    return Request.from_dict(as_recorded(values) | dict(given))


def _file_texts(path: Path) -> dict[str, str]:
    if path.suffix.lower() not in TEXT_FILES:
        kind, size, texts = texts_in(path)
        if kind == "PNG" and not recipes.programs(texts) and "mlxdiff" not in texts and read_sheet(texts) is None:
            texts |= stealth.read(path, size)
        return texts | {name: printable(text) for name, text in texts.items() if name == "parameters"}
    text = _read_text(path)
    values = object_of(text)
    comfyui = None if values is None else recipes.file_texts(values)
    if comfyui is not None:
        return comfyui
    if values is not None and values.keys() <= {item.name for item in declared(Request)}:
        return {"mlxdiff": text}
    return {"parameters": printable(text)}


def _differs(file: NamedFile, digest: str) -> bool:
    try:
        return file.digest() != digest
    except MlxdiffError:
        return False  # opening it raises the error


def _warn(text: str) -> None:
    warnings.warn(text, MlxdiffWarning, stacklevel=3)


def _read_text(path: Path) -> str:
    with open_input(path) as stream:
        try:
            data = stream.read(MAX_JSON + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).", "Check the file and the disk.") from None
    if len(data) > MAX_JSON:
        raise InputError(f"{path} is longer than {MAX_JSON} bytes.", "Give the text of one picture.")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from None
