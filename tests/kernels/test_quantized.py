"""Products with packed matrices against the matrix that they stand for, in double precision."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from arrays import normal, relative_error

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
