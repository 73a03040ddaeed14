"""A convolution of an enlarged map by its phases, against torch's of the enlarged map itself."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import normal, relative_error

from mlxdiff.kernels import cuda, upsample

SHAPES = [(2, 5, 7, 24, 16), (1, 1, 1, 8, 8), (3, 8, 8, 40, 24), (2, 32, 32, 64, 64)]
needs_gpu = pytest.mark.skipif(not cuda.available(), reason="needs an NVIDIA GPU")


def layer(shape: tuple[int, ...]) -> tuple[mx.array, mx.array, mx.array]:
    """x (B, h, w, C), weight (O, 3, 3, C) and bias (O,) of a shape (B, h, w, C, O)."""
    *size, inputs, outputs = shape
    weight = normal(outputs, 3, 3, inputs, seed=1, scale=(9 * inputs) ** -0.5)
    return mx.array(normal(*size, inputs)), mx.array(weight), mx.array(normal(outputs, seed=2))


def by_torch(x: mx.array, weight: mx.array, bias: mx.array) -> np.ndarray:
    theirs, kernel, shift = (torch.from_numpy(np.array(a.astype(mx.float32))).double() for a in (x, weight, bias))
    enlarged = F.interpolate(theirs.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
    return F.conv2d(enlarged, kernel.permute(0, 3, 1, 2), shift, padding=1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_phases_equal_torch(shape):
    x, weight, bias = layer(shape)
    got = upsample.convolve_enlarged(x, upsample.plain_phases(weight), bias)
    assert relative_error(got, by_torch(x, weight, bias)) < 1e-6


def test_weights_in_half_precision_are_rounded_once():
    _, weight, _ = layer((1, 1, 1, 40, 24))
    half = weight.astype(mx.float16)
    expected = np.array(upsample.plain_phases(half.astype(mx.float32))).astype(np.float16)
    np.testing.assert_array_equal(upsample.plain_phases(half), expected)


@pytest.mark.skipif(cuda.available(), reason="holds where there is no NVIDIA GPU")
def test_elsewhere_the_enlarged_map_is_convolved():
    assert upsample.phases(layer(SHAPES[0])[1]) is None


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_phases_in_half_precision_are_as_exact_as_the_convolution_itself(shape):
    x, weight, bias = (a.astype(mx.float16) for a in layer(shape))
    expected = by_torch(x, weight, bias)
    weights = upsample.phases(weight)
    assert weights is not None
    assert relative_error(upsample.convolve_enlarged(x, weights, bias), expected) < 1e-3


@needs_gpu
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("shape", [(2, 5, 9, 64), (1, 2, 2, 32), (3, 33, 33, 160)])
def test_the_gpus_kernel_puts_pixels_where_the_plain_form_does(shape, dtype):
    together, bias = mx.array(normal(*shape)).astype(dtype), mx.array(normal(shape[-1] // 4, seed=1)).astype(dtype)
    got = upsample._on_cuda(together, bias)
    assert got.dtype == dtype
    expected = upsample.plain(together, bias)
    np.testing.assert_array_equal(np.array(got.astype(mx.float32)), np.array(expected.astype(mx.float32)))
