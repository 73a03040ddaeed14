"""Sums against numpy's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from arrays import normal

from mlxdiff.kernels.residual import add_biased

pytestmark = pytest.mark.usefixtures("each_form")


@pytest.mark.parametrize("shape", [(5,), (2, 3, 7), (2, 40, 41, 16), (1, 4096, 24)])
def test_add_biased_equals_numpy(shape):
    x, y, bias = normal(*shape), normal(*shape, seed=1), normal(shape[-1], seed=2)
    got = add_biased(mx.array(x), mx.array(y), mx.array(bias))
    np.testing.assert_array_equal(np.array(got), x + (y + bias))


def test_add_biased_of_parts_of_an_array():
    x = normal(6, 8, 10)
    a = mx.array(x)
    got = add_biased(a[:, ::2, :5], a[:, 1::2, 5:], a[0, 0, :10:2])
    np.testing.assert_array_equal(np.array(got), x[:, ::2, :5] + (x[:, 1::2, 5:] + x[0, 0, ::2]))
