"""The UNet as a backbone: prepared once it gives what the UNet itself gives, with residuals what diffusers gives."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tiny_unets
import torch
from torch_weights import load_state_dict

from mlxdiff.conditioning import Conditioning
from mlxdiff.errors import RequestError, UnsupportedError
from mlxdiff.models.backbone import Backbone, Extra, Residuals
from mlxdiff.models.layers import timestep_embedding
from mlxdiff.models.step_cache import StepCache
from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig
from mlxdiff.models.unet_backbone import UNetBackbone

torch.set_num_threads(1)


def pair(name: str, *, compiles: bool | None = None, **changes) -> tuple[UNetBackbone, torch.nn.Module]:
    values = tiny_unets.config(name, **changes)
    torch.manual_seed(0)
    reference = tiny_unets.make(values)
    unet = load_state_dict(UNet2DConditionModel(UNetConfig.from_dict(values)), reference.state_dict())
    return UNetBackbone(unet, compiles=compiles), reference


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conditioning_of(backbone: Backbone, rows: int) -> Conditioning:
    context = mx.array(draw(rows, 7, 24, seed=1))
    if backbone.network.config.time_id_width is None:
        return Conditioning(context)
    n_ids = (backbone.network.config.added_width - 20) // backbone.network.config.time_id_width
    return Conditioning(context, mx.array(draw(rows, 20, seed=2)), mx.array(draw(rows, n_ids, seed=3) * 500))


def theirs(reference, latents: np.ndarray, timestep: float, conditioning: Conditioning, **more) -> np.ndarray:
    if conditioning.pooled is not None:
        names = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
        more["added_cond_kwargs"] = {name: torch.from_numpy(np.array(array)) for name, array in names.items()}
    context = torch.from_numpy(np.array(conditioning.context))
    with torch.no_grad():
        out = reference(torch.from_numpy(latents).movedim(-1, 1), timestep, encoder_hidden_states=context, **more)
    return out.sample.movedim(1, -1).numpy()


def difference(found: mx.array, expected: np.ndarray) -> float:
    return float(np.abs(np.array(found) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "no-mid"])
def test_prepared_for_all_timesteps_it_equals_diffusers_at_each(name, rows):
    backbone, reference = pair(name)
    conditioning, latents = conditioning_of(backbone, rows), draw(rows, 8, 8, 4)
    prepared = backbone.prepare(conditioning, [901.0, 601.25, 1.0], guidance_scale=7.5)
    for timestep in (901.0, 601.25, 1.0):
        found = backbone(mx.array(latents), timestep, prepared)
        assert difference(found, theirs(reference, latents, timestep, conditioning)) < 1e-4


def test_a_timestep_between_the_prepared_ones_is_computed_once_and_kept(monkeypatch):
    backbone, reference = pair("sdxl")
    conditioning, latents = conditioning_of(backbone, 2), draw(2, 8, 8, 4)
    prepared = backbone.prepare(conditioning, [901.0], guidance_scale=1.0)
    counted, compute = [], backbone.network.time_shifts
    monkeypatch.setattr(
        backbone.network, "time_shifts", lambda times, **added: counted.append(1) or compute(times, **added)
    )
    for _ in range(2):
        found = backbone(mx.array(latents), 333.3, prepared)
        assert difference(found, theirs(reference, latents, 333.3, conditioning)) < 1e-4
    assert len(counted) == 1


def test_the_guidance_scale_is_embedded_where_the_network_takes_it():
    backbone, reference = pair("lcm")
    conditioning, latents = conditioning_of(backbone, 2), draw(2, 8, 8, 4)
    assert backbone.config.uses_guidance_embedding
    assert not pair("sd1")[0].config.uses_guidance_embedding
    prepared = backbone.prepare(conditioning, [501.0], guidance_scale=8.0)
    embedded = timestep_embedding(mx.full((2,), 7000.0), 12, flip_sin_to_cos=False, freq_shift=1)
    expected = theirs(reference, latents, 501.0, conditioning, timestep_cond=torch.from_numpy(np.array(embedded)))
    assert difference(backbone(mx.array(latents), 501.0, prepared), expected) < 1e-4


def test_nothing_is_evaluated():
    backbone, _ = pair("sd1")
    mx.eval(backbone.network.parameters())
    before = mx.get_active_memory()
    prepared = backbone.prepare(Conditioning(mx.zeros((64, 77, 24))), [float(i) for i in range(50)], guidance_scale=1)
    backbone(mx.zeros((64, 64, 64, 4)), 3.0, prepared)
    assert mx.get_active_memory() - before < 2**17


# -- residuals -----------------------------------------------------------------------------------------------------


def skip_shapes(reference, latents: np.ndarray, conditioning: Conditioning) -> tuple[list[tuple], tuple]:
    """The shapes (NCHW) of the skip connections and of what the mid block gives, as a run of diffusers has them."""
    skips, mid = [], []
    hooks = [
        reference.conv_in.register_forward_hook(lambda _, __, out: skips.append(tuple(out.shape))),
        *(
            block.register_forward_hook(lambda _, __, out: skips.extend(tuple(x.shape) for x in out[1]))
            for block in reference.down_blocks
        ),
    ]
    if reference.mid_block is not None:
        hooks.append(reference.mid_block.register_forward_hook(lambda _, __, out: mid.append(tuple(out.shape))))
    theirs(reference, latents, 1.0, conditioning)
    for hook in hooks:
        hook.remove()
    return skips, mid[0] if mid else skips[-1]


def nhwc(tensors) -> list[mx.array]:
    return [mx.array(tensor.movedim(1, -1).contiguous().numpy()) for tensor in tensors]


RESIDUAL_CONFIGS = ["sd1", "sdxl", "four-levels", "one-level", "per-level", "plain-mid"]


@pytest.mark.parametrize("size", [(8, 8), (9, 5)])
@pytest.mark.parametrize("name", RESIDUAL_CONFIGS)
def test_a_controlnets_residuals_are_added_where_diffusers_adds_them(name, size):
    backbone, reference = pair(name)
    conditioning, latents = conditioning_of(backbone, 2), draw(2, *size, 4)
    skips, mid = skip_shapes(reference, latents, conditioning)
    down = [torch.from_numpy(draw(*shape, seed=10 + i)) for i, shape in enumerate(skips)]
    middle = torch.from_numpy(draw(*mid, seed=9))
    expected = theirs(
        reference,
        latents,
        601.0,
        conditioning,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    )
    prepared = backbone.prepare(conditioning, [601.0], guidance_scale=1.0)
    extra = Extra(residuals=Residuals(nhwc(down), nhwc([middle])[0]))
    found = backbone(mx.array(latents), 601.0, prepared, extra)
    assert difference(found, expected) < 1e-4
    assert difference(backbone(mx.array(latents), 601.0, prepared), expected) > 1e-2
    cached = backbone(mx.array(latents), 601.0, prepared, Extra(extra.residuals, step_cache=StepCache(2)))
    assert mx.array_equal(cached, found)


@pytest.mark.parametrize("with_mid", [False, True])
@pytest.mark.parametrize("name", RESIDUAL_CONFIGS)
def test_a_t2i_adapters_residuals_are_added_where_diffusers_adds_them(name, with_mid):
    backbone, reference = pair(name)
    conditioning, latents = conditioning_of(backbone, 2), draw(2, 8, 8, 4)
    config = reference.config
    maps = []
    for level, channels in enumerate(config.block_out_channels):
        # A level without attention adds behind its downsampler, one with attention in front of it.
        is_halved = "CrossAttn" not in config.down_block_types[level] and level < len(config.block_out_channels) - 1
        side = 8 >> (level + is_halved)
        maps.append(torch.from_numpy(draw(2, channels, side, side, seed=20 + level)))
    if with_mid:
        maps.append(torch.from_numpy(draw(*skip_shapes(reference, latents, conditioning)[1], seed=30)))
    expected = theirs(
        reference, latents, 601.0, conditioning, down_intrablock_additional_residuals=[m.clone() for m in maps]
    )
    prepared = backbone.prepare(conditioning, [601.0], guidance_scale=1.0)
    extra = Extra(residuals=Residuals(adapter=nhwc(maps)))
    assert difference(backbone(mx.array(latents), 601.0, prepared, extra), expected) < 1e-4
    assert difference(backbone(mx.array(latents), 601.0, prepared), expected) > 1e-2


def test_residuals_that_do_not_fit_are_refused():
    backbone, _ = pair("sd1")
    prepared = backbone.prepare(conditioning_of(backbone, 1), [1.0], guidance_scale=1.0)
    maps = [mx.zeros((1, 8, 8, 16))] * 9
    with pytest.raises(RequestError, match="gives 9 feature maps, and this UNet has 4 skip connections"):
        backbone(mx.zeros((1, 8, 8, 4)), 1.0, prepared, Extra(Residuals(down=maps)))
    with pytest.raises(RequestError, match="gives 9 feature maps, and this UNet has 2 levels"):
        backbone(mx.zeros((1, 8, 8, 4)), 1.0, prepared, Extra(Residuals(adapter=maps)))


# -- compiled ------------------------------------------------------------------------------------------------------


def run(backbone: UNetBackbone, extra: Extra = Extra()) -> np.ndarray:  # noqa: B008 (frozen)
    prepared = backbone.prepare(conditioning_of(backbone, 1), [601.0], guidance_scale=1.0)
    return np.array(backbone(mx.array(draw(1, 8, 8, 4)), 601.0, prepared, extra))


def test_a_compiled_unet_has_the_weights_that_it_has_now():
    """mx.compile keeps the weights that it was compiled with, whatever becomes of the module."""
    backbone, _ = pair("one-level", compiles=True)
    plain = UNetBackbone(backbone.network, compiles=False)
    assert np.allclose(run(backbone), run(plain), atol=1e-5)
    first = backbone._calls
    run(backbone)
    assert backbone._calls is first, "the same weights are not compiled twice"
    before = run(plain)
    backbone.network.update({"conv_out": {"bias": mx.array(draw(4) + 3)}})
    assert np.allclose(run(backbone), run(plain), atol=1e-5)
    assert np.abs(run(backbone) - before).max() > 1
    maps = [mx.ones((1, 8, 8, 16))] * 2
    for extra in (Extra(Residuals(maps, maps[0])), Extra(Residuals(adapter=maps[:1]), token_merging=0.5)):
        assert np.allclose(run(backbone, extra), run(plain, extra), atol=1e-5)
        cached = Extra(extra.residuals, extra.token_merging, StepCache(2))
        assert np.allclose(run(backbone, cached), run(plain, extra), atol=1e-5)


def test_a_cast_or_replaced_layer_is_a_change_of_weights():
    backbone, _ = pair("one-level", compiles=True)
    prepared = backbone.prepare(conditioning_of(backbone, 1), [601.0], guidance_scale=1.0)
    assert prepared.calls.are_current()
    backbone.network.set_dtype(mx.float16)
    assert not prepared.calls.are_current()
    prepared = backbone.prepare(conditioning_of(backbone, 1), [601.0], guidance_scale=1.0)
    backbone.network.conv_out = type(backbone.network.conv_out)(16, 4, 3, padding=1)
    assert not prepared.calls.are_current()


# -- what is known without a call ----------------------------------------------------------------------------------


def test_neutral_numbers():
    backbone, reference = pair("sd1")
    assert backbone.weights_nbytes == 4 * sum(p.numel() for p in reference.parameters())
    assert (backbone.config.in_channels, backbone.config.out_channels) == (4, 4)
    assert backbone.config.latent_size == (8, 8)
    assert UNetConfig.from_dict(tiny_unets.config("sd1", sample_size=[8, 12])).latent_size == (8, 12)
    assert backbone.config.merges_tokens
    without = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    assert not UNetConfig.from_dict(tiny_unets.config("sd1", **without)).merges_tokens
    fused, whole = (backbone.config.bytes_per_row(4096, 4, fused_attention=fused) for fused in (True, False))
    assert whole - fused == 8 * 4096 * 4096 * 4


def test_a_unet_that_no_checkpoint_gave_has_no_adapters_to_change():
    with pytest.raises(UnsupportedError, match="not loaded from a checkpoint"):
        pair("sd1")[0].reload()
