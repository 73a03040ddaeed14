"""`--preview`: the picture in the terminal, above the bars, as it emerges.

It watches the events of a render, makes small pictures of each step's predicted x0, and spends at most a twentieth of
the run on them: steps are left out where a frame would cost more. A tiny VAE decodes them where there is one, else they
are a projection of the latents.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.control import ControlType
from rich.progress import Progress
from rich.segment import Segment

from . import graphics

if TYPE_CHECKING:
    from ..batch.render import Denoised, Rendered
    from ..pipeline import StableDiffusion

Event = TypeVar("Event")

T = TypeVar("T")

Pictures = Callable[[np.ndarray], np.ndarray]
"""Latents (B, h, w, C) without noise to pictures (B, H, W, 3) uint8."""

VARIABLE = "MLXDIFF_PREVIEW_VAE"
SHARE = 0.05
MAX_COLUMNS, MAX_ROWS = 64, 32
MAX_PIXELS = 512  # a side of a decoded picture
BESIDE = 6  # lines of the terminal that are left to the bars and what is said
ENLARGED = 2  # pixels a side that a latent cell has where the terminal shows real pictures
REFRESHES = 4  # a second; each writes the picture anew
MOST_PREVIEWS = 1000  # of a process that a terminal tells apart by number, which is below 2^32
_numbers = itertools.count()


class Preview:
    """The latest pictures as a Rich renderable, for `progress` to draw above its bars.

    `protocol` is one of graphics.PROTOCOLS; `clock` counts seconds; `vae` is one to decode with.
    """

    def __init__(
        self,
        console: Console,
        protocol: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
        vae: str | None = None,
    ) -> None:
        self._console = console
        self._protocol = protocol
        self._number = os.getpid() * MOST_PREVIEWS + next(_numbers) % MOST_PREVIEWS
        self._budget = Budget(clock)
        self._vae = vae
        self._pictures: Pictures | None = None
        self._is_decoded = False
        self._made_for: StableDiffusion | None = None
        self._tiles: list[Image.Image] = []
        self._indices: tuple[int, ...] = ()
        self._lines: list[str] = []
        self._unseen = False
        self._refresh: Callable[[], None] = lambda: None

    def progress(self, *columns: Any, **options: Any) -> Progress:
        """Rich's Progress with these columns, below the picture; `options` are Progress's own."""
        progress = _Below(self, *columns, refresh_per_second=REFRESHES, **options)
        self._refresh = progress.refresh
        return progress

    def follow(self, events: Iterable[Event]) -> Iterator[Event]:
        """Passes every event on, and shows predicted and decoded pictures when there is time for it."""
        from ..batch.render import Denoised, Rendered

        self._budget.start()
        for event in events:
            if isinstance(event, Denoised):
                self._foreseen(event)
            elif isinstance(event, Rendered):
                self._finished(event)
            yield event

    def show(self, pictures: Sequence[Image.Image]) -> None:
        """Shows these pictures, of one size, in place of what was foreseen: as large as there is room."""
        self._tiles = list(pictures)
        self._show()

    def _foreseen(self, event: Denoised) -> None:
        self._budget.ran(event.step, event.steps)
        if self._pictures is None or event.sd is not self._made_for:  # each model has latents of its own
            self._pictures, self._made_for = self._prepared(event.sd, event), event.sd
        if self._pictures is None or not self._budget.allows_frame():
            return
        with self._budget.frame():
            small = self._pictures(np.array(event.denoised))
            self._indices = event.indices
            self._tiles = [self._tile(Image.fromarray(picture)) for picture in small]
            self._show()

    def _prepared(self, sd: StableDiffusion | None, event: Denoised) -> Pictures | None:
        """The tiny VAE, or the projection if the run is long enough to pay for it."""
        from ..batch import projection, tiny_preview

        with self._budget.setup():
            decoder = None if sd is None else tiny_preview.decoder(sd, self._vae)
        self._is_decoded = decoder is not None
        if decoder is not None:
            return decoder
        height, width = event.denoised.shape[1:3]
        # An encoding costs about as much as a step on a picture of the same size, or less.
        estimate = self._budget.step_seconds * min(1.0, projection.CHART_CELLS / (height * width))
        if not self._budget.allows_setup(estimate):
            return None
        with self._budget.setup():
            return projection.fit(sd)  # type: ignore[arg-type]

    def _finished(self, item: Rendered) -> None:
        if item.index not in self._indices or not self._budget.allows_frame():
            return
        place = self._indices.index(item.index)
        with self._budget.frame():
            size = self._tiles[place].size
            self._tiles[place] = Image.fromarray(item.picture).resize(size, Image.Resampling.BOX)
            self._show()

    def _tile(self, small: Image.Image) -> Image.Image:
        if self._is_decoded:
            small.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.BOX)
            return small
        if self._protocol == graphics.BLOCKS:
            return small
        return small.resize((small.width * ENLARGED, small.height * ENLARGED), Image.Resampling.BICUBIC)

    def _show(self) -> None:
        self._lines = self._drawn(mosaic(self._tiles))
        self._unseen = True
        self._refresh()

    def _drawn(self, picture: Image.Image) -> list[str]:
        """What to write, one string a line of the terminal."""
        room = (
            max(2, min(MAX_COLUMNS, self._console.width - 1)),
            max(1, min(MAX_ROWS, self._console.height - BESIDE)),
        )
        columns, rows = cells_for(picture.size, room, 1 if self._protocol == graphics.BLOCKS else ENLARGED)
        if self._protocol == graphics.BLOCKS:
            fitted = picture.resize((columns, rows * 2), Image.Resampling.BOX)
            return graphics.blocks(fitted, colours=2**24 if self._console.color_system == "truecolor" else 256)
        if self._protocol == graphics.KITTY:
            drawn = graphics.kitty(picture, columns, rows, number=self._number)
        elif self._protocol == graphics.ITERM2:
            drawn = graphics.iterm2(picture, columns, rows)
        else:
            wide, tall = graphics.cell_pixels()
            # A sixel more would scroll the screen, so the last band stays within the rows.
            size = (columns * wide, rows * tall // 6 * 6)
            drawn = graphics.sixel(picture.resize(size, Image.Resampling.BILINEAR))
        # The lines come first, so that the screen has scrolled; then back up, draw, and return.
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        return [*[""] * (rows - 1), f"\x1b7{up}\r{drawn}\x1b8"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Kitty keeps a picture whose lines are erased; the others need it again with every refresh.
        keeps = self._protocol == graphics.KITTY and not self._unseen
        self._unseen = False
        for line in self._lines:
            if line and not keeps:
                yield Segment(line, None, [(ControlType.CARRIAGE_RETURN,)])
            yield Segment.line()


class _Below(Progress):
    def __init__(self, above: RenderableType, *columns: Any, **options: Any) -> None:
        self._above = above
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self._above
        yield from super().get_renderables()


class Budget:
    """Keeps what previews cost below SHARE of the time that the run takes, as far as that can be estimated."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._steps = 0
        self._expected = 0.0
        self._setup = 0.0
        self._frames = 0.0
        self._last = 0.0
        self.step_seconds = 0.0

    @property
    def spent(self) -> float:
        return self._setup + self._frames

    def start(self) -> None:
        """The run begins now."""
        self._began = self._clock()

    def ran(self, step: int, steps: int) -> None:
        """Step `step` of `steps` is done, from which follows how long the run takes at least."""
        elapsed = self._clock() - self._began
        self._steps += 1
        self.step_seconds = (elapsed - self.spent) / self._steps
        self._expected = elapsed + self.step_seconds * (steps - step)

    def allows_setup(self, estimate: float) -> bool:
        """Whether half of what may be spent would do: the other half is for frames."""
        return estimate <= SHARE * self._expected / 2

    def allows_frame(self) -> bool:
        """Frames are spread evenly: by now they may take as much of what setup left as has passed of the run."""
        elapsed = self._clock() - self._began
        whole = SHARE * max(self._expected, elapsed) - self._setup
        return self._frames + self._last <= whole * min(1.0, elapsed / max(self._expected, 1e-9))

    @contextmanager
    def setup(self) -> Iterator[None]:
        began = self._clock()
        yield
        self._setup += self._clock() - began

    @contextmanager
    def frame(self) -> Iterator[None]:
        began = self._clock()
        yield
        self._last = self._clock() - began
        self._frames += self._last


