"""GEGLU of a linear layer in one kernel, on the GPUs that it is for."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from arrays import normal, relative_error

from mlxdiff.kernels import geglu, geglu_hopper, hopper

needs_the_gpu = pytest.mark.skipif(not hopper.available(), reason="needs an NVIDIA GPU of compute capability 9.0")

LAYERS = [
    (1024, 320, 1280),
    (4096, 1280, 5120),
    (1025, 72, 80),  # rows, depth and width that no tile divides
    (1024, 8, 8),
    (5000, 640, 200),
    (40000, 64, 136),  # more tiles than blocks
]


def layer(rows: int, depth: int, width: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array]:
    x, weight, bias = normal(rows, depth), normal(2 * width, depth, scale=2 / depth**0.5), normal(2 * width)
    return mx.array(x).astype(dtype), mx.array(weight).astype(dtype), mx.array(bias).astype(dtype)


@needs_the_gpu
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("shape", LAYERS)
def test_it_rounds_once(shape, dtype):
    x, weight, bias = layer(*shape, dtype)
    exact = geglu.plain(x.astype(mx.float32) @ weight.astype(mx.float32).T + bias.astype(mx.float32))
    got = geglu.linear_geglu(x, weight, bias)
    assert got.dtype == dtype
    assert geglu_hopper.takes(x, weight, bias)
    assert relative_error(got, np.array(exact)) < {mx.float16: 2**-11, mx.bfloat16: 2**-8}[dtype]


@needs_the_gpu
def test_rows_of_leading_axes_and_many_calls_give_the_same_bytes():
    x, weight, bias = layer(3072, 320, 1280, mx.float16)
    whole = np.array(geglu.linear_geglu(x, weight, bias))
    for _ in range(50):
        assert np.array_equal(
            np.array(geglu.linear_geglu(x.reshape(3, 1024, 320), weight, bias)).reshape(3072, -1), whole
        )


@needs_the_gpu
def test_what_is_not_finite_stays_so():
    x, weight, bias = layer(1024, 64, 64, mx.float16)
    x[3, 5] = float("nan")
    got = np.array(geglu.linear_geglu(x, weight, bias))
    assert np.isnan(got[3]).all()
    assert np.isfinite(np.delete(got, 3, axis=0)).all()


@needs_the_gpu
@pytest.mark.parametrize("gate", [-70.0, -8.0, -5.5, -1.0, -1e-4, 0.0, 1e-4, 1.0, 5.5, 8.0, 300.0])
def test_the_gate_is_the_exact_gelu(gate):
    x, weight = mx.ones((1024, 8), mx.float16), mx.zeros((16, 8), mx.float16)
    bias = mx.concatenate([mx.ones(8), mx.full(8, gate)]).astype(mx.float16)
    exact = np.array(geglu.plain(bias.astype(mx.float32)[None]))[0]
    got = np.array(geglu.linear_geglu(x, weight, bias).astype(mx.float32))
    assert np.abs(got - exact).max() <= 6e-8 + 6e-4 * abs(float(exact[0]))


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (mx.zeros((1024, 320)), mx.zeros((64, 320)), mx.zeros(64)),
        (mx.zeros((1023, 320), mx.float16), mx.zeros((64, 320), mx.float16), mx.zeros(64, mx.float16)),
        (mx.zeros((1024, 324), mx.float16), mx.zeros((64, 324), mx.float16), mx.zeros(64, mx.float16)),
        (mx.zeros((1024, 320), mx.float16), mx.zeros((72, 320), mx.float16), mx.zeros(72, mx.float16)),
        (mx.zeros((1024, 320), mx.float16), mx.zeros((64, 320), mx.bfloat16), mx.zeros(64, mx.float16)),
    ],
    ids=["fp32", "few rows", "rows of no whole pieces", "a width of no whole pieces", "two types"],
)
def test_it_leaves_what_it_cannot_do(x, weight, bias, monkeypatch):
    monkeypatch.setattr(hopper, "available", lambda: True)
    assert not geglu_hopper.takes(x, weight, bias)
    assert geglu_hopper.takes(*layer(1024, 320, 1280, mx.float16))
