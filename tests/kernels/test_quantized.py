"""Products with packed matrices against the matrix that they stand for, in double precision."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from arrays import normal, relative_error

from mlxdiff.kernels import native
from mlxdiff.kernels.linear import linear
from mlxdiff.kernels.quantized import quantized_product
from mlxdiff.models.layers import Linear, QuantizedLinear


@pytest.mark.parametrize("shape", [(1, 128), (2, 3, 128), (2, 40, 128)])
@pytest.mark.parametrize(("group_size", "bits"), [(64, 8), (32, 8), (64, 4)])
def test_products_are_those_of_the_unpacked_matrix(shape, group_size, bits):
    x, weight = normal(*shape), mx.array(normal(48, 128, seed=1))
    packed = mx.quantize(weight, group_size, bits)
    matrix = np.array(mx.dequantize(*packed, group_size, bits)).astype(np.float64)
    got = quantized_product(mx.array(x), *packed, group_size=group_size, bits=bits)
    assert relative_error(got, x.astype(np.float64) @ matrix.T) < 2e-6


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_is_quantized_knows_its_product_and_its_bias(bias):
    holder = nn.Sequential(Linear(128, 48, bias=bias))
    if bias:
        holder.layers[0].bias = mx.array(normal(48, seed=3))
    x = mx.array(normal(20, 128))
    exact, plain = np.array(holder(x)), np.array(holder.layers[0].product(x))
    nn.quantize(holder, group_size=64, bits=8)
    layer = holder.layers[0]
    assert type(layer) is QuantizedLinear
    assert relative_error(layer(x), exact) < 0.01
    assert relative_error(layer.product(x), plain) < 0.01


@pytest.mark.skipif(native.serving() is None, reason="the extension is off")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("rows", "depth", "outputs", "group_size"), [(8, 640, 96, 64), (300, 1280, 100, 32), (1030, 384, 33, 128)]
)
def test_the_extension_gives_the_bits_of_a_product_with_the_whole_matrix(rows, depth, outputs, group_size, bits):
    """Depths that end within a word's run, and rows that are few and many: those are packed in two ways."""
    x = mx.array(normal(rows, depth))
    packed = mx.quantize(mx.array(normal(outputs, depth, seed=1)), group_size, bits)
    matrix = mx.dequantize(*packed, group_size, bits)
    got = native.serving(x).quantized_linear(x, *packed, group_size, bits)
    assert mx.array_equal(got, linear(x, matrix))


@pytest.mark.skipif(native.serving() is None, reason="the extension is off")
def test_the_extension_refuses_what_does_not_belong_together():
    x, packed = mx.zeros((8, 128)), mx.quantize(mx.zeros((64, 128)), 64, 4)
    for bits, group_size in ((8, 64), (4, 32), (4, 4), (3, 64)):
        with pytest.raises(ValueError, match=r"quantized|belong|groups"):
            native.serving(x).quantized_linear(x, *packed, group_size, bits)
    with pytest.raises(ValueError, match="words"):
        native.serving(x).quantized_linear(x, mx.zeros((64, 16)), *packed[1:], 64, 4)


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="for a CPU")
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("form", ["plain", "extension"])
def test_matrices_are_not_unpacked_before_their_turn(form, low_rank, monkeypatch):
    """Of forty layers a few are there in full at a time, and not all, although nothing but memory hinders MLX."""
    if form == "plain":
        monkeypatch.setattr(native, "serving", lambda *_: None)
    size, layers = 512, 40
    packed = [mx.quantize(mx.array(normal(size, size, seed=i)), 64, 8) for i in range(layers)]
    change = (mx.zeros((4, size)), mx.zeros((size, 4))) if low_rank else None
    x = mx.array(normal(8, size))
    mx.eval(packed, x)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for each in packed:
        x = x + 1e-3 * quantized_product(x, *each, group_size=64, bits=8, low_rank=change)
    mx.eval(x)
    assert mx.get_peak_memory() - before < 0.7 * layers * size * size * 4
