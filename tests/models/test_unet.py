from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_unets
import torch
from diffusers import UNet2DConditionModel as Reference
from published_unets import REFINER, SD15, SD21, SDXL, SSD1B
from safetensors.torch import load_file
from torch_weights import load_state_dict, mlx_shape, parameter_shapes

import mlxdiff
from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.kernels import native, stream, upsample
from mlxdiff.models.layers import pack
from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig

torch.set_num_threads(1)  # more only wait for each other on networks this small

EMOJI = Path(mlxdiff.__file__).parent / "assets" / "emoji" / "unet"


def relative_error(ours: mx.array, theirs: torch.Tensor) -> float:
    """Largest difference over largest value; theirs is NCHW."""
    reference = theirs.permute(0, 2, 3, 1).numpy()
    assert ours.shape == reference.shape
    return float(np.abs(np.array(ours) - reference).max() / np.abs(reference).max())


def both_outputs(reference: Reference, size: tuple[int, int] = (8, 8), timestep=741.25, *, packs=False):
    """Runs both networks on the same random inputs; everything that the config asks for is given."""
    values = json.loads(json.dumps({k: v for k, v in reference.config.items() if not k.startswith("_")}))
    unet = load_state_dict(UNet2DConditionModel(UNetConfig.from_dict(values)), reference.state_dict())
    if packs:
        pack(unet)
    config = unet.config
    random = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    sample = normal(2, config.in_channels, *size)
    context = normal(2, 7, config.cross_attention_dim[0])
    theirs, ours = {}, {}
    if config.time_id_width is not None:
        n = (config.added_width - 20) // config.time_id_width
        added = {"text_embeds": normal(2, 20), "time_ids": normal(2, n) * 500}
        theirs["added_cond_kwargs"] = added
        ours = {"pooled": mx.array(added["text_embeds"].numpy()), "time_ids": mx.array(added["time_ids"].numpy())}
    if config.time_cond_proj_dim is not None:
        theirs["timestep_cond"] = normal(2, config.time_cond_proj_dim)
        ours["timestep_cond"] = mx.array(theirs["timestep_cond"].numpy())
    time = torch.tensor(timestep)
    with torch.no_grad():
        wanted = reference(sample, time, encoder_hidden_states=context, **theirs).sample
    got = unet(
        mx.array(sample.permute(0, 2, 3, 1).contiguous().numpy()),
        mx.array(time.numpy()),
        mx.array(context.numpy()),
        **ours,
    )
    return got, wanted


@pytest.mark.parametrize("name", tiny_unets.CONFIGS)
def test_equals_diffusers(name):
    got, wanted = both_outputs(tiny_unets.make(tiny_unets.config(name)))
    assert relative_error(got, wanted) < 1e-4


@pytest.mark.parametrize("name", tiny_unets.CONFIGS)
def test_equals_diffusers_in_the_forms_for_nvidia_gpus(name, monkeypatch):
    """Biases that streams owe, and convolutions of enlarged maps by phases."""
    monkeypatch.setattr(native, "serving", lambda *_: None)  # else weights are packed for a CPU
    monkeypatch.setattr(stream, "_owes", lambda _: True)
    monkeypatch.setattr(upsample, "phases", upsample.plain_phases)
    got, wanted = both_outputs(tiny_unets.make(tiny_unets.config(name)), packs=True)
    assert relative_error(got, wanted) < 1e-4


@pytest.mark.parametrize("size", [(5, 7), (9, 4), (13, 3), (2, 11)])
def test_sizes_that_do_not_halve_evenly(size):
    got, wanted = both_outputs(tiny_unets.make(tiny_unets.config("four-levels")), size)
    assert relative_error(got, wanted) < 1e-4


def test_timestep_of_each_picture():
    reference = tiny_unets.make(tiny_unets.config("sd1"))
    got, wanted = both_outputs(reference, timestep=[999.25, 3.0])
    assert relative_error(got, wanted) < 1e-4


