"""Layer normalization (Ba et al. 2016), over the last axis."""

from __future__ import annotations

import mlx.core as mx


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """Normalizes x (..., C) over C, with a gain and a bias (C,) each, in x's dtype."""
    return mx.fast.layer_norm(x, weight, bias, eps)
