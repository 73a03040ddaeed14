"""Sums against numpy's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from arrays import normal, relative_error

from mlxdiff.kernels.residual import add_biased

pytestmark = pytest.mark.usefixtures("each_form")


@pytest.mark.parametrize("shape", [(5,), (2, 3, 7), (2, 40, 41, 16), (1, 4096, 24)])
def test_add_biased_equals_numpy(shape):
    x, y, bias = normal(*shape), normal(*shape, seed=1), normal(shape[-1], seed=2)
    got = add_biased(mx.array(x), mx.array(y), mx.array(bias))
    np.testing.assert_array_equal(np.array(got), x + (y + bias))


def test_add_biased_of_parts_of_an_array():
    x = normal(6, 8, 10)
    a = mx.array(x)
    got = add_biased(a[:, ::2, :5], a[:, 1::2, 5:], a[0, 0, :10:2])
    np.testing.assert_array_equal(np.array(got), x[:, ::2, :5] + (x[:, 1::2, 5:] + x[0, 0, ::2]))


@pytest.mark.skipif(mx.default_device() == mx.cpu, reason="needs a GPU: its kernel is compared with exact sums")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("shape", [(4096, 320), (2, 77, 640), (1000, 1280), (3, 2048), (5, 24), (1, 4)])
def test_the_gpus_kernel_equals_exact_sums(shape, dtype):
    x, y = (mx.array(normal(*shape, seed=i, scale=2.0, shift=3.0)).astype(dtype) for i in (0, 1))
    bias = mx.array(normal(shape[-1], seed=2)).astype(dtype)
    got = add_biased(x, y, bias)
    assert got.dtype == dtype
    exact = np.array(x.astype(mx.float32) + y.astype(mx.float32) + bias.astype(mx.float32))
    assert relative_error(got, exact) < {mx.float16: 2e-3, mx.bfloat16: 1e-2, mx.float32: 1e-5}[dtype]
