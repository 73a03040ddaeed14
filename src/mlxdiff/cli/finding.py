"""Lists of pictures: which of those in files and folders are chosen, and how they are printed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError, RequestError
from ..printable import printable
from . import output, usage

if TYPE_CHECKING:
    from ..culling import Picture, Place, Where

MOST = 20  # files that are named one by one where many are wrong
PROMPT = 60  # characters of a prompt in a table; the picture's own page has all of it
COLUMNS = ("path", "size", "seed", "steps", "sampler", "guidance_scale", "prompt")


class Form(Enum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"
    PATHS = "paths"
    NUL = "nul"


def form(*, json: bool, paths: bool, null: bool) -> Form:
    """What these options ask for; raises RequestError for two ways at once."""
    if json and (paths or null):
        raise RequestError("--json prints more than paths.", f"Leave {'--null' if null else '--paths'} out.")
    if null:
        return Form.NUL
    return Form.PATHS if paths else Form.JSON if json else Form.TABLE


@dataclass
class Search:
    """What was looked at so far: `seen` files, those that could not be read, and of which the settings could not."""

    seen: int = 0
    unusable: int = 0
    wrong: list[tuple[Place, InputError]] = field(default_factory=list)

    def pictures(self, words: list[str], where: Where | None) -> Iterator[tuple[Place, Picture]]:
        """The chosen ones, each read when it is asked for. Raises InputError for a folder that cannot be read."""
        from ..culling import places, read

        for place in places(words):
            self.seen += 1
            try:
                usage.check_files([place.path])
                picture = read(place.path)
            except InputError as error:
                self.wrong.append((place, error))
                continue
            if where is None:
                yield place, picture
                continue
            self.unusable += picture.is_unusable
            if where.matches(picture):
                yield place, picture


def show(
    words: list[str],
    where: str | None,
    order: str | None,
    limit: int | None,
    form: Form,
    describe: Callable[[Picture], dict[str, Any]],
) -> bool:
    """Prints the chosen pictures; whether every file could be read. `describe` gives a picture's JSON."""
    from ..culling import Where, parse_order, read

    if where is not None:
        check_where(where)
    if not words:
        raise RequestError("There are no pictures to list.", "Name files or a folder: mlxdiff info out/ --paths")
    wanted = None if where is None else Where(where)
    key = None if order is None else parse_order(order)
    search = Search()
    chosen = (picture for _, picture in search.pictures(words, wanted))
    total = None
    if key is not None:
        # Keys and paths alone are kept; who is printed is read once more.
        keys = sorted(((key(picture), picture.path) for picture in chosen), key=lambda pair: pair[0])
        chosen, total = (read(path) for _, path in keys[:limit]), len(keys)
    n_shown = _print(islice(chosen, limit), form, describe)
    report(search)
    if total is not None and total > n_shown:
        output.note(f"The first {n_shown} of {total} that match, of {search.seen} pictures.", style="dim")
    elif total is None and n_shown == limit:
        output.note(f"The first {n_shown} that match: --limit ended the search.", style="dim")
    else:
        output.note(f"{n_shown} of {search.seen} pictures.", style="dim")
    return not search.wrong


@contextmanager
def chosen(paths: Sequence[Path], where: str | None) -> Iterator[list[Path]]:
    """The files of a command that works on all of them, folders and patterns taken apart; each as often as it is named.

    Raises InputError where none is left. At the end the program exits 1 where one could not be judged.
    """
    from ..culling import Where, places

    words = [os.fspath(path) for path in paths]
    if where is None:
        found = [place.path for word in words for place in places([word])]
        if not found:
            raise InputError("There are no pictures in the folder.", "See what is in it.")
        yield found
        return
    check_where(where)
    search = Search()
    found = [place.path for place, _ in search.pictures(words, Where(where))]
    report(search)
    if not found:
        raise InputError(
            f"None of {search.seen} pictures is chosen by --where.", "See `mlxdiff info` for what they say."
        )
    yield found
    if search.wrong:
        raise typer.Exit(1)


def _print(chosen: Iterator[Picture], form: Form, describe: Callable[[Picture], dict[str, Any]]) -> int:
    """How many were printed."""
    if form is Form.TABLE:
        rows = [_row(picture) for picture in chosen]
        if rows:
            output.table(rows, COLUMNS)
        return len(rows)
    count = 0
    for picture in chosen:
        count += 1
        if form is Form.JSON:
            output.say_json(describe(picture))
        else:
            say_path(picture.path, "\0" if form is Form.NUL else "\n")
    return count


def say_path(path: Path, end: str) -> None:
    """A path as the system has it, for another program; on a terminal as it may be printed."""
    if output.is_for_people():
        output.write(printable(str(path)) + end)
    else:
        output.write_bytes(os.fsencode(path) + end.encode())


def _row(picture: Picture) -> tuple[str, ...]:
    width, height = picture.info.size
    prompt = picture.setting("prompt")
    text = output.one_line(" | ".join(prompt) if isinstance(prompt, tuple) else prompt or "")
    shown = [picture.setting(name) for name in ("steps", "sampler", "guidance_scale")]
    return (
        output.one_line(str(picture.path)),
        f"{width}x{height}" if width else "",
        _seeds(picture.seeds()),
        *("" if value is None else f"{value}" for value in shown),
        text if len(text) <= PROMPT else f"{text[: PROMPT - 3]}...",
    )


def _seeds(seeds: Any) -> str:
    several = list(seeds) if isinstance(seeds, tuple) else [] if seeds is None else [seeds]
    return f"{', '.join(map(str, several[:1]))}{', ...' if len(several) > 1 else ''}"


def report(search: Search) -> None:
    """What could not be read, each on a line, and of very many their number."""
    for _, error in search.wrong[:MOST]:
        output.report(error)
    if len(search.wrong) > MOST:
        output.complain("error", f"{len(search.wrong) - MOST} more files cannot be read as pictures.")
    remark(search)


def remark(search: Search) -> None:
    """Says how many pictures have settings that cannot be read, which match as if they had none."""
    if search.unusable:
        output.warn(f"Pictures with settings that cannot be read: {search.unusable}. `mlxdiff info PICTURE` says why.")


def check_where(where: str) -> None:
    """Raises RequestError for an expression that cannot be used, before anything else happens."""
    from ..culling import Where

    if not where.strip():
        raise RequestError("--where is empty.", "Write what to choose by, for example --where 'steps > 20'.")
    Where(where)