def open_preview(
    console: Console, environment: Mapping[str, str] = os.environ, *, vae: str | None = None
) -> Preview | None:
    """A preview for the terminal behind the console, or None where it shows no pictures.

    `vae` names a VAE to decode with; without one MLXDIFF_PREVIEW_VAE does. Raises ModelNotFoundError where it is not
    there.
    """
    vae = environment.get(VARIABLE) or None if vae is None else vae
    if vae is not None:
        from .. import hub

        hub.resolve_vae(vae)
    if not console.is_terminal or console.is_dumb_terminal or console.no_color or console.quiet:
        return None
    if console.color_system in (None, "windows"):
        return None
    return Preview(console, graphics.detect(environment), vae=vae)


def mosaic(tiles: list[Image.Image]) -> Image.Image:
    """The tiles of a batch, which are of one size, about square and in reading order."""
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    whole = Image.new("RGB", (columns * width, rows * height))
    for i, tile in enumerate(tiles):
        whole.paste(tile, (i % columns * width, i // columns * height))
    return whole


def cells_for(size: tuple[int, int], room: tuple[int, int], enlarged: int) -> tuple[int, int]:
    """(columns, rows) of the terminal for a picture of (width, height): as large as a pixel a column, or as fits.

    A character is about twice as tall as wide.
    """
    width, height = size[0] / enlarged, size[1] / enlarged
    scale = min(1.0, room[0] / width, room[1] * 2 / height)
    return max(1, round(width * scale)), max(1, round(height * scale / 2))
