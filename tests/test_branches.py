"""Strands of a batch as calls of the backbone: rows in their order, prepared once, caches not shared between rows."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlxdiff.branches import MAX_PREPARED, Branches
from mlxdiff.conditioning import Conditioning, Strand
from mlxdiff.diffusion.schedule import make_schedule
from mlxdiff.diffusion.scheduler_config import SchedulerConfig

LEVELS = make_schedule(SchedulerConfig.from_dict({"_class_name": "EulerDiscreteScheduler"}), 3)


class Echo:
    """A backbone whose output for a row is the number that its context holds."""

    def __init__(self) -> None:
        self.prepared: list[int] = []
        self.caches: list[object] = []

    def prepare(self, conditioning, timesteps, *, guidance_scale):
        del timesteps, guidance_scale
        self.prepared.append(conditioning.context.shape[0])
        return conditioning.context[:, 0, 0]

    def __call__(self, latents, timestep, prepared, extra):
        del timestep
        self.caches.append(extra.step_cache)
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
