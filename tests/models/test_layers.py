from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D as TorchDownsample2D
from diffusers.models.embeddings import TimestepEmbedding as TorchTimestepEmbedding
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D as TorchResnetBlock2D
from diffusers.models.upsampling import Upsample2D as TorchUpsample2D
from torch_weights import load_state_dict

from mlxdiff.models import layers
from mlxdiff.models.activations import EXP_STRETCH, softmax_numerator

torch.set_num_threads(1)  # more only wait for each other on arrays this small


def normal(*shape, seed=0, scale=1.0, shift=0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale + shift).astype(np.float32)


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def relative_error(ours: mx.array, theirs: np.ndarray) -> float:
    ours = np.array(ours.astype(mx.float32))
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# The exact functions, in double precision.
ACTIVATIONS = {
    "silu": (layers.silu, F.silu),
    "gelu": (layers.gelu, F.gelu),
    "quick_gelu": (layers.quick_gelu, lambda x: x * torch.sigmoid(1.702 * x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_on_a_cpu_are_within_a_millionth_of_the_argument(name):
    ours, exact = ACTIVATIONS[name]
    x = np.concatenate([np.linspace(-30, 30, 60_001), np.geomspace(1e-6, 1e6, 2001), -np.geomspace(1e-6, 1e6, 2001)])
    x = x.astype(np.float32)
    wanted = exact(torch.from_numpy(x).double()).numpy()
    with mx.stream(mx.cpu):
        got = np.array(ours(mx.array(x)))
    assert (np.abs(got - wanted) <= 1e-6 * np.maximum(1, np.abs(x))).all()
    assert np.abs(got[x < -100]).max() < 1e-6


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_activations_keep_a_half_precision_dtype(name, dtype):
    ours, exact = ACTIVATIONS[name]
    x = mx.linspace(-20, 20, 401).astype(dtype)
    wanted = exact(torch.from_numpy(np.array(x.astype(mx.float32))).double()).numpy()
    got = ours(x)
    assert got.dtype == dtype
    assert np.abs(np.array(got.astype(mx.float32)) - wanted).max() < 0.02 * (8 if dtype == mx.bfloat16 else 1)


def test_softmax_numerator_is_an_exponential():
    a = np.concatenate([np.linspace(0, 100, 20_001), [1e4, 1e30, np.inf]]).astype(np.float32)
    got = np.array(softmax_numerator(mx.array(a) * EXP_STRETCH))
    assert np.abs(got / got[0] - np.exp(-a.astype(np.float64))).max() < 3e-6
    assert (np.diff(got) <= 0).mean() > 0.99
    assert got[-1] == 0


NORM_SHAPES = [(2, 8, 8, 32), (1, 5, 3, 64), (3, 40, 24), (2, 16), (1, 32, 32, 96)]


@pytest.mark.parametrize("shape", NORM_SHAPES)
@pytest.mark.parametrize(("groups", "eps"), [(8, 1e-5), (1, 1e-6), (4, 1e-2)])
def test_group_norm_equals_torch(shape, groups, eps):
    x, channels = normal(*shape, scale=2.0, shift=0.5), shape[-1]
    weight, bias = normal(channels, seed=1), normal(channels, seed=2)
    wanted = F.group_norm(
        torch.from_numpy(x).movedim(-1, 1), groups, torch.from_numpy(weight), torch.from_numpy(bias), eps
    )
    got = layers.group_norm(mx.array(x), mx.array(weight), mx.array(bias), groups, eps)
    assert relative_error(got, wanted.movedim(1, -1).numpy()) < 2e-6


def test_group_norm_survives_a_mean_that_dwarfs_the_spread():
    x = normal(1, 64, 64, 32, scale=0.01, shift=30.0)
    exact = F.group_norm(nchw(x).double(), 8, eps=1e-6).permute(0, 2, 3, 1).numpy()
    got = layers.group_norm(mx.array(x), mx.ones(32), mx.zeros(32), 8, 1e-6)
    assert relative_error(got, exact) < 1e-3


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


def torch_attention(q, k, v, heads, mask=None):
    q, k, v = (torch.from_numpy(a).double().unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
    mask = None if mask is None else torch.from_numpy(mask).double()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2).numpy()


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "size"),
    [(2, 16, 16, 4, 8), (1, 77, 77, 2, 16), (3, 33, 5, 1, 40), (2, 1, 9, 3, 4), (2, 64, 64, 1, 512), (1, 9, 1, 2, 8)],
)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_attention_equals_torch(batch, queries, keys, heads, size, scale):
    q = normal(batch, queries, heads * size, seed=1, scale=scale)
    k, v = normal(batch, keys, heads * size, seed=2), normal(batch, keys, heads * size, seed=3)
    got = layers.attention(mx.array(q), mx.array(k), mx.array(v), heads=heads)
    assert relative_error(got, torch_attention(q, k, v, heads)) < 2e-5


@pytest.mark.parametrize("at_once", [1, 40, 700, 3000])
def test_attention_in_blocks_is_the_same(monkeypatch, at_once):
    q, k, v = (normal(2, n, 24, seed=n) for n in (37, 19, 19))
    mask = normal(1, 3, 37, 19)
    wanted = torch_attention(q, k, v, 3, mask)
    monkeypatch.setattr(layers, "_SCORES_AT_ONCE", at_once)
    got = layers.attention(mx.array(q), mx.array(k), mx.array(v), heads=3, mask=mx.array(mask))
    assert relative_error(got, wanted) < 1e-5


@pytest.mark.parametrize("infinity", [-math.inf, -1e9])
def test_attention_with_a_causal_mask(infinity):
    q, k, v = (normal(2, 12, 32, seed=i) for i in range(3))
    mask = np.triu(np.full((12, 12), infinity, np.float32), 1)
    got = layers.attention(mx.array(q), mx.array(k), mx.array(v), heads=4, mask=mx.array(mask))
    assert relative_error(got, torch_attention(q, k, v, 4, mask)) < 1e-5


def test_attention_that_overflows_fp16_is_upcast():
    q, k = (normal(1, 8, 16, seed=i, scale=300.0) for i in range(2))
    v = normal(1, 8, 16, seed=2)
    wanted = torch_attention(*(a.astype(np.float16).astype(np.float32) for a in (q, k, v)), 1)
    half = [mx.array(a).astype(mx.float16) for a in (q, k, v)]
    got = layers.attention(*half, heads=1, upcast=True)
    assert got.dtype == mx.float16
    assert relative_error(got, wanted) < 2e-3


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
    got = module(mx.array(x), None if temb is None else layers.silu(mx.array(temb)))
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
