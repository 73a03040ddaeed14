"""What pictures add to a run, besides the prompt: each a condition of the one loop.

An inpainting or editing checkpoint takes more channels; ControlNets and T2I-Adapters add residuals; IP-Adapters let the
network attend to pictures beside the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx

from ..conditioning import Attend, Conditioning, PicturePrompt
from ..diffusion.guidance import IMAGE, NEGATIVE
from ..models.backbone import Residuals

WITHOUT_PROMPT = (NEGATIVE, IMAGE)
"""Branches of guidance that are not told what is wanted, in words or in a picture."""


@dataclass(frozen=True, eq=False)
class SeenPictures:
    """The pictures of one IP-Adapter in a run.

    positive, negative  (1, P, T, D): T tokens of each of P pictures, for the prompt's branches and for those without it
    attend              how the backbone attends to them
    low, high           the noise levels low < sigma <= high at which it does
    """

    positive: mx.array
    negative: mx.array
    attend: Attend
    low: float = -math.inf
    high: float = math.inf

    def prompt(self, rows: Sequence[tuple[str, int]]) -> PicturePrompt:
        """What (branch, images) one after the other in a batch are told."""
        tokens = [self.negative if branch in WITHOUT_PROMPT else self.positive for branch, _ in rows]
        spread = [mx.broadcast_to(array, (n, *array.shape[1:])) for array, (_, n) in zip(tokens, rows, strict=True)]
        return PicturePrompt(mx.concatenate(spread), self.attend)


class Steer(Protocol):
    """A network beside the backbone: prepared once for each group of conditionings, then called with the backbone."""

    def is_active(self, sigma: float) -> bool:
        """Whether it adds anything at this noise level."""
        ...

    def prepare(self, branches: Sequence[tuple[str, int]], conditioning: Conditioning) -> Any:
        """What (branch, rows) in the order of the batch, and their conditioning, alone decide."""
        ...

    def __call__(self, latents: mx.array, timestep: float, prepared: Any) -> Residuals:
        """What it adds for scaled latents (B, h, w, C), each (B or 1, h, w, C); unevaluated."""
        ...


@dataclass(frozen=True, eq=False)
class Steering:
    """What a run's pictures add to every call of the backbone.

    channels  by the name of a branch: (B, h, w, c) that go behind the scaled latents, in the backbone's own scale
    controls  networks whose residuals add up; they see the latents alone, without these channels
    pictures  what is attended to beside the prompt
    """

    channels: Mapping[str, mx.array] = field(default_factory=dict)
    controls: Sequence[Steer] = ()
    pictures: tuple[SeenPictures, ...] = ()

    def seen(self, sigma: float) -> tuple[SeenPictures, ...]:
        """The pictures that are attended to at a noise level."""
        return tuple(each for each in self.pictures if each.low < sigma <= each.high)


NOTHING = Steering()
