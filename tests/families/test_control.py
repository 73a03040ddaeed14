"""What a control's file or folder is: both layouts, every refusal in words."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import ldm_layout
import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_controls
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from mlx.utils import tree_flatten
from safetensors.torch import save_file

from mlxdiff.errors import CheckpointError, MlxdiffError, RequestError, UnsupportedError
from mlxdiff.families.base import read_checkpoint
from mlxdiff.families.control import load_control, read_control
from mlxdiff.models.controlnet import ControlNet


class Made:
    """A tiny model, its ControlNet and the folders of both."""

    def __init__(self, folder: Path, name: str, kind) -> None:
        self.folder = tiny.write(tiny.PIPELINES[name], folder / name)
        self.checkpoint = read_checkpoint(self.folder)
        self.unet = kind.from_pretrained(self.folder).unet
        self.network = tiny_controls.controlnet(self.unet)
        self.control = tiny_controls.write(self.network, folder / f"{name}-control")
        self.tensors = {key: value.contiguous() for key, value in self.network.state_dict().items()}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("sd"), "sd15", StableDiffusionPipeline)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("sdxl"), "sdxl", StableDiffusionXLPipeline)


def weights(path: Path, made: Made) -> dict[str, mx.array]:
    found = load_control(read_control("given", path, made.checkpoint), mx.float32, None)
    return dict(tree_flatten((found.network if isinstance(found, ControlNet) else found).parameters()))


def same(ours: dict[str, mx.array], theirs: dict[str, mx.array]) -> None:
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert np.array_equal(np.array(ours[key]), np.array(theirs[key])), key


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("prefix", ["control_model.", ""], ids=["prefixed", "bare"])
def test_a_controlnet_in_the_original_layout(name, prefix, request, tmp_path):
    made = request.getfixturevalue(name)
    written = ldm_layout.controlnet(made.tensors, layers=1, prefix=prefix)
    if prefix:  # as the first ones were published, with the model that they steer
        written |= {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}
    save_file(written, tmp_path / "control.safetensors")
    same(weights(tmp_path / "control.safetensors", made), weights(made.control, made))


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_controlnet_of_diffusers_keys_in_one_file(name, request, tmp_path):
    made = request.getfixturevalue(name)
    save_file(made.tensors, tmp_path / "control.safetensors")
    same(weights(tmp_path / "control.safetensors", made), weights(made.control, made))


def test_a_union_is_told_from_its_weights(sdxl, tmp_path):
    network = tiny_controls.union(sdxl.unet)
    folder = tiny_controls.write(network, tmp_path / "union")
    expected = weights(folder, sdxl)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "ControlNetModel"}))
    same(weights(folder, sdxl), expected)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / "one.safetensors")
    same(weights(tmp_path / "one.safetensors", sdxl), expected)


@pytest.mark.parametrize("level", [0, 1])
def test_a_small_controlnet_without_attention(sdxl, tmp_path, level):
    """As the small ones of SDXL: levels without transformers are those of its own config, not the UNet's."""
    kinds = ["DownBlock2D", "CrossAttnDownBlock2D" if level else "DownBlock2D"]
    mid = "UNetMidBlock2DCrossAttn" if level else "UNetMidBlock2D"
    small = tiny_controls.controlnet(sdxl.unet, down_block_types=kinds, mid_block_type=mid)
    folder = tiny_controls.write(small, tmp_path / "small")
    save_file({key: value.contiguous() for key, value in small.state_dict().items()}, tmp_path / "one.safetensors")
    same(weights(tmp_path / "one.safetensors", sdxl), weights(folder, sdxl))


@pytest.mark.parametrize("keys", ["diffusers", "tencent"])
@pytest.mark.parametrize("kind", ["full_adapter", "full_adapter_xl"])
def test_a_t2i_adapter_in_one_file(sd, sdxl, tmp_path, kind, keys):
    made = sdxl if kind == "full_adapter_xl" else sd
    network = tiny_controls.adapter(kind)
    folder = tiny_controls.write(network, tmp_path / kind)
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(ldm_layout.t2i_adapter(tensors) if keys == "tencent" else tensors, tmp_path / "one.safetensors")
    source = read_control("given", tmp_path / "one.safetensors", made.checkpoint)
    assert source.config == read_control("given", folder, made.checkpoint).config
    same(weights(tmp_path / "one.safetensors", made), weights(folder, made))


def test_quantized_and_in_half_precision(sd):
    found = load_control(read_control("given", sd.control, sd.checkpoint), mx.float16, 8)
    held = dict(tree_flatten(found.network.parameters()))
    assert {array.dtype for array in held.values()} == {mx.float16, mx.uint32}


def refused(path, made, kind, match):
    with pytest.raises(kind, match=match) as caught:
        read_control("given", path, made.checkpoint)
    assert isinstance(caught.value, MlxdiffError)


def test_a_control_for_another_family_is_named(sd, sdxl, tmp_path):
    refused(sdxl.control, sd, RequestError, r"The ControlNet given has a context 64 numbers wide; the model's UNet")
    save_file(ldm_layout.controlnet(sdxl.tensors, layers=1), tmp_path / "xl.safetensors")
    refused(tmp_path / "xl.safetensors", sd, RequestError, r"has a context 64 numbers wide")
    adapter = tiny_controls.write(tiny_controls.adapter("full_adapter"), tmp_path / "adapter")
    refused(adapter, sdxl, RequestError, r"T2I-Adapter given has maps of \[32, 64\] channels")
    wide = tiny_controls.adapter("full_adapter", channels=[32, 96])
    refused(tiny_controls.write(wide, tmp_path / "wide"), sd, RequestError, r"maps of \[32, 96\] channels")
    coarse = tiny_controls.controlnet(sd.unet, conditioning_embedding_out_channels=(8, 8, 16))
    refused(tiny_controls.write(coarse, tmp_path / "coarse"), sd, RequestError, r"one cell of 4 pixels.*one of 2")


