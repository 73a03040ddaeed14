"""Steps are evaluated in order and all of them; on a GPU exactly one more is begun before a step is handed out."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxdiff import backend
from mlxdiff.diffusion.step import Step
from mlxdiff.evaluating import evaluated


def steps(asked: list[int], n: int):
    x = mx.zeros(4)
    for i in range(n):
        asked.append(i)
        x = x + 1
        yield Step(i, 0.0, x, x)


@pytest.mark.parametrize(("gpu", "more"), [(False, 0), (True, 1)])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_each_step_comes_in_order_with_one_more_begun_on_a_gpu(monkeypatch, gpu, more, n):
    monkeypatch.setattr(backend, "is_gpu", lambda: gpu)
    asked: list[int] = []
    found = evaluated(steps(asked, n))
    assert asked == []  # nothing before somebody asks
    for i, step in enumerate(found):
        assert (step.index, step.latents.tolist()) == (i, [i + 1.0] * 4)
        assert asked == list(range(min(n, i + 1 + more)))
    assert len(asked) == n


def test_whoever_stops_begins_nothing_more(monkeypatch):
    monkeypatch.setattr(backend, "is_gpu", lambda: True)
    asked: list[int] = []
    found = evaluated(steps(asked, 9))
    next(found)
    found.close()
    assert asked == [0, 1]
