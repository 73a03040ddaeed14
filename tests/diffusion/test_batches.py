"""ComfyUI's batches beside torch's generator, which draws them whole."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxdiff.diffusion.batches import BatchNoise
from mlxdiff.diffusion.brownian import shared_brownian_noise
from mlxdiff.request import BatchPlace

SHAPES = [(8, 6, 4), (5, 3, 4)]  # of 192 numbers, and of 60: torch draws 16 at a time


def draws(seed: int, count: int, shape: tuple[int, int, int], times: int) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    height, width, channels = shape
    drawn = [torch.randn(count, channels, height, width, generator=generator) for _ in range(times)]
    return [each.permute(0, 2, 3, 1).numpy() for each in drawn]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_is_its_place_in_what_one_generator_draws(shape):
    places = [BatchPlace(2, 4), None, BatchPlace(0, 4), BatchPlace(1, 2)]
    noise = BatchNoise([7, 7, 7, 9], places, shape, "torch")
    found, (four,), (one,), (two,) = noise.start(), *(draws(*each, shape, 1) for each in ((7, 4), (7, 1), (9, 2)))
    np.testing.assert_allclose(np.array(found), np.stack([four[2], one[0], four[0], two[1]]), atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_go_on_with_the_whole_batch(shape):
    noise = BatchNoise([7, 7], [BatchPlace(3, 4), BatchPlace(1, 4)], shape, "torch").steps()
    for expected in draws(7, 4, shape, 3):
        np.testing.assert_allclose(np.array(noise(2.0, 1.0)), expected[[3, 1]], atol=2e-6)


def test_an_image_that_was_taken_out_of_its_batch_is_alone_in_its_steps():
    shape = SHAPES[0]
    noise = BatchNoise([7], [BatchPlace(2)], shape, "torch")
    (four,) = draws(7, 4, shape, 1)
    np.testing.assert_allclose(np.array(noise.start())[0], four[2], atol=2e-6)
    steps = noise.steps()
    for expected in draws(7, 1, shape, 2):
        np.testing.assert_allclose(np.array(steps(2.0, 1.0)), expected, atol=2e-6)


def test_a_brownian_path_is_the_batchs():
    ends, shape = (0.03, 14.6), SHAPES[0]
    whole = shared_brownian_noise(5, 3, *shape, ends)(9.0, 4.0)
    noise = BatchNoise([5, 5], [BatchPlace(2, 3), BatchPlace(0, 3)], shape, "torch").brownian(ends)
    assert mx.array_equal(noise(9.0, 4.0), whole[mx.array([2, 0])])
