"""How a run ends: how far it came, what is said of that, and the exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..batch.options import RunOptions
from ..errors import MlxdiffError
from . import output
from .deadline import clock
from .interrupt import Interrupts

if TYPE_CHECKING:
    from ..batch.jobs import Job
    from ..batch.workload import Work

SOME_FAILED = 3


@dataclass
class Outcome:
    """How far a run came."""

    rendered: int = 0
    found: int = 0
    failures: list[tuple[Job, MlxdiffError]] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)  # of the user's pictures that are there
    stopped: str | None = None  # "limit", "until" or "battery", where one of these ended it


def say_done(outcome: Outcome, work: Work, seconds: float) -> None:
    """The event that ends a run, whether or not everything is there."""
    failed = len(outcome.failures) + len(work.refused)
    counts = {"rendered": outcome.rendered, "found": outcome.found, "failed": failed}
    left = None if work.n_images is None else work.n_images - outcome.rendered - outcome.found
    output.event({"event": "done", **counts, "left": left, "seconds": seconds})


def say_stopped(why: str, left: int | None, options: RunOptions) -> None:
    """Says how many pictures are left where --limit or --until ended the run."""
    asked = {
        "limit": f"--limit {options.limit}",
        "until": f"--until {clock(options.until or 0)}",
        "battery": f"--min-battery {options.min_battery}",
    }[why]
    if options.json:
        output.say_json({"event": "stopped", "why": why, "left": left})
    missing = "the rest of the prompts is" if left is None else "1 picture is" if left == 1 else f"{left} pictures are"
    output.note(f"Stopped by {asked}: {missing} left. The same command again goes on.", style="yellow")


def end_interrupted(outcome: Outcome, work: Work, interrupts: Interrupts) -> None:
    done = outcome.rendered + outcome.found
    of = "" if work.n_images is None else f" of {work.n_images}"
    output.note(f"Interrupted: {done}{of} pictures are done. The same command again does the rest.", style="yellow")
    raise typer.Exit(interrupts.exit_code)


def end(outcome: Outcome, work: Work, options: RunOptions) -> None:
    """Lists what failed, and exits accordingly."""
    from ..files import is_full

    if not outcome.failures and not work.refused:
        return
    if work.n_images == 1 and work.sheet is None and not work.store.shared:
        raise outcome.failures[0][1]
    for job, error in outcome.failures:
        where = job.source if work.is_hidden else f"{job.source}, {job.path}"
        output.complain("failed", f"{where}: {error}")
    full = any(is_full(error) for _, error in outcome.failures)
    rest = " The others were not tried." if options.fail_fast or full else ""
    again = " Free some space; the same command again does the rest." if full else ""
    sheet = "" if work.sheet is None else f" The sheet {work.sheet.path} was not drawn."
    output.note(f"Failed: {len(outcome.failures) + len(work.refused)}.{rest}{sheet}{again}", style="yellow")
    if not (work.ranks.is_first and work.ranks.shared):
        # mlx.launch ends all ranks as soon as one exits with an error. Where they share a folder the first one tries
        # what the others failed at, and so speaks for all; it is the last to go.
        return
    raise typer.Exit(1 if options.fail_fast or full else SOME_FAILED)
