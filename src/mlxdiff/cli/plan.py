"""`--dry-run`: every picture with its settings, whether it is done, and what the others will take."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..batch.options import RunOptions
from . import output
from .bars import clock_text
from .info import size_text

if TYPE_CHECKING:
    from ..batch.jobs import Job
    from ..batch.pace import Pace
    from ..batch.workload import Work

TEXTS = 8192  # bytes in a file that says how it was made; a longer prompt is seldom
SHOWN = ("seed", "steps", "sampler", "guidance_scale")


def tell(work: Work, options: RunOptions, pace: Pace, *, counted: bool) -> None:
    """Lists the pictures on stdout, and sums up on stderr; `counted`: whether their seeds are known before the run."""
    jobs = sorted((job for batch in work.batches if batch is not None for job in batch.jobs), key=lambda job: job.index)
    standing = [(job, job.id not in work.left) for job in jobs]
    sheet_is_done = work.sheet is not None and work.sheet.found
    left = [] if sheet_is_done else [job for job, done in standing if not done]
    if not work.is_hidden:
        _list([(job, path, done) for job, done in standing for path in (job.path, *job.copies)], work, options, pace)
    if work.sheet is not None:
        sheet = work.sheet
        if options.json:
            said = about(sheet.path, sheet.request) | {"event": "planned", "done": sheet.found}
            height, width = sheet.size
            output.say_json(said | {"height": height, "width": width, "images": len(sheet.cells)})
        else:
            output.say(f"{_state(sheet.found)}  {sheet.path}")
    total = work.n_images or 0
    if total == 1:
        standing_of_all = f"1 picture, which is {_state(not left)}."
    else:
        standing_of_all = f"{total} pictures: {total - len(left)} are done, {len(left)} are left."
    output.note(standing_of_all + _foreseen(left, pace))
    if left:
        output.note(_disk(work, left))
        if not counted:
            output.note("The seeds are drawn when the command runs; these are examples. Give --seed to fix them.")


def about(path: Path, request: Any) -> dict[str, Any]:
    """What a line of JSON says of a picture, whatever happened to it."""
    return {"path": str(path), "seed": request.seed, "prompt": request.prompt, "request": request.values()}


def _list(rows: Sequence[tuple[Job, Path, bool]], work: Work, options: RunOptions, pace: Pace) -> None:
    if options.json:
        for job, path, done in rows:
            said = about(path, job.request) | {"index": job.index, "event": "planned", "done": done}
            if not done:
                said["seconds"] = pace.seconds(job.request)
            output.say_json(said | work.cells.get(path, {}))
        return
    output.table(
        [
            (
                _state(done),
                str(path),
                f"{job.request.width}x{job.request.height}",
                *(str(getattr(job.request, name)) for name in SHOWN),
                str(job.request.prompt),
            )
            for job, path, done in rows
        ],
        ("state", "path", "size", *SHOWN, "prompt"),
    )


def _state(done: bool) -> str:
    return "done" if done else "left"


def _foreseen(left: Sequence[Job], pace: Pace) -> str:
    if not left:
        return ""
    requests = [job.request for job in left]
    seconds, memory = pace.total(requests), pace.peak_memory(requests)
    if seconds is None:
        return " How long they take is not known: nothing like them was rendered on this machine."
    peak = "" if memory is None else f", with at most {size_text(memory)} of memory"
    return f" They take about {clock_text(seconds)}{peak}, as measured on this machine."


def _disk(work: Work, left: Sequence[Job]) -> str:
    """The room that there is, and what pictures take that cannot be compressed, with what is kept beside them."""
    needed = 0
    for job in left:
        pixels = job.request.final_size[0] * job.request.final_size[1]
        kept = work.store.latents + work.store.trajectory * 2 * job.request.n_steps
        needed += 3 * pixels + pixels // 100 + TEXTS + kept * (pixels + TEXTS)
    folder = work.store.folder.absolute()
    if work.sheet is not None:
        needed, folder = 2 * needed, work.sheet.path.parent.absolute()  # first its cells, then the sheet
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), Path())
    free = shutil.disk_usage(there).free
    return f"They need less than {size_text(needed)} of disk; {size_text(free)} are free there."
