"""Adapters that PEFT writes, of every kind that it shares with LoRA files, against the weights that it merges."""

from __future__ import annotations

from pathlib import Path

import adapter_oracle as oracle
import pytest
import tiny
import tiny_unets
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model

from mlxdiff.adapters import read_adapter
from mlxdiff.errors import MlxdiffWarning

# What PEFT and transformers warn of in what they do themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

LIMIT = 1e-6
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
IN_UNET = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "time_emb_proj"]
IN_TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


class Pipe:
    """A UNet of one level and a text encoder."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        unet = tiny.unet(**tiny_unets.CONFIGS["one-level"], norm_num_groups=4, cross_attention_dim=24)
        text = tiny.CLIPTextModel(tiny.text_config(num_hidden_layers=2, hidden_size=16, intermediate_size=32))
        self.components = {"unet": unet, "text_encoder": text}


def check(component: str, config: PeftConfig, folder: Path, at_least: int) -> None:
    """Random weights for an adapter, written and merged by PEFT: what mlxdiff merges of the file is the same."""
    pipe = Pipe()
    before = oracle.state_of(pipe)
    model = get_peft_model(pipe.components[component], config)
    ours = ("lora_A", "lora_B", "lora_embedding", "hada_", "lokr_", "ia3_")
    oracle.randomize(model.named_parameters(), lambda name: any(part in name for part in ours) or "to_save" in name)
    model.save_pretrained(folder)
    after = dict(before)
    after[component] = {
        oracle.path_of(name): value.detach().numpy() for name, value in model.merge_and_unload().named_parameters()
    }
    error, changed = oracle.worst(oracle.merged(folder, before), after, before)
    assert error < LIMIT
    assert changed >= at_least


LORAS = {
    "alpha": {"lora_alpha": 8},
    "rslora": {"lora_alpha": 3, "use_rslora": True},
    "patterns": {
        "rank_pattern": {"to_q": 2, "0.mlp.fc1": 6},
        "alpha_pattern": {"to_q": 7, r".*attn2\.to_v": 1, "layers.1.mlp.fc2": 3},
    },
    "dora": {"use_dora": True},
    "dora and rslora": {"use_dora": True, "use_rslora": True, "lora_alpha": 3},
    "whole modules": {"modules_to_save": ["conv_out", "final_layer_norm"]},
}


@pytest.mark.parametrize("name", LORAS)
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_lora(component, name, tmp_path):
    targets = IN_UNET if component == "unet" else IN_TEXT
    check(component, LoraConfig(r=4, target_modules=targets, **LORAS[name]), tmp_path, 12)


def test_lora_with_a_bias(tmp_path):
    check("text_encoder", LoraConfig(r=4, lora_alpha=3, target_modules=IN_TEXT, lora_bias=True), tmp_path, 24)


def test_lora_of_embeddings(tmp_path):
    targets = ["token_embedding", "q_proj"]
    check("text_encoder", LoraConfig(r=4, lora_alpha=3, target_modules=targets), tmp_path, 3)


def test_a_file_without_its_config_says_that_alpha_is_not_known(tmp_path):
    check("text_encoder", LoraConfig(r=4, lora_alpha=4, target_modules=IN_TEXT), tmp_path, 12)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.warns(MlxdiffWarning, match=r"is without PEFT's adapter_config.json, so its alpha is not known"):
        assert read_adapter(tmp_path).layers[0].numbers == {}


@pytest.mark.parametrize("effective", [False, True])
def test_loha(effective, tmp_path):
    config = LoHaConfig(r=3, alpha=5, target_modules=IN_UNET, use_effective_conv2d=effective, rank_pattern={"to_q": 2})
    check("unet", config, tmp_path, 30)
    assert any("hada_t1" in layer.parts for layer in read_adapter(tmp_path).layers) == effective


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"r": 8}, {"lokr_w1", "lokr_w2"}),
        ({"r": 1}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}),
        ({"r": 1, "decompose_both": True}, {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"}),
        ({"r": 1, "use_effective_conv2d": True}, {"lokr_w1", "lokr_t2", "lokr_w2_a", "lokr_w2_b"}),
    ],
    ids=["whole", "decomposed", "both", "tucker"],
)
def test_lokr(changes, parts, tmp_path):
    check("unet", LoKrConfig(alpha=5, target_modules=IN_UNET, **changes), tmp_path, 30)
    assert parts in [set(layer.parts) for layer in read_adapter(tmp_path).layers]


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_ia3(component, tmp_path):
    targets = IN_UNET if component == "unet" else IN_TEXT
    feedforward = ["ff.net.2", "conv2"] if component == "unet" else ["fc2"]
    check(component, IA3Config(target_modules=targets, feedforward_modules=feedforward), tmp_path, 12)
