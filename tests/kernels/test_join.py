"""Feature maps side by side, against numpy's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from arrays import normal

from mlxdiff.kernels.join import join


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize(
    ("shape", "width"), [((2, 5, 7, 16), 24), ((1, 1, 1, 8), 8), ((3, 9, 11, 5), 3), ((2, 64, 64, 640), 320)]
)
def test_join_equals_numpy(shape, width, dtype):
    x = mx.array(normal(*shape)).astype(dtype)
    skip = mx.array(normal(*shape[:-1], width, seed=1)).astype(dtype)
    got = join(x, skip)
    assert got.dtype == dtype
    x, skip, got = (np.array(a.astype(mx.float32)) for a in (x, skip, got))
    np.testing.assert_array_equal(got, np.concatenate([x, skip], axis=-1))


def test_join_of_parts_of_an_array():
    x = mx.array(normal(4, 6, 8, 24))
    got = join(x[::2, :, 1:5, :8], x[1::2, :, 2:6, 8:])
    np.testing.assert_array_equal(got, np.concatenate([x[::2, :, 1:5, :8], x[1::2, :, 2:6, 8:]], axis=-1))
