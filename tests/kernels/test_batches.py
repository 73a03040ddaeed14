"""On a CPU the extension gives a picture the same bytes alone and in a batch: no choice depends on its neighbours."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from arrays import normal

from mlxdiff.kernels import native
from mlxdiff.kernels.attention import attention, self_attention
from mlxdiff.kernels.conv import conv2d
from mlxdiff.kernels.group_norm import group_norm_silu
from mlxdiff.kernels.linear import linear
from mlxdiff.kernels.packing import packed

if native.serving() is None:
    pytest.skip(f"the extension is {native.state()}", allow_module_level=True)
DTYPES = [mx.float32] + [mx.bfloat16] * (native.serving(mx.zeros(1, mx.bfloat16)) is not None)

SIZES = [(16, 16), (9, 9), (8, 8), (6, 9), (7, 5), (6, 4), (4, 4), (3, 4), (2, 2), (1, 1)]
WIDTHS = [(4, 96), (96, 192), (384, 384), (320, 64)]


def same_alone(function, x: mx.array) -> None:
    """`function` of the first pictures of x is the first part of `function` of all."""
    whole = np.array(function(x).astype(mx.float32))
    for n in (1, 2, 3):
        np.testing.assert_array_equal(np.array(function(x[:n]).astype(mx.float32)), whole[:n])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "outputs"), WIDTHS)
def test_convolutions(size, channels, outputs, dtype):
    x = mx.array(normal(8, *size, channels)).astype(dtype)
    for kernel, padding, stride in ((3, 1, 1), (1, 0, 1), (3, 1, 2)):
        weight = mx.array(normal(outputs, kernel, kernel, channels, seed=kernel)).astype(dtype)
        for each in (weight, packed(weight)):
            if each is not None:
                same_alone(lambda a, w=each, s=stride, p=padding: conv2d(a, w, stride=s, padding=p), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "heads"), [(96, 3), (384, 12), (320, 8)])
def test_the_parts_of_a_transformer(size, width, heads, dtype):
    tokens = size[0] * size[1]
    x = mx.array(normal(8, tokens, 3 * width)).astype(dtype)
    same_alone(lambda a: self_attention(a, heads=heads), x)
    prompt = mx.array(normal(8, 77, width, seed=1)).astype(dtype)
    same_alone(lambda a: attention(a, prompt[: len(a)], prompt[: len(a)], heads=heads), x[:, :, :width])
    same_alone(lambda a: group_norm_silu(a, mx.ones(width, dtype), mx.zeros(width, dtype), 32, 1e-5), x[:, :, :width])
    weight = mx.array(normal(4 * width, width, seed=2)).astype(dtype)
    for each in (weight, packed(weight)):
        if each is not None:
            rows = x[:, :, :width]
            same_alone(lambda a, w=each: linear(a.reshape(-1, width), w).reshape(len(a), tokens, -1), rows)
