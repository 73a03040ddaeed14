"""Step caching: when features are computed, and which part of them is given back."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxdiff.models.step_cache import StepCache


def counted(batch: int = 1):
    """A computation that gives 1, 2, 3 ... for each image, and 10 more for each image before it."""
    calls = []

    def compute() -> mx.array:
        calls.append(batch)
        return mx.arange(batch) * 10 + len(calls)

    return compute


@pytest.mark.parametrize(
    ("interval", "expected"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 1, 1, 2, 2, 2, 3]), (9, [1] * 7)]
)
def test_features_are_computed_once_in_so_many_calls(interval, expected):
    kept, compute = StepCache(interval), counted()
    assert [kept(compute, 1).item() for _ in range(7)] == expected


def test_a_call_without_guidance_takes_the_half_of_the_prompts_and_one_with_it_computes_anew():
    kept, guided, alone = StepCache(4), counted(4), counted(2)
    assert kept(guided, 4).tolist() == [1, 11, 21, 31]
    assert kept(alone, 2).tolist() == [21, 31]
    kept = StepCache(4)
    assert kept(alone, 2).tolist() == [1, 11]
    assert kept(guided, 4).tolist() == [2, 12, 22, 32]
    # Computed anew they last for as many calls again.
    assert [kept(guided, 4)[0].item() for _ in range(4)] == [2, 2, 2, 3]


def test_runs_share_nothing():
    compute = counted()
    assert [StepCache(5)(compute, 1).item() for _ in range(3)] == [1, 2, 3]
