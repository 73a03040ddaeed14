from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_numbers import noise as numbers

from mlxdiff.diffusion.noise import (
    NoiseStream,
    batch_noise,
    philox4x32,
    picked_batch,
    shared_batch,
    standard_normal,
    stream_noise,
)
from mlxdiff.errors import RequestError
from mlxdiff.request import MAX_SEED, NOISE_SOURCES

TOLERANCE = 2e-6
# Every arrangement of torch's: nothing, one at a time (with a spare left over), whole blocks, a block drawn again.
SHAPES = [(), (0,), (2, 0), (1,), (3,), (2, 7), (15,), (16,), (17,), (31,), (2, 3, 5), (4, 16, 16), (4, 33, 35)]


def torch_normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy()


def difference(ours: mx.array, theirs: np.ndarray) -> float:
    assert ours.dtype == mx.float32
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(np.array(ours) - theirs).max(initial=0.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_is_torchs(shape):
    assert difference(standard_normal(shape, 42), torch_normal(shape, 42)) < TOLERANCE


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 5, MAX_SEED, 2**64 - 1, -1, -5, -(2**63)])
def test_every_seed_is_torchs(seed):
    assert difference(standard_normal((4, 8, 8), seed), torch_normal((4, 8, 8), seed)) < TOLERANCE


@settings(max_examples=50, deadline=None)
@given(st.integers(0, MAX_SEED), st.lists(st.sampled_from(SHAPES), min_size=1, max_size=8))
def test_a_stream_goes_on_as_one_torch_generator_does(seed, shapes):
    generator, stream = torch.Generator("cpu").manual_seed(seed), NoiseStream(seed)
    for shape in shapes:
        theirs = torch.randn(shape, generator=generator).numpy()
        assert difference(stream.standard_normal(shape), theirs) < TOLERANCE


def test_a_large_draw_stays_within_tolerance_in_the_tails():
    assert difference(standard_normal((1 << 20,), 3), torch_normal((1 << 20,), 3)) < TOLERANCE


# Known answers published with Random123 for philox4x32-10: counter, key, output.
@pytest.mark.parametrize(
    ("counter", "key", "output"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers(counter, key, output):
    def words(text: str) -> list[int]:
        return [int(word, 16) for word in text.split()]

    low, high = words(key)
    drawn = philox4x32(np.array([words(counter)], dtype=np.uint32).T, (low, high))
    assert drawn[:, 0].tolist() == words(output)


def test_philox_normals_are_those_of_cuda():
    """torch.randn(3, 4, device="cuda") with seed 0, as the documentation of A1111's generator quotes it."""
    cuda = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    assert difference(standard_normal((3, 4), 0, "philox"), np.array(cuda, dtype=np.float32)) < TOLERANCE


def test_philox_takes_the_next_counter_for_the_next_draw():
    """Box-Muller in double precision, straight from the words of counter (1, 0, element, 0)."""
    stream = NoiseStream(7 + (9 << 32), "philox")
    stream.standard_normal((5,))
    stream.standard_normal((0,))  # CUDA launches nothing for an empty draw
    counter = np.array([[1, 0, element, 0] for element in range(6)], dtype=np.uint32).T
    words = philox4x32(counter, (7, 9)).astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[0] + 0.5) / 2**32))
    expected = radius * np.sin(2 * math.pi * (words[1] + 0.5) / 2**32)
    assert difference(stream.standard_normal((2, 3)), expected.reshape(2, 3).astype(np.float32)) < TOLERANCE


def test_mlx_source_is_mx_random_with_the_seeds_key():
    stream = NoiseStream(5, "mlx")
    first, second = stream.standard_normal((4, 8, 8)), stream.standard_normal((4, 8, 8))
    assert mx.array_equal(first, mx.random.normal((256,), key=mx.random.key(5)).reshape(4, 8, 8))
    assert abs(float(mx.mean(first * second))) < 0.2  # independent: the standard deviation of this mean is 1/16


