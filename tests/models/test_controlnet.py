"""ControlNets and T2I-Adapters beside diffusers' modules: the published ones' names, and what tiny ones give."""

from __future__ import annotations

import json

import ldm_layout
import mlx.core as mx
import numpy as np
import pytest
import tiny_controls
import tiny_unets
import torch
from diffusers import ControlNetModel as Reference
from diffusers import ControlNetUnionModel as UnionReference
from diffusers import T2IAdapter as AdapterReference
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from published_unets import SD15, SD21, SDXL
from torch_weights import load_state_dict, mlx_shape, parameter_shapes

from mlxdiff.checkpoint.ldm_names import controlnet_places
from mlxdiff.conditioning import Conditioning
from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.models.controlnet import ControlNet, ControlNetConfig, ControlNetModel, ControlNetUnionModel
from mlxdiff.models.t2i_adapter import T2IAdapter, T2IAdapterConfig

torch.set_num_threads(1)

UNET_KEYS = ("sample_size", "up_block_types")
PUBLISHED = {"sd15": SD15, "sd21": SD21, "sdxl": SDXL}


def control_values(values, **changes):
    return {key: value for key, value in values.items() if key not in UNET_KEYS} | changes


def spelled(reference) -> dict:
    values = json.loads(json.dumps({k: v for k, v in reference.config.items() if not k.startswith("_")}))
    return values | {"_class_name": type(reference).__name__}


def shapes_of(reference) -> dict[str, tuple[int, ...]]:
    return {key: mlx_shape(tuple(value.shape)) for key, value in reference.state_dict().items()}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_controlnets_have_the_names_and_shapes_of_diffusers(name):
    with torch.device("meta"):
        reference = Reference(**control_values(PUBLISHED[name]))
    network = ControlNetModel(ControlNetConfig.from_dict(spelled(reference)))
    assert parameter_shapes(network) == shapes_of(reference)


def test_the_published_union_has_the_names_and_shapes_of_diffusers():
    with torch.device("meta"):
        reference = UnionReference(**control_values(SDXL, num_control_type=8))
    network = ControlNetUnionModel(ControlNetConfig.from_dict(spelled(reference)))
    assert parameter_shapes(network) == shapes_of(reference)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_original_names_are_those_that_diffusers_reads(name):
    with torch.device("meta"):
        reference = Reference(**control_values(PUBLISHED[name]))
    written = ldm_layout.controlnet(reference.state_dict(), layers=2)
    judged = convert_controlnet_checkpoint(dict(written), reference.config)
    assert {key: value.shape for key, value in judged.items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    names = [key.removeprefix("control_model.") for key in written]
    places = controlnet_places(names, {"layers_per_block": 2, **tiny_unets.CONFIGS["four-levels"]})
    assert set(places.values()) == set(reference.state_dict())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("full_adapter", {}),
        ("full_adapter", {"in_channels": 1}),
        ("full_adapter_xl", {"downscale_factor": 16}),
        ("light_adapter", {"channels": [320, 640, 1280], "num_res_blocks": 4}),
    ],
)
def test_published_adapters_have_the_names_and_shapes_of_diffusers(kind, changes):
    with torch.device("meta"):
        reference = AdapterReference(adapter_type=kind, **changes)
    network = T2IAdapter(T2IAdapterConfig.from_dict(spelled(reference)))
    assert parameter_shapes(network) == shapes_of(reference)


@pytest.mark.parametrize("kind", ["full_adapter", "full_adapter_xl", "light_adapter"])
@pytest.mark.parametrize("size", [(32, 48), (40, 24)])
def test_an_adapter_gives_what_diffusers_gives(kind, size):
    reference = tiny_controls.adapter(kind, channels=[16, 24, 24], downscale_factor=8)
    network = load_state_dict(T2IAdapter(T2IAdapterConfig.from_dict(spelled(reference))), reference.state_dict())
    picture = torch.rand(1, 3, *size, generator=torch.manual_seed(1))
    expected = [x.permute(0, 2, 3, 1).numpy() for x in reference(picture)]
    found = network(mx.array(picture.permute(0, 2, 3, 1).numpy()))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(np.array(ours) - theirs).max() < 1e-5


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "four-levels"])
def test_a_controlnet_gives_what_diffusers_gives(name, compiles):
    unet = tiny_unets.make(tiny_unets.config(name))
    reference = tiny_controls.controlnet(unet)
    network = ControlNetModel(ControlNetConfig.from_dict(spelled(reference)))
    control = ControlNet(load_state_dict(network, reference.state_dict()), compiles=compiles)
    generator = torch.manual_seed(2)
    sample, context = torch.randn(2, 4, 9, 7, generator=generator), torch.randn(2, 5, 24, generator=generator)
    picture = torch.rand(1, 3, 18, 14, generator=generator)
    added = {}
    if name == "sdxl":
        added = {"text_embeds": torch.randn(2, 20, generator=generator), "time_ids": torch.rand(2, 6) * 100}
    theirs = reference(sample, 301, context, picture, 0.7, guess_mode=True, added_cond_kwargs=added, return_dict=False)
    expected = [x.permute(0, 2, 3, 1).numpy() for x in (*theirs[0], theirs[1])]

    def array(tensor):
        return mx.array(tensor.numpy())

    conditioning = Conditioning(array(context), *(array(x) for x in added.values()))
    hint = control.hint([array(picture.permute(0, 2, 3, 1))], [0], [0.7])
    found = control(
        array(sample.permute(0, 2, 3, 1)),
        301,
        control.prepare(conditioning, [301], []),
        hint,
        control.scales([0.7] * control.n_maps, guess=True),
    )
    for ours, wanted in zip((*found.down, found.mid), expected, strict=True):
        assert np.abs(np.array(ours) - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"addition_embed_type": "text"}, UnsupportedError, "The ControlNet's config has addition_embed_type"),
        ({"class_embed_type": "timestep"}, UnsupportedError, "The ControlNet's config has class_embed_type"),
        ({"block_out_channels": [7]}, CheckpointError, "The ControlNet's config has"),
        ({"conditioning_embedding_out_channels": [8] * 9}, CheckpointError, "9 conditioning_embedding_out_channels"),
        ({"conditioning_embedding_out_channels": "x"}, CheckpointError, "conditioning_embedding_out_channels"),
        ({"controlnet_conditioning_channel_order": "gbr"}, CheckpointError, "the channel order 'gbr'"),
        ({"_class_name": "ControlNetUnionModel"}, UnsupportedError, "no addition_embed_type"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changes, kind, match):
    with pytest.raises(kind, match=match):
        ControlNetConfig.from_dict(control_values(tiny_unets.config("sd1")) | changes)


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"adapter_type": "other"}, UnsupportedError, "adapter_type = 'other'"),
        ({"channels": [8] * 40}, CheckpointError, "has the channels"),
        ({"channels": [8, 8, 8, 9], "adapter_type": "full_adapter_xl"}, CheckpointError, "has the channels"),
        ({"channels": [6], "adapter_type": "light_adapter"}, CheckpointError, "has the channels"),
        ({"downscale_factor": 0}, CheckpointError, "downscale_factor"),
    ],
)
def test_adapter_configs_that_make_no_sense_are_refused(changes, kind, match):
    with pytest.raises(kind, match=match):
        T2IAdapterConfig.from_dict(changes)
