"""Activations against torch's in double precision."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mlxdiff.kernels.activations import EXP_STRETCH, gelu, quick_gelu, silu, softmax_numerator

pytestmark = pytest.mark.usefixtures("each_form")

# The exact functions, in double precision.
ACTIVATIONS = {
    "silu": (silu, F.silu),
    "gelu": (gelu, F.gelu),
    "quick_gelu": (quick_gelu, lambda x: x * torch.sigmoid(1.702 * x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_on_a_cpu_are_within_a_millionth_of_the_argument(name):
    ours, exact = ACTIVATIONS[name]
    x = np.concatenate([np.linspace(-30, 30, 60_001), np.geomspace(1e-6, 1e6, 2001), -np.geomspace(1e-6, 1e6, 2001)])
    x = x.astype(np.float32)
    wanted = exact(torch.from_numpy(x).double()).numpy()
    with mx.stream(mx.cpu):
        got = np.array(ours(mx.array(x)))
    assert (np.abs(got - wanted) <= 1e-6 * np.maximum(1, np.abs(x))).all()
    assert np.abs(got[x < -100]).max() < 1e-6


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_activations_keep_a_half_precision_dtype(name, dtype):
    ours, exact = ACTIVATIONS[name]
    x = mx.linspace(-20, 20, 401).astype(dtype)
    wanted = exact(torch.from_numpy(np.array(x.astype(mx.float32))).double()).numpy()
    got = ours(x)
    assert got.dtype == dtype
    assert np.abs(np.array(got.astype(mx.float32)) - wanted).max() < 0.02 * (8 if dtype == mx.bfloat16 else 1)


def test_softmax_numerator_is_an_exponential():
    a = np.concatenate([np.linspace(0, 100, 20_001), [1e4, 1e30, np.inf]]).astype(np.float32)
    got = np.array(softmax_numerator(mx.array(a) * EXP_STRETCH))
    assert np.abs(got / got[0] - np.exp(-a.astype(np.float64))).max() < 3e-6
    assert (np.diff(got) <= 0).mean() > 0.99
    assert got[-1] == 0