def test_timestep_is_embedded_in_fp32_in_a_half_precision_network():
    config = UNetConfig.from_dict(tiny_unets.config("sd1"))
    unet = UNet2DConditionModel(config)
    unet.set_dtype(mx.float16)
    embedded = []
    embed = unet.time_embedding

    def spy(x, condition=None):
        embedded.append(x)
        return embed(x, condition)

    unet.time_embedding = spy
    sample, context = mx.zeros((1, 8, 8, 4), mx.float16), mx.zeros((1, 7, 24), mx.float16)
    for timestep in (999.0, 999.2):  # the same number in fp16
        unet(sample, mx.array(timestep), context)
    assert embedded[0].dtype == mx.float16
    assert mx.abs(embedded[0] - embedded[1]).max().item() > 0.1


@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_half_precision_stays_half(name):
    values = tiny_unets.config(name)
    reference = tiny_unets.make(values)
    unet = load_state_dict(UNet2DConditionModel(UNetConfig.from_dict(values)), reference.state_dict())
    unet.set_dtype(mx.float16)
    sample = mx.random.normal((1, 8, 8, 4), key=mx.random.key(0))
    context = mx.random.normal((1, 7, 24), key=mx.random.key(1))
    more = {"pooled": context[:, 0, :20], "time_ids": mx.full((1, 6), 512.0)} if name == "sdxl" else {}
    half = unet(sample.astype(mx.float16), mx.array(500.0), context.astype(mx.float16), **more)
    assert unet.dtype == half.dtype == mx.float16
    unet.set_dtype(mx.float32)
    full = unet(sample, mx.array(500.0), context, **more)
    assert full.dtype == mx.float32
    assert (mx.abs(half - full).max() / mx.abs(full).max()).item() < 0.02


@pytest.mark.parametrize("size", [(32, 32), (19, 26)])
def test_emoji_checkpoint_equals_diffusers(size):
    reference = Reference.from_pretrained(EMOJI).float().requires_grad_(False)
    got, wanted = both_outputs(reference, size)
    assert relative_error(got, wanted) < 1e-4


def test_emoji_config_reads_from_its_file():
    config = UNetConfig.from_dict(json.loads((EMOJI / "config.json").read_text()))
    shapes = {
        name: mlx_shape(tuple(w.shape)) for name, w in load_file(EMOJI / "diffusion_pytorch_model.safetensors").items()
    }
    assert config.sample_size == 32
    assert parameter_shapes(UNet2DConditionModel(config)) == shapes


@pytest.mark.parametrize(
    "values", [{}, SD15, SD21, SDXL, REFINER, SSD1B], ids=["default", "sd15", "sd21", "sdxl", "refiner", "ssd1b"]
)
def test_full_size_parameters_carry_diffusers_names_and_shapes(values):
    with torch.device("meta"):
        reference = Reference(**values)
    theirs = {name: mlx_shape(tuple(tensor.shape)) for name, tensor in reference.state_dict().items()}
    before = mx.get_active_memory()
    ours = parameter_shapes(UNet2DConditionModel(UNetConfig.from_dict(values)))
    assert ours == theirs
    assert mx.get_active_memory() - before < 2**20  # building evaluates no weight


