"""Whether what a picture says of itself is whole, agrees with itself, and is true as far as it can be seen here."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..containers import xmp
from ..errors import MlxdiffError, RequestError
from ..images import source_size
from ..metadata import request_of
from ..metadata.parameters import parameters_without_hashes
from ..metadata.sheets import SWEEP, read_sheet
from ..metadata.texts import source_type_in
from ..named_files import NamedFile, named_files
from ..printable import printable
from ..recipes import a1111
from ..recipes.recipe import json_of
from ..request import Request
from .fault import Fault

MAX_INPUT = 2**36  # bytes of a named file that is hashed
_FEW = 3  # settings that a sentence names
_CELL = 64  # pixels: no latent cell is larger
# In the texts of every version, where they are set.
_ALWAYS = {"prompt", "negative_prompt", "steps", "sampler", "guidance_scale", "seed", "width", "height"}
_BY_A_MODEL = (xmp.TRAINED, xmp.EDITED, xmp.MIXED)


class Inputs:
    """The files that requests name, each found and hashed once, by any thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str | None] = {}
        self._turn = threading.Lock()

    def digest(self, file: NamedFile) -> str | None:
        """The SHA-256 of the file's content; None where it is not at hand."""
        key = file.setting, file.name
        with self._turn:
            if key not in self._known:
                self._known[key] = _digest(file)
            return self._known[key]


def _digest(file: NamedFile) -> str | None:
    try:
        path = file.find()
        if path.is_file() and os.stat(path).st_size > MAX_INPUT:
            return None
        return file.digest()
    except (MlxdiffError, OSError, ValueError):
        return None


def check_said(
    path: Path, texts: Mapping[str, str], size: tuple[int, int], inputs: Inputs
) -> tuple[Request | None, list[Fault]]:
    """The request of a picture of `size` (width, height), where it says a usable one; and what is wrong with it."""
    request, problem = None, None
    try:
        read_sheet(texts)
        request = request_of(texts["mlxdiff"]) if "mlxdiff" in texts else None
    except RequestError as error:
        problem = f"What it says about mlxdiff cannot be used: {printable(error.problem)}"
    if problem is None and "mlxdiff" in texts:
        problem = _uncanonical(texts["mlxdiff"])
    faults = [] if problem is None else [Fault("metadata", path, problem)]
    if request is not None:
        problems = {
            "parameters": _other_parameters(request, texts.get("parameters")),
            "size": _other_size(request, size),
            "input": _changed_input(request, inputs),
        }
        faults += [Fault(kind, path, said) for kind, said in problems.items() if said is not None]
    if {"mlxdiff", SWEEP} & texts.keys():
        said = source_type_in(dict(texts))
        if said is not None and said not in _BY_A_MODEL:
            faults.append(Fault("provenance", path, f"It says that mlxdiff made it, and that its source is {said}."))
    return request, faults


def check_twice(path: Path, names: Sequence[str]) -> list[Fault]:
    """What is wrong with texts that a file has twice: which of them counts differs from reader to reader."""
    said = "It has two texts called {}, of which readers take different ones."
    return [Fault("metadata", path, said.format(name)) for name in names]


def _uncanonical(text: str) -> str | None:
    """Why a text is not as mlxdiff writes JSON."""
    values = json_of(text)
    if json.dumps(values, sort_keys=True, separators=(",", ":")) == text:
        return None
    return "Its JSON is not written as mlxdiff writes it: it was edited, or rewritten by another program."


def _other_parameters(request: Request, text: str | None) -> str | None:
    """Where A1111's text in a picture disagrees with its request."""
    if text is None:
        return None
    try:
        said = a1111.read(text, lambda name: name)
    except RequestError:
        return "A1111's text in it has no settings any more."
    wanted = a1111.read(parameters_without_hashes(request), lambda name: name)
    have, want = dict(said.settings), dict(wanted.settings)
    names = (have.keys() & want.keys()) | (_ALWAYS & want.keys())  # another version may write more, or less
    if f"Version: mlxdiff {__version__}" in text:
        names |= have.keys()
    others = sorted(name for name in names if have.get(name) != want.get(name))
    if not others:
        return None
    listed = ", ".join(f"{name} {_short(have.get(name))}" for name in others[:_FEW])
    more = f", and {len(others) - _FEW} more" if len(others) > _FEW else ""
    instead = ", ".join(_short(want.get(name)) for name in others[:_FEW])
    return f"A1111's text in it says {listed}{more}, and its JSON {instead}."


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(printable(value) if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _other_size(request: Request, size: tuple[int, int]) -> str | None:
    """Where the picture's size (width, height) is none that the request gives."""
    if request.width is None or request.height is None:
        return None
    if request.batch_size > 1:
        return _other_sheet(request, size)
    wanted = list(_sizes(request))
    if not wanted or any(_fits(size, each, request) for each in wanted):
        return None
    width, height = wanted[0]
    return f"It is {size[0]}x{size[1]} pixels, and says {width}x{height}."


def _sizes(request: Request) -> Iterator[tuple[int, int]]:
    """The sizes (width, height) that a picture of the request may have, before it is enlarged; none if unknown."""
    assert request.width is not None
    assert request.height is not None
    if request.hires is not None:
        yield int(request.width * request.hires), int(request.height * request.hires)
    elif request.hires_size is not None:
        yield request.hires_size.width, request.hires_size.height
    elif request.image is not None and (request.mask is not None or request.expand is not None):
        try:
            height, width = source_size(request.image)
        except (MlxdiffError, OSError, ValueError):
            return
        margins = request.expand
        more = (0, 0) if margins is None else (margins.left + margins.right, margins.top + margins.bottom)
        yield width + more[0], height + more[1]
        yield request.width, request.height
    else:
        yield request.width, request.height


def _fits(size: tuple[int, int], wanted: tuple[int, int], request: Request) -> bool:
    """A second pass rounds to latent cells; an upscaler enlarges by a whole factor that its file alone knows."""
    factors = range(1, 17) if request.upscaler is not None else (1,)
    slack = _CELL if request.hires is not None or request.hires_size is not None else 1
    return any(
        all(abs(side - factor * other) < factor * slack for side, other in zip(size, wanted, strict=True))
        for factor in factors
    )


def _other_sheet(request: Request, size: tuple[int, int]) -> str | None:
    """A sheet of all pictures of a request, in rows."""
    if request.hires is not None or request.hires_size is not None or request.upscaler or request.image is not None:
        return None
    assert request.width is not None
    assert request.height is not None
    columns, rows = size[0] / request.width, size[1] / request.height
    if columns.is_integer() and rows.is_integer() and columns * rows >= request.batch_size:
        return None
    return (
        f"It is {size[0]}x{size[1]} pixels, which {request.batch_size} pictures of {request.width}x{request.height}"
        " do not fill."
    )


def _changed_input(request: Request, inputs: Inputs) -> str | None:
    recorded = dict(request.hashes or ())
    for file in named_files(request):
        found = inputs.digest(file) if file.name in recorded else None
        if found is not None and found != recorded[file.name]:
            return f"{printable(file.name)} has changed since: the {file.setting} that it was made with was another."
    return None
