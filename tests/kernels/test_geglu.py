"""GEGLU against torch's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import normal, relative_error

from mlxdiff.kernels import geglu as module
from mlxdiff.kernels.geglu import geglu

pytestmark = pytest.mark.usefixtures("each_form")


@pytest.mark.parametrize("shape", [(2, 9, 64), (1, 1, 6), (3, 16)])
def test_geglu_equals_torch(shape):
    x = normal(*shape, scale=3.0)
    value, gate = torch.from_numpy(x).double().chunk(2, dim=-1)
    assert relative_error(geglu(mx.array(x)), (value * F.gelu(gate)).numpy()) < 2e-6


@pytest.mark.skipif(mx.default_device() == mx.cpu, reason="needs a GPU: its kernel is compared with the plain form")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("shape", [(2, 4096, 2560), (3, 77, 24), (1, 1, 8), (5, 10240)])
def test_the_gpus_kernel_equals_the_plain_form(shape, dtype):
    x = mx.array(normal(*shape, scale=3.0)).astype(dtype)
    exact = np.array(module.plain(x.astype(mx.float32)))
    got = geglu(x)
    assert got.dtype == dtype
    assert relative_error(got, exact) < {mx.float16: 2e-3, mx.bfloat16: 1e-2, mx.float32: 1e-5}[dtype]
