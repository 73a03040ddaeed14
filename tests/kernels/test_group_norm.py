"""Group normalization against torch's, and a chip's kernels against the plain form."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import nchw, normal, relative_error

from mlxdiff.kernels import group_norm as module
from mlxdiff.kernels.group_norm import group_norm, group_norm_silu

pytestmark = pytest.mark.usefixtures("each_form")

NORM_SHAPES = [(2, 8, 8, 32), (1, 5, 3, 64), (3, 40, 24), (2, 16), (1, 32, 32, 96)]


@pytest.mark.parametrize("shape", NORM_SHAPES)
@pytest.mark.parametrize(("groups", "eps"), [(8, 1e-5), (1, 1e-6), (4, 1e-2)])
def test_group_norm_equals_torch(shape, groups, eps):
    x, channels = normal(*shape, scale=2.0, shift=0.5), shape[-1]
    weight, bias = normal(channels, seed=1), normal(channels, seed=2)
    wanted = F.group_norm(
        torch.from_numpy(x).movedim(-1, 1), groups, torch.from_numpy(weight), torch.from_numpy(bias), eps
    )
    got = group_norm(mx.array(x), mx.array(weight), mx.array(bias), groups, eps)
    assert relative_error(got, wanted.movedim(1, -1).numpy()) < 2e-6


def test_group_norm_survives_a_mean_that_dwarfs_the_spread():
    x = normal(1, 64, 64, 32, scale=0.01, shift=30.0)
    exact = F.group_norm(nchw(x).double(), 8, eps=1e-6).permute(0, 2, 3, 1).numpy()
    got = group_norm(mx.array(x), mx.ones(32), mx.zeros(32), 8, 1e-6)
    assert relative_error(got, exact) < 1e-3


@pytest.mark.parametrize("rows", [1, 3])
def test_a_shift_is_added_before(rows):
    x, shift = normal(3, 6, 5, 16), normal(rows, 16, seed=1, scale=3.0)
    weight, bias = normal(16, seed=2), normal(16, seed=3)
    shifted = nchw(x + shift[:, None, None]).double()
    wanted = F.group_norm(shifted, 4, torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), 1e-5)
    arguments = [mx.array(a) for a in (x, weight, bias)]
    got = group_norm(*arguments, 4, 1e-5, mx.array(shift))
    assert relative_error(got, wanted.permute(0, 2, 3, 1).numpy()) < 2e-6
    got = group_norm_silu(*arguments, 4, 1e-5, mx.array(shift))
    assert relative_error(got, F.silu(wanted).permute(0, 2, 3, 1).numpy()) < 2e-6


@pytest.mark.skipif(mx.default_device() == mx.cpu, reason="needs a GPU: its kernels are compared with the plain form")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 64, 64, 320), 32),
        ((3, 32, 32, 640), 32),
        ((2, 16, 16, 2560), 32),
        ((1, 8, 8, 2560), 4),
        ((5, 8, 8, 1280), 32),
        ((1, 37, 53, 128), 32),
        ((2, 128, 128, 512), 32),
        ((16, 64, 64, 320), 32),
        ((2, 64, 64, 960), 32),
        ((16, 32, 32, 1280), 32),
        ((16, 32, 32, 1920), 32),
        ((16, 16, 16, 2560), 32),
        ((2, 32, 32, 320), 32),
        ((4, 37, 53, 640), 32),
        ((1, 256, 256, 256), 32),
        ((2, 1, 3, 64), 4),
        ((1, 9, 7, 12), 3),
    ],
)
def test_the_gpus_kernels_equal_the_plain_form(shape, groups, shifted, dtype):
    channels = shape[-1]
    x = mx.array(normal(*shape, scale=2.0, shift=5.0)).astype(dtype)
    weight, bias = (mx.array(normal(channels, seed=i)).astype(dtype) for i in (1, 2))
    shift = mx.array(normal(shape[0], channels, seed=3)).astype(dtype) if shifted else None
    exact = module.plain(*(a.astype(mx.float32) for a in (x, weight, bias)), groups, 1e-5, shift)
    tolerance = {mx.float16: 2e-3, mx.bfloat16: 1e-2, mx.float32: 1e-5}[dtype]
    got = group_norm(x, weight, bias, groups, 1e-5, shift)
    assert got.dtype == dtype
    assert relative_error(got, np.array(exact)) < tolerance
    got = group_norm_silu(x, weight, bias, groups, 1e-5, shift)
    assert relative_error(got, np.array(exact * mx.sigmoid(exact))) < tolerance
    assert mx.array_equal(got, group_norm_silu(x, weight, bias, groups, 1e-5, shift)), "the same bits each time"
