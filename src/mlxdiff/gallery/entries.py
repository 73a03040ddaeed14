"""What one picture says of itself, as the gallery shows it: settings as text, whoever wrote them. Decodes no pixels.

Except for a picture with transparent parts and no other metadata, which may be one of NovelAI's (stealth.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .. import recipes
from ..errors import InputError, MlxdiffError, RequestError
from ..inputs import open_input
from ..metadata import PictureInfo, read_picture, stealth
from ..recipes import Recipe, finished
from ..request import Request
from ..request.adapters import Lora
from ..request.option_texts import is_one_command, option_texts
from ..request.structured import Structured
from ..text.syntax.a1111 import split_networks

MLXDIFF = "mlxdiff"
# A page holds what thousands of pictures say: of what one says, at most so many notes and settings (a sheet has a
# prompt and a seed for each of its pictures), and so many characters of a text.
MOST_NOTES, MOST_SETTINGS = 100, 1000
LONGEST = 20_000


@dataclass(frozen=True)
class Entry:
    """One picture.

    path      as it was found
    n_bytes   of the file
    modified  milliseconds since 1970
    program   that wrote the settings; None where nobody did
    settings  (name, text) in the order of the declarations; a name stands there again for each of several values
    exact     whether the settings, as options, render the picture again
    command   the words of the command line, where the settings do not say it
    notes     sentences and "Name: value" of what is no setting
    written   A1111's text as another program wrote it
    """

    path: Path
    n_bytes: int
    modified: int
    program: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    exact: bool = False
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    written: str = ""


def read_entry(path: Path) -> Entry:
    """What the picture at `path` says; raises InputError for a file that is none."""
    with open_input(path, "picture") as stream:
        about = os.fstat(stream.fileno())
    file = (path, about.st_size, milliseconds(about))
    try:
        info = read_picture(path)
    except InputError as error:  # a text in it is damaged, and its pixels need not be
        return Entry(*file, notes=(str(error),))
    if info.sheet is not None:
        shown = () if info.sheet.request is None else _texts(info.sheet.request)
        command = tuple(info.sheet.words) if info.sheet.vary else ()
        command = command if sum(map(len, command)) <= LONGEST else ()
        names = "" if info.sheet.vary else f" Its pictures: {', '.join(info.sheet.names)}"
        notes = (_cut(f"This is {info.sheet.described}.{names}"),)
        return Entry(*file, program=MLXDIFF, settings=tuple(shown), command=command, notes=notes)
    if info.request is not None:
        settings = tuple(_texts(info.request))
        exact = _is_whole(info.request)
        return Entry(*file, program=MLXDIFF, settings=settings, exact=exact, notes=info.notes)
    return _from_elsewhere(file, path, info)


def milliseconds(about: os.stat_result) -> int:
    """When a file was changed; before 1970 counts as then."""
    return max(0, about.st_mtime_ns // 1_000_000)


def _from_elsewhere(file: tuple[Path, int, int], path: Path, info: PictureInfo) -> Entry:
    """What another program wrote; what cannot be used of it is a note, and the picture is shown all the same."""
    notes = list(info.notes)
    written = "" if info.parameters is None else _cut(info.parameters)
    texts = dict(info.texts)
    if info.format == "PNG" and not recipes.programs(texts):
        texts |= stealth.read(path, info.size)
    try:
        # A bare name says which model it was, though not where to find it.
        recipe = recipes.read(texts, lambda name: name)
        if recipe is None:
            return Entry(*file, notes=tuple(notes), written=written)
        request, _ = finished(recipe)
    except MlxdiffError as error:
        return Entry(*file, notes=(*notes, str(error)), written=written)
    notes += _remarks(recipe)
    settings = (*_texts(request), *_tagged(request))
    notes = notes[:MOST_NOTES]
    return Entry(*file, program=recipe.program, settings=settings, notes=tuple(notes), written=written)


def _tagged(request: Request) -> Iterator[tuple[str, str]]:
    """The LoRAs that tags in the prompt name, as A1111 has them: to find pictures by."""
    prompt = "\n".join(dict.fromkeys(request.prompts))
    for tag in split_networks(prompt, ("lora", "lyco"))[1]:
        name, scale = (*tag.positional, "", "")[:2]
        with suppress(ValueError, RequestError):
            made = Structured(Lora).check("lora", {"ref": name.strip(), "scale": float(scale or 1)})
            yield "lora", _cut(Structured(Lora).show(made))


def _remarks(recipe: Recipe) -> Iterator[str]:
    yield from (_cut(f"{remark.problem} {remark.remedy}".strip()) for remark in recipe.lost)
    yield from (_cut(remark.problem) for remark in recipe.unused)


def _texts(request: Request) -> Iterator[tuple[str, str]]:
    return ((item.name, _cut(text)) for item, text in islice(option_texts(request), MOST_SETTINGS))


def _is_whole(request: Request) -> bool:
    """Whether options say the request, and nothing of their texts is cut."""
    try:
        texts = [text for _, text in islice(option_texts(request), MOST_SETTINGS + 1)]
        return len(texts) <= MOST_SETTINGS and max(map(len, texts), default=0) <= LONGEST and is_one_command(request)
    except MlxdiffError:  # a value that its own option does not take
        return False


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