def test_published_families_are_called_by_their_names(sd, sdxl, tmp_path):
    """The same refusals, of configs as wide as the published ones."""
    config = json.loads((sdxl.control / "config.json").read_text()) | {"cross_attention_dim": 2048}
    folder = tmp_path / "xl"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(
        (sdxl.control / "diffusion_pytorch_model.safetensors").read_bytes()
    )
    model = tmp_path / "sd15"
    (model / "unet").mkdir(parents=True)
    for name in ("model_index.json", "scheduler/scheduler_config.json", "vae/config.json", "unet/config.json"):
        values = json.loads((sd.folder / name).read_text())
        (model / name).parent.mkdir(exist_ok=True)
        changes = {"cross_attention_dim": 768} if name.startswith("unet") else {}
        (model / name).write_text(json.dumps(values | changes))
    with pytest.raises(RequestError, match=r"The ControlNet given is for SDXL, and the model is SD 1\.x\. Use a"):
        read_control("given", folder, read_checkpoint(model))


def test_what_is_no_control_says_what_it_is(sd, tmp_path):
    def file(**shapes):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file({key.replace("__", "."): torch.zeros(shape) for key, shape in shapes.items()}, path)
        return path

    refused(file(lora_unet_down__lora_down__weight=(2, 2)), sd, UnsupportedError, "given is a LoRA, no ControlNet")
    whole = file(model__diffusion_model__input_blocks__0__0__weight=(2, 2))
    refused(whole, sd, UnsupportedError, "given is a whole checkpoint, no")
    refused(file(emb_params=(1, 768)), sd, UnsupportedError, "given is an embedding, no")
    refused(file(encoder__conv_in__weight=(1, 2)), sd, UnsupportedError, "given is a VAE, no")
    refused(
        file(image_proj__proj__weight=(1,), ip_adapter__1__to_k_ip__weight=(1,)), sd, UnsupportedError, "an IP-Adapter"
    )
    refused(file(lora_controlnet=(1,)), sd, UnsupportedError, "ControlNet-LoRA, which mlxdiff does not")
    refused(file(lllite_unet__depth__weight=(1,)), sd, UnsupportedError, "ControlNet-LLLite, which")
    refused(file(difference=(1,)), sd, UnsupportedError, "stored as differences")
    refused(file(other=(1,)), sd, UnsupportedError, "given is something else, no")
    refused(sd.folder, sd, UnsupportedError, "given is a whole model, no")
    refused(tmp_path, sd, UnsupportedError, r"a folder without a config\.json")
    refused(sd.folder / "vae", sd, UnsupportedError, "given is a AutoencoderKL, which is no")


def test_damaged_files_say_so(sd, tmp_path):
    written = ldm_layout.controlnet(sd.tensors, layers=1)
    save_file(written, tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut.safetensors", sd, CheckpointError, "not a sound safetensors file")
    for lost in ("zero_convs.1.0.bias", "input_hint_block.2.weight", "middle_block_out.0.weight"):
        some = {key: value for key, value in written.items() if not key.endswith(lost)}
        save_file(some, tmp_path / "lost.safetensors")
        with pytest.raises(CheckpointError, match=r"lacks the weight|holds .*no place"):
            weights(tmp_path / "lost.safetensors", sd)
    for changes in ({"conditioning_embedding_out_channels": []}, {"controlnet_conditioning_channel_order": "x"}):
        folder = tmp_path / "bad"
        folder.mkdir(exist_ok=True)
        config = json.loads((sd.control / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        save_file(sd.tensors, folder / "diffusion_pytorch_model.safetensors")
        refused(folder, sd, CheckpointError, "config")


@pytest.mark.parametrize("seed", range(40))
def test_mutilated_files_load_or_are_refused_in_words(sd, tmp_path, seed):
    chance = random.Random(seed)
    tensors = sd.tensors if seed % 4 else dict(tiny_controls.adapter().state_dict())
    written = {0: ldm_layout.t2i_adapter, 1: lambda held: ldm_layout.controlnet(held, layers=1)}.get(seed % 4, dict)
    shapes = {key: tuple(value.shape) for key, value in written(tensors).items()}
    for key in chance.sample(list(shapes), 2):
        shape = shapes.pop(key)
        kept = {
            0: {},
            1: {key: tuple(chance.choice((0, 1, 3, 64, 2**20)) for _ in range(chance.randint(0, 3)))},
            2: {key.replace(chance.choice("012"), chance.choice(("9", "12345", ""))): shape},
            3: {key: shape, key[: chance.randint(1, len(key))]: shape},
        }[chance.randint(0, 3)]
        shapes |= {name: each for name, each in kept.items() if math.prod(each) < 2**30}
    path = ldm_layout.write_sparse(tmp_path / "mutilated.safetensors", shapes)
    refusal = ""
    try:
        load_control(read_control("given", path, sd.checkpoint), mx.float32, None)
    except MlxdiffError as error:
        refusal = str(error)
    assert refusal or len(shapes) >= len(tensors) or any(key.startswith("control_model.") for key in shapes)
    assert len(refusal) < 2000
