"""The bars of a run: the steps of the batch at hand, pictures, pictures a second, and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import output

if TYPE_CHECKING:
    from rich.console import Console

    from ..batch.render import Denoised
    from .preview import Preview

T = TypeVar("T")


class BatchBars:
    """Drawn on stderr; nothing where `visible` is false, as on all ranks but one.

    The rate counts what this process renders, a denoised step as its share of a picture.
    """

    def __init__(self, *, visible: bool = True, preview: Preview | None = None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        columns: tuple[Any, ...] = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", style="progress.data.speed"),
        )
        make = Progress if preview is None else preview.progress
        self._progress = make(*columns, console=output.err_console(), disable=not visible)
        self._visible = visible

    def __enter__(self) -> BatchBars:
        self._progress.start()
        self._loading = self._progress.add_task("Loading", total=None, rate="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Below what failed there is one sentence to read, not bars that stand still.
        self._progress.live.transient = kind is not None
        self.stop()

    def stop(self) -> None:
        """The bars stay as they are, and what follows is written below them."""
        self._progress.stop()

    @property
    def console(self) -> Console:
        """Where words go while the bars are drawn."""
        return self._progress.console

    def note(self, text: str, style: str = "") -> None:
        """One line for people, above the bars."""
        if self._visible:
            self.console.print(text, style=style, markup=False, soft_wrap=True)

    def start(self, n_images: int | None) -> None:
        """The model is loaded; `n_images` are wanted, or nobody knows how many."""
        self._progress.remove_task(self._loading)
        self._steps = self._progress.add_task("Denoising", total=None, rate="")
        self._images = self._progress.add_task("Images", total=n_images, rate="")
        self._wanted = n_images
        self._finished: set[int] = set()
        self._rendered = 0
        self._began = time.perf_counter()
        self._denoised = 0.0  # images, and of the batch at hand its share
        self._before = 0  # images of the batches before it
        self._at_hand = 0

    def expect(self, n_images: int) -> None:
        """So many images are wanted by now."""
        self._wanted = n_images
        self._progress.update(self._images, total=n_images)

    def follow(self, events: Iterable[T]) -> Iterator[T]:
        """Draws every event, of a render or of a runner, and passes it on."""
        from ..batch.render import Denoised, Rendered
        from ..batch.runner import Failed, Written

        for event in events:
            if isinstance(event, Denoised):
                self._step(event)
            elif isinstance(event, Rendered):
                self._rendered += 1
                self._finish(event.index)
            elif isinstance(event, Written | Failed):
                self._finish(event.job.index)
            yield event

    def _finish(self, index: int) -> None:
        self._finished.add(index)
        self._progress.update(self._images, completed=len(self._finished))
        self._say_rate()

    def _step(self, event: Denoised) -> None:
        if event.step == 1:
            self._before += self._at_hand
            self._at_hand = event.n_images
        self._progress.update(self._steps, completed=event.step, total=event.steps)
        self._denoised = self._before + self._at_hand * event.step / event.steps
        self._say_rate()

    def _say_rate(self) -> None:
        if self._denoised == 0:
            return
        speed = self._denoised / max(time.perf_counter() - self._began, 1e-9)
        said = _speed(speed)
        if self._wanted is not None and len(self._finished) < self._wanted:
            # What is denoised but not yet written costs no more time to speak of.
            left = self._wanted - len(self._finished) - max(0.0, self._denoised - self._rendered)
            said = f"{said} {_clock(max(0.0, left) / speed)}"
        self._progress.update(self._images, rate=said)


def _speed(images_a_second: float) -> str:
    if images_a_second >= 0.1:
        return f"{images_a_second:.2g} images/s"
    return f"{1 / images_a_second:.3g} s/image"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d} left"


Bars = BatchBars
