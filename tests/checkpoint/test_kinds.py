"""What a file is, on files that diffusers, PEFT and transformers write, and on the names that published ones have."""

from __future__ import annotations

import numpy as np
import part_files
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, StableDiffusionPipeline, T2IAdapter
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from mlxdiff.checkpoint.kinds import kind_if_sound, kind_of_file
from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.latents import encode_latents
from mlxdiff.request import Request

NETWORKS = {
    "vae": [
        lambda: AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
        lambda: AutoencoderTiny(
            encoder_block_out_channels=(4, 4),
            decoder_block_out_channels=(4, 4),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
    ],
    "control": [
        lambda: ControlNetModel(
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
            layers_per_block=1,
        ),
        lambda: T2IAdapter(channels=[8, 8], num_res_blocks=1, adapter_type="full_adapter"),
        lambda: T2IAdapter(channels=[8, 8], num_res_blocks=1, adapter_type="light_adapter"),
    ],
}


@pytest.mark.parametrize(("kind", "make"), [(kind, make) for kind, all in NETWORKS.items() for make in all])
def test_networks_that_diffusers_writes(tmp_path, kind, make):
    make().save_pretrained(tmp_path)
    assert kind_of_file(tmp_path / "diffusion_pytorch_model.safetensors") == kind


def test_loras_that_diffusers_and_peft_write(tmp_path):
    from tiny import unet

    network = unet()
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]))
    layers = get_peft_model_state_dict(network)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    assert kind_of_file(tmp_path / "pytorch_lora_weights.safetensors") == "lora"
    save_torch(layers, tmp_path / "peft.safetensors")
    assert kind_of_file(tmp_path / "peft.safetensors") == "lora"


UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PUBLISHED = [
    *(
        ("lora", [f"{UNET}.{name}"])
        for name in ("lora_down.weight", "hada_w1_a", "lokr_w1", "diff", "w_norm", "on_input", "oft_blocks")
    ),
    ("lora", ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight"]),
    ("lora", ["base_model.model.down_blocks.0.attentions.0.to_q.lora_A.weight"]),
    ("control", ["control_model.zero_convs.0.0.weight", "control_model.input_hint_block.0.weight"]),
    ("control", ["zero_convs.0.0.weight", "input_hint_block.0.weight"]),
    ("control", ["body.0.block1.weight", "body.0.block2.weight", "conv_in.weight"]),
    ("ip_adapter", ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"]),
    ("vae", ["first_stage_model.encoder.conv_in.weight"]),
    ("vae", ["encoder.conv_in.weight", "decoder.conv_in.weight"]),
    ("vae", ["1.weight", "1.bias", "3.conv.0.weight", "3.conv.0.bias", "3.skip.weight", "8.weight"]),
    ("vae", ["decoder.1.weight", "decoder.3.conv.0.weight", "encoder.0.weight", "encoder.1.conv.0.weight"]),
    ("vae", ["taesd_decoder.1.weight", "taesd_encoder.1.conv.0.weight", "vae_scale"]),
    ("upscaler", ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"]),
    ("upscaler", ["conv_first.weight", "body.0.rdb1.conv1.weight"]),
    ("upscaler", ["params_ema.conv_first.weight", "params_ema.body.0.rdb1.conv1.weight"]),
    ("upscaler", ["body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight"]),
    ("embedding", ["emb_params"]),
    ("embedding", ["<cat-toy>"]),
    ("embedding", ["string_to_param.*"]),
    ("embedding", ["clip_l", "clip_g"]),
    (
        "model",
        ["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.x", "first_stage_model.x"],
    ),
    ("model", ["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.0.transformer.x"]),
    (None, ["model.diffusion_model.input_blocks.0.0.weight"]),
    (None, ["unet.conv_in.weight", "vae.decoder.conv_in.weight", "text_encoder.embeddings.weight"]),
    (None, ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]),
    (None, ["lm_head.weight"]),
    (None, ["latents"]),
]


@pytest.mark.parametrize(("kind", "names"), PUBLISHED, ids=lambda it: it if isinstance(it, str) else None)
def test_names_that_published_files_have(tmp_path, kind, names):
    shape = (1, 4, 8, 8) if names == ["latents"] else (2, 32)
    path = part_files.write(tmp_path / "x.safetensors", part_files.file_of(dict.fromkeys(names, shape)))
    assert kind_of_file(path) == kind


def test_a_single_tensor_that_is_no_row_of_a_text_encoder_is_nothing(tmp_path):
    for shape in ((3, 3, 8, 8), (2, 3), (5000, 768), (0, 768)):
        path = part_files.write(tmp_path / "x.safetensors", part_files.file_of({"x": shape}))
        assert kind_of_file(path) is None, shape
    latents = encode_latents(np.zeros((1, 2, 2, 4), np.float32), Request(seed=0))
    assert kind_of_file(part_files.write(tmp_path / "l.safetensors", latents)) is None


def test_a_file_that_changes_is_looked_at_again(tmp_path):
    path = part_files.write(tmp_path / "x.safetensors", part_files.lora())
    assert kind_of_file(path) == "lora"
    part_files.write(path, part_files.tensors(emb_params=(2, 768)))
    assert kind_of_file(path) == "embedding"


def test_what_is_unsound_has_no_kind(tmp_path):
    whole = part_files.lora()
    for content in (b"", b"x", whole[:50], whole[:-1], b"\xff" * 8 + b"{}", b'{"error": "no"}'):
        path = part_files.write(tmp_path / "x.safetensors", content)
        with pytest.raises(CheckpointError):
            kind_of_file(path)
        assert kind_if_sound(path) is None
    torch.save({"x": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    with pytest.raises(UnsupportedError, match="is a pickle under another name"):
        kind_of_file(tmp_path / "pickle.safetensors")
    assert kind_if_sound(tmp_path / "gone.safetensors") is None
    save_file({"x": np.zeros((3, 16), np.int32)}, tmp_path / "int.safetensors")
    assert kind_of_file(tmp_path / "int.safetensors") is None
