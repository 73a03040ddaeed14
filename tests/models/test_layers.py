from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import nchw, nhwc, normal, relative_error
from diffusers.models.downsampling import Downsample2D as TorchDownsample2D
from diffusers.models.embeddings import TimestepEmbedding as TorchTimestepEmbedding
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D as TorchResnetBlock2D
from diffusers.models.upsampling import Upsample2D as TorchUpsample2D
from torch_weights import load_state_dict

from mlxdiff.kernels.activations import silu
from mlxdiff.models import layers

torch.set_num_threads(1)  # more only wait for each other on arrays this small


def test_group_norm_in_half_precision_computes_in_fp32():
    x = mx.array(normal(1, 16, 16, 32, scale=100.0, shift=900.0)).astype(mx.float16)  # squares pass 65504
    module = layers.GroupNorm(4, 32)
    module.set_dtype(mx.float16)
    got = module(x)
    wanted = F.group_norm(nchw(np.array(x.astype(mx.float32))), 4, eps=1e-5)
    assert got.dtype == mx.float16
    assert relative_error(got, nhwc(wanted)) < 2e-3


def test_group_norm_modules_hold_their_groups_and_eps():
    x = normal(2, 4, 4, 16)
    wanted = F.group_norm(nchw(x), 8, eps=0.1)
    assert relative_error(layers.GroupNorm(8, 16, 0.1)(mx.array(x)), nhwc(wanted)) < 2e-6
    assert relative_error(layers.GroupNormSiLU(8, 16, 0.1)(mx.array(x)), nhwc(F.silu(wanted))) < 2e-6


@pytest.mark.parametrize("width", [2, 15, 320])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 0.5])
def test_timestep_embedding_equals_diffusers(width, flip, shift):
    steps = torch.tensor([0.0, 1.0, 17.5, 999.3])
    wanted = get_timestep_embedding(steps, width, flip_sin_to_cos=flip, downscale_freq_shift=shift).numpy()
    got = layers.timestep_embedding(mx.array(steps.numpy()), width, flip_sin_to_cos=flip, freq_shift=shift)
    assert got.dtype == mx.float32
    # 1000 radians in fp32 are known to 3e-5.
    assert np.abs(np.array(got) - wanted).max() < 2e-4


@pytest.mark.parametrize("condition_width", [None, 6])
def test_timestep_embedding_module_equals_diffusers(condition_width):
    reference = TorchTimestepEmbedding(8, 20, cond_proj_dim=condition_width)
    module = load_state_dict(layers.TimestepEmbedding(8, 20, condition_width), reference.state_dict())
    x, condition = normal(3, 8), None if condition_width is None else normal(3, condition_width, seed=1)
    wanted = reference(torch.from_numpy(x), None if condition is None else torch.from_numpy(condition))
    got = module(mx.array(x), None if condition is None else mx.array(condition))
    assert relative_error(got, wanted.detach().numpy()) < 1e-5


@pytest.mark.parametrize(("channels", "out_channels"), [(16, 16), (16, 24)])
@pytest.mark.parametrize("temb_channels", [None, 12])
@pytest.mark.parametrize("out_scale", [1.0, 1.7])
def test_resnet_block_equals_diffusers(channels, out_channels, temb_channels, out_scale):
    reference = TorchResnetBlock2D(
        in_channels=channels,
        out_channels=out_channels,
        temb_channels=temb_channels,
        groups=4,
        eps=1e-3,
        output_scale_factor=out_scale,
    )
    module = layers.ResnetBlock2D(channels, out_channels, temb_channels, groups=4, eps=1e-3, out_scale=out_scale)
    load_state_dict(module, reference.state_dict())
    x, temb = normal(2, 7, 5, channels), None if temb_channels is None else normal(2, temb_channels, seed=1)
    wanted = reference(nchw(x), None if temb is None else torch.from_numpy(temb))
    got = module(mx.array(x), None if temb is None else module.time_shift(silu(mx.array(temb))))
    assert relative_error(got, nhwc(wanted)) < 1e-5


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(8, 8), (7, 6), (2, 5)])
def test_downsampling_equals_diffusers(padding, size):
    reference = TorchDownsample2D(6, use_conv=True, out_channels=10, padding=padding, name="op")
    module = load_state_dict(layers.Downsample2D(6, 10, padding), reference.state_dict())
    x = normal(2, *size, 6)
    assert relative_error(module(mx.array(x)), nhwc(reference(nchw(x)))) < 1e-5


@pytest.mark.parametrize("size", [None, (10, 8), (9, 8), (10, 7), (9, 7)])
def test_upsampling_equals_diffusers(size):
    reference = TorchUpsample2D(6, use_conv=True, out_channels=10)
    module = load_state_dict(layers.Upsample2D(6, 10), reference.state_dict())
    x = normal(2, 5, 4, 6)
    assert relative_error(module(mx.array(x), size), nhwc(reference(nchw(x), size))) < 1e-5


@pytest.mark.parametrize("size", [None, (10, 8), (9, 8)])
def test_upsampling_by_phases_equals_diffusers(size, monkeypatch):
    monkeypatch.setattr(layers.upsample, "phases", layers.upsample.plain_phases)
    reference = TorchUpsample2D(6, use_conv=True, out_channels=10)
    module = load_state_dict(layers.Upsample2D(6, 10), reference.state_dict())
    layers.pack(module)
    assert layers.PHASES in module.conv
    x = normal(2, 5, 4, 6)
    assert relative_error(module(mx.array(x), size), nhwc(reference(nchw(x), size))) < 1e-5


def test_odd_sizes_enlarge_as_torch_does():
    for length in range(1, 130):
        x = np.arange(length, dtype=np.float32).reshape(1, length, 1, 1)
        wanted = F.interpolate(nchw(x), size=(2 * length - 1, 1), mode="nearest")
        got = layers.enlarge(mx.array(x), (2 * length - 1, 1))
        assert np.array_equal(np.array(got), nhwc(wanted))


def test_pointwise_convolution_is_a_convolution():
    reference = torch.nn.Conv2d(6, 9, 1)
    module = load_state_dict(layers.PointwiseConv2d(6, 9), reference.state_dict())
    x = normal(2, 5, 4, 6)
    assert relative_error(module(mx.array(x)), nhwc(reference(nchw(x)))) < 1e-5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("linear_1.bias"), "missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected"),
        (lambda state: state.update({"linear_1.bias": torch.zeros(3)}), "misshapen"),
    ],
)
def test_weights_are_loaded_strictly(change, what):
    state = TorchTimestepEmbedding(8, 20).state_dict()
    change(state)
    with pytest.raises(ValueError, match=rf"{what}.*(linear_1\.bias|extra)"):
        load_state_dict(layers.TimestepEmbedding(8, 20), state)