def test_missing_keys_take_diffusers_defaults():
    with torch.device("meta"):
        theirs = dict(Reference().config)
    spelled_out = json.loads(json.dumps({k: v for k, v in theirs.items() if v is not None}))
    assert UNetConfig.from_dict(spelled_out) == UNetConfig.from_dict({})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "mish"),
        ("class_embed_type", "timestep"),
        ("num_class_embeds", 10),
        ("class_embeddings_concat", True),
        ("addition_embed_type", "image"),
        ("encoder_hid_dim", 4096),
        ("encoder_hid_dim_type", "text_proj"),
        ("time_embedding_type", "fourier"),
        ("time_embedding_act_fn", "silu"),
        ("timestep_post_act", "silu"),
        ("dual_cross_attention", True),
        ("attention_type", "gated"),
        ("cross_attention_norm", "layer_norm"),
        ("resnet_time_scale_shift", "scale_shift"),
        ("resnet_skip_time_act", True),
        ("num_attention_heads", 8),
        ("norm_num_groups", None),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("_class_name", "UNet2DModel"),
        ("down_block_types", ["AttnDownBlock2D", "DownBlock2D"]),
        ("up_block_types", ["UpBlock2D", "KUpBlock2D"]),
    ],
)
def test_what_is_not_implemented_is_named(key, value):
    with pytest.raises(UnsupportedError) as error:
        UNetConfig.from_dict(tiny_unets.config("sd1") | {key: value})
    named = value[0] if isinstance(value, list) and value[0].startswith("Attn") else value
    named = value[1] if isinstance(value, list) and value[1].startswith("K") else named
    assert key in error.value.problem
    assert repr(named) in error.value.problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("in_channels", "4"),
        ("in_channels", 0),
        ("in_channels", True),
        ("block_out_channels", 16),
        ("block_out_channels", []),
        ("block_out_channels", [16, 32, 48]),
        ("block_out_channels", [16, 30]),
        ("block_out_channels", [8] * 40),
        ("layers_per_block", [1]),
        ("layers_per_block", None),
        ("attention_head_dim", 3),
        ("attention_head_dim", [2, 2, 2]),
        ("cross_attention_dim", None),
        ("cross_attention_dim", [24]),
        ("only_cross_attention", [True]),
        ("only_cross_attention", "yes"),
        ("use_linear_projection", 1),
        ("norm_eps", "small"),
        ("norm_eps", float("nan")),
        ("sample_size", [8]),
        ("sample_size", 0),
        ("transformer_layers_per_block", [1]),
        ("transformer_layers_per_block", [[1], [1]]),
        ("transformer_layers_per_block", 0),
        ("reverse_transformer_layers_per_block", [[1], [1]]),
        ("reverse_transformer_layers_per_block", 1),
        ("addition_embed_type", "text_time"),
        ("mid_block_scale_factor", 0),
        ("downsample_padding", 2),
    ],
)
def test_wrong_values_are_checkpoint_errors(key, value):
    with pytest.raises(CheckpointError):
        UNetConfig.from_dict(tiny_unets.config("sd1") | {key: value})


def test_nulls_that_published_configs_have():
    nulls = dict.fromkeys(
        (
            "upcast_attention",
            "time_embedding_dim",
            "time_cond_proj_dim",
            "mid_block_only_cross_attention",
            "sample_size",
        )
    )
    assert UNetConfig.from_dict(SD15 | nulls) == UNetConfig.from_dict({k: v for k, v in SD15.items() if k not in nulls})


def test_remains_of_training_are_ignored():
    ema = {"decay": 0.9999, "inv_gamma": 1.0, "optimization_step": 37000, "use_ema_warmup": False, "dropout": 0.1}
    assert UNetConfig.from_dict(SD15 | ema) == UNetConfig.from_dict(SD15)


def test_sample_size_may_be_a_pair():
    assert UNetConfig.from_dict(SD15 | {"sample_size": [64, 96]}).sample_size == (64, 96)


def test_encoders_of_another_model_are_refused():
    xl = UNet2DConditionModel(UNetConfig.from_dict(tiny_unets.config("sdxl")))
    sample, context, pooled = mx.zeros((1, 8, 8, 4)), mx.zeros((1, 7, 24)), mx.zeros((1, 20))
    with pytest.raises(CheckpointError, match="pooled prompt and time ids"):
        xl(sample, 1.0, context)
    with pytest.raises(CheckpointError, match="width 68"):
        xl(sample, 1.0, context, pooled=pooled, time_ids=mx.zeros((1, 5)))
    with pytest.raises(CheckpointError, match="context of width 24"):
        xl(sample, 1.0, mx.zeros((1, 7, 32)), pooled=pooled, time_ids=mx.zeros((1, 6)))


@pytest.mark.parametrize(
    "changes",
    [{"transformer_layers_per_block": 1000}, {"layers_per_block": 100, "transformer_layers_per_block": 1000}],
)
def test_more_blocks_than_any_network_has_are_refused_before_they_are_made(changes):
    with pytest.raises(CheckpointError, match="more than any network has"):
        UNetConfig.from_dict(changes)
