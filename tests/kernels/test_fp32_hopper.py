"""Convolutions and products in fp32 on tensor cores, on the GPUs that have them, beside torch in fp64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import nchw, nhwc, normal, relative_error

from mlxdiff.kernels import conv, fp32_hopper, hopper, tf32
from mlxdiff.kernels.linear import linear

needs_the_gpu = pytest.mark.skipif(not hopper.available(), reason="needs an NVIDIA GPU of compute capability 9.0")

CONVOLUTIONS = [
    (1, 32, 32, 512, 512),
    (2, 64, 64, 320, 320),
    (1, 37, 53, 36, 130),  # rows, columns, channels and outputs that no tile divides
    (3, 24, 40, 64, 96),
    (1, 64, 64, 4, 512),  # a decoder's first
    (1, 128, 128, 128, 3),  # and last
    (1, 3, 400, 32, 64),
    (16, 8, 8, 64, 64),
    (5, 160, 160, 32, 32),  # more tiles than blocks
]


def exact(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    arrays = nchw(x).double(), nchw(weight).double(), torch.from_numpy(bias).double()
    return nhwc(F.conv2d(*arrays, padding=1))


@needs_the_gpu
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_it_is_as_exact_as_fp32(shape):
    batch, height, width, channels, outputs = shape
    x, bias = normal(batch, height, width, channels), normal(outputs)
    weight = normal(outputs, 3, 3, channels, scale=1 / (3 * channels**0.5))
    args = mx.array(x), mx.array(weight), mx.array(bias)
    assert fp32_hopper.convolves(args[0], args[1], 1, 1)
    expected = exact(x, weight, bias)
    ours = conv.conv2d(*args, padding=1)
    assert relative_error(ours, expected) < 1.5e-6
    assert np.linalg.norm(np.array(ours) - expected) < 5e-7 * np.linalg.norm(expected)  # cuDNN's: 2e-7 to 1.3e-6


@needs_the_gpu
@pytest.mark.parametrize("shape", [(16384, 512, 512), (1024, 1280, 5120), (1040, 36, 130), (4096, 2560, 3)])
@pytest.mark.parametrize("biased", [True, False])
def test_products_are_as_exact_as_fp32(shape, biased):
    rows, channels, outputs = shape
    x, weight = normal(2, rows // 2, channels), normal(outputs, channels, seed=1, scale=channels**-0.5)
    bias = normal(outputs) if biased else None
    assert fp32_hopper.multiplies(mx.array(x), mx.array(weight))
    expected = x.astype(np.float64) @ weight.T.astype(np.float64) + (0 if bias is None else bias)
    ours = linear(mx.array(x), mx.array(weight), None if bias is None else mx.array(bias))
    assert relative_error(ours, expected) < 1.5e-6
    assert np.linalg.norm(np.array(ours) - expected) < 5e-7 * np.linalg.norm(expected)


@needs_the_gpu
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_numbers_of_any_size(scale):
    x, weight = normal(1, 32, 32, 32, scale=scale), normal(32, 3, 3, 32)
    got = conv.conv2d(mx.array(x), mx.array(weight), padding=1)
    assert relative_error(got, exact(x, weight, np.zeros(32, np.float32))) < 1e-6


@needs_the_gpu
def test_numbers_of_one_sign_and_a_large_mean_keep_their_digits():
    x, weight = np.abs(normal(1, 32, 32, 512)) + 100, np.abs(normal(64, 3, 3, 512))
    got = conv.conv2d(mx.array(x), mx.array(weight), padding=1)
    assert relative_error(got, exact(x, weight, np.zeros(64, np.float32))) < 2e-6


@needs_the_gpu
def test_the_same_bytes_each_time_and_not_finite_numbers_stay_near():
    x, weight = mx.array(normal(2, 48, 48, 64)), mx.array(normal(64, 3, 3, 64))
    first = np.array(conv.conv2d(x, weight, padding=1))
    for _ in range(30):
        assert np.array_equal(np.array(conv.conv2d(x, weight, padding=1)), first)
    x[0, 10, 20, 5] = float("nan")
    spoilt = np.argwhere(np.isnan(np.array(conv.conv2d(x, weight, padding=1))).any(axis=-1))
    assert {tuple(at) for at in spoilt} == {(0, y, z) for y in (9, 10, 11) for z in (19, 20, 21)}


@pytest.mark.parametrize(
    ("x", "weight", "stride", "padding"),
    [
        (mx.zeros((1, 64, 64, 32), mx.float16), mx.zeros((8, 3, 3, 32), mx.float16), 1, 1),
        (mx.zeros((1, 64, 64, 32)), mx.zeros((8, 1, 1, 32)), 1, 1),
        (mx.zeros((1, 64, 64, 32)), mx.zeros((8, 3, 3, 32)), 2, 1),
        (mx.zeros((1, 64, 64, 32)), mx.zeros((8, 3, 3, 32)), 1, 0),
        (mx.zeros((1, 64, 64, 3)), mx.zeros((8, 3, 3, 3)), 1, 1),
        (mx.zeros((1, 8, 8, 32)), mx.zeros((8, 3, 3, 32)), 1, 1),
    ],
    ids=["fp16", "1x1", "a stride", "no padding", "three channels", "few pixels"],
)
def test_it_leaves_what_it_cannot_do_or_would_not_pay(x, weight, stride, padding, monkeypatch):
    monkeypatch.setattr(hopper, "available", lambda: True)
    monkeypatch.setenv(tf32.VARIABLE, "0")
    assert not fp32_hopper.convolves(x, weight, stride, padding)
    taken = mx.zeros((1, 64, 64, 32)), mx.zeros((8, 3, 3, 32)), 1, 1
    assert fp32_hopper.convolves(*taken)
    monkeypatch.setenv(tf32.VARIABLE, "1")  # who asks for TF32 gets MLX's, which is faster
    assert not fp32_hopper.convolves(*taken)


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (mx.zeros((1024, 32), mx.float16), mx.zeros((8, 32), mx.float16)),
        (mx.zeros((1023, 32)), mx.zeros((8, 32))),
        (mx.zeros((1032, 32)), mx.zeros((8, 32))),
        (mx.zeros((1024, 30)), mx.zeros((8, 30))),
    ],
    ids=["fp16", "few rows", "rows of no whole tile", "channels of no whole pieces"],
)
def test_it_leaves_other_products(x, weight, monkeypatch):
    monkeypatch.setattr(hopper, "available", lambda: True)
    monkeypatch.setenv(tf32.VARIABLE, "0")
    assert not fp32_hopper.multiplies(x, weight)
    assert fp32_hopper.multiplies(mx.zeros((2, 512, 32)), mx.zeros((8, 32)))


def test_the_rests_are_what_tf32_leaves():
    weight = normal(8, 3, 3, 4)
    kept = (weight.view(np.uint32) & 0xFFFFE000).view(np.float32)
    rests = np.array(fp32_hopper._rests(mx.array(weight)))
    assert np.array_equal(kept + rests, weight)
    assert np.abs(rests).max() <= np.abs(weight).max() * 2**-10
