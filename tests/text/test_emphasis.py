"""What weights do, against A1111's numbers, numpy and plain formulas."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recipe_numbers import prompts

from mlxdiff.text import emphasis

A1111 = prompts("a1111_emphasis")


def states() -> np.ndarray:
    return torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(5)).numpy()


@pytest.mark.parametrize("mode", ["Original", "No norm", "Ignore"])
def test_modes_are_a1111s(mode):
    weigh = emphasis.A1111_EMPHASES[mode.lower()]
    found = np.array(weigh(mx.array(states()), mx.array(A1111["multipliers"])))
    expected = A1111[mode]
    assert found.sum() == pytest.approx(expected["sum"], abs=2e-5)
    assert found.reshape(-1)[:8] == pytest.approx(expected["first8"], abs=2e-6)
    assert found[1, 3] == pytest.approx(expected["row_1_3"], abs=2e-6)


@given(st.lists(st.floats(0.125, 3, width=32), min_size=14, max_size=14))
def test_original_restores_the_mean_over_everything(weights):
    z, w = states() + 2, np.array(weights, dtype=np.float32).reshape(2, 7)
    expected = z * w[..., None]
    expected = expected * (z.mean(dtype=np.float64) / expected.mean(dtype=np.float64))
    found = np.array(emphasis.original(mx.array(z), mx.array(w)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weigh", emphasis.A1111_EMPHASES.values())
def test_weights_of_1_change_no_bit(weigh):
    z = mx.array(states())
    assert mx.array_equal(weigh(z, mx.ones((2, 7))), z)
    assert mx.array_equal(emphasis.from_empty(z, z[0] * 3, mx.ones((2, 7))), z)


@given(st.lists(st.floats(-2, 3, width=32), min_size=14, max_size=14))
def test_from_empty(weights):
    z, empty, w = states(), states()[1] * 2, np.array(weights, dtype=np.float32).reshape(2, 7)
    found = np.array(emphasis.from_empty(mx.array(z), mx.array(empty), mx.array(w)))
    np.testing.assert_allclose(found, empty + (z - empty) * w[..., None], atol=1e-5)
    assert np.array_equal(found[w == 1], z[w == 1])


def test_sums_fill_the_shorter_one_with_empty_prompts():
    long, short, empty = mx.ones((4, 3)), mx.ones((2, 3)) * 2, mx.ones((2, 3)) * 10
    found = np.array(emphasis.summed([long, short], [0.5, 0.25], empty))
    assert found[:, 0].tolist() == [1.0, 1.0, 3.0, 3.0]


def test_a_whole_encoding_is_strengthened_against_the_empty_prompt():
    found = emphasis.strengthened(mx.ones((4, 3)) * 3, 0.5, mx.ones((2, 3)))
    assert np.array(found).tolist() == [[2.0] * 3] * 4


def test_a_sub_prompt_is_filled_with_its_last_vector():
    found = emphasis.repeated(mx.arange(6).reshape(3, 2), 5)
    assert np.array(found)[2:].tolist() == [[4, 5]] * 3
