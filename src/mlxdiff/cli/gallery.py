"""`mlxdiff grid --html`: what is announced of a gallery, and how its making ends."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from ..batch.options import RunOptions
from ..errors import RequestError
from . import finding, output, usage, viewer
from .bars import Bars
from .interrupt import Interrupts

ENDS = (".html", ".htm")
MOST_NAMED = 100  # broken files that are named here; the page names more
SOME_BROKEN = 1  # as of `info`, where one of several files cannot be read


def write(
    places: list[Path], where: str | None, path: Path, title: str | None, size: int | None, run: RunOptions
) -> None:
    """Writes the page of the pictures in `places`; exits with 1 where some cannot be read, after naming each."""
    from .. import files
    from ..gallery.thumbnails import LARGEST, SIZE, SMALLEST

    if not places:
        raise RequestError("There is nothing for the page.", "Name pictures, or folders of them.")
    if path.suffix.lower() not in ENDS:
        raise RequestError(f"{path} would be a page without .html in its name.", "End its name in .html.")
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise RequestError(
            f"--thumbnail-size is {size}.", f"It is a whole number of pixels from {SMALLEST} to {LARGEST}."
        )
    usage.check_files(places)
    files.check_writable(path, force=run.force)
    title = _title(places) if title is None else title
    with finding.chosen(places, where) as chosen:
        once = {os.path.abspath(path): path for path in chosen}
        _write(list(once.values()), path, title, SIZE if size is None else size, run)


def _write(pictures: list[Path], path: Path, title: str, size: int, run: RunOptions) -> None:
    from .. import files
    from ..gallery import Added, Broken, write_gallery

    interrupts = Interrupts(lambda: None, clean=lambda: files.remove_parts(path.parent, ours=True))
    with Bars(shown=run.progress) as bars, interrupts:
        bars.start(len(pictures))
        broken = 0

        def tell(event: Added | Broken) -> None:
            nonlocal broken
            if interrupts.is_set():
                output.note("Interrupted.", style="yellow")
                raise typer.Exit(interrupts.exit_code)
            if isinstance(event, Broken):
                broken += 1
                if broken <= MOST_NAMED:
                    output.report(event.error)
            bars.count()

        n_shown, n_broken = write_gallery(
            pictures,
            path,
            title=title,
            size=size,
            force=run.force,
            tell=tell,
        )
    if n_broken > MOST_NAMED:
        output.complain("error", f"{n_broken - MOST_NAMED} more files cannot be read as pictures.")
    if run.json:
        output.say_json({"event": "gallery", "path": str(path), "images": n_shown, "broken": n_broken})
    else:
        output.say(str(path))
    if run.open:
        viewer.show([path])
    if n_broken:
        raise typer.Exit(SOME_BROKEN)


def _title(places: list[Path]) -> str:
    """The name of the folder, of one; where there are several places, of the one that they are in."""
    folders = {place.absolute() if place.is_dir() else place.absolute().parent for place in places}
    name = next(iter(folders)).name if len(folders) == 1 else ""
    return name or "Pictures"
