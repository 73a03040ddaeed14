"""Activations, and the exponential of softmax, each in two forms.

On a GPU: MLX's own operations. On a CPU in fp32: MLX's exp and erf go one element at a time, 16 to 35 ns each, and
outweigh convolutions and matmuls; sums and products take 0.3 ns. So there the extension's, or without it rational
approximations of few operations, exact to about 1e-6 of the argument: a function close to 1 is approximated, then
squared a few times.

mlx.nn's activations are wrapped in mx.compile, which on a CPU runs a C++ compiler for a second: none of them here.
"""

from __future__ import annotations

import math

import mlx.core as mx

from . import native

# h(a) = a * Phi(-a), Phi the normal distribution's, is a / polynomial(a)^32 within 1.3e-7 for all a >= 0: a minimax fit
# of the form of Abramowitz and Stegun 7.1.28. From the constant to the fifth power.
_GELU_TAIL = (1.02189736, 2.54782772e-2, 1.04851950e-2, 1.41917154e-3, -8.11310690e-5, 2.02148311e-5)

# exp(-a) = polynomial(a)^-16 within 3.5e-9 for all a >= 0, a minimax fit. Softmax stretches its argument so that the
# leading coefficient is 1 and saves a product: w = EXP_STRETCH * a.
_EXP = (0.99999999969, 6.25000053e-2, 1.95310686e-3, 4.07097446e-5, 6.27313602e-7, 9.43388008e-9)
EXP_STRETCH = _EXP[5] ** (1 / 5)
_EXP_MONIC = tuple(c / EXP_STRETCH**i for i, c in enumerate(_EXP))


def on_cpu(x: mx.array) -> bool:
    """Whether the CPU's forms apply to x: they hold in fp32, where MLX computes on a CPU."""
    return x.dtype == mx.float32 and mx.default_device() == mx.cpu


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x)."""
    if (extension := native.serving(x)) is not None:
        return extension.silu(x)
    return x / (1 + _exp_of_negative(x)) if on_cpu(x) else x * mx.sigmoid(x)


def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x), the approximation that the first CLIP was trained with."""
    if (extension := native.serving(x)) is not None:
        return extension.quick_gelu(x)
    return x / (1 + _exp_of_negative(1.702 * x)) if on_cpu(x) else x * mx.sigmoid(1.702 * x)


def gelu(x: mx.array) -> mx.array:
    """x * Phi(x), the exact GELU (Hendrycks and Gimpel 2016)."""
    if (extension := native.serving(x)) is not None:
        return extension.gelu(x)
    if not on_cpu(x):
        return x * ((1 + mx.erf(x * math.sqrt(0.5))) * 0.5)
    c0, c1, c2, c3, c4, c5 = _GELU_TAIL
    a = mx.abs(x)
    root = ((((c5 * a + c4) * a + c3) * a + c2) * a + c1) * a + c0
    return mx.maximum(x, 0.0) - a / _squared(root, 5)


def softmax_numerator(w: mx.array) -> mx.array:
    """exp(-w / EXP_STRETCH) for w >= 0, infinity included, up to a factor that is the same for all; fp32 on a CPU."""
    c0, c1, c2, c3, c4, _ = _EXP_MONIC
    return 1 / _squared(((((w + c4) * w + c3) * w + c2) * w + c1) * w + c0, 4)


def _exp_of_negative(x: mx.array) -> mx.array:
    """exp(-x): the sixteenth power of the Padé approximant [2/2] of exp(-x/16); past +-80 it would turn around."""
    half = mx.clip(x, -80.0, 80.0) * (1 / 32)
    even = half * half * (1 / 3) + 1
    return _squared((even - half) / (even + half), 4)


def _squared(x: mx.array, times: int) -> mx.array:
    for _ in range(times):
        x = x * x
    return x
