"""Convolutions and products in fp32 on the tensor cores: how native/cuda/conv_sm90a.cu is run."""

from __future__ import annotations

import mlx.core as mx

from . import cuda, hopper, tf32

_TILE = _HEIGHT, _WIDTH = 8, 16  # pixels of a block's tile; the kernel has these too
_OUTPUTS, _DEPTH, _STAGES = 128, 32, 4
_THREADS = 384
_STAGE_BYTES = (_HEIGHT * _WIDTH + 2 * _OUTPUTS) * _DEPTH * 4
_SHARED_BYTES = _STAGES * (_STAGE_BYTES + hopper.BARRIER_BYTES) + 3 * hopper.MAP_BYTES
_FEWEST_PIXELS = 1024  # below, most multiprocessors have no tile
_KEPT_BITS = 0xFFFFE000  # of an fp32 number, that tensor cores read


def serves(weight: mx.array) -> bool:
    """Whether the kernel is there for a layer with weight (O, C) or (O, 3, 3, C), where its input is large enough."""
    _, *kernel, channels = weight.shape
    fits = kernel in ([], [3, 3]) and channels % 4 == 0 and weight.dtype == mx.float32
    return fits and hopper.available() and not tf32.asked()


def convolves(x: mx.array, weight: mx.array, stride: int, padding: int) -> bool:
    """Whether the kernel applies to x (B, h, w, C) and weight (O, 3, 3, C)."""
    return weight.ndim == 4 and (stride, padding) == (1, 1) and _is_large(x) and serves(weight)


def convolve(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """The convolution padded to keep its size, plus bias (O,): (B, h, w, O)."""
    batch, height, width, channels = x.shape
    outputs, side, _, _ = weight.shape
    tiles = batch * -(-height // _HEIGHT) * -(-width // _WIDTH) * -(-outputs // _OUTPUTS)
    blocks = min(tiles, hopper.multiprocessors())
    of_x = (batch, height, width, channels), (1, *_TILE, _DEPTH)
    of_weight = (1, outputs, side * side, channels), (1, _OUTPUTS, 1, _DEPTH)
    bias = mx.zeros(outputs) if bias is None else bias.astype(x.dtype)
    out, _ = cuda.launch(
        "conv_sm90a",
        "conv",
        [x, weight, _rests(weight), bias, hopper.tensor_maps(of_x, of_weight, of_weight, dtype=x.dtype)],
        [batch, height, width, channels, outputs, side],
        blocks=(blocks, 1),
        threads=_THREADS,
        outputs=[((batch, height, width, outputs), x.dtype), ((blocks * 3 * hopper.MAP_BYTES,), mx.uint8)],
        shared_bytes=_SHARED_BYTES,
    )
    return out


def multiplies(x: mx.array, weight: mx.array) -> bool:
    """Whether the kernel applies to x (..., C) and a linear layer's weight (O, C)."""
    return weight.ndim == 2 and x.size // x.shape[-1] % _WIDTH == 0 and _is_large(x) and serves(weight)


def multiply(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """The linear layer, plus bias (O,): (..., O)."""
    pixels = x.reshape(1, -1, _WIDTH, x.shape[-1])  # a 1x1 convolution of a map as wide as a tile
    return convolve(pixels, weight[:, None, None], bias).reshape(*x.shape[:-1], weight.shape[0])


def _is_large(x: mx.array) -> bool:
    return x.dtype == mx.float32 and x.size >= _FEWEST_PIXELS * x.shape[-1]


def _rests(weight: mx.array) -> mx.array:
    """What tensor cores do not read of each weight."""
    return weight - (weight.view(mx.uint32) & _KEPT_BITS).view(mx.float32)
