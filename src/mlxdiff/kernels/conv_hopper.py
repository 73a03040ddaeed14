"""3x3 convolutions in fp32 on the tensor cores: how native/cuda/conv_sm90a.cu is run."""

from __future__ import annotations

import mlx.core as mx

from . import cuda, hopper, tf32

_TILE = 8, 16  # pixels of a block's tile; the kernel has these too
_OUTPUTS, _DEPTH = 128, 32
_THREADS = 384
_SHARED_BYTES = 4 * 3 * 16384 + 3 * hopper.MAP_BYTES + 64
_FEWEST_PIXELS = 1024  # below, most multiprocessors have no tile
_KEPT_BITS = 0xFFFFE000  # of an fp32 number, that tensor cores read


def takes(x: mx.array, weight: mx.array, stride: int, padding: int) -> bool:
    """Whether the kernel applies to x (B, h, w, C) and weight (O, 3, 3, C)."""
    channels = weight.shape[3]
    fits = (stride, padding) == (1, 1) and x.dtype == weight.dtype and x.size >= _FEWEST_PIXELS * channels
    return fits and serves(weight)


def serves(weight: mx.array) -> bool:
    """Whether the kernel has convolutions with weight (O, k, k, C), where the map is large enough."""
    *kernel, channels = weight.shape[1:]
    fits = kernel == [3, 3] and channels % 4 == 0 and weight.dtype == mx.float32
    return fits and hopper.available() and not tf32.asked()


def run(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """The convolution, plus bias (O,): (B, h, w, O)."""
    batch, height, width, channels = x.shape
    outputs = weight.shape[0]
    tiles = batch * -(-height // _TILE[0]) * -(-width // _TILE[1]) * -(-outputs // _OUTPUTS)
    blocks = min(tiles, hopper.multiprocessors())
    of_x = (batch, height, width, channels), (1, *_TILE, _DEPTH)
    of_weight = (1, outputs, 9, channels), (1, _OUTPUTS, 1, _DEPTH)
    bias = mx.zeros(outputs) if bias is None else bias.astype(x.dtype)
    out, _ = cuda.launch(
        "conv_sm90a",
        "conv",
        [x, weight, _rests(weight), bias, hopper.tensor_maps(of_x, of_weight, of_weight, dtype=x.dtype)],
        [batch, height, width, channels, outputs],
        blocks=(blocks, 1),
        threads=_THREADS,
        outputs=[((batch, height, width, outputs), x.dtype), ((blocks * 3 * hopper.MAP_BYTES,), mx.uint8)],
        shared_bytes=_SHARED_BYTES,
    )
    return out


def _rests(weight: mx.array) -> mx.array:
    """What tensor cores do not read of each weight."""
    return weight - (weight.view(mx.uint32) & _KEPT_BITS).view(mx.float32)
