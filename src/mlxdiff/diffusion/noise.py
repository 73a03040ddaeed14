"""Standard normal noise from a seed: the numbers of torch on a CPU (`torch`), of torch on CUDA (`philox`), or MLX's.

A stream belongs to one image and goes on from draw to draw, so that a picture never depends on its neighbours.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..errors import RequestError
from ..request import NOISE_SOURCES
from .step import Noise

_BLOCK = 16  # torch fills long draws in blocks of 16 normals, shorter ones a pair at a time
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_TWO_POW_MINUS_32 = np.float32(2.0**-32)
_TWO_PI_POW_MINUS_32 = np.float32(2.0**-32) * np.float32(2 * math.pi)
_GOLDEN = 0x9E3779B97F4A7C15


def standard_normal(shape: Sequence[int], seed: int, source: str = "torch") -> mx.array:
    """The first draw of a fresh stream: fp32 of `shape`. Raises RequestError for an unknown source or a bad seed."""
    return NoiseStream(seed, source).standard_normal(shape)


def batch_noise(streams: Sequence[NoiseStream], height: int, width: int, channels: int) -> mx.array:
    """(B, height, width, channels), in latent cells: each image's stream draws (channels, height, width)."""
    draws = [stream.standard_normal((channels, height, width)) for stream in streams]
    return mx.stack(draws).transpose(0, 2, 3, 1)


def shared_batch(stream: NoiseStream, batch: int, height: int, width: int, channels: int) -> mx.array:
    """(B, height, width, channels): one generator draws the whole batch at once, as ComfyUI does.

    So an image depends on its place in the batch, but not on how many come after it (where a picture takes a multiple
    of 16 numbers, as all sizes that are divisible by 16 pixels do).
    """
    return stream.standard_normal((batch, channels, height, width)).transpose(0, 2, 3, 1)


def picked_batch(stream: NoiseStream, indices: Sequence[int], height: int, width: int, channels: int) -> mx.array:
    """(len(indices), height, width, channels): those images of ComfyUI's batch, drawn one by one (LatentFromBatch)."""
    kept: dict[int, mx.array] = {}
    for index in range(max(indices, default=-1) + 1):
        draw = stream.standard_normal((channels, height, width))
        if index in indices:
            kept[index] = draw
    return mx.stack([kept[index] for index in indices]).transpose(0, 2, 3, 1)


def stream_noise(streams: Sequence[NoiseStream], height: int, width: int, channels: int) -> Noise:
    """Each step takes the next draw of every image's own stream: diffusers with a generator an image, and A1111."""
    return lambda _sigma, _sigma_next: batch_noise(streams, height, width, channels)


class NoiseStream:
    """What one generator draws, call after call.

    torch   `torch.Generator("cpu").manual_seed(seed)`, to 1e-6; any seed torch takes, of which it uses the low 32 bits
    philox  `torch.Generator("cuda")`, to 1e-6, as long as the GPU has a thread for every number of a draw (some 40,000
            on a small GPU; beyond that CUDA's numbers depend on the device). A1111 calls it NV.
    mlx     `mx.random`, whose numbers may differ from chip to chip
    """

    def __init__(self, seed: int, source: str = "torch"):
        if source not in NOISE_SOURCES:
            raise RequestError(f"There is no noise source {source!r}.", f"Choose one of {', '.join(NOISE_SOURCES)}.")
        self._generator = _GENERATORS[source](_as_uint64(seed))

    def standard_normal(self, shape: Sequence[int]) -> mx.array:
        """The next draw of the stream: fp32 of `shape`."""
        return mx.array(self._generator.draw(math.prod(shape))).reshape(tuple(shape))

    def numbers(self, shape: Sequence[int]) -> np.ndarray:
        """The next draw of the stream, for arithmetic that must round as torch's does on a CPU: fp32 of `shape`."""
        return np.asarray(self._generator.draw(math.prod(shape))).reshape(tuple(shape))


