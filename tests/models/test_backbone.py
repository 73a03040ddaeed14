"""A backbone that is no UNet goes through the loop: the protocol asks for nothing that only a UNet has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlxdiff.diffusion.prediction import denoiser

from mlxdiff.conditioning import Conditioning, concatenate
from mlxdiff.diffusion import guidance, samplers
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule
from mlxdiff.errors import InputError
from mlxdiff.models.backbone import Backbone, Extra


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


@pytest.mark.parametrize("guided", [False, True])
def test_a_transformer_goes_through_the_loop(guided):
    mx.random.seed(0)
    fake = FakeTransformer()
    backbone = as_backbone(fake)
    positive, negative = (Conditioning(mx.random.normal((2, 5, 32))) for _ in range(2))
    conditioning = concatenate([negative, positive]) if guided else positive
    schedule = make_schedule(SchedulerConfig.from_dict({"_class_name": "EulerDiscreteScheduler"}, None), 3)
    prepared = backbone.prepare(conditioning, schedule.timesteps, guidance_scale=3.5)
    denoise = denoiser(lambda x, t: backbone(x, float(np.array(t)), prepared, Extra()), schedule)
    if guided:
        denoise = guidance.classifier_free(denoise, 5.0)
    start = mx.random.normal((2, 8, 8, 4)) * schedule.init_noise_sigma
    steps = list(samplers.sample("euler", denoise, start, schedule, noise=lambda: mx.zeros_like(start)))
    mx.eval([step.latents for step in steps])
    assert [step.latents.shape for step in steps] == [(2, 8, 8, 4)] * 3
    assert mx.isfinite(steps[-1].latents).all()
    assert fake.prepared == [list(schedule.timesteps)]


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