@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_each_source_is_standard_normal_and_repeats(source):
    drawn = np.array(standard_normal((64, 1024), 11, source)).astype(np.float64)
    n = drawn.size
    assert abs(drawn.mean()) < 4 / math.sqrt(n)
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((drawn**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert abs((drawn[:, 1:] * drawn[:, :-1]).mean()) < 4 / math.sqrt(n)
    assert np.array_equal(drawn, np.array(standard_normal((64, 1024), 11, source)))


@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_seeds_and_draws_differ(source):
    stream = NoiseStream(1, source)
    draws = [stream.standard_normal((64,)), stream.standard_normal((64,)), standard_normal((64,), 2, source)]
    assert all(float(mx.max(mx.abs(a - b))) > 1 for i, a in enumerate(draws) for b in draws[:i])


@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_empty_and_scalar_shapes(source):
    assert standard_normal((2, 0, 3), 0, source).shape == (2, 0, 3)
    assert standard_normal((), 0, source).shape == ()


def test_a_batch_is_each_images_own_channels_first_noise():
    """What diffusers draws for a list of generators, moved to channels last."""
    streams = [NoiseStream(seed) for seed in (7, 0)]
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 0)]
    for _ in range(2):
        theirs = torch.cat([torch.randn((1, 4, 6, 5), generator=g) for g in generators])
        ours = batch_noise(streams, height=6, width=5, channels=4)
        assert difference(ours, theirs.permute(0, 2, 3, 1).numpy()) < TOLERANCE


def test_an_image_does_not_depend_on_its_neighbours():
    together = batch_noise([NoiseStream(3), NoiseStream(4)], 8, 8, 4)
    alone = batch_noise([NoiseStream(4)], 8, 8, 4)
    assert mx.array_equal(together[1], alone[0])


def test_an_unknown_source_is_refused():
    with pytest.raises(RequestError, match="noise source 'cuda'") as caught:
        standard_normal((1,), 0, "cuda")
    assert "torch, mlx, philox" in caught.value.remedy


@pytest.mark.parametrize("seed", [1.0, "1", None, True, 2**64, -(2**63) - 1])
@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_a_seed_that_is_no_64_bit_integer_is_refused(seed, source):
    with pytest.raises(RequestError, match="The seed is"):
        standard_normal((1,), seed, source)


def test_numpys_integers_are_seeds():
    assert mx.array_equal(standard_normal((20,), np.int64(9)), standard_normal((20,), 9))


def test_a_shared_stream_draws_as_comfyui_does():
    case = numbers("comfy_prepare_noise")
    batch, channels, height, width = case["shape"]
    drawn = np.array(shared_batch(NoiseStream(case["seed"]), batch, height, width, channels)).transpose(0, 3, 1, 2)
    for image in range(batch):
        assert drawn[image].reshape(-1)[:6] == pytest.approx(case[f"image{image}_first6"], abs=TOLERANCE)
    picked = np.array(picked_batch(NoiseStream(case["seed"]), [0, 2], height, width, channels)).transpose(0, 3, 1, 2)
    assert picked[1].reshape(-1)[:6] == pytest.approx(case["noise_inds_[0,2]_second_first6"], abs=TOLERANCE)


def test_step_noise_goes_on_where_the_stream_is():
    streams, again = ([NoiseStream(seed) for seed in (3, 4)] for _ in range(2))
    noise = stream_noise(streams, 4, 5, 4)
    for _ in range(2):
        assert mx.array_equal(noise(2.0, 1.0), batch_noise(again, 4, 5, 4))


@pytest.mark.parametrize("source", NOISE_SOURCES)
def test_numbers_are_the_same_draws(source):
    stream, other = NoiseStream(5, source), NoiseStream(5, source)
    for shape in ((2, 3), (40,)):
        assert np.array_equal(stream.numbers(shape), np.array(other.standard_normal(shape)))


def test_philox_is_a1111s_nv():
    case = numbers("a1111_nv_philox")
    stream = NoiseStream(case["seed"], "philox")
    for key in ("draw1_shape_4x8x8_first6", "draw2_same_shape_first6"):
        assert stream.numbers((4, 8, 8)).reshape(-1)[:6] == pytest.approx(case[key], abs=TOLERANCE)
