from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxdiff.diffusion.guidance import classifier_free


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
