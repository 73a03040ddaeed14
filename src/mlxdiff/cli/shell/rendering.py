"""One line of the shell through the runner: Ctrl-C stops it after the step at hand, and the shell goes on.

A signal only sets a mark that is looked at between two steps: an exception in the middle of a step, or of a LoRA that
is merged, would leave the models half changed.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...batch.options import RunOptions
from ...errors import MlxdiffError
from .. import bell, output, plan, render, viewer
from ..interrupt import Interrupts
from ..measured import save_pace
from ..outcome import Outcome

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...batch.events import Event
    from ...batch.jobs import Job
    from ...batch.models import Models
    from ...batch.pace import Pace
    from ...batch.prompts import Entry
    from ...batch.typed import TypedLines
    from ...batch.workload import Work

MOST_SHOWN = 16  # pictures of a line, the last ones
MAX_PIXELS = 512  # a side of a picture that is shown
STOPPING = "Stopping after this step."
ENDING = "Still at it. Once more, and mlxdiff ends at once."


class _Stopped(Exception):
    pass


@dataclass
class Rendered:
    """What became of a line: the pictures that are there, oldest first, and the signal that stopped it."""

    pictures: list[tuple[Path, int]] = field(default_factory=list)
    failures: list[tuple[Job, MlxdiffError]] = field(default_factory=list)
    wanted: int | None = None
    is_held_back: bool = False  # by an empty battery
    signal: int | None = None

    @property
    def is_terminated(self) -> bool:
        """Whether the process was asked to end."""
        return self.signal == signal.SIGTERM


def rendered(
    models: Models,
    lines: TypedLines,
    entries: Sequence[Entry],
    options: RunOptions,
    pace: Pace,
    done: Rendered,
    before_end: Callable[[], None],
) -> None:
    """Renders the pictures of a line's entries, prints each one's path, seed and seconds, and notes them in `done`.

    Raises MlxdiffErrors of what is wrong before the first picture; those of single pictures are in `done`.
    `before_end` is called where a signal ends the process at once.
    """
    began = time.perf_counter()
    work: Work | None = None
    shown: deque[Image] = deque(maxlen=MOST_SHOWN)

    def clean() -> None:
        before_end()
        if work is not None:
            work.clean()

    interrupts = Interrupts(lambda: output.note(STOPPING, "yellow"), lambda: output.note(ENDING, "yellow"), clean=clean)
    with interrupts, render.opened(options) as (bars, preview):
        work = lines.work(models, entries, options)
        if options.dry_run:
            bars.clear()
            plan.tell(work, options, pace, counted=True)
            return
        outcome = Outcome()
        try:
            bars.start(work.n_images)
            policy = replace(work.policy(options), stop=interrupts.is_set, pace=pace)
            tell = _teller(done, options, interrupts.is_set)
            if preview is not None:
                tell = _keeping(shown, tell)
            render.follow(models, work, options, bars, preview, policy, outcome, tell)
        except _Stopped:
            pass
        finally:
            work.close(complete=True)
            done.failures, done.wanted, done.signal = outcome.failures, work.n_images, interrupts.received
            done.is_held_back = outcome.stopped is not None
        if preview is not None and shown:
            preview.show(shown)
        bars.clear()
    save_pace(pace)
    bell.ring(options.bell, time.perf_counter() - began)
    pace.changed = False
    if options.open:
        viewer.show([path for path, _ in done.pictures])


def _keeping(shown: deque[Image], tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Also keeps small copies of the finished pictures, which are shown when the line is done."""
    from PIL import Image

    from ...batch.render import Rendered as Finished

    def keep(event: Event) -> None:
        if isinstance(event, Finished):
            small = Image.fromarray(event.picture)
            small.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.BOX)
            shown.append(small)
        tell(event)

    return keep


def _teller(done: Rendered, options: RunOptions, is_stopped: Callable[[], bool]) -> Callable[[Event], None]:
    """Says below each picture's path its seed and its seconds, and ends the run in the middle once it `is_stopped`.

    A picture that has all its steps is waited for: it is only decoded and written then.
    """
    from ...batch.events import Failed, Written
    from ...batch.render import Denoised

    said: set[int] = set()
    denoised: set[int] = set()

    def tell(event: Event) -> None:
        if isinstance(event, Written | Failed):
            said.add(event.job.index)
        if isinstance(event, Written):
            path, seed = event.job.path, event.job.request.seeds[0]
            done.pictures.append((path, seed))
            if event.found:
                output.note(f"{path} is there already, made with the same settings (seed {seed}).", style="dim")
            elif not options.json and event.seconds is not None:
                output.note(f"seed {seed}, {event.seconds:.1f} s", style="dim")
        elif isinstance(event, Denoised) and event.step == event.steps:
            denoised.update(event.indices)
        elif isinstance(event, Denoised) and is_stopped() and denoised <= said:
            raise _Stopped

    return tell
