"""Keys of every program: which module they name, and which part of its change."""

from __future__ import annotations

import pytest

from mlxdiff.adapters.keys import split
from mlxdiff.adapters.names import Place, Places, component_of
from mlxdiff.checkpoint.header import Header, TensorInfo
from mlxdiff.checkpoint.kinds import kind_of

KEYS = {
    "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": ("lora_unet_mid_block_attentions_0_proj_in", "up"),
    "lora_unet_x.alpha": ("lora_unet_x", "alpha"),
    "lora_unet_x.lora_mid.weight": ("lora_unet_x", "mid"),
    "lora_te_x.dora_scale": ("lora_te_x", "magnitude"),
    "unet.a.to_q.lora_A.weight": ("unet.a.to_q", "down"),
    "unet.a.to_q.lora_B.weight": ("unet.a.to_q", "up"),
    "unet.a.to_q.lora.down.weight": ("unet.a.to_q", "down"),
    "unet.a.processor.to_out_lora.up.weight": ("unet.a.processor.to_out", "up"),
    "text_encoder.a.q_proj.lora_linear_layer.up.weight": ("text_encoder.a.q_proj", "up"),
    "base_model.model.a.lora_A.default.weight": ("base_model.model.a", "down"),
    "base_model.model.a.lora_B.my-style.weight": ("base_model.model.a", "up"),
    "base_model.model.a.lora_B.bias": ("base_model.model.a", "up_bias"),
    "base_model.model.a.lora_magnitude_vector": ("base_model.model.a", "row_magnitude"),
    "base_model.model.a.lora_magnitude_vector.default.weight": ("base_model.model.a", "row_magnitude"),
    "base_model.model.a.ia3_l": ("base_model.model.a", "factor"),
    "lycoris_a.lokr_w2_b": ("lycoris_a", "lokr_w2_b"),
    "lycoris_a.hada_t1": ("lycoris_a", "hada_t1"),
    "lycoris_a.a1.weight": ("lycoris_a", "glora_a1"),
    "lycoris_a.diff_b": ("lycoris_a", "diff_bias"),
    "lycoris_a.w_norm": ("lycoris_a", "diff"),
    "diffusion_model.a.set_weight": ("diffusion_model.a", "value"),
    "a.conv.weight": ("a.conv", "weight"),
    "a.lora_a.weight": ("a.lora_a", "weight"),
}


@pytest.mark.parametrize("key", KEYS)
def test_keys(key):
    assert split(key) == KEYS[key]


@pytest.mark.parametrize("key", [key for key, (_, part) in KEYS.items() if part not in ("weight", "bias", "alpha")])
def test_a_file_of_such_keys_is_known_as_a_lora(key):
    assert kind_of(Header({key: TensorInfo("F32", (4, 4))}, {})) == "lora"


@pytest.mark.parametrize("key", ["", ".", "alpha", ".alpha", "lora_up", "a.bias_values", "a.lora_A.b.c.weight.x"])
def test_keys_that_no_adapter_has(key):
    assert split(key) is None


PLACES = Places(
    {
        "unet": {
            "down_blocks.0.resnets.0.conv1.weight": (1,),
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (1,),
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight": (1,),
        },
        "text_encoder": {"encoder.layers.1.self_attn.q_proj.weight": (1,)},
        "text_encoder_2": {"encoder.layers.1.self_attn.q_proj.weight": (1,), "text_projection.weight": (1,)},
    }
)
TO_Q = Place("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
TO_OUT = Place("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0")
FIRST, SECOND = (Place(name, "encoder.layers.1.self_attn.q_proj") for name in ("text_encoder", "text_encoder_2"))
NAMES = {
    # sd-scripts, with diffusers' names and the original ones
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": [TO_Q],
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q": [TO_Q],
    "lora_unet_input_blocks_1_0_in_layers_2": [Place("unet", "down_blocks.0.resnets.0.conv1")],
    "lora_te_text_model_encoder_layers_1_self_attn_q_proj": [FIRST, SECOND],
    "lora_te1_text_model_encoder_layers_1_self_attn_q_proj": [FIRST],
    "lora_te2_text_model_encoder_layers_1_self_attn_q_proj": [SECOND],
    "lora_te2_text_projection": [Place("text_encoder_2", "text_projection")],
    # diffusers, today's and older
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": [TO_Q],
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q": [TO_Q],
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out": [TO_OUT],
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out": [TO_OUT],
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q": [TO_Q],
    "text_encoder.text_model.encoder.layers.1.self_attn.q_proj": [FIRST],
    "text_encoder.text_model.encoder.layers.1.self_attn.to_q": [FIRST],
    "text_encoder_2.text_model.encoder.layers.1.self_attn.q_proj": [SECOND],
    # ComfyUI, PEFT, LyCORIS, SimpleTuner
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q": [TO_Q],
    "text_encoders.clip_l.transformer.text_model.encoder.layers.1.self_attn.q_proj": [FIRST],
    "text_encoders.clip_g.transformer.text_model.encoder.layers.1.self_attn.q_proj": [SECOND],
    "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": [TO_Q],
    "unet.base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": [TO_Q],
    "base_model.model.text_model.encoder.layers.1.self_attn.q_proj": [FIRST, SECOND],
    "base_model.model.encoder.layers.1.self_attn.q_proj": [FIRST, SECOND],
    "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": [TO_Q],
    "lycoris_text_encoder_encoder_layers_1_self_attn_q_proj": [FIRST],
    # nothing
    "lora_te_down_blocks_0_resnets_0_conv1": [],
    "lora_unet_text_model_encoder_layers_1_self_attn_q_proj": [],
    "text_encoder.text_projection": [],
    "": [],
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert PLACES.find(name) == NAMES[name]


@pytest.mark.parametrize("name", [name for name in NAMES if NAMES[name]])
def test_component_without_a_model(name):
    assert component_of(name) == NAMES[name][0].component


def test_a_model_without_some_components():
    only = Places({"text_encoder_2": {"encoder.layers.1.self_attn.q_proj.weight": (1,)}})
    assert only.find("lora_te_text_model_encoder_layers_1_self_attn_q_proj") == [SECOND]
    assert only.find("lora_unet_mid_block_attentions_0_proj_in") == []
