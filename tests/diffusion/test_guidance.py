from __future__ import annotations

from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.diffusion.guidance import classifier_free, in_interval, interval_of
from mlxdiff.errors import RequestError


def half_and_half(batch: mx.array, sigma: float) -> mx.array:
    """Predicts -sigma for the negative half and the latents themselves for the positive one."""
    half = batch.shape[0] // 2
    assert mx.array_equal(batch[:half], batch[half:])
    return mx.concatenate([mx.full(batch[:half].shape, -sigma), batch[half:]])


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_goes_from_the_negative_prediction_past_the_positive(scale):
    latents = mx.random.normal((3, 2, 2, 4), key=mx.random.key(0))
    guided = classifier_free(half_and_half, scale)(latents, 2.0)
    expected = -2 + scale * (np.array(latents) + 2)
    assert guided.shape == latents.shape
    assert np.allclose(np.array(guided), expected, atol=1e-5)


def test_a_scale_of_one_is_the_positive_prediction_and_zero_the_negative():
    latents = mx.random.normal((1, 2, 2, 4), key=mx.random.key(0))
    assert np.allclose(np.array(classifier_free(half_and_half, 1.0)(latents, 3.0)), np.array(latents), atol=1e-6)
    assert np.array_equal(np.array(classifier_free(half_and_half, 0.0)(latents, 3.0)), np.full(latents.shape, -3.0))


def test_each_image_may_have_its_own_scale():
    latents = mx.ones((2, 1, 1, 4))
    guided = classifier_free(half_and_half, mx.array([1.0, 3.0]).reshape(2, 1, 1, 1))(latents, 1.0)
    assert np.array_equal(np.array(guided)[:, 0, 0, 0], [1.0, 5.0])


SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]  # five steps


@pytest.mark.parametrize(
    ("start", "end", "guided"),
    [
        (0.0, 1.0, [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]),
        (0.0, 0.4, [8.0, 4.0]),
        (0.4, 1.0, [2.0, 1.0, 0.5, 0.0]),
        (0.2, 0.6, [4.0, 2.0]),
        (0.3, 0.8, [2.0, 1.0]),
        (0.19, 0.2001, [4.0]),
    ],
)
def test_the_interval_is_that_of_the_steps_which_begin_in_it(start, end, guided):
    interval = interval_of(SIGMAS, start, end)
    denoise = in_interval(lambda *_: mx.array(1), lambda *_: mx.array(0), interval)
    assert [sigma for sigma in SIGMAS if denoise(mx.zeros(1), sigma).item()] == guided


@given(st.integers(1, 200), st.integers(0, 100), st.integers(0, 100))
def test_fractions_of_the_steps_are_exact(n, first, last):
    sigmas = [float(n - i) for i in range(n + 1)]
    expected = [n - i for i in range(n) if Fraction(first, 100) <= Fraction(i, n) < Fraction(last, 100)]
    if not expected:
        with pytest.raises(RequestError, match=f"None of {n} steps"):
            interval_of(sigmas, first / 100, last / 100)
        return
    low, high = interval_of(sigmas, first / 100, last / 100)
    assert [sigma for sigma in sigmas[:-1] if low < sigma <= high] == expected


def test_the_network_alone_is_asked_outside_the_interval():
    calls = []

    def network(name, factor):
        return lambda latents, sigma: calls.append((name, sigma)) or latents * factor

    denoise = in_interval(network("guided", 2), network("unguided", 3), interval_of(SIGMAS, 0.2, 0.6))
    found = [denoise(mx.ones((1, 1, 1, 1)), sigma).item() for sigma in SIGMAS[:-1]]
    assert calls == [("unguided", 8.0), ("guided", 4.0), ("guided", 2.0), ("unguided", 1.0), ("unguided", 0.5)]
    assert found == [3, 2, 2, 3, 3]
