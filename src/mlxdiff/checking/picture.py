"""One file, from its bytes to what the journal has of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..batch.essence import essence
from ..errors import InputError, MlxdiffError
from ..metadata import request_of
from ..metadata.texts import texts_in
from ..printable import printable
from ..request import Request
from .beside import check_latents, check_shape, holds_ours, picture_of
from .fault import Fault, UnsoundError
from .ledger import Entry, Ledger
from .pixels import NAMES, Pixels, check_pixels
from .reading import SETTLED, check_settled, length_of, sha256_of, steady
from .saying import Inputs, check_said, check_twice


@dataclass(frozen=True)
class Looked:
    """What was found of a file.

    pixels      None for latents, and for a picture that is not sound
    request     what made it, where it says so
    in_journal  whether a journal has the file; None where there is no journal
    """

    path: Path
    faults: tuple[Fault, ...] = ()
    pixels: Pixels | None = None
    request: Request | None = None
    in_journal: bool | None = None
    is_picture: bool = True


@dataclass(frozen=True)
class Known:
    """What all files are held to."""

    ledger: Ledger
    inputs: Inputs = field(default_factory=Inputs)


def look_at_picture(path: Path, known: Known) -> Looked:
    """A picture file; once more if it was changed meanwhile."""
    return _looked(path, lambda: _picture(path, known), is_picture=True)


def look_at_latents(path: Path, known: Known) -> Looked | None:
    """A file of latents, beside a picture or alone; None for a file of another kind, such as a LoRA."""
    if not (holds_ours(path) or known.ledger.of(str(path)) is not None):
        return None
    return _looked(path, lambda: _latents(path, known), is_picture=False)


def _looked(path: Path, look: Callable[[], Looked], *, is_picture: bool) -> Looked:
    try:
        looked = look()
        if not any(fault.kind == "changing" for fault in looked.faults):
            return looked
        time.sleep(SETTLED)
        return look()
    except Exception as error:  # whatever a file does to a reader, the others are looked at
        said = f"To read it ended in an error ({type(error).__name__}: {printable(str(error))[:200]})."
        return Looked(path, (Fault("damaged", path, said),), is_picture=is_picture)


def _picture(path: Path, known: Known) -> Looked:
    entry = known.ledger.of(str(path))
    in_journal = None if not known.ledger.entries else entry is not None
    faults: list[Fault] = []
    pixels, request = None, None
    try:
        with steady(path) as stream:
            try:
                pixels = check_pixels(path, stream)
                asked = NAMES.get(path.suffix.lower(), pixels.format)
                if pixels.format != asked:
                    faults.append(Fault("format", path, f"It is a {pixels.format} file, and its name says {asked}."))
            except UnsoundError as error:
                faults.append(error.at(path))
            if not any(fault.kind in ("too-large", "unreadable") for fault in faults):
                faults += _in_journal(path, stream, entry, known.ledger)
            if pixels is not None or any(fault.kind == "trailing" for fault in faults):
                request, said = _said(path, known)
                faults += said
            faults += [] if pixels is None else check_twice(path, pixels.twice)
            faults += _seed(path, entry, request)
            if faults:
                check_settled(stream)
    except UnsoundError as error:
        faults = [error.at(path)]
    return Looked(path, tuple(faults), pixels, request, in_journal)


def _said(path: Path, known: Known) -> tuple[Request | None, list[Fault]]:
    try:
        _, size, texts = texts_in(path)
    except InputError as error:
        return None, [Fault("metadata", path, f"Its texts cannot be read: {error.problem}")]
    return check_said(path, texts, size, known.inputs)


def _in_journal(path: Path, stream: BinaryIO, entry: Entry | None, ledger: Ledger) -> list[Fault]:
    """Whether the file is the one that its line in the journal describes."""
    if entry is None:
        return []
    digest = sha256_of(stream)
    if digest != entry.sha256:
        entry = ledger.now(str(path), entry)
    length, wanted = length_of(stream), None if entry.line is None else entry.line.bytes
    if digest == entry.sha256:
        return []
    other = ledger.names.get(digest)
    if other is not None and other != entry.name:
        return [Fault("swapped", path, f"It is the file that the journal has as {printable(other)}.")]
    size = "" if wanted in (None, length) else f": it has {length} bytes, and {wanted} were written"
    return [Fault("content", path, f"It is not the file that the journal describes{size}.")]


def _seed(path: Path, entry: Entry | None, request: Request | None) -> list[Fault]:
    seed = None if entry is None or entry.line is None else entry.line.seed
    if seed is None or request is None or request.seed is None or request.seed == seed:
        return []
    return [Fault("journal", path, f"The journal says seed {seed}, and the picture seed {request.seed}.")]


def _latents(path: Path, known: Known) -> Looked:
    faults: list[Fault] = []
    request = None
    entry = known.ledger.of(str(path))
    try:
        with steady(path) as stream:
            try:
                request = check_latents(path, stream)
                _check_belongs(path, request)
            except UnsoundError as error:
                faults.append(error.at(path))
            faults += _in_journal(path, stream, entry, known.ledger)
            if faults:
                check_settled(stream)
    except UnsoundError as error:
        faults = [error.at(path)]
    in_journal = None if not known.ledger.entries else entry is not None
    return Looked(path, tuple(faults), None, request, in_journal, is_picture=False)


def _check_belongs(path: Path, request: Request | None) -> None:
    """Raises UnsoundError where the latents are not of the picture beside them."""
    for suffix in NAMES:
        picture = Path(f"{picture_of(path)}{suffix}")
        if request is None or not picture.is_file():
            continue
        try:
            _, size, texts = texts_in(picture)
            other = request_of(texts["mlxdiff"]) if "mlxdiff" in texts else None
        except MlxdiffError:
            continue  # said of the picture
        if other is None:
            continue
        mine, theirs = _compared(request), _compared(other)
        names = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if names:
            raise UnsoundError("beside", f"It is not of {picture.name}: {', '.join(names[:3])} differ.")
        if request.batch_size == 1:
            check_shape(path, request, size)


def _compared(request: Request) -> dict[str, Any]:
    """What of a request its latents and its picture have in common: `decode` may have enlarged the picture."""
    return {name: value for name, value in essence(request).items() if name != "upscaler"}
