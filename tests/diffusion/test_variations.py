"""A1111's initial noise against the numbers of its ImageRNG."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from recipe_numbers import noise as numbers

from mlxdiff.diffusion.noise import standard_normal
from mlxdiff.diffusion.variations import ImageNoise, Variation, image_noise, initial_batch, slerp
from mlxdiff.errors import RequestError

SOURCES = {"CPU": "torch", "NV": "philox"}


def draw(case: dict, index: int) -> ImageNoise:
    channels, height, width = case.get("shape", [4, 8, 8])
    old = case.get("seed_resize_from_h_px", 0) // 8, case.get("seed_resize_from_w_px", 0) // 8
    subseeds = case.get("subseeds")
    return image_noise(
        case["seeds"][index],
        height,
        width,
        channels,
        source=SOURCES[case["source"]],
        variation=None if subseeds is None else Variation(subseeds[index], case["subseed_strength"]),
        resized_from=old if all(old) else None,
        step_seed_delta=case.get("ensd", 0),
    )


@pytest.mark.parametrize("index", range(len(numbers("a1111_image_rng"))))
def test_draws_are_a1111s(index):
    case = numbers("a1111_image_rng")[index]
    channels, height, width = case.get("shape", [4, 8, 8])
    images = [draw(case, image) for image in range(len(case["seeds"]))]
    draws = [np.array(initial_batch(images)).transpose(0, 3, 1, 2)]
    draws += [np.stack([image.stream.numbers((channels, height, width)) for image in images]) for _ in range(2)]
    for drawn, key in zip(draws, ("first", "second_draw", "third_draw"), strict=True):
        for found, expected in zip(drawn, case.get(key, []), strict=False):
            flat = found.reshape(-1)
            assert flat[:6] == pytest.approx(expected["first6"], abs=3e-6)
            assert flat[-3:] == pytest.approx(expected["last3"], abs=3e-6)
            assert flat.sum() == pytest.approx(expected["sum"], abs=1e-3)


def test_without_options_it_is_the_seeds_noise():
    found = image_noise(7, 6, 5, 4)
    assert mx.array_equal(found.initial, standard_normal((4, 6, 5), 7).transpose(1, 2, 0))


def test_strength_goes_from_one_seed_to_the_other():
    own, other = (image_noise(seed, 8, 8, 4).initial for seed in (1, 2))
    for strength, expected in ((0.0, own), (1.0, other)):
        found = image_noise(1, 8, 8, 4, variation=Variation(2, strength)).initial
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-5)


def test_between_two_noises_lengths_are_kept():
    rng = np.random.default_rng(0)
    low, high = (rng.normal(size=(4, 32, 8)).astype(np.float32) for _ in range(2))
    low, high = (noise / np.linalg.norm(noise, axis=1, keepdims=True) for noise in (low, high))
    found = slerp(0.3, low, high)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_parallel_noises_are_blended_the_other_way_round():
    noise = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(slerp(0.25, noise, noise * 3), noise * 0.25 + noise * 3 * 0.75, rtol=1e-6)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(RequestError, match="variation strength"):
        image_noise(1, 8, 8, 4, variation=Variation(2, strength))


def test_a_size_of_nothing_is_refused():
    with pytest.raises(RequestError, match="cannot be resized"):
        image_noise(1, 8, 8, 4, resized_from=(0, 8))