def _as_uint64(seed: int) -> int:
    """A seed as 64 bits; torch takes negative ones as two's complement."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = None
    if number is None or isinstance(seed, bool) or not -(2**63) <= number < 2**64:
        raise RequestError(f"The seed is {seed!r}.", "It is a whole number that fits into 64 bits.")
    return number % 2**64


class _TorchGenerator:
    """MT19937 seeded with the low 32 bits, then the Box-Muller transform in one of torch's two arrangements."""

    def __init__(self, seed: int):
        self._twister = np.random.RandomState(seed % 2**32)
        self._spare: float | None = None  # the second normal of the last pair, kept for the next short draw

    def draw(self, count: int) -> np.ndarray:
        if count < _BLOCK:
            return np.array([self._next() for _ in range(count)], dtype=np.float32)
        normals = np.empty(count, dtype=np.float32)
        whole = count - count % _BLOCK
        uniforms = self._uniforms(count)
        normals[:whole] = _box_muller_blocks(uniforms[:whole])
        if whole < count:  # torch draws the last block again, over the end of the one before
            normals[-_BLOCK:] = _box_muller_blocks(self._uniforms(_BLOCK))
        return normals

    def _words(self, count: int) -> np.ndarray:
        return self._twister.randint(0, 2**32, size=count, dtype=np.uint32)

    def _uniforms(self, count: int) -> np.ndarray:
        """In [0, 1), 24 bits each."""
        return (self._words(count) & 0xFFFFFF) * 2.0**-24

    def _next(self) -> float:
        """One normal in double precision, from two uniforms of 53 bits; every other call returns the spare."""
        if self._spare is not None:
            normal, self._spare = self._spare, None
            return normal
        high, low, high2, low2 = (int(word) for word in self._words(4))
        angle = 2 * math.pi * ((high << 32 | low) % 2**53) * 2.0**-53
        radius = math.sqrt(-2 * math.log1p(-((high2 << 32 | low2) % 2**53) * 2.0**-53))
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)


def _box_muller_blocks(uniforms: np.ndarray) -> np.ndarray:
    """(n,) uniforms to (n,) normals; in each block the first 8 give the radii and the last 8 the angles.

    Angles are rounded to fp32 as torch rounds them: with a radius of 5 that alone moves a normal by 1e-6.
    """
    blocks = uniforms.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2 * np.log1p(-blocks[:, 0]))
    angle = (np.float32(2 * math.pi) * blocks[:, 1].astype(np.float32)).astype(np.float64)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


class _PhiloxGenerator:
    """Philox4x32-10 as cuRAND runs it for torch: one subsequence an element, one counter step a call."""

    def __init__(self, seed: int):
        self._key = (seed % 2**32, seed >> 32)
        self._offset = 0

    def draw(self, count: int) -> np.ndarray:
        if count == 0:  # torch launches no kernel, so the counter stays
            return np.zeros(0, dtype=np.float32)
        counter = np.zeros((4, count), dtype=np.uint32)
        counter[0] = self._offset
        counter[2] = np.arange(count, dtype=np.uint32)
        self._offset += 1
        words = philox4x32(counter, self._key)
        # cuRAND multiplies and adds in one rounding to fp32; the products fit exactly into double precision.
        radial = (np.float32(words[0]).astype(np.float64) * _TWO_POW_MINUS_32 + _TWO_POW_MINUS_32 / 2).astype(
            np.float32
        )
        angle = (np.float32(words[1]).astype(np.float64) * _TWO_PI_POW_MINUS_32 + _TWO_PI_POW_MINUS_32 / 2).astype(
            np.float32
        )
        return np.sqrt(-2 * np.log(radial)) * np.sin(angle)


def philox4x32(counter: np.ndarray, key: tuple[int, int], rounds: int = 10) -> np.ndarray:
    """The counter-based generator of Salmon et al. 2011, section 3.3: (4, n) counters to (4, n) random uint32."""
    a, b, c, d = counter.astype(np.uint64)
    low32 = np.uint64(0xFFFFFFFF)
    for i in range(rounds):
        key0, key1 = (np.uint64((k + i * weyl) % 2**32) for k, weyl in zip(key, _PHILOX_WEYL, strict=True))
        product0, product1 = a * np.uint64(_PHILOX_MULTIPLIERS[0]), c * np.uint64(_PHILOX_MULTIPLIERS[1])
        a, b = (product1 >> np.uint64(32)) ^ b ^ key0, product1 & low32
        c, d = (product0 >> np.uint64(32)) ^ d ^ key1, product0 & low32
    return np.stack([a, b, c, d]).astype(np.uint32)


class _MlxGenerator:
    """The first draw is that of `mx.random.key(seed)`; later ones take keys far from any other seed's."""

    def __init__(self, seed: int):
        self._seed = seed
        self._draws = 0

    def draw(self, count: int) -> mx.array:
        key = mx.random.key((self._seed + self._draws * _GOLDEN) % 2**64)
        self._draws += 1
        return mx.random.normal((count,), key=key)


_GENERATORS = {"torch": _TorchGenerator, "mlx": _MlxGenerator, "philox": _PhiloxGenerator}
