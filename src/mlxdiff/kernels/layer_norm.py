"""Layer normalization (Ba et al. 2016) over the last axis, alone or of the sum of a stream and what joins it."""

from __future__ import annotations

import mlx.core as mx

from . import cuda, native
from .residual import add_biased

_THREADS = 128
_KEPT = (3, 5, 10, 16)  # fours of channels that each of a warp's threads has; each is a kernel of its own


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """Normalizes x (..., C) over C, with a gain and a bias (C,) each, in x's dtype."""
    if (extension := native.serving(x, weight, bias)) is not None:
        return extension.layer_norm(x, weight, bias, eps)
    if _on_cuda(x):
        (out,) = _launch("layer_norm", [x, weight, bias], eps)
        return out
    return mx.fast.layer_norm(x, weight, bias, eps)


def add_layer_norm(
    x: mx.array, y: mx.array, y_bias: mx.array, weight: mx.array, bias: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    """The sum x + y + y_bias, of shapes (..., C), (..., C) and (C,), and its layer normalization."""
    if _on_cuda(x):
        total, out = _launch("add_layer_norm", [x, y, y_bias, weight, bias], eps)
        return total, out
    total = add_biased(x, y, y_bias)
    return total, layer_norm(total, weight, bias, eps)


def _on_cuda(x: mx.array) -> bool:
    channels = x.shape[-1]
    return channels % 4 == 0 and channels <= 128 * _KEPT[-1] and cuda.available()


def _launch(name: str, inputs: list[mx.array], eps: float) -> list[mx.array]:
    x = inputs[0]
    inputs = [a.astype(x.dtype) for a in inputs]
    channels, warps = x.shape[-1], _THREADS // 32
    rows = x.size // channels
    return cuda.launch(
        "layer_norm",
        f"{name}_{next(k for k in _KEPT if 128 * k >= channels)}",
        inputs,
        [rows, channels, eps],
        blocks=(-(-rows // warps), 1),
        threads=_THREADS,
        outputs=[(x.shape, x.dtype)] * (len(inputs) // 2),  # the sum too, where there is one
    )
