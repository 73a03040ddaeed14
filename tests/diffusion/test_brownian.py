"""Brownian noise against torchsde's tree: numbers that it gave, and torchsde itself where it is installed."""

from __future__ import annotations

import importlib.util
import math
import warnings
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_numbers import noise as numbers

from mlxdiff.diffusion.brownian import BrownianTree, brownian_noise, shared_brownian_noise
from mlxdiff.errors import RequestError

ENDS = (0.0291675, 14.614642)
KARRAS_ENDS = (0.0291675385, 14.6146431)
LEVELS = st.floats(0.03, 14.6)


def first(noise: mx.array, image: int = 0) -> np.ndarray:
    """(B, h, w, C) as torch lays it out, flat."""
    return np.array(noise).transpose(0, 3, 1, 2)[image].reshape(-1)


@pytest.mark.parametrize("case", numbers("brownian"), ids=lambda c: f"{c['seed']}-{c['sigma']}-{c['sigma_next']}")
def test_a_tree_for_each_image_is_k_diffusions(case):
    _, channels, height, width = case.get("shape", [1, 4, 8, 8])
    seeds = case["seed"] if isinstance(case["seed"], list) else [case["seed"]]
    ends = KARRAS_ENDS if "karras20_step" in case else ENDS
    found = brownian_noise(seeds, height, width, channels, ends)(case["sigma"], case["sigma_next"])
    assert found.shape == (len(seeds), height, width, channels)
    for image, key in ((0, "first6"), (0, "first6_image0"), (1, "first6_image1")):
        if key in case:
            assert first(found, image)[:6] == pytest.approx(case[key], abs=2e-6)
    if "sum" in case:
        assert first(found).sum() == pytest.approx(case["sum"], abs=1e-3)


@pytest.mark.parametrize("case", numbers("comfy_brownian"), ids=lambda c: f"{c['seed']}-{c['sigma']}")
def test_comfyuis_tree(case):
    if isinstance(case["seed"], list):
        noise = brownian_noise(case["seed"], 8, 8, 4, ENDS)
    else:
        noise = shared_brownian_noise(case["seed"], 1, 8, 8, 4, ENDS)
    assert first(noise(case["sigma"], case["sigma_next"]))[:6] == pytest.approx(case["first6"], abs=2e-6)


@pytest.mark.skipif(importlib.util.find_spec("torchsde") is None, reason="torchsde is not installed")
@settings(max_examples=20)
@given(st.integers(0, 2**64 - 1), st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=4))
def test_any_interval_is_torchsdes(seed, intervals):
    import torch
    import torchsde

    shape = (2, 4, 3, 5)
    ours = shared_brownian_noise(seed, 2, 3, 5, 4, ENDS)
    low, high = map(torch.tensor, ENDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = torchsde.BrownianTree(low, torch.zeros(shape), high, entropy=seed)
        for start, end in intervals:
            if abs(start - end) < 1e-5:  # torchsde recurses for ever below its tolerance
                continue
            a, b = torch.tensor(start), torch.tensor(end)
            theirs = tree(min(a, b), max(a, b)) * (1 if a < b else -1) / (b - a).abs().sqrt()
            found = np.array(ours(start, end)).transpose(0, 3, 1, 2)
            np.testing.assert_allclose(found, theirs.numpy(), atol=2e-5)


@given(LEVELS, LEVELS, LEVELS)
def test_a_path_does_not_depend_on_the_order_of_questions(a, b, c):
    low, middle, high = sorted([a, b, c])
    tree, other = (BrownianTree((64,), *ENDS, 5) for _ in range(2))
    parts = tree.increment(low, middle) + tree.increment(middle, high)
    np.testing.assert_allclose(other.increment(low, high), parts, atol=1e-5)
    assert np.array_equal(other.increment(low, middle), tree.increment(low, middle))
    assert np.array_equal(tree.increment(high, low), -tree.increment(low, high))


def test_noise_is_standard_normal_and_independent_from_step_to_step():
    noise = brownian_noise([3], 64, 64, 4, ENDS)
    levels = [14.0, 9.0, 4.0, 1.0, 0.2, 0.03]
    draws = [np.array(noise(a, b)).reshape(-1) for a, b in pairwise(levels)]
    for drawn in draws:
        assert abs(drawn.mean()) < 4 / math.sqrt(drawn.size)
        assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / drawn.size)
    for one, other in pairwise(draws):
        assert abs((one * other).mean()) < 4 / math.sqrt(one.size)


def test_an_image_does_not_depend_on_its_neighbours():
    together = brownian_noise([3, 4], 8, 8, 4, ENDS)(9.0, 4.0)
    assert mx.array_equal(together[1], brownian_noise([4], 8, 8, 4, ENDS)(9.0, 4.0)[0])


def test_ends_outside_the_path_are_moved_to_it():
    tree = BrownianTree((4,), *ENDS, 0)
    assert np.array_equal(tree.increment(0.0, 20.0), tree.increment(*ENDS))
    assert not tree.increment(20.0, 30.0).any()


def test_sources_differ():
    torchs, cudas = (brownian_noise([1], 8, 8, 4, ENDS, source)(9.0, 4.0) for source in ("torch", "philox"))
    assert float(mx.max(mx.abs(torchs - cudas))) > 0.5


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)])
def test_a_path_without_length_is_refused(ends):
    with pytest.raises(RequestError, match="Brownian noise over the noise levels"):
        BrownianTree((4,), *ends, 0)


def test_a_step_without_length_is_refused():
    with pytest.raises(RequestError, match="step of no length"):
        brownian_noise([1], 8, 8, 4, ENDS)(4.0, 4.0)
