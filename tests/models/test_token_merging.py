"""Token merging beside a plain reading of it in numpy, one token at a time, and where it must change nothing."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import averages, copies, owners

from mlxdiff.kernels.attention import attention
from mlxdiff.models.token_merging import match


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.75), st.integers(0, 99))
def test_each_cell_finds_the_mean_of_its_group(height, width, ratio, seed):
    tokens = draw(2, height * width, 5, seed=seed)
    merging = match(mx.array(tokens), (height, width), ratio)
    if merging is None:
        assert int(ratio * height * width) == 0 or height * width == 1
        return
    merged = merging.merge(mx.array(tokens))
    n_destinations = -(-height // 2) * -(-width // 2)
    n_left = max(height * width - int(ratio * height * width), n_destinations)
    assert merged.shape == (2, n_left, 5)
    found = np.array(merging.unmerge(merged))
    for image, alone in zip(found, tokens, strict=True):
        owner = owners(alone, (height, width), ratio)
        assert np.allclose(image, copies(owner) @ averages(owner) @ alone, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.01])
def test_no_token_to_merge_is_no_merging(ratio):
    assert match(mx.array(draw(1, 16, 4)), (4, 4), ratio) is None


def test_an_image_is_matched_by_itself():
    tokens = mx.array(draw(3, 35, 8))
    together = match(tokens, (7, 5), 0.5)
    for i in range(3):
        alone = match(tokens[i : i + 1], (7, 5), 0.5)
        assert mx.array_equal(alone.places, together.places[i : i + 1])
        assert mx.array_equal(alone.merge(tokens[i : i + 1]), together.merge(tokens)[i : i + 1])


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_attention_among_blocks_of_equal_tokens_is_exact(dtype):
    # Every token stands for four equal ones, so that the weights of a softmax stay in proportion.
    blocks = draw(2, 3, 1, 4, 1, 16)
    tokens = mx.array(np.broadcast_to(blocks, (2, 3, 2, 4, 2, 16)).reshape(2, 48, 16)).astype(dtype)
    merging = match(tokens, (6, 8), 0.75)
    merged = merging.merge(tokens)
    assert merged.shape == (2, 12, 16)
    assert merged.dtype == dtype
    found = merging.unmerge(attention(merged, merged, merged, heads=2))
    expected = attention(tokens, tokens, tokens, heads=2)
    assert mx.abs(found - expected).max().item() < (1e-5 if dtype == mx.float32 else 1e-2)


def test_a_token_of_zeros_is_like_none_and_stays():
    tokens = mx.array(
        np.concatenate([np.zeros((1, 1, 3)), np.ones((1, 3, 3))], axis=1)[:, [1, 0, 2, 3]].astype(np.float32)
    )
    merging = match(tokens, (2, 2), 0.5)
    assert np.array_equal(np.array(merging.unmerge(merging.merge(tokens))), np.array(tokens))


def test_nothing_is_computed_before_it_is_asked_for():
    tokens = mx.zeros((1, 4096, 320))
    before = mx.get_active_memory()
    merging = match(tokens, (64, 64), 0.5)
    merging.unmerge(merging.merge(tokens))
    assert mx.get_active_memory() - before < 4096 * 320
