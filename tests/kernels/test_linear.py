"""Matrix products: of layers, and those that MLX hands to its BLAS, against sums in double precision."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from arrays import normal, relative_error

from mlxdiff.kernels import native
from mlxdiff.kernels.linear import linear, product

extension = native.serving()
FORMS = ["plain"] if extension is None else ["plain", *extension.instruction_sets()]

# rows, depth, outputs: no multiples of tiles, blocks and panels; what is packed once for all rows, and row by row.
SIZES = [(1, 1, 1), (1, 320, 33), (5, 33, 9), (77, 300, 64), (300, 320, 100), (1030, 257, 31), (600, 1300, 40)]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """MLX's own operations, or the extension with one of its instruction sets."""
    if request.param == "plain":
        monkeypatch.setattr(native, "serving", lambda *_: None)
        yield
        return
    before = extension.instruction_set()
    extension.use_instruction_set(request.param)
    yield
    extension.use_instruction_set(before)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("rows", "depth", "outputs"), SIZES)
def test_linear_equals_the_sum(rows, depth, outputs):
    x, weight, bias = normal(rows, depth), normal(outputs, depth, seed=1), normal(outputs, seed=2)
    wanted = x.astype(np.float64) @ weight.T
    assert relative_error(linear(mx.array(x), mx.array(weight)), wanted) < 2e-6
    assert relative_error(linear(mx.array(x), mx.array(weight), mx.array(bias)), wanted + bias) < 2e-6


@pytest.mark.usefixtures("form")
def test_linear_takes_tokens_of_any_shape_and_none():
    weight = mx.array(normal(8, 6))
    assert linear(mx.zeros((2, 3, 5, 6)), weight).shape == (2, 3, 5, 8)
    assert linear(mx.zeros((0, 6)), weight, mx.zeros(8)).shape == (0, 8)
    odd = mx.array(normal(12, 9)).T[1:9:2, ::2]  # (4, 6), with strides
    assert relative_error(linear(odd, weight), np.array(odd, np.float64) @ np.array(weight).T) < 2e-6


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(1, 1, 1), (3, 5, 7), (257, 300, 31), (513, 1000, 129), (5, 0, 3)]
)
def test_products_of_mlx_equal_the_sum(rows, depth, columns, turned):
    a = normal(*((depth, rows) if turned[0] else (rows, depth)))
    b = normal(*((columns, depth) if turned[1] else (depth, columns)), seed=1)
    c = normal(rows, columns, seed=2)
    left, right = (x.T if t else x for x, t in zip((a, b), turned, strict=True))
    ours = [mx.array(x).T if t else mx.array(x) for x, t in zip((a, b), turned, strict=True)]
    wanted = left.astype(np.float64) @ right
    if depth > 0:
        assert relative_error(ours[0] @ ours[1], wanted) < 3e-6
    assert relative_error(mx.addmm(mx.array(c), *ours, 0.5, 2.0), 0.5 * wanted + 2 * c) < 3e-6


def test_products_of_a_batch_equal_the_sum():
    a, b = normal(3, 2, 20, 30), normal(3, 2, 30, 10, seed=1)
    wanted = a.astype(np.float64) @ b
    assert relative_error(mx.array(a) @ mx.array(b), wanted) < 2e-6
    assert relative_error(product(mx.array(a), mx.array(b)), wanted) < 2e-6


def test_a_product_in_half_precision_is_rounded_once():
    a, b = (mx.array(normal(20, 30, seed=i)).astype(mx.bfloat16) for i in (0, 1))
    wanted = (a.astype(mx.float32) @ b.astype(mx.float32).T).astype(mx.bfloat16)
    if mx.default_device() == mx.cpu:
        assert mx.array_equal(product(a, b.T), wanted)
