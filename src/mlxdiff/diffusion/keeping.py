"""What stays of a picture while the rest is repainted, as a value that is the same for every sampler.

A sampler's arithmetic is done cell by cell, and only the network mixes cells. So it is enough to change what the
network sees of the cells that stay, what it is taken to say of them, and what a run shows and ends with; no sampler
knows of it. Programs differ in which of these they do:

                 the network sees            it is taken to predict    the run ends with
    diffusers    the picture, noised to      the picture               the picture
                 sigma by the first noise
    ComfyUI      the same                    the picture               what it made
    A1111        what the sampler made       the picture               the picture
    A1111, DDIM  the picture without noise   what it says              the picture
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx

from .step import BranchedDenoiser, Denoiser, Step

Sight = Literal["noised", "clean", "made"]


@dataclass(frozen=True)
class Rule:
    """How a program keeps a picture.

    sees      of the cells that stay the network sees the picture `noised` to the level by the noise of the start, the
              `clean` picture in latents of unit variance, or what the sampler `made`
    replaces  whether a step's latents are what the network will see, and not what the sampler made
    predicts  whether the prediction there becomes the picture
    ends      whether the last latents become the picture there
    """

    sees: Sight
    replaces: bool
    predicts: bool
    ends: bool


DIFFUSERS = Rule("noised", replaces=True, predicts=True, ends=True)
"""StableDiffusionInpaintPipeline's replaces the latents after each step by the picture, noised to the next level."""
COMFYUI = Rule("noised", replaces=False, predicts=True, ends=False)
A1111 = Rule("made", replaces=False, predicts=True, ends=True)
A1111_TIMESTEPS = Rule("clean", replaces=False, predicts=False, ends=True)
"""A1111's for DDIM, PLMS and UniPC."""


@dataclass(frozen=True, eq=False)
class Keeping:
    """A picture of which a part stays. Latents are in variance-exploding form, fp32.

    rule     whose
    mask     (B or 1, h, w, 1): 1 where it is repainted, 0 where it stays
    picture  (B, h, w, C), its latents
    noise    (B, h, w, C), the unit noise that the run starts from
    from_noise  the level of a run that starts from noise alone, as the network then sees it; None for other runs
    """

    rule: Rule
    mask: mx.array
    picture: mx.array
    noise: mx.array
    from_noise: float | None = None

    def seen(self, latents: mx.array, sigma: float) -> mx.array:
        """What the network is asked about at sigma."""
        at_start = self.from_noise is not None and sigma >= self.from_noise
        if self.rule.sees == "made" or at_start:
            return latents
        if self.rule.sees == "clean":
            return self._joined(latents, self.picture * math.hypot(sigma, 1.0))
        return self._joined(latents, self.picture + self.noise * sigma)

    def predicted(self, denoised: mx.array) -> mx.array:
        """x0, of the network's prediction after guidance."""
        return self._joined(denoised, self.picture) if self.rule.predicts else denoised

    def ended(self, latents: mx.array) -> mx.array:
        """What a run ends with."""
        return self._joined(latents, self.picture) if self.rule.ends else latents

    def _joined(self, repainted: mx.array, kept: mx.array) -> mx.array:
        return repainted * self.mask + kept * (1 - self.mask)


class _Keeper:
    """A denoiser that keeps a part of a picture."""

    def __init__(self, denoise: Denoiser | BranchedDenoiser, keeping: Keeping) -> None:
        self._denoise, self._keeping = denoise, keeping

    def __call__(self, latents: mx.array, sigma: float) -> mx.array:
        return self._keeping.predicted(self._denoise(self._keeping.seen(latents, sigma), sigma))

    def branches(self, latents: mx.array, sigma: float) -> tuple[mx.array, dict[str, mx.array]]:
        """See BranchedDenoiser; the branches alone are as the network says."""
        denoised, found = self._denoise.branches(self._keeping.seen(latents, sigma), sigma)  # pyright: ignore
        return self._keeping.predicted(denoised), found


def keeper(denoise: Denoiser | BranchedDenoiser, keeping: Keeping | None) -> Denoiser | BranchedDenoiser:
    """The denoiser for a run that keeps a part of a picture; itself where nothing is kept."""
    return denoise if keeping is None else _Keeper(denoise, keeping)


def kept(steps: Iterator[Step], keeping: Keeping | None) -> Iterator[Step]:
    """The steps of such a run, with the latents that its program has after each."""
    for step in steps:
        if keeping is not None and keeping.rule.replaces:
            yield replace(step, latents=keeping.seen(step.latents, step.sigma))
        else:
            yield step
