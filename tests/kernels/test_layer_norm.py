"""Layer normalization against torch's, and a GPU's kernels against MLX's own operations."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import normal, relative_error

from mlxdiff.kernels.layer_norm import layer_norm

SHAPES = [(7, 320), (3, 5, 24), (1, 6), (40, 1280)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 20.0])
def test_layer_norm_equals_torch(shape, shift):
    x, weight, bias = normal(*shape, scale=2.0, shift=shift), normal(shape[-1], seed=1), normal(shape[-1], seed=2)
    wanted = F.layer_norm(*(torch.from_numpy(a).double() for a in (x,)), shape[-1:], *both(weight, bias), 1e-5)
    got = layer_norm(mx.array(x), mx.array(weight), mx.array(bias), 1e-5)
    assert relative_error(got, wanted.numpy()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_added_first_is_normalized_too(shape):
    x, added, weight, bias = normal(*shape), *(normal(shape[-1], seed=i, scale=3.0) for i in (1, 2, 3))
    sum_ = torch.from_numpy(x).double() + torch.from_numpy(added).double()
    got = layer_norm(*(mx.array(a) for a in (x, weight, bias)), 1e-5, mx.array(added))
    assert relative_error(got, F.layer_norm(sum_, shape[-1:], *both(weight, bias), 1e-5).numpy()) < 1e-5


def both(weight: np.ndarray, bias: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(weight).double(), torch.from_numpy(bias).double()]


@pytest.mark.skipif(mx.default_device() == mx.cpu, reason="needs a GPU: its kernels are compared with MLX's operations")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("shape", [(4096, 320), (2, 77, 640), (1000, 1280), (3, 2048), (5, 24), (1, 4)])
def test_the_gpus_kernels_equal_mlx(shape, dtype):
    tolerance = {mx.float16: 2e-3, mx.bfloat16: 1e-2, mx.float32: 1e-5}[dtype]
    x = mx.array(normal(*shape, scale=2.0, shift=3.0)).astype(dtype)
    added, weight, bias = (mx.array(normal(shape[-1], seed=i)).astype(dtype) for i in (1, 2, 3))
    exact = [a.astype(mx.float32) for a in (x, added, weight, bias)]
    got = layer_norm(x, weight, bias, 1e-5)
    assert got.dtype == dtype
    assert relative_error(got, np.array(mx.fast.layer_norm(exact[0], *exact[2:], 1e-5))) < tolerance
    got = layer_norm(x, weight, bias, 1e-5, added)
    assert got.dtype == dtype
    assert relative_error(got, np.array(mx.fast.layer_norm(exact[0] + exact[1], *exact[2:], 1e-5))) < tolerance
