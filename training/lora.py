"""Trains a LoRA, with convolutions (LoCon), on a folder of pictures with captions: a style in minutes.

    python training/lora.py pixel-art.safetensors pixel-art/ --trigger "pixel art"

The file has kohya's names, which every program reads. Needs the extra `train`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import dataset
import denoising
import given
import torch
import typer
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from permissions import follow_umask
from safetensors.torch import save_file

UNET_LAYERS = r".*\.(to_q|to_k|to_v|to_out\.0|proj|ff\.net\.2|proj_in|proj_out|conv1|conv2|conv_shortcut|conv)"
TEXT_LAYERS = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


def main(
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    pictures: Annotated[list[Path], typer.Argument(help="Folders with metadata.jsonl (see dataset.py).")],
    model: Annotated[Path, typer.Option(help="A folder in the diffusers layout.")] = denoising.BUILT_IN,
    trigger: Annotated[str, typer.Option(help="Words that all captions have, kept in the file.")] = "",
    rank: Annotated[int, typer.Option(min=1, help="Rank of each change.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Batches.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a batch.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 2e-3,
    bf16: denoising.Bf16 = None,
    seed: Annotated[int, typer.Option(help="Of batches, noise and first values.")] = 0,
) -> None:
    """Trains a LoRA on PICTURES and writes it to OUTPUT."""
    given.check_output(output)
    torch.manual_seed(seed)
    parts = denoising.load(model, bf16)
    with parts.autocast():
        data = dataset.read(pictures, parts.vae, parts.tokenizer, parts.device)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=UNET_LAYERS), parts.unet)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TEXT_LAYERS), parts.text_encoder)
    trained = [value for net in (parts.unet, parts.text_encoder) for value in net.parameters() if value.requires_grad]

    def predict(noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor, _: object) -> torch.Tensor:
        return parts.unet(noisy, times, parts.text_encoder(tokens).last_hidden_state).sample

    sizes = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    loss = denoising.train(parts, data, predict, trained, **sizes)
    tensors = kohya("lora_unet", get_peft_model_state_dict(parts.unet), rank)
    tensors |= kohya("lora_te", get_peft_model_state_dict(parts.text_encoder), rank)
    facts = {
        "ss_output_name": output.stem,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_network_args": json.dumps({"conv_dim": rank, "conv_alpha": rank}),
        "modelspec.trigger_phrase": trigger,
        "modelspec.description": f"{len(data.latents)} pictures, {steps} steps of {batch_size}, loss {loss:.4f}",
    }
    save_file(tensors, output, metadata=facts)
    follow_umask(output)
    print(f"{output}: {output.stat().st_size / 1e3:.0f} kB, {len(tensors) // 3} layers, loss {loss:.4f}")


def kohya(prefix: str, adapter: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """PEFT's `layer.lora_A.weight` as kohya's `prefix_layer.lora_down.weight`, each layer with an alpha; fp16."""
    found: dict[str, torch.Tensor] = {}
    for key, tensor in adapter.items():
        path, _, end = key.removeprefix("base_model.model.").partition(".lora_")
        name = f"{prefix}_{path.replace('.', '_')}"
        found[f"{name}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = tensor.half().contiguous().cpu()
        found[f"{name}.alpha"] = torch.tensor(float(rank)).half()
    return found


if __name__ == "__main__":
    typer.run(main)
