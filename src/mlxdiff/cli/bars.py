"""The progress of a run on stderr: bars on a terminal, a plain line now and then elsewhere, nothing under --quiet.

`Progress` counts and estimates; a view draws it. The rate counts what this process renders, a denoised step as its
share of a picture.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from . import output

if TYPE_CHECKING:
    from rich.console import Console

    from .preview import Preview

T = TypeVar("T")

FIRST_LINE, LONGEST_WAIT = 2.0, 60.0  # seconds: without a terminal the first line comes after 2 s, then ever later
LEARNED = 0.3  # seconds measured before there is an estimate
BESIDE_BAR, SHORTEST_BAR = 53, 8  # columns: for all that stands beside the bar, and of the bar itself


@dataclass
class Progress:
    """What has happened so far. Times are `clock`'s, in seconds.

    The first step is never part of the rate: it also maps weights and compiles, which may take 100 times as long.
    """

    clock: Callable[[], float] = time.perf_counter
    loading: bool = True
    wanted: int | None = None
    limit: int | None = None  # images that are rendered at most, of those wanted
    step: int = 0
    steps: int = 0
    finished: set[int] = field(default_factory=set)
    _rendered: int = 0
    _denoised: float = 0.0  # images, and of the batch at hand its share
    _before: float = 0.0  # images of the batches before it
    _at_hand: int = 0
    _events: int = 0
    _began: tuple[float, float] | None = None  # when the first step (or, decoding, the first picture) was done; images

    def denoised(self, step: int, steps: int, n_images: int) -> None:
        if step == 1 or step < self.step:
            self._before += self._at_hand
        self._at_hand = n_images
        self.step, self.steps = step, steps
        self._denoised = self._before + n_images * step / steps
        self._count(self._denoised)

    def rendered(self, index: int) -> None:
        self._rendered += 1
        if self.steps == 0:  # only decoded, from several files whose images are all counted from 0
            index = -self._rendered
            self._count(self._rendered)
        self.finished.add(index)

    def _count(self, images: float) -> None:
        self._events += 1
        if self._began is None:
            self._began = self.clock(), images

    @property
    def speed(self) -> float | None:
        """Images a second; None while too little has been seen."""
        if self._began is None or self._events < 3:
            return None
        seconds = self.clock() - self._began[0]
        images = (self._denoised if self.steps else self._rendered) - self._began[1]
        return images / seconds if seconds >= LEARNED and images > 0 else None

    @property
    def rate(self) -> str:
        """`0.31 images/s`, or nothing yet."""
        speed = self.speed
        if speed is None:
            return ""
        if speed >= 99.5:
            return f"{speed:.0f} images/s"
        return f"{speed:.2g} images/s" if speed >= 0.1 else f"{1 / speed:.3g} s/image"

    @property
    def seconds_left(self) -> float | None:
        """None where that is not known, 0 where it is near."""
        speed = self.speed
        if speed is None or self.wanted is None:
            return None
        on_their_way = max(0.0, self._denoised - self._rendered)
        missing = self.wanted - len(self.finished)
        if self.limit is not None:
            missing = min(missing, self.limit - self._rendered)
        return max(0.0, missing - on_their_way) / speed

    @property
    def left(self) -> str:
        """`0:00:34 left`, or nothing where that is not known, or near."""
        seconds = self.seconds_left
        return f"{clock_text(seconds)} left" if seconds else ""

    @property
    def turn(self) -> tuple[float, int]:
        """Another one after every denoised step."""
        return self._before, self.step

    def lines(self) -> list[tuple[str, int, int | None, str, str]]:
        """(name, done, of how many, rate, time left) of each bar."""
        if self.loading:
            return [("Loading", 0, None, "", "")]
        steps = [("Denoising", self.step, self.steps, "", "")] if self.steps else []
        return [*steps, ("Images", len(self.finished), self.wanted, self.rate, self.left)]

    def text(self) -> str:
        """All of it in a line."""
        if self.loading:
            return "Loading the model"
        parts = [f"{name.lower()} {counted(done, of)}" for name, done, of, _, _ in self.lines()]
        return ", ".join(part for part in (*parts, self.rate, self.left) if part).capitalize()


def counted(done: int, of: int | None) -> str:
    return str(done) if of is None else f"{done}/{of}"


def clock_text(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


class View(Protocol):
    """How progress is shown."""

    def start(self) -> None: ...
    def update(self) -> None: ...
    def stop(self, *, erase: bool = False) -> None: ...
    def clear(self) -> None: ...


class Bars:
    """Follows a run and shows its progress; nothing where `visible` is false, as on all ranks but one.

    `shown` is `bar`, `json` for an object a step, or `none`.
    """

    def __init__(self, *, visible: bool = True, preview: Preview | None = None, shown: str = "bar") -> None:
        self.progress = Progress()
        self.visible = visible
        self._view: View = _view(self.progress, visible, preview, shown)

    def __enter__(self) -> Bars:
        self._view.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Below what failed there is one sentence to read, not bars that stand still.
        self._view.stop(erase=kind is not None)

    def stop(self) -> None:
        """The bars stay as they are, and what follows is written below them."""
        self._view.stop()

    def clear(self) -> None:
        """The bars go; a preview stays."""
        self._view.clear()

    def note(self, text: str, style: str = "") -> None:
        """One line for people, above the bars."""
        if self.visible:
            output.note(text, style)

    def start(self, n_images: int | None) -> None:
        """The model is loaded; `n_images` are wanted, or their number is unknown (None)."""
        self.progress.loading = False
        self.expect(n_images)

    def expect(self, n_images: int | None) -> None:
        """So many images are wanted by now."""
        self.progress.wanted = n_images
        self._view.update()

    def count(self) -> None:
        """One more is done, of work that has no steps."""
        self.progress.rendered(0)
        self._view.update()

    def done(self, index: int) -> None:
        """Image `index` needs no more work."""
        self.progress.finished.add(index)
        self._view.update()

    def follow(self, events: Iterable[T]) -> Iterator[T]:
        """Shows every event, of a render or of a runner, and passes it on."""
        from ..batch.events import Failed, Written
        from ..batch.render import Denoised, Rendered

        for event in events:
            if isinstance(event, Denoised):
                self.progress.denoised(event.step, event.steps, event.n_images)
            elif isinstance(event, Rendered):
                self.progress.rendered(event.index)
            elif isinstance(event, Written | Failed):
                self.progress.finished.add(event.job.index)
            self._view.update()
            yield event


def _view(progress: Progress, visible: bool, preview: Preview | None, shown: str) -> View:
    if visible and shown == "json":
        return _Events(progress)
    if not visible or output.verbosity.quiet or shown == "none":
        return _Silent()
    console = output.err_console()
    if console.is_terminal and not console.is_dumb_terminal:
        return _Drawn(progress, console, preview)
    return _Lines(progress)


class _Silent:
    def start(self) -> None: ...
    def update(self) -> None: ...
    def stop(self, *, erase: bool = False) -> None: ...
    def clear(self) -> None: ...


class _Events:
    """A JSON object on stderr when the model is being loaded, when it is, and after each step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = False
        self._turn = progress.turn

    def start(self) -> None:
        output.event({"event": "loading"})

    def update(self) -> None:
        progress = self._progress
        if not self._started and not progress.loading:
            self._started = True
            output.event({"event": "started", "images": progress.wanted})
        if progress.turn != self._turn:
            self._turn = progress.turn
            said = {"event": "step", "step": progress.step, "steps": progress.steps}
            said |= {"done": len(progress.finished), "images": progress.wanted}
            output.event(said | {"rate": progress.speed, "left": progress.seconds_left})

    def stop(self, *, erase: bool = False) -> None:
        del erase

    def clear(self) -> None: ...


