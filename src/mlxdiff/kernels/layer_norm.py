"""Layer normalization (Ba et al. 2016) over the last axis."""

from __future__ import annotations

import mlx.core as mx

from . import cuda, native

_THREADS = 128
_KEPT = (3, 5, 10, 16)  # fours of channels that each of a warp's threads has; each is a kernel of its own


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float, shift: mx.array | None = None) -> mx.array:
    """Normalizes x (..., C) + shift (C,) over C, with a gain and a bias (C,) each, in x's dtype."""
    if _on_cuda(x):
        return _launch(x, weight, bias, eps, shift)
    x = x if shift is None else x + shift
    if (extension := native.serving(x, weight, bias)) is not None:
        return extension.layer_norm(x, weight, bias, eps)
    return mx.fast.layer_norm(x, weight, bias, eps)


def _on_cuda(x: mx.array) -> bool:
    channels = x.shape[-1]
    return channels % 4 == 0 and channels <= 128 * _KEPT[-1] and cuda.available()


def _launch(x: mx.array, weight: mx.array, bias: mx.array, eps: float, shift: mx.array | None) -> mx.array:
    channels, warps = x.shape[-1], _THREADS // 32
    rows = x.size // channels
    name = "layer_norm" if shift is None else "shifted_layer_norm"
    shifts = [] if shift is None else [shift]
    (out,) = cuda.launch(
        "layer_norm",
        f"{name}_{next(k for k in _KEPT if 128 * k >= channels)}",
        [x, *(a.astype(x.dtype) for a in (weight, bias, *shifts))],
        [rows, channels, eps],
        blocks=(-(-rows // warps), 1),
        threads=_THREADS,
        outputs=[(x.shape, x.dtype)],
    )
    return out
