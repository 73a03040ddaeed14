"""What the terminal sees: data on stdout, bars and words on stderr, one sentence for each error."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MlxdiffError, MlxdiffWarning

if TYPE_CHECKING:
    from rich.console import Console

    from ..batch.render import Denoised, Rendered


@dataclass
class Verbosity:
    """Set once by the app's own options, before any command runs."""

    quiet: bool = False
    verbose: bool = False


verbosity = Verbosity()


def err_console() -> Console:
    """For people: bars, tables beside data, warnings. Silent under --quiet."""
    from rich.console import Console

    return Console(stderr=True, quiet=verbosity.quiet, highlight=False)


def out_console() -> Console:
    """For data that is a table; lines and JSON go through `say` and `say_json`."""
    from rich.console import Console

    return Console(highlight=False)


def say(line: str) -> None:
    """One line of data on stdout, never wrapped or coloured, so that scripts can read it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def say_json(values: Mapping[str, Any]) -> None:
    """One JSON object a line on stdout."""
    say(json.dumps(values, ensure_ascii=False, sort_keys=True))


def note(text: str, style: str = "") -> None:
    """One line for people on stderr; `text` is plain, so that brackets in prompts and paths stay as they are."""
    console = err_console()
    console.print(text, style=style, markup=False, soft_wrap=True)


def report(error: MlxdiffError) -> None:
    """An error as its two sentences, also under --quiet; with -v the traceback as well."""
    if verbosity.verbose:
        import traceback

        traceback.print_exception(error)
    complain("error", str(error))


def complain(what: str, text: str) -> None:
    """One line on stderr for what went wrong, also under --quiet."""
    from rich.console import Console
    from rich.text import Text

    line = Text(f"{what}: ", style="bold red").append(Text(text, style="not bold default"))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def show_warnings() -> None:
    """Each different MlxdiffWarning is one line on stderr; others are for developers, shown with -v."""
    warnings.simplefilter("default" if verbosity.verbose else "ignore")
    warnings.filterwarnings("once", category=MlxdiffWarning)
    plain = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, MlxdiffWarning):
            note(f"warning: {message}", style="yellow")
        else:
            plain(message, category, filename, lineno, file, line)

    warnings.showwarning = show


class RenderBars:
    """The bars of a render: loading, then one tick a denoising step as it is evaluated, then decoded pictures."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", style="progress.data.speed"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=err_console(),
        )

    def __enter__(self) -> RenderBars:
        self._progress.start()
        self._loading = self._progress.add_task("Loading", total=None, rate="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Below what failed there is one sentence to read, not bars that stand still.
        self._progress.live.transient = kind is not None
        self._progress.stop()

    def start(self, *, steps: int, n_images: int, batch_size: int) -> None:
        """The model is loaded: `n_images` images of `steps` steps follow, in batches."""
        batches = -(-n_images // batch_size)
        self._progress.remove_task(self._loading)
        self._steps = self._progress.add_task("Denoising", total=steps * batches, rate="")
        self._images = self._progress.add_task("Images", total=n_images, rate="")

    def follow(self, events: Iterable[Denoised | Rendered]) -> Iterator[Rendered]:
        """Ticks for every event and passes the finished pictures on."""
        from ..batch.render import Rendered

        for event in events:
            if isinstance(event, Rendered):
                self._progress.advance(self._images)
                yield event
            else:
                self._progress.advance(self._steps)
                speed = self._progress.tasks[0].speed
                self._progress.update(self._steps, rate="" if speed is None else f"{speed:.1f} steps/s")
