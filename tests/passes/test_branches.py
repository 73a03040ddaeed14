"""Strands of a batch as calls of the backbone: rows in their order, prepared once, caches not shared between rows."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxdiff.conditioning import Conditioning, Strand
from mlxdiff.diffusion.schedule import make_schedule
from mlxdiff.diffusion.scheduler_config import SchedulerConfig
from mlxdiff.errors import RequestError
from mlxdiff.models.backbone import Residuals, total
from mlxdiff.passes.branches import MAX_PREPARED, Branches
from mlxdiff.steering.additions import Steering

LEVELS = make_schedule(SchedulerConfig.from_dict({"_class_name": "EulerDiscreteScheduler"}), 3)


class Echo:
    """A backbone whose output for a row is the number that its context holds."""

    def __init__(self) -> None:
        self.prepared: list[int] = []
        self.caches: list[object] = []
        self.residuals: list[Residuals] = []

    def prepare(self, conditioning, timesteps, *, guidance_scale):
        del timesteps, guidance_scale
        self.prepared.append(conditioning.context.shape[0])
        return conditioning.context[:, 0, 0]

    def __call__(self, latents, timestep, prepared, extra):
        del timestep
        self.caches.append(extra.step_cache)
        self.residuals.append(extra.residuals)
        assert latents.shape[0] == prepared.shape[0]
        return mx.broadcast_to(prepared.reshape(-1, 1, 1, 1), latents.shape)


def said(numbers: list[float], length: int) -> Conditioning:
    return Conditioning(mx.broadcast_to(mx.array(numbers).reshape(-1, 1, 1), (len(numbers), length, 2)))


def output(predict: Branches, latents: mx.array, names: tuple[str, ...]) -> dict[str, list[float]]:
    """What the backbone gave for each image, by branch."""
    sigma = LEVELS.sigmas[0]
    found = predict(latents, sigma, names)
    return {
        name: np.array(LEVELS.to_output(x, latents, sigma))[:, 0, 0, 0].round(2).tolist() for name, x in found.items()
    }


STRANDS = {
    "negative": (Strand(range(4), ((0, said([-1, -2, -3, -4], 77)),)),),
    "positive": (
        Strand(range(1), ((1, said([1], 77)), (5, said([10], 77)))),
        Strand(range(1, 2), ((0, said([2], 154)),)),
        Strand(range(2, 4), ((0, said([3, 4], 77)),)),
    ),
}


def test_rows_of_any_length_come_back_in_the_order_of_the_images():
    backbone, latents = Echo(), mx.zeros((4, 2, 2, 4))
    predict = Branches(backbone, STRANDS, LEVELS, 4.0)
    for first in (1, 1, 10, 10):
        found = output(predict, latents, ("negative", "positive"))
        assert found == {"negative": [-1, -2, -3, -4], "positive": [first, 2, 3, 4]}
    assert backbone.prepared == [7, 1, 7], "one group a length, prepared anew only where a prompt changes"


def test_caches_are_shared_only_with_calls_for_the_last_of_their_rows():
    backbone, latents = Echo(), mx.zeros((4, 2, 2, 4))
    predict = Branches(backbone, STRANDS, LEVELS, 4.0, cache_interval=2)
    output(predict, latents, ("negative", "positive"))
    output(predict, latents, ("positive",))
    output(predict, latents, ("negative", "positive"))
    both, long, alone, long_again, both_again, _ = backbone.caches
    assert long is long_again
    assert both is alone is both_again
    assert long is not both


def test_what_is_prepared_is_bounded():
    entries = tuple((i, said([float(i)], 77)) for i in range(MAX_PREPARED + 8))
    backbone, latents = Echo(), mx.zeros((1, 2, 2, 4))
    predict = Branches(backbone, {"positive": (Strand(range(1), entries),)}, LEVELS, 1.0)
    for i in range(len(entries)):
        assert output(predict, latents, ("positive",)) == {"positive": [i]}
    assert len(predict._prepared) == MAX_PREPARED


class Steer:
    """Adds the number of rows that it saw, at noise levels above `low`."""

    def __init__(self, low: float) -> None:
        self.low, self.branches = low, []

    def is_active(self, sigma):
        return sigma > self.low

    def prepare(self, branches, conditioning):
        self.branches.append(list(branches))
        return conditioning.context.shape[0]

    def __call__(self, latents, timestep, prepared):
        del timestep
        assert latents.shape[0] == prepared
        return Residuals(down=[mx.array(prepared)], mid=mx.array(2 * prepared))


def test_controls_add_up_while_they_act_and_deep_features_are_not_shared_across_their_ends():
    backbone, latents, steers = Echo(), mx.zeros((4, 2, 2, 4)), [Steer(0.0), Steer(LEVELS.sigmas[2])]
    predict = Branches(backbone, STRANDS, LEVELS, 4.0, cache_interval=9, steering=Steering(controls=steers))
    for sigma in LEVELS.sigmas[:3]:
        predict(latents, sigma, ("positive",))
    said = [[x.item() for x in (*residuals.down, residuals.mid)] for residuals in backbone.residuals]
    assert said == [[6, 12], [2, 4], [6, 12], [2, 4], [3, 6], [1, 2]]
    assert steers[0].branches == [[("positive", 1), ("positive", 2)], [("positive", 1)], *steers[0].branches[2:]]
    together, long, again, long_again, after, long_after = backbone.caches
    assert (together, long) == (again, long_again)
    assert after not in (together, long)
    assert long_after not in (together, long)


def test_residuals_of_different_networks_do_not_mix():
    one = Residuals(down=[mx.array(1)], adapter=[mx.array(5)])
    assert total([]) == Residuals()
    both = total([one, Residuals(down=[mx.array(2)], mid=mx.array(3))])
    assert [both.down[0].item(), both.mid.item(), both.adapter[0].item()] == [3, 3, 5]
    with pytest.raises(RequestError, match="give 1 and 2 feature maps"):
        total([one, Residuals(down=[mx.array(1)] * 2)])
