"""Files of LoRAs that PEFT and diffusers write or read, against the weights that they merge: every family."""

from __future__ import annotations

from pathlib import Path

import adapter_oracle as oracle
import pytest
import tiny
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import save_file

from mlxdiff.adapters.names import original_names

# What PEFT and transformers warn of in what they do themselves.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("While injecting", "The following rank_pattern", "The following alpha_pattern", "`is_gradient_check")
]

LIMIT = 1e-6
IN_UNET = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv"]
IN_TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
FAMILIES = ("sd15", "sd21", "sdxl")


def make(family: str):
    torch.manual_seed(0)
    return tiny.PIPELINES[family]()


def kohya_name(component: str, name: str, *, numbered: bool) -> str:
    """As sd-scripts names a module; SD 1.x and 2.x have one text encoder, which has no number."""
    if component == "unet":
        return "lora_unet_" + name.replace(".", "_")
    number = {"text_encoder": "1", "text_encoder_2": "2"}[component] if numbered else ""
    inner = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
    return f"lora_te{number}_" + inner.replace(".", "_")


def kohya_file(pipe, path: Path, rank: int = 3, alpha: float | None = 1.5, names=lambda name: name) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for component, name, layer in oracle.layers_of(pipe):
        if name.startswith(("text_projection", "time_embedding", "add_embedding", "conv_in", "conv_out")):
            continue  # which diffusers does not read
        key = names(kohya_name(component, name, numbered="text_encoder_2" in oracle.networks(pipe)))
        shape = layer.weight.shape
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, *shape[1:], generator=generator)
        tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_kohyas_names(family, alpha, tmp_path):
    pipe = make(family)
    before = oracle.state_of(pipe)
    path = tmp_path / "style.safetensors"
    kohya_file(pipe, path, alpha=alpha)
    error, changed = oracle.worst(oracle.merged(path, before), diffusers_merges(family, path), before)
    assert error < LIMIT
    assert changed > 80


def test_kohyas_names_for_sdxl(tmp_path):
    """The original implementation's names, which sd-scripts has for SDXL; diffusers maps them in its own way."""
    pipe = make("sdxl")
    before = oracle.state_of(pipe)
    original = original_names(name for name, _ in pipe.unet.named_modules() if name)
    table = {kohya_name("unet", name, numbered=True): kohya_name("unet", original[name], numbered=True)
             for name in original}  # fmt: skip
    path = tmp_path / "style.safetensors"
    kohya_file(pipe, path, names=lambda name: table.get(name, name))
    with safe_open(path, "pt") as file:
        assert any(key.startswith("lora_unet_input_blocks_3_1_transformer_blocks_1_") for key in file.keys())  # noqa: SIM118
        assert not any("down_blocks" in key for key in file.keys())  # noqa: SIM118
    error, changed = oracle.worst(oracle.merged(path, before), diffusers_merges("sdxl", path), before)
    assert error < LIMIT
    assert changed > 80


def inject(module: torch.nn.Module, config: LoraConfig) -> dict[str, torch.Tensor]:
    """Puts a random LoRA into a module and returns its weights, in PEFT's names without an adapter's name."""
    inject_adapter_in_model(config, module)
    oracle.randomize(module.named_parameters(), lambda name: ".lora_" in name)
    return {k.replace(".default", ""): v for k, v in module.state_dict().items() if ".lora_" in k}


def diffusers_merges(family: str, path: Path) -> oracle.State:
    """The weights of a pipeline that diffusers has merged a file into."""
    pipe = make(family)
    pipe.load_lora_weights(path)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return oracle.state_of(pipe)


@pytest.mark.parametrize("says_alpha", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_names(family, says_alpha, tmp_path):
    pipe = make(family)
    before = oracle.state_of(pipe)
    layers, about = {}, {}
    for component, module in oracle.networks(pipe).items():
        # Its training scripts convert names of attention alone; its loader ignores them beside others.
        targets = IN_TEXT if component != "unet" else IN_UNET if says_alpha else IN_UNET[:4]
        config = LoraConfig(r=4, lora_alpha=2 if says_alpha else 4, target_modules=targets)
        weights = inject(module, config)
        is_converted = component != "unet" or not says_alpha
        layers[f"{component}_lora_layers"] = convert_state_dict_to_diffusers(weights) if is_converted else weights
        if says_alpha:
            about[f"{component}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(tmp_path, **layers, **about)
    error, changed = oracle.worst(oracle.merged(tmp_path, before), diffusers_merges(family, tmp_path), before)
    assert error < LIMIT
    assert changed > 40


def as_old_names(key: str) -> str:
    """diffusers' before 0.17: weights in attention's processors."""
    key = key.replace(".to_out.0.lora", ".to_out.lora")
    for name in ("to_q", "to_k", "to_v", "to_out"):
        key = key.replace(f".{name}.lora.", f".processor.{name}_lora.")
    return key


def test_diffusers_old_names(tmp_path):
    pipe = make("sd15")
    before = oracle.state_of(pipe)
    new = inject(pipe.unet, LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    halves = {"lora_A.weight": "lora.down.weight", "lora_B.weight": "lora.up.weight"}
    old = {}
    for key, value in new.items():
        half = next(half for half in halves if key.endswith(half))
        old["unet." + as_old_names(key.replace(half, halves[half]))] = value
    assert any(".processor.to_out_lora.up.weight" in key for key in old)
    path, bare = tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "bare.safetensors"
    save_file(old, path)
    save_file({key.removeprefix("unet."): value for key, value in old.items()}, bare)
    theirs = diffusers_merges("sd15", path)
    for file in (path, bare):  # older still is a UNet's file that does not say so; diffusers lost the way to read it
        error, changed = oracle.worst(oracle.merged(file, before), theirs, before)
        assert error < LIMIT
        assert changed == 32
