"""How the predictions of several branches become one.

A branch is one conditioning of the network: "positive" the prompt, "negative" the negative prompt, "image" the
picture without the prompt (instruct-pix2pix), "perturbed" the prompt with its self-attention switched off (PAG). A
guidance names the branches that it needs at a noise level, and combines their denoised latents. It knows no network, no
batching and no prediction type; `guided` makes what a sampler calls of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from ..errors import RequestError

NEGATIVE, POSITIVE, IMAGE, PERTURBED = "negative", "positive", "image", "perturbed"

Predict = Callable[[mx.array, float, tuple[str, ...]], Mapping[str, mx.array]]
"""(latents, sigma, names) -> denoised by name, each (B, h, w, C) fp32: one call of the network, however it batches."""

Convert = Callable[[mx.array, mx.array, float], mx.array]
"""A space's `to_output` or `to_denoised`."""


class Guidance(Protocol):
    def branches(self, sigma: float, /) -> tuple[str, ...]:
        """The names of the branches that `combine` needs at sigma."""
        ...

    def combine(self, denoised: Mapping[str, mx.array], latents: mx.array, sigma: float, /) -> mx.array:
        """The guided prediction, of every branch's own at these latents. All (B, h, w, C) fp32."""
        ...


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser made of a network's branches and a guidance."""

    predict: Predict
    guidance: Guidance
    always: tuple[str, ...] = ()

    def __call__(self, latents: mx.array, sigma: float) -> mx.array:
        return self.branches(latents, sigma)[0]

    def branches(self, latents: mx.array, sigma: float) -> tuple[mx.array, dict[str, mx.array]]:
        """The guided prediction and every branch's own, by name, from one call of the network."""
        names = tuple(dict.fromkeys((*self.always, *self.guidance.branches(sigma))))
        denoised = dict(self.predict(latents, sigma, names))
        return self.guidance.combine(denoised, latents, sigma), denoised


def guided(predict: Predict, guidance: Guidance, always: tuple[str, ...] = ()) -> Guided:
    """What a sampler calls. `always` are branches that are asked for at every level, as CFG++ needs the negative."""
    return Guided(predict, guidance, always)


@dataclass(frozen=True)
class Unguided:
    """The prompt's own prediction."""

    def branches(self, _sigma: float) -> tuple[str, ...]:
        return (POSITIVE,)

    def combine(self, denoised: Mapping[str, mx.array], _latents: mx.array, _sigma: float) -> mx.array:
        return denoised[POSITIVE]


@dataclass(frozen=True, eq=False)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6, in the form that is off at a scale of 1).

    scale  a number, or an array that broadcasts to (B, h, w, C)
    """

    scale: float | mx.array

    def branches(self, _sigma: float) -> tuple[str, ...]:
        return (NEGATIVE, POSITIVE)

    def combine(self, denoised: Mapping[str, mx.array], _latents: mx.array, _sigma: float) -> mx.array:
        negative, positive = denoised[NEGATIVE], denoised[POSITIVE]
        return negative + (positive - negative) * self.scale


@dataclass(frozen=True, eq=False)
class Composed:
    """Several prompts, each with a weight (Liu et al. 2022, "Compositional Visual Generation"; A1111's AND).

    weights  of the branches `positives(len(weights))`: numbers, or arrays that broadcast to (B, h, w, C)
    """

    scale: float | mx.array
    weights: tuple[float | mx.array, ...]

    def branches(self, _sigma: float) -> tuple[str, ...]:
        return (NEGATIVE, *positives(len(self.weights)))

    def combine(self, denoised: Mapping[str, mx.array], _latents: mx.array, _sigma: float) -> mx.array:
        negative = combined = denoised[NEGATIVE]
        for name, weight in zip(positives(len(self.weights)), self.weights, strict=True):
            combined = combined + (denoised[name] - negative) * (self.scale * weight)
        return combined


def positives(n: int) -> tuple[str, ...]:
    """The names of the branches of n prompts: positive, positive.1, ..."""
    return (POSITIVE, *(f"{POSITIVE}.{i}" for i in range(1, n)))


@dataclass(frozen=True, eq=False)
class Pix2Pix:
    """InstructPix2Pix (Brooks et al. 2023, equation 3): one scale for the prompt, one for the picture.

    The negative branch sees neither the prompt nor the picture, the image branch the picture alone.
    """

    scale: float | mx.array
    image_scale: float | mx.array

    def branches(self, _sigma: float) -> tuple[str, ...]:
        return (POSITIVE, IMAGE, NEGATIVE)

    def combine(self, denoised: Mapping[str, mx.array], _latents: mx.array, _sigma: float) -> mx.array:
        positive, image, negative = (denoised[name] for name in (POSITIVE, IMAGE, NEGATIVE))
        return negative + (positive - image) * self.scale + (image - negative) * self.image_scale


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Perturbed-attention guidance on top of another (Ahn et al. 2024, equation 12)."""

    guidance: Guidance
    scale: float | mx.array

    def branches(self, sigma: float) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.guidance.branches(sigma), POSITIVE, PERTURBED)))

    def combine(self, denoised: Mapping[str, mx.array], latents: mx.array, sigma: float) -> mx.array:
        combined = self.guidance.combine(denoised, latents, sigma)
        return combined + (denoised[POSITIVE] - denoised[PERTURBED]) * self.scale


