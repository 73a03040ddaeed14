"""A request of which the checkpoint has filled in every default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .declarations import neutral_of
from .request import Request

if TYPE_CHECKING:
    from ..diffusion.schedule import Schedule
    from ..passes.stages import Pass

_FILLED: Any = None


@dataclass(frozen=True)
class Resolved(Request):
    """A request as `StableDiffusion.resolve` filled it in: it says the truth about the model that renders it.

    `noise_levels` is the schedule of its first pass; `passes` are all of them (passes/). `first_calls` is of the view
    of a second pass: the calls of the network in the first, which its prompts count (A1111's prompt editing).
    `finished_size` is the (height, width) in pixels of the pictures that are kept, which differs from what is rendered
    where a part of a picture is, or an upscaler enlarges it. Fields that only apply with others stay None: `image`,
    `strength` without an image, `negative_prompt`, `schedule` and `sigmas` where the checkpoint's own are used.
    """

    noise_levels: Schedule = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    passes: tuple[Pass, ...] = field(default=(), compare=False, repr=False)
    first_calls: int | None = field(default=None, compare=False, repr=False)
    finished_size: tuple[int, int] = field(default=(0, 0), compare=False, repr=False)

    if TYPE_CHECKING:  # what resolve has filled in, for whoever reads the fields
        seed: int | tuple[int, ...] = _FILLED
        steps: int = _FILLED
        guidance_scale: float = _FILLED
        height: int = _FILLED
        width: int = _FILLED
        sampler: str = _FILLED
        rng: str = _FILLED
        variation_seed: int = _FILLED
        variation_strength: float = _FILLED
        ensd: int = _FILLED
        rounding: str = _FILLED
        prompt_syntax: str = _FILLED
        clip_skip: int = _FILLED
        model: str = _FILLED
        dtype: str = _FILLED
        guidance_start: float = _FILLED
        guidance_end: float = _FILLED
        guidance_rescale: float = _FILLED
        pag_scale: float = _FILLED
        cache_interval: int = _FILLED
        token_merging: float = _FILLED
        fit: str = _FILLED

    def values(self) -> dict[str, Any]:
        """As of any request, but what changes nothing is left out, so that a picture's text stays short."""
        neutral = neutral_of(Request)
        return {name: value for name, value in super().values().items() if neutral.get(name, ...) != value}

    def parts(self, size: int) -> Iterator[Resolved]:
        """The request cut into ones of at most `size` images."""
        for first in range(0, self.batch_size, size):
            part = slice(first, first + size)
            places = self.batch_places[part]
            yield self.replaced(
                prompt=self.prompts[part],
                seed=self.seeds[part],
                n_images=1,
                batch_index=places if any(places) else None,
            )

    @property
    def n_steps(self) -> int:
        """Steps that the loop yields, of all passes: fewer than `steps` where an image starts it."""
        return sum(each.n_steps for each in self.passes) if self.passes else len(self.noise_levels.sigmas) - 1

    @property
    def final_size(self) -> tuple[int, int]:
        """Height and width of the decoded picture in pixels, which a second pass may have enlarged."""
        last = dict(self.passes[-1].settings) if self.passes else {}
        return last.get("height", self.height), last.get("width", self.width)
