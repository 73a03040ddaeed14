"""Weights in the extension's own order: the same products and convolutions as of weights as they are stored."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import nchw, normal, relative_error
from mlx.utils import tree_flatten

from mlxdiff.kernels import native, packing
from mlxdiff.kernels.conv import conv2d
from mlxdiff.kernels.geglu import geglu, linear_geglu
from mlxdiff.kernels.linear import linear
from mlxdiff.models.layers import PACKED, Conv2d, Linear, PointwiseConv2d, pack

extension = native.serving()
if extension is None:
    pytest.skip(f"the extension is {native.state()}", allow_module_level=True)

TYPES = [mx.float32, mx.bfloat16] if extension.has_bf16() else [mx.float32]

# (batch, height, width, channels, out_channels), kernel, stride, padding: small images, and larger ones, which
# Winograd's algorithm takes; channels that make one run and several.
CONVOLUTIONS = [
    ((1, 4, 4, 320, 32), 3, 1, 1),
    ((2, 8, 7, 640, 64), 3, 1, 1),
    ((1, 33, 30, 96, 64), 3, 1, 1),
    ((3, 16, 16, 4, 96), 3, 1, 1),
    ((2, 19, 10, 48, 32), 3, 2, 1),
    ((1, 9, 9, 240, 32), 2, 1, 0),
    ((1, 9, 9, 40, 32), 1, 1, 0),
]


@pytest.fixture(params=extension.instruction_sets())
def instruction_set(request):
    """The extension with each of its instruction sets."""
    before = extension.instruction_set()
    extension.use_instruction_set(request.param)
    yield request.param
    extension.use_instruction_set(before)


def packed(weight):
    found = packing.packed(weight)
    assert found is not None
    assert found.nbytes == weight.nbytes
    return found


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "depth", "outputs"), [(1, 320, 64), (77, 642, 192), (600, 1300, 64), (5, 64, 96)])
def test_a_gate_is_applied_where_the_products_are(rows, depth, outputs, dtype):
    """Sums are of the same order as apart, so that fp32 is equal; bf16 is rounded once instead of twice, but for 96."""
    x, bias = mx.array(normal(2, rows, depth)).astype(dtype), mx.array(normal(outputs, seed=2)).astype(dtype)
    weight = mx.array(normal(outputs, depth, seed=1, scale=depth**-0.5)).astype(dtype)
    if dtype == mx.bfloat16 and extension.instruction_set() != "avx512":
        pytest.skip("bf16 has one instruction set")
    got = linear_geglu(x, packed(weight), bias)
    assert got.shape == (2, rows, outputs // 2)
    if dtype == mx.float32:
        assert mx.array_equal(got, geglu(linear(x, weight, bias)))
    tx, tw, tb = (torch.from_numpy(np.array(a.astype(mx.float32))).double() for a in (x, weight, bias))
    value, gate = F.linear(tx, tw, tb).chunk(2, dim=-1)
    allowed = 2e-6 if dtype == mx.float32 else 1e-2 if outputs == 96 else 5e-3
    assert relative_error(got.astype(mx.float32), (value * F.gelu(gate)).numpy()) < allowed


def test_a_gate_of_weights_as_they_are_or_without_the_extension_is_the_same(monkeypatch):
    x, bias, weight = mx.array(normal(9, 64)), mx.array(normal(64, seed=2)), mx.array(normal(64, 64, seed=1))
    wanted = np.array(linear_geglu(x, packed(weight), bias))
    assert relative_error(linear_geglu(x, weight, bias), wanted) < 1e-6
    kept = packed(weight)
    monkeypatch.setattr(native, "serving", lambda *_: None)
    assert relative_error(linear_geglu(x, kept, bias), wanted) < 2e-6


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(("rows", "depth", "outputs"), [(1, 320, 64), (10, 33, 32), (77, 640, 96), (600, 1300, 64)])
def test_products_are_those_of_the_weights_as_they_are(rows, depth, outputs):
    x, bias = mx.array(normal(rows, depth)), mx.array(normal(outputs, seed=2))
    weight = mx.array(normal(outputs, depth, seed=1))
    assert mx.array_equal(linear(x, packed(weight), bias), linear(x, weight, bias))
    wanted = np.array(x, np.float64) @ np.array(weight, np.float64).T
    assert relative_error(linear(x, packed(weight)), wanted) < 2e-6


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_convolutions_equal_torch(shape, kernel, stride, padding):
    batch, height, width, channels, outputs = shape
    x, bias = normal(batch, height, width, channels), normal(outputs, seed=2)
    weight = normal(outputs, kernel, kernel, channels, seed=1, scale=(kernel * kernel * channels) ** -0.5)
    exact = F.conv2d(nchw(x).double(), nchw(weight).double(), torch.from_numpy(bias).double(), stride, padding)
    got = conv2d(mx.array(x), packed(mx.array(weight)), mx.array(bias), stride=stride, padding=padding)
    assert relative_error(got, exact.permute(0, 2, 3, 1).numpy()) < 5e-6


@pytest.mark.skipif(len(TYPES) == 1, reason="this processor has no products of bf16")
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_bf16_is_rounded_as_it_is_without_packing(shape, kernel, stride, padding):
    batch, height, width, channels, outputs = shape
    x, weight = (
        mx.array(normal(*each, seed=i)).astype(mx.bfloat16)
        for i, each in enumerate([(batch, height, width, channels), (outputs, kernel, kernel, channels)])
    )
    exact = F.conv2d(*(nchw(np.array(a.astype(mx.float32))).double() for a in (x, weight)), None, stride, padding)
    exact = exact.permute(0, 2, 3, 1).numpy()
    errors = [
        relative_error(conv2d(x, w, stride=stride, padding=padding).astype(mx.float32), exact)
        for w in (weight, packed(weight))
    ]
    assert errors[1] < max(1.05 * errors[0], 2.1e-3)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(64, 320), (96, 3, 3, 640), (32, 3, 3, 4), (64, 1, 1, 40), (32, 2, 2, 240)])
def test_what_was_packed_can_be_had_back(dtype, shape):
    weight = mx.array(normal(*shape)).astype(dtype)
    assert mx.array_equal(packing.unpacked(packed(weight)), weight)


@pytest.mark.parametrize("shape", [(4, 3, 3, 320), (33, 320), (0, 8), (64, 5, 5, 8), (64, 3, 3, 131)])
def test_what_cannot_be_packed_stays(shape):
    """Output channels that do not fill panels, kernels that the extension leaves to MLX, and runs of one channel."""
    assert packing.packed(mx.zeros(shape)) is None


@pytest.mark.skipif(len(TYPES) == 1, reason="this processor has no products of bf16")
def test_an_odd_depth_of_bf16_stays():
    assert packing.packed(mx.zeros((64, 33), mx.bfloat16)) is None


def test_weights_of_another_instruction_set_are_refused():
    x, weight = mx.zeros((4, 64)), packed(mx.zeros((64, 64)))
    before = extension.instruction_set()
    if before == extension.instruction_sets()[0]:
        pytest.skip("this processor has one instruction set")
    extension.use_instruction_set(extension.instruction_sets()[0])
    try:
        with pytest.raises(ValueError, match="another instruction set"):
            linear(x, weight)
    finally:
        extension.use_instruction_set(before)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_network_computes_the_same_and_takes_no_more_memory(dtype, monkeypatch):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Conv2d(8, 64, 3, padding=1), PointwiseConv2d(64, 96)
            self.third, self.last = Linear(96, 64, bias=False), Conv2d(64, 4, 3, padding=1)

        def __call__(self, x):
            return self.last(self.third(self.second(self.first(x))))

    network, x = Network(), mx.array(normal(2, 9, 8, 8)).astype(dtype)
    network.set_dtype(dtype)
    before, size = network(x).astype(mx.float32), nbytes(network)
    for _ in range(2):  # again changes nothing
        pack(network)
    assert [PACKED in layer for layer in (network.first, network.second, network.third, network.last)] == [True] * 3 + [
        False
    ]
    assert nbytes(network) == size
    tolerance = 1e-5 if dtype == mx.float32 else 2e-2
    assert relative_error(network(x).astype(mx.float32), np.array(before)) < tolerance
    monkeypatch.setattr(native, "serving", lambda *_: None)
    assert relative_error(network(x).astype(mx.float32), np.array(before)) < tolerance


def nbytes(network):
    return sum(array.nbytes for _, array in tree_flatten(network.parameters()))