class _Lines:
    """A plain line after 2 s and then ever more seldom, from a thread: one step may take a minute."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="mlxdiff-progress").start()

    def _run(self) -> None:
        wait = FIRST_LINE
        while not self._over.wait(wait):
            output.note(self._progress.text())
            wait = min(2 * wait, LONGEST_WAIT)

    def update(self) -> None: ...

    def stop(self, *, erase: bool = False) -> None:
        del erase
        self._over.set()

    def clear(self) -> None:
        self._over.set()


class _Drawn:
    """Bars on a terminal, below the preview where there is one."""

    def __init__(self, progress: Progress, console: Console, preview: Preview | None) -> None:
        from rich.progress import Progress as Drawing

        self._progress = progress
        make = Drawing if preview is None else preview.progress
        self._below_preview = preview is not None
        # What is said meanwhile goes through output.py, which prints it above the bars, and data to where stdout leads.
        self._drawing = make(_column(), console=console, expand=True, redirect_stdout=False)
        self._tasks: dict[str, Any] = {}

    def start(self) -> None:
        self.update()
        self._drawing.start()
        output.above(self._drawing.console)

    def update(self) -> None:
        lines = self._progress.lines()
        names = [line[0] for line in lines]
        for name in [name for name in self._tasks if name not in names]:
            self._drawing.remove_task(self._tasks.pop(name))
        if "Denoising" in names and "Denoising" not in self._tasks and "Images" in self._tasks:
            self._drawing.remove_task(self._tasks.pop("Images"))  # it belongs below
        for name, done, of, rate, left in lines:
            if name not in self._tasks:
                self._tasks[name] = self._drawing.add_task(name, total=of, rate=rate, left=left)
            self._drawing.update(self._tasks[name], completed=done, total=of, rate=rate, left=left)

    def stop(self, *, erase: bool = False) -> None:
        output.above(None)
        self._drawing.live.transient = erase
        self._drawing.stop()

    def clear(self) -> None:
        for name in list(self._tasks):
            self._drawing.remove_task(self._tasks.pop(name))
        self.stop(erase=not self._below_preview)


def _column() -> Any:
    """One column that fits a task into the width there is: first the bar is left out, then the rate, then the time."""
    from rich.progress import ProgressColumn, Task
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Column, Table
    from rich.text import Text

    spinner = Spinner("dots", style="progress.spinner")

    class Row:
        def __init__(self, task: Task) -> None:
            self.task = task

        def __rich_console__(self, console: Console, options: Any) -> Iterator[Any]:
            del console
            task, width = self.task, options.max_width
            over = task.completed > 0 if task.total is None else task.completed >= task.total
            spins = Text(" ") if over else spinner.render(task.get_time())
            count = "" if task.description == "Loading" else counted(int(task.completed), _whole(task.total))
            name = f"{task.description:<9}"
            rate, left = task.fields["rate"], task.fields["left"]
            # What must be seen comes first; the rest is shown where there is room.
            bar = min(40, width - BESIDE_BAR)
            room = width - len(name) - 3 - len(count) - 1 - (bar + 1 if bar >= SHORTEST_BAR else 0)
            shown = [Text(count, style="progress.download")]
            for text, style in ((left, "progress.remaining"), (rate, "progress.data.speed")):
                if text and room >= len(text):
                    room -= len(text) + 1
                    shown.insert(1, Text(text, style=style))
            parts: list[Any] = [spins, Text(name)]
            row = Table.grid(padding=(0, 1))
            if bar >= SHORTEST_BAR:
                parts.append(
                    ProgressBar(
                        total=task.total,
                        completed=task.completed,
                        width=bar,
                        pulse=task.total is None and not over,
                        animation_time=task.get_time(),
                    )
                )
            for _ in (*parts, *shown):
                row.add_column(no_wrap=True)
            row.add_row(*parts, *shown)
            yield row

    class Line(ProgressColumn):
        def render(self, task: Task) -> Any:
            return Row(task)

        def get_table_column(self) -> Column:
            return Column(no_wrap=True, ratio=1)

    return Line()


def _whole(total: float | None) -> int | None:
    return None if total is None else int(total)