@dataclass(frozen=True, eq=False)
class InInterval:
    """Guidance where low < sigma <= high (Kynkäänniemi et al. 2024), and the prompt's own prediction elsewhere."""

    guidance: Guidance
    low: float
    high: float
    outside: Guidance = Unguided()

    def _at(self, sigma: float) -> Guidance:
        return self.guidance if self.low < sigma <= self.high else self.outside

    def branches(self, sigma: float) -> tuple[str, ...]:
        return self._at(sigma).branches(sigma)

    def combine(self, denoised: Mapping[str, mx.array], latents: mx.array, sigma: float) -> mx.array:
        return self._at(sigma).combine(denoised, latents, sigma)


@dataclass(frozen=True, eq=False)
class Rescaled:
    """Gives a guided output the standard deviation of the prompt's own (Lin et al. 2024, section 3.4).

    factor  0 changes nothing, 1 rescales in full
    to_output, to_denoised  the space's, because it is the network's output that is rescaled, as diffusers'
            `guidance_rescale` does
    """

    guidance: Guidance
    factor: float
    to_output: Convert
    to_denoised: Convert

    def branches(self, sigma: float) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.guidance.branches(sigma), POSITIVE)))

    def combine(self, denoised: Mapping[str, mx.array], latents: mx.array, sigma: float) -> mx.array:
        if self.guidance.branches(sigma) == (POSITIVE,):
            return denoised[POSITIVE]
        output = self.to_output(self.guidance.combine(denoised, latents, sigma), latents, sigma)
        alone = self.to_output(denoised[POSITIVE], latents, sigma)
        axes = tuple(range(1, output.ndim))
        ratio = mx.std(alone, axis=axes, keepdims=True) / mx.std(output, axis=axes, keepdims=True)
        return self.to_denoised(output * (ratio * self.factor + (1 - self.factor)), latents, sigma)


def interval_of(sigmas: Sequence[float], start: float, end: float) -> tuple[float, float]:
    """The sigmas (low, high] at which the steps i of n begin for which start <= i / n < end.

    sigmas: n + 1 levels, descending. A bound that no step lies beyond is infinite. Raises RequestError for no step.
    """
    n = len(sigmas) - 1
    inside = [i for i in range(n) if start <= i / n < end]
    if not inside:
        raise RequestError(
            f"None of {n} steps begins between {start:g} and {end:g} of the run, where guidance is asked for.",
            "Widen the interval, or turn guidance off with a guidance_scale of 1.",
        )
    return bounds_of(sigmas, inside)


def bounds_of(sigmas: Sequence[float], steps: Sequence[int]) -> tuple[float, float]:
    """The sigmas (low, high] at which these steps begin, which follow each other; infinite where no step lies beyond.

    sigmas: n + 1 levels, descending.
    """
    first, last = steps[0], steps[-1]
    return (-math.inf if last == len(sigmas) - 2 else sigmas[last + 1]), (math.inf if first == 0 else sigmas[first])
