"""Files that LyCORIS writes, of every form that it has, against the weights that it merges itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import adapter_oracle as oracle
import pytest
import tiny
import tiny_unets
import torch
from safetensors import safe_open

from mlxdiff.adapters import describe

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in what it imports
    from lycoris import LycorisNetwork, create_lycoris

LIMIT = 1e-6

# What LyCORIS is asked for, and what keys must then be there. Its merging (not its training) applies the scale of
# LoHa and LoKr twice, so there alpha is the rank; A1111's and ComfyUI's numbers test alpha (test_maths.py).
FORMS = {
    "locon": ({"linear_dim": 3, "linear_alpha": 1.5}, "lora_up.weight"),
    "locon tucker": ({"linear_dim": 3, "linear_alpha": 1.5, "use_tucker": True}, "lora_mid.weight"),
    "rs-lora": ({"linear_dim": 3, "linear_alpha": 1.5, "rs_lora": True}, "lora_up.weight"),
    "dora rows": ({"dora_wd": True}, "dora_scale"),
    "dora columns": ({"dora_wd": True, "wd_on_output": False}, "dora_scale"),
    "loha": ({"algo": "loha"}, "hada_w1_a"),
    "loha tucker": ({"algo": "loha", "use_tucker": True}, "hada_t1"),
    "loha dora": ({"algo": "loha", "dora_wd": True}, "dora_scale"),
    "lokr": ({"algo": "lokr", "factor": 2}, "lokr_w2_a"),
    "lokr both": ({"algo": "lokr", "linear_dim": 1, "linear_alpha": 1, "decompose_both": True}, "lokr_w1_a"),
    "lokr whole": ({"algo": "lokr", "full_matrix": True}, "lokr_w2"),
    "lokr tucker": ({"algo": "lokr", "factor": 2, "use_tucker": True}, "lokr_t2"),
    "lokr dora": ({"algo": "lokr", "factor": 4, "dora_wd": True}, "dora_scale"),
    "norms": ({"train_norm": True}, "b_norm"),
    "ia3": ({"algo": "ia3"}, "on_input"),
    "glora": ({"algo": "glora", "linear_alpha": 2}, "a1.weight"),
    "oft": ({"algo": "diag-oft"}, "oft_blocks"),
    "oft constrained": ({"algo": "diag-oft", "constraint": 0.01, "rescaled": True}, "rescale"),
}


# What `mlxdiff info` calls them.
CALLED = {"locon": "LoCon", "loha": "LoHa", "lokr": "LoKr", "norms": "difference", "ia3": "IA3", "glora": "GLoRA"}
CALLED |= {"oft": "OFT"}


class Pipe:
    """A UNet of one level and a text encoder."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        one = tiny_unets.CONFIGS["one-level"]
        unet = tiny.unet(**one, norm_num_groups=4, cross_attention_dim=24)
        text = tiny.CLIPTextModel(tiny.text_config(num_hidden_layers=1, hidden_size=16, intermediate_size=32))
        self.components = {"unet": unet, "text_encoder": text}
        self.unet, self.text_encoder = unet, text


@pytest.fixture(scope="module")
def pipe():
    return Pipe()


def written(module: torch.nn.Module, path: Path, **options) -> LycorisNetwork:
    """A network of random changes to a module, and its file."""
    network = create_lycoris(module, 1.0, **{"linear_dim": 4, "linear_alpha": 4, "algo": "lora", **options})
    for layer in network.loras:  # which it does itself for training, with the layers in the module's place
        network.add_module(layer.lora_name, layer)
    oracle.randomize(network.named_parameters(), lambda _: True)
    network.save_weights(str(path), None, None)
    return network


@pytest.fixture(autouse=True)
def kept(pipe):
    """The weights stay as they were."""
    before = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in oracle.networks(pipe).items()}
    yield
    for name, module in oracle.networks(pipe).items():
        module.load_state_dict(before[name])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMS)
def test_lycoris(name, pipe, tmp_path):
    before = oracle.state_of(pipe)
    options, key = FORMS[name]
    called = next((word for start, word in CALLED.items() if name.startswith(start)), "LoRA")
    called = f"{called} with DoRA" if "dora" in name else called
    path = tmp_path / "style.safetensors"
    network = written(pipe.unet, path, **options)
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
    assert any(found.endswith(f".{key}") for found in keys), sorted({found.partition(".")[2] for found in keys})
    assert called in describe(path)["adapter"]
    network.merge_to(1.0)
    error, changed = oracle.worst(oracle.merged(path, before), oracle.state_of(pipe), before)
    assert error < LIMIT
    assert changed > 30


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {"algo": "loha", "linear_dim": 2},
        {"algo": "loha", "linear_dim": 2, "use_tucker": True},
        {"algo": "lokr", "linear_dim": 1, "factor": 4},
        {"algo": "lokr", "linear_dim": 1, "factor": 4, "use_tucker": True},
        {"algo": "lokr", "linear_dim": 1, "factor": 2, "decompose_both": True},
        {"algo": "lokr", "linear_dim": 1},
    ],
    ids=["loha", "loha tucker", "lokr", "lokr tucker", "lokr both", "lokr tall and wide"],
)
def test_products_are_of_low_rank_too(options, pipe, tmp_path):
    """So that they can run beside quantized layers."""
    written(pipe.unet, tmp_path / "style.safetensors", **options)
    assert oracle.check_low_ranks(tmp_path / "style.safetensors", oracle.state_of(pipe)) > 25


@pytest.mark.filterwarnings("ignore")
def test_text_encoder_of_lycoris(pipe, tmp_path):
    before = oracle.state_of(pipe)
    path = tmp_path / "style.safetensors"
    network = written(pipe.text_encoder, path)
    network.merge_to(1.0)
    error, changed = oracle.worst(oracle.merged(path, before), oracle.state_of(pipe), before)
    assert error < LIMIT
    assert changed == 6
    assert LycorisNetwork.LORA_PREFIX == "lycoris"


@pytest.mark.filterwarnings("ignore")
def test_full_differences(pipe, tmp_path):
    """Trained in the module's place: what LyCORIS saves is its weight less the one before."""
    before = oracle.state_of(pipe)
    network = create_lycoris(pipe.unet, 1.0, algo="full")
    network.apply_to()
    with torch.no_grad():
        for value in network.parameters():
            value += torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "style.safetensors"
    network.save_weights(str(path), None, None)
    after = {name: dict(values) for name, values in before.items()}
    names = {f"lycoris_{name.replace('.', '_')}": name for name, _ in pipe.unet.named_modules()}
    for layer in network.loras:
        weight, bias = layer.get_merged_weight()
        after["unet"][f"{names[layer.lora_name]}.weight"] = weight.detach().numpy()
        if bias is not None:
            after["unet"][f"{names[layer.lora_name]}.bias"] = bias.detach().numpy()
    network.restore()
    error, changed = oracle.worst(oracle.merged(path, before), after, before)
    assert error < LIMIT
    assert changed > 50
