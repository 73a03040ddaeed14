"""Which layers are quantized, and what it costs: on a module of every kind of layer, and on the built-in networks."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlxdiff
from mlxdiff.checkpoint.load import load_component
from mlxdiff.checkpoint.quantize import quantize
from mlxdiff.errors import RequestError
from mlxdiff.models.clip import CLIPTextConfig, CLIPTextModel
from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"
TOKENS = mx.array([[3412, 5, 700, 3000, *[3413] * 73]])


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(256, 8)
        self.middle = nn.Linear(192, 8, bias=False)
        self.narrow = nn.Linear(96, 8)
        self.odd = nn.Linear(40, 8)
        self.conv = nn.Conv2d(64, 64, 1)
        self.embedding = nn.Embedding(10, 64)
        self.norm = nn.LayerNorm(64)
        self.to_out = [nn.Linear(64, 64)]
        self.time_embedding = nn.Sequential(nn.Linear(64, 64))
        self.proj_in = nn.Linear(64, 64)
        self.text_projection = nn.Linear(64, 64, bias=False)


def groups(module: nn.Module) -> dict[str, int]:
    """Path of each quantized layer -> its group size."""
    return {path: layer.group_size for path, layer in module.named_modules() if isinstance(layer, nn.QuantizedLinear)}


@pytest.mark.parametrize(
    ("group_size", "expected"),
    [
        (64, {"wide": 64, "middle": 64, "narrow": 32, "to_out.0": 64}),
        (128, {"wide": 128, "middle": 32, "narrow": 32, "to_out.0": 32}),
        (32, {"wide": 32, "middle": 32, "narrow": 32, "to_out.0": 32}),
    ],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_linear_layers_are_quantized_in_groups_that_divide_them_and_nothing_else_is(bits, group_size, expected):
    module = Mixture()
    before = dict(tree_flatten(module.parameters()))
    assert quantize(module, bits, group_size) is module
    assert groups(module) == expected
    after = dict(tree_flatten(module.parameters()))
    untouched = {path for path in before if path.removesuffix(".weight") not in expected}
    assert all(after[path] is before[path] for path in untouched)
    layers = dict(module.named_modules())
    for path in expected:
        assert layers[path].bits == bits


@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_is_off_by_one_level_at_most(bits):
    module = Mixture()
    weight = np.array(module.wide.weight)
    layer = quantize(module, bits).wide
    restored = np.array(mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=64, bits=bits))
    rows = weight.reshape(8, -1, 64)
    level = (rows.max(axis=-1) - rows.min(axis=-1)) / (2**bits - 1)
    error = np.abs(restored - weight).reshape(rows.shape).max(axis=-1)
    # Half a level would be rounding; MLX also shifts the levels so that zero or the largest weight is exact.
    assert (error <= 1.001 * level).all()
    assert (error > 0).all()


@pytest.mark.parametrize("bits", [0, 2, 3, 5, 16, 32, -8, 8.0, "8", None, True])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(RequestError, match="Choose 8 or 4"):
        quantize(Mixture(), bits)


@pytest.mark.parametrize("group_size", [0, 16, 63, 256, None])
def test_other_groups_are_refused(group_size):
    with pytest.raises(RequestError, match="Choose 32, 64 or 128"):
        quantize(Mixture(), 8, group_size)


def relative_error(a: mx.array, b: mx.array) -> float:
    return float(mx.linalg.norm(a - b) / mx.linalg.norm(b))


def config(part: str) -> dict:
    return json.loads((EMOJI / part / "config.json").read_text())


def text_encoder() -> CLIPTextModel:
    clip = CLIPTextModel(CLIPTextConfig.from_dict(config("text_encoder")))
    load_component(clip, EMOJI / "text_encoder", dtype=mx.float32)
    return clip


@pytest.mark.parametrize(("bits", "limit", "share"), [(8, 0.008, 0.55), (4, 0.14, 0.45)])
def test_the_built_in_text_encoder_stays_close(bits, limit, share):
    clip = text_encoder()
    exact, size = clip(TOKENS).last_hidden_state, nbytes(clip)
    error = relative_error(quantize(clip, bits)(TOKENS).last_hidden_state, exact)
    assert 0 < error < limit
    assert nbytes(clip) < share * size


@pytest.mark.parametrize(("bits", "limit"), [(8, 0.012), (4, 0.25)])
def test_the_built_in_unet_stays_close(bits, limit):
    unet = UNet2DConditionModel(UNetConfig.from_dict(config("unet")))
    load_component(unet, EMOJI / "unet", dtype=mx.float32)
    rng = np.random.default_rng(0)
    sample = mx.array(rng.normal(size=(1, 32, 32, 4)).astype(np.float32))
    context = text_encoder()(TOKENS).last_hidden_state  # a UNet has never seen white noise as a prompt
    exact = unet(sample, mx.array(500.0), context)
    mx.eval(exact)
    error = relative_error(quantize(unet, bits)(sample, mx.array(500.0), context), exact)
    assert 0 < error < limit


def nbytes(module: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
