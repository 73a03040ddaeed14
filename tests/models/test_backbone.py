"""A backbone that is no UNet goes through the loop: the protocol asks for nothing that only a UNet has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxdiff.catalogue import find_sampler
from mlxdiff.conditioning import Conditioning, Strand, concatenate, constant
from mlxdiff.diffusion import guidance, samplers
from mlxdiff.diffusion.flow import FlowConfig, make_flow_schedule
from mlxdiff.diffusion.schedule import Schedule, SchedulerConfig, make_schedule
from mlxdiff.errors import InputError
from mlxdiff.models.backbone import Backbone, Extra
from mlxdiff.passes.branches import Branches


@dataclass(frozen=True)
class TransformerConfig:
    in_channels: int = 4
    out_channels: int = 4
    latent_size: tuple[int, int] = (8, 8)
    uses_guidance_embedding: bool = True
    merges_tokens: bool = False

    def bytes_per_row(self, cells: int, itemsize: int, *, fused_attention: bool) -> int:
        del fused_attention
        return cells * itemsize * 16


class FakeTransformer:
    """Latents in patches of 2x2, joint attention with the context, and the time and the guidance added as FLUX does."""

    def __init__(self) -> None:
        self.config = TransformerConfig()
        self.network = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16))
        self.prepared: list[list[float]] = []

    @property
    def dtype(self) -> mx.Dtype:
        return mx.float32

    @property
    def weights_nbytes(self) -> int:
        return sum(array.nbytes for _, array in tree_flatten(self.network.parameters()))

    def prepare(self, conditioning: Conditioning, timesteps: Sequence[float], *, guidance_scale: float):
        self.prepared.append(list(timesteps))
        return conditioning.context, guidance_scale

    def __call__(self, latents: mx.array, timestep: float, prepared, extra: Extra = Extra()):  # noqa: B008 (frozen)
        del extra
        context, guidance_scale = prepared
        b, h, w, c = latents.shape
        patches = latents.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, 4 * c)
        tokens = mx.concatenate([self.network.layers[0](patches), context], axis=1) + timestep / 1000 + guidance_scale
        attended = mx.fast.scaled_dot_product_attention(*[tokens[:, None]] * 3, scale=0.2)[:, 0, : patches.shape[1]]
        out = self.network.layers[1](attended)
        return out.reshape(b, h // 2, w // 2, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)

    def reload(self, *, delta=None, live=None) -> None:
        del delta, live


def as_backbone(backbone: Backbone) -> Backbone:
    """For the type checker: a FakeTransformer is a Backbone."""
    return backbone


def strands(conditionings: dict[str, Conditioning]) -> dict[str, tuple[Strand, ...]]:
    return {name: constant(conditioning) for name, conditioning in conditionings.items()}


def run(levels: Schedule, conditionings: dict[str, Conditioning], guide: guidance.Guidance) -> tuple[list, list]:
    """Steps of Euler's method, evaluated, and the batch and timesteps that each `prepare` was given."""
    mx.random.seed(0)
    fake = FakeTransformer()
    predict = Branches(as_backbone(fake), strands(conditionings), levels, 3.5)
    start = levels.start(mx.random.normal((2, 8, 8, 4)))
    denoise = guidance.guided(predict, guide)
    steps = list(samplers.sample(find_sampler("euler"), denoise, start, levels, lambda *_: mx.zeros_like(start)))
    mx.eval([step.latents for step in steps])
    return [np.array(step.latents) for step in steps], fake.prepared


def text(seed: int, tokens: int = 5) -> Conditioning:
    return Conditioning(mx.random.normal((2, tokens, 32), key=mx.random.key(seed)))


VP = make_schedule(SchedulerConfig.from_dict({"_class_name": "EulerDiscreteScheduler"}), 3)
FLOW = make_flow_schedule(FlowConfig.from_dict({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}), 3)


@pytest.mark.parametrize("levels", [VP, FLOW], ids=["variance preserving", "flow matching"])
def test_a_transformer_goes_through_the_loop(levels):
    both = {"negative": text(1), "positive": text(2)}
    steps, prepared = run(levels, both, guidance.ClassifierFree(5.0))
    assert [latents.shape for latents in steps] == [(2, 8, 8, 4)] * 3
    assert all(np.isfinite(latents).all() for latents in steps)
    assert prepared == [list(levels.timesteps)], "branches of equal length are prepared together, once"
    alone, prepared = run(levels, {"positive": both["positive"]}, guidance.Unguided())
    assert len(prepared) == 1
    assert not np.allclose(steps[-1], alone[-1])


def test_branches_of_unequal_length_have_calls_of_their_own_and_the_same_result():
    short, long = {"negative": text(1), "positive": text(2)}, {"negative": text(1), "positive": text(2, tokens=9)}
    _, prepared = run(VP, long, guidance.ClassifierFree(5.0))
    assert len(prepared) == 2
    mx.random.seed(0)
    predict = Branches(as_backbone(FakeTransformer()), strands(short), VP, 3.5)
    latents, sigma = VP.start(mx.random.normal((2, 8, 8, 4))), VP.sigmas[0]
    together = predict(latents, sigma, ("negative", "positive"))
    for name in short:
        np.testing.assert_allclose(predict(latents, sigma, (name,))[name], together[name], rtol=1e-5, atol=1e-4)
    three = {**short, "image": text(3)}
    steps, prepared = run(VP, three, guidance.Pix2Pix(5.0, 1.5))
    assert len(prepared) == 1
    assert np.isfinite(steps[-1]).all()


def test_conditionings_are_concatenated_along_the_batch():
    def one(seed: float, s: int = 5) -> Conditioning:
        return Conditioning(mx.full((2, s, 3), seed), mx.full((2, 4), seed), mx.full((2, 6), seed))

    joined = concatenate([one(1), one(2), one(3)])
    assert [array.shape for array in joined.arrays()] == [(6, 5, 3), (6, 4), (6, 6)]
    assert joined.pooled[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    alone = one(1)
    assert concatenate([alone]) is alone
    assert Conditioning(alone.context).arrays() == [alone.context]
    assert concatenate([Conditioning(alone.context)] * 2).pooled is None
    with pytest.raises(InputError, match="context of these conditionings differ in shape"):
        concatenate([one(1), one(2, s=6)])
    with pytest.raises(InputError, match="pooled of these conditionings differ"):
        concatenate([one(1), Conditioning(alone.context)])
    with pytest.raises(InputError, match="no conditioning"):
        concatenate([])
