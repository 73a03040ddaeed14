"""Latents to colours through a linear map: near what the decoder shows, and far nearer than no map."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxdiff.batch.projection import PATCHES, Projection, chart, fit
from mlxdiff.pipeline import StableDiffusion
from mlxdiff.request import Request


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion("emoji")


def test_previews_look_like_the_decoded_picture_made_small(sd):
    project = fit(sd)
    for seed, prompt in enumerate(("a red apple", "a dog face on a blue background")):
        *_, step = sd.denoise(Request(prompt, seed=seed, steps=4))
        decoded = np.array(sd.decode(step.denoised))[0]
        factor = sd.checkpoint.scale_factor
        height, width = (side // factor for side in decoded.shape[:2])
        small = decoded.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
        shown = project(np.array(step.denoised))[0] / 255
        error = np.sqrt(((shown - small) ** 2).mean())
        assert error < 0.2
        assert error < 0.6 * small.std(), "no better than one colour all over"
        by_channel = [np.corrcoef(shown[..., c].ravel(), small[..., c].ravel())[0, 1] for c in range(3)]
        assert min(by_channel) > 0.8


def test_the_map_is_the_same_every_time(sd):
    np.testing.assert_array_equal(fit(sd).weights, fit(sd).weights)


def test_colours_come_back_through_an_encoder_that_is_linear():
    """The oracle: latents = colours @ A + b at a quarter of the size has an exact answer."""
    rng = np.random.default_rng(0)
    mixing, shift = rng.standard_normal((3, 4)), rng.standard_normal(4)

    class Linear:
        checkpoint = type("Checkpoint", (), {"scale_factor": 4})

        def encode(self, pictures: mx.array) -> mx.array:
            return mx.array((np.array(pictures)[:, ::4, ::4] @ mixing + shift).astype(np.float32))

    colours = rng.random((5, 7, 3))
    project = fit(Linear())  # type: ignore[arg-type]
    shown = project(colours @ mixing + shift)
    assert np.abs(shown - colours * 255).max() < 1.5


def test_the_chart_has_every_colour_once_and_neighbours_that_differ():
    colours = chart()
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == PATCHES**2
    assert np.abs(np.diff(colours, axis=0)).max(axis=-1).min() > 0.3
    assert np.abs(np.diff(colours, axis=1)).max(axis=-1).min() > 0.3


def test_latents_that_are_no_numbers_are_shown_as_something():
    project = Projection(np.ones((5, 3), np.float32))
    shown = project(np.full((1, 2, 2, 4), np.nan))
    assert shown.shape == (1, 2, 2, 3)
    assert shown.dtype == np.uint8
