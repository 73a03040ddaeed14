"""Where UNets attend to prompts, beside the attentions and feature maps of diffusers' own."""

from __future__ import annotations

import contextlib

import pytest
import tiny_unets
import torch

from mlxdiff.models.unet_attentions import places, sizes
from mlxdiff.models.unet_config import UNetConfig


@pytest.mark.parametrize("name", list(tiny_unets.CONFIGS))
def test_places_are_diffusers_cross_attentions_in_its_order(name):
    values = tiny_unets.config(name)
    unet = tiny_unets.make(values)
    modules = dict(unet.named_modules())
    paths = [path.removesuffix(".processor") for path in unet.attn_processors if path.endswith("attn2.processor")]
    expected = [(path, *modules[path].to_k.weight.shape) for path in paths]
    found = places(UNetConfig.from_dict(values))
    assert [(place.path, place.width, place.source_width) for place in found] == expected
    assert found or name == "no-mid"


@pytest.mark.parametrize("height", [8, 9, 13])
@pytest.mark.parametrize("padding", [0, 1])
def test_sizes_are_those_of_the_feature_maps(padding, height):
    values = tiny_unets.config("four-levels", downsample_padding=padding)
    unet = tiny_unets.make(values)
    seen = []
    for block in unet.down_blocks:
        block.resnets[0].register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[2:])))
    unet.up_blocks[0].register_forward_pre_hook(lambda *_: pytest.skip("the way down is over"))
    with contextlib.suppress(pytest.skip.Exception):
        unet(torch.zeros(1, 4, height, 16), 1, torch.zeros(1, 3, 24))
    assert sizes(UNetConfig.from_dict(values), height, 16) == seen
