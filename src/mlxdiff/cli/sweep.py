"""A sweep from the command line: everything is checked, then each different cell is rendered once, then the sheet."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..request import Request
from . import output
from .generate import reference

if TYPE_CHECKING:
    import numpy as np

    from ..batch.sweep import Axis, Cell, Group
    from ..pipeline import StableDiffusion

# The longest side, in pixels, that these formats can say.
MAX_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}
# Of the PNG text that says how a sheet came about; its cells have the usual ones.
SWEEP_TEXT = "mlxdiff-sweep"


@dataclass(frozen=True)
class Plan:
    """What is swept and where it goes: `vary` as typed, one column axis and perhaps one of rows."""

    request: Request
    vary: Sequence[str]
    sheet: Path
    save_cells: Path | None
    gap: int
    force: bool
    metadata: bool


@dataclass(frozen=True)
class Batches:
    """How many images are denoised and decoded at once."""

    batch_size: int
    decode_batch_size: int
    tile: int | None


def run(plan: Plan, batches: Batches, *, model: str | None, json: bool) -> None:
    """Renders the sweep; raises before the first picture where an axis, a cell or a file is not possible."""
    from ..batch import sweep

    axes = [sweep.parse_axis(text) for text in plan.vary]
    sweep.cells(plan.request, axes)
    with output.RenderBars() as bars:
        from ..batch.render import render
        from ..pipeline import StableDiffusion

        request = plan.request
        sd = StableDiffusion(
            reference(request, model),
            dtype=request.dtype,
            quantize=request.quantize,
            vae=request.vae,
            prediction_type=request.prediction_type,
        )
        cells = resolved_cells(sd, plan.request, axes)
        targets = cell_paths(plan, axes, cells)
        check_targets(plan, axes, cells, targets)
        sd.load()
        groups = sweep.groups([cell.request for cell in cells])
        n_images = sum(group.request.batch_size for group in groups)
        bars.start(steps=n_steps(sd, groups, batches.batch_size), n_images=n_images, batch_size=n_images)
        pictures: list[np.ndarray | None] = [None] * len(cells)
        for group in groups:
            events = render(
                sd,
                group.request,
                batch_size=batches.batch_size,
                decode_batch_size=batches.decode_batch_size,
                tile=batches.tile,
            )
            for item in bars.follow(events):
                for place in group.places[item.index]:
                    pictures[place] = item.picture
                    if targets:
                        save_cell(plan, axes, cells[place], targets[place], item.picture, json=json)
    sheet = sheet_of(plan, axes, [picture for picture in pictures if picture is not None])
    write_sheet(plan, cells[0].request, sheet)
    say_sheet(plan.sheet, sheet, len(cells), json=json)


def resolved_cells(sd: StableDiffusion, request: Request, axes: Sequence[Axis]) -> list[Cell]:
    """Every cell as the model will render it; a seed that is not given is drawn once for all of them."""
    from ..batch import sweep

    if request.seed is None:
        request = replace(request, seed=sd.resolve(sweep.cells(request, axes)[0].request).seed)
    return [replace(cell, request=sd.resolve(cell.request)) for cell in sweep.cells(request, axes)]


def cell_paths(plan: Plan, axes: Sequence[Axis], cells: Sequence[Cell]) -> list[Path]:
    """ROW-COLUMN-LABELS.png in the folder for the cells, counted from 0; nothing without such a folder."""
    from ..batch.naming import safe

    if plan.save_cells is None:
        return []
    names = [
        "-".join([*axes[1].labels[cell.row : cell.row + 1], axes[0].labels[cell.column]])
        if len(axes) == 2
        else axes[0].labels[cell.column]
        for cell in cells
    ]
    return [
        plan.save_cells / f"{cell.row:02d}-{cell.column:02d}-{safe(name)}.png"
        for cell, name in zip(cells, names, strict=True)
    ]


def check_targets(plan: Plan, axes: Sequence[Axis], cells: Sequence[Cell], targets: Sequence[Path]) -> None:
    """Raises for files that could not be written, and for a sheet that is larger than its format allows."""
    from .. import files, images, labels

    images.picture_format(plan.sheet)
    files.check_writable(plan.sheet, force=plan.force)
    for target in targets:
        files.check_writable(target, force=plan.force)
    height = max(int(cell.request.height or 0) for cell in cells)
    width = max(int(cell.request.width or 0) for cell in cells)
    n_rows, n_columns = cells[-1].row + 1, cells[-1].column + 1
    top, left = labels.margins(axes[0].labels, axes[1].labels if len(axes) == 2 else (), (height, width))
    check_size(plan.sheet, (top + n_rows * (height + plan.gap), left + n_columns * (width + plan.gap)))


def check_size(path: Path, size: tuple[int, ...]) -> None:
    """Raises RequestError for (height, width) that the file's format has no numbers for."""
    longest = MAX_SIDE.get(path.suffix.lower())
    if longest is not None and max(size) > longest:
        raise RequestError(
            f"The sheet would be {size[1]}x{size[0]} pixels, and {path.suffix} files have at most {longest} a side.",
            "Write a .png, or put fewer pictures on it.",
        )


def n_steps(sd: StableDiffusion, groups: Sequence[Group], batch_size: int) -> int:
    """How many denoising steps are evaluated in all."""
    return sum(sd.n_steps(group.request) * -(-group.request.batch_size // batch_size) for group in groups)


def sheet_of(plan: Plan, axes: Sequence[Axis], pictures: Sequence[np.ndarray]) -> np.ndarray:
    from .. import images, labels

    rows = axes[1].labels if len(axes) == 2 else ()
    sheet = images.contact_sheet(pictures, max(1, len(rows)), gap=plan.gap)
    return labels.labelled(sheet, axes[0].labels, rows, gap=plan.gap)


def save_cell(plan: Plan, axes: Sequence[Axis], cell: Cell, path: Path, picture: np.ndarray, *, json: bool) -> None:
    from ..images import write_picture
    from ..metadata import picture_text

    write_picture(path, picture, picture_text(cell.request) if plan.metadata else None, force=plan.force)
    if json:
        varied = dict(zip((axis.name for axis in axes), cell.values, strict=True))
        output.say_json({"path": str(path), "row": cell.row, "column": cell.column, "varied": varied})
    else:
        output.say(str(path))


def write_sheet(plan: Plan, first: Request, sheet: np.ndarray) -> None:
    """The sheet says how to make it again: no single request would, so it carries none."""
    from .. import __version__
    from ..images import write_picture

    again = replace(plan.request, seed=first.seed, model=first.model, revision=first.revision, dtype=first.dtype)
    described = json_format.dumps({"request": json_format.loads(again.to_json()), "vary": list(plan.vary)})
    text = {SWEEP_TEXT: described, "Software": f"mlxdiff {__version__}"}
    write_picture(plan.sheet, sheet, text if plan.metadata else None, force=plan.force)


def say_sheet(path: Path, sheet: np.ndarray, n_images: int, *, json: bool) -> None:
    height, width = sheet.shape[:2]
    if json:
        output.say_json({"path": str(path), "height": height, "width": width, "images": n_images})
    else:
        output.say(str(path))
