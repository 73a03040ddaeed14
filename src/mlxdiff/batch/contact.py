"""A contact sheet as the end of a run: what its cells are, whether it is there, and how it is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from .. import images, labels
from ..errors import InputError, OutputError, RequestError
from ..files import check_writable
from ..latents import KEY, load_latents, save_latents
from ..metadata import picture_text, provenance, read_picture
from ..metadata.sheets import sweep_text
from ..request import Request, Resolved
from ..trajectory import DENOISED, save_trajectory
from .jobs import Job
from .options import RunOptions
from .store import Store, difference
from .sweep import Axis

# The longest side, in pixels, that these formats can say.
MAX_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}


@dataclass(frozen=True)
class ContactSheet:
    """`cells` are the jobs in reading order, one of them in several places where cells are equal.

    size     (height, width) in pixels
    draw     cells (H, W, 3) uint8 to the sheet
    says     the texts in it; None leaves them out
    gathers  whether latents and trajectories of the cells become one file each beside the sheet
    found    whether it was there before, and says that it was made like this
    """

    path: Path
    cells: Sequence[Job]
    size: tuple[int, int]
    draw: Callable[[Sequence[np.ndarray]], np.ndarray]
    request: Request
    says: Mapping[str, str] | None
    gathers: bool = False
    found: bool = False

    def beside(self, store: Store) -> dict[str, Path]:
        """The files of all cells' latents and trajectories, where these are gathered."""
        return store.beside(self.path) if self.gathers else {}

    def write(self, store: Store, *, force: bool) -> None:
        """Draws the sheet of cells that are all on disk; raises OutputError, and InputError for a cell that is gone."""
        sheet = self.draw([_pixels(job.path) for job in self.cells])
        beside = self.beside(store)
        if (path := beside.get("latents")) is not None:
            stacked = [load_latents(store.beside(job.path)["latents"]).array for job in self.cells]
            save_latents(path, np.concatenate(stacked), self.request, force=force)
        if (path := beside.get("trajectory")) is not None:
            steps = [load_file(store.beside(job.path)["trajectory"]) for job in self.cells]
            left, foreseen = (np.concatenate([step[key] for step in steps], axis=1) for key in (KEY, DENOISED))
            save_trajectory(path, left, foreseen, self.request, force=force)
        images.write_picture(self.path, sheet, self.says, force=force)


def contact_sheet(
    path: Path, request: Resolved, cells: Sequence[Job], n_rows: int, store: Store, options: RunOptions
) -> ContactSheet:
    """All pictures of one request; raises RequestError for a sheet that cannot be, OutputError for what is there."""
    if n_rows > len(cells):
        raise RequestError(f"{len(cells)} pictures do not fill {n_rows} rows.", "Ask for fewer rows or more pictures.")
    height, width = request.finished_size
    size = n_rows * height, -(-len(cells) // n_rows) * width
    texts = picture_text(request) if options.metadata else None
    sheet = ContactSheet(
        path, cells, size, lambda pictures: images.contact_sheet(pictures, n_rows), request, texts, gathers=True
    )
    return _checked(sheet, store, options, lambda: _same_request(sheet, request))


def sweep_sheet(
    path: Path,
    request: Request,
    vary: Sequence[str],
    axes: Sequence[Axis],
    cells: Sequence[Job],
    gap: int,
    store: Store,
    options: RunOptions,
) -> ContactSheet:
    """Labelled cells, the first axis across; the sheet says how to make it again, since no single request would."""
    rows = axes[1].labels if len(axes) == 2 else ()
    n_rows = max(1, len(rows))

    def draw(pictures: Sequence[np.ndarray]) -> np.ndarray:
        return labels.labelled(images.contact_sheet(pictures, n_rows, gap=gap), axes[0].labels, rows, gap=gap)

    first = cells[0].request
    again = request.replaced(seed=first.seed, model=first.model, revision=first.revision, dtype=first.dtype)
    texts = sweep_text(again, vary) | provenance.text_alone(again) if options.metadata else None
    height, width = (max(job.request.finished_size[axis] for job in cells) for axis in (0, 1))
    top, left = labels.margins(axes[0].labels, rows, (height, width))
    size = top + n_rows * (height + gap) - gap, left + len(axes[0].values) * (width + gap) - gap
    sheet = ContactSheet(path, cells, size, draw, again, texts)
    return _checked(sheet, store, options, lambda: _same_sweep(sheet, vary))


def check_size(path: Path, size: tuple[int, ...]) -> None:
    """Raises RequestError for (height, width) that the file's format has no numbers for."""
    longest = MAX_SIDE.get(path.suffix.lower())
    if longest is not None and max(size) > longest:
        raise RequestError(
            f"The sheet would be {size[1]}x{size[0]} pixels, and {path.suffix} files have at most {longest} a side.",
            "Write a .png, or put fewer pictures on it.",
        )


def _checked(
    sheet: ContactSheet, store: Store, options: RunOptions, why_other: Callable[[], str | None]
) -> ContactSheet:
    if sheet.path.is_dir():
        check_writable(sheet.path)
    images.picture_format(sheet.path)
    check_size(sheet.path, sheet.size)
    beside = sheet.beside(store).values()
    if os.path.isfile(sheet.path) and not options.force:
        if options.skip_existing:
            return replace(sheet, found=True)
        why = why_other() if options.metadata else "without metadata it cannot say what made it"
        if why is None and all(path.is_file() for path in beside):
            return replace(sheet, found=True)
        raise OutputError(
            f"{sheet.path} exists already{'' if why is None else f': {why}'}.",
            "Name another file, or overwrite it with --force.",
        )
    for path in (sheet.path, *beside):
        check_writable(path, force=options.force)
    return sheet


def _same_request(sheet: ContactSheet, request: Resolved) -> str | None:
    """Why the sheet that is there is another one; None where it is the same."""
    try:
        size = _pixels(sheet.path).shape[:2]
        found = read_picture(sheet.path).request
    except InputError:
        return "it is not a picture, or a damaged one"
    if found is None:
        return "it does not say that mlxdiff made it"
    return f"it is {size[1]}x{size[0]} pixels" if size != sheet.size else difference(found, request)


def _same_sweep(sheet: ContactSheet, vary: Sequence[str]) -> str | None:
    other = "it does not say that this sweep made it"
    try:
        size = _pixels(sheet.path).shape[:2]
        found = read_picture(sheet.path).sheet
    except (InputError, RequestError):
        return "it is not a picture, or a damaged one"
    if found is None or found.request is None or found.vary != tuple(vary) or size != sheet.size:
        return other
    return difference(found.request, sheet.request)


def _pixels(path: Path) -> np.ndarray:
    with images.open_picture(path) as picture:
        return np.asarray(picture.convert("RGB"))
