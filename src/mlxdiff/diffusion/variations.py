"""A1111's initial noise: variation seeds, noise kept from another size, and a second seed for the steps (ENSD).

Everything is per image, so that a picture never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import RequestError
from .noise import NoiseStream

_PARALLEL = 0.9995  # above this mean cosine two noises are blended instead of turned


@dataclass(frozen=True)
class Variation:
    """A step from the picture's seed towards another one: strength 0 is the picture's own noise, 1 the other's."""

    seed: int
    strength: float


@dataclass(frozen=True)
class ImageNoise:
    """What one image starts from: (h, w, C) fp32, and the stream that its sampler goes on drawing from."""

    initial: mx.array
    stream: NoiseStream


def image_noise(
    seed: int,
    height: int,
    width: int,
    channels: int,
    *,
    source: str = "torch",
    variation: Variation | None = None,
    resized_from: tuple[int, int] | None = None,
    step_seed_delta: int = 0,
) -> ImageNoise:
    """An image's noise as A1111 draws it. Sizes are in latent cells.

    source           `torch` is A1111's CPU, `philox` its GPU and NV
    variation        variation seed and strength
    resized_from     (height, width) of the picture whose composition is kept ("seed resize")
    step_seed_delta  ENSD ("eta noise seed delta"): unless 0, steps draw from a new stream of seed + delta

    Raises RequestError for a bad seed or strength.
    """
    shape = (channels, height, width)
    stream = NoiseStream(seed, source)
    old = shape if resized_from is None else (channels, *resized_from)
    if min(old) < 1:
        raise RequestError(f"A seed cannot be resized from {old[2]} x {old[1]} cells.", "Give the size of a picture.")
    noise = stream.numbers(shape) if old == shape else NoiseStream(seed, source).numbers(old)
    if variation is not None and variation.strength != 0:
        if not 0 <= variation.strength <= 1:
            raise RequestError(f"The variation strength is {variation.strength:g}.", "It is between 0 and 1.")
        noise = slerp(variation.strength, noise, NoiseStream(variation.seed, source).numbers(old))
    if old != shape:
        noise = _pasted(noise, stream.numbers(shape))
    if step_seed_delta != 0:
        stream = NoiseStream(seed + step_seed_delta, source)
    return ImageNoise(mx.array(noise).transpose(1, 2, 0), stream)


def initial_batch(noises: Sequence[ImageNoise]) -> mx.array:
    """(B, h, w, C): the images' initial noise, stacked."""
    return mx.stack([noise.initial for noise in noises])


def slerp(amount: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Spherical interpolation of two noises (C, h, w), column by column, as A1111 does it.

    The vectors are those along the height axis: A1111 was written for flat vectors in a batch, and its pictures depend
    on what that became. Of noises that are parallel it blends with the two swapped, which is kept too.
    """
    cosine = (_unit(low) * _unit(high)).sum(axis=1)
    if cosine.mean() > _PARALLEL:
        return low * np.float32(amount) + high * np.float32(1 - amount)
    angle = np.arccos(cosine)
    sine = np.sin(angle)
    from_low = np.sin(np.float32(1 - amount) * angle) / sine
    from_high = np.sin(np.float32(amount) * angle) / sine
    return from_low[:, None] * low + from_high[:, None] * high


def _unit(noise: np.ndarray) -> np.ndarray:
    return noise / np.sqrt((noise * noise).sum(axis=1, keepdims=True))


def _pasted(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """`small` in the middle of `large`, cut where it is larger itself."""
    target, source = [slice(None)], [slice(None)]
    for old, new in zip(small.shape[1:], large.shape[1:], strict=True):
        offset = (new - old) // 2
        length = old if offset >= 0 else old + 2 * offset
        target.append(slice(max(offset, 0), max(offset, 0) + length))
        source.append(slice(max(-offset, 0), max(-offset, 0) + length))
    pasted = large.copy()
    pasted[tuple(target)] = small[tuple(source)]
    return pasted
