"""Trains a ControlNet on pictures, captions and what it is shown, such as edges (Zhang et al. 2023).

    python training/controlnet.py emoji-edges/ moved/

Its mid block has no attention, which halves its size. Needs the extra `train`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import dataset
import denoising
import given
import torch
import typer
from diffusers import ControlNetModel
from permissions import follow_umask


def main(
    output: Annotated[Path, typer.Argument(help="The folder to write, in the diffusers layout.")],
    pictures: Annotated[list[Path], typer.Argument(help="Folders with metadata.jsonl (see dataset.py).")],
    model: Annotated[Path, typer.Option(help="A folder in the diffusers layout.")] = denoising.BUILT_IN,
    steps: Annotated[int, typer.Option(min=1, help="Batches.")] = 4000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a batch.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 3e-4,
    untold: Annotated[
        float, typer.Option(help="Fraction of captions left out: then only edges say what to draw.")
    ] = 0.5,
    noisier: Annotated[
        int, typer.Option(min=1, help="Take the noisiest of so many timesteps: it is there that edges matter.")
    ] = 2,
    bf16: denoising.Bf16 = None,
    seed: Annotated[int, typer.Option(help="Of batches, noise and first values.")] = 0,
) -> None:
    """Trains a ControlNet on PICTURES and writes it to OUTPUT."""
    given.make(output)
    torch.manual_seed(seed)
    parts = denoising.load(model, bf16)
    with parts.autocast():
        data = dataset.read(pictures, parts.vae, parts.tokenizer, parts.device)
    if data.controls is None:
        raise SystemExit("Some pictures have no conditioning_image. Run training/prepare.py edges on their folders.")
    control = small_control(parts.unet, data.controls.shape[-1] // data.latents.shape[-1]).to(parts.device).train()

    def predict(
        noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor, controls: torch.Tensor | None
    ) -> torch.Tensor:
        context = parts.text_encoder(tokens).last_hidden_state
        down, mid = control(noisy, times, context, controlnet_cond=controls, return_dict=False)
        return parts.unet(
            noisy, times, context, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample

    sizes: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    sizes |= {"untold": untold, "noisier": noisier}
    loss = denoising.train(parts, data, predict, control.parameters(), **sizes)
    control.half().save_pretrained(output)
    follow_umask(output)
    weights = output / "diffusion_pytorch_model.safetensors"
    print(f"{output}: {weights.stat().st_size / 1e6:.1f} MB, loss {loss:.4f}")


def small_control(unet: torch.nn.Module, factor: int) -> ControlNetModel:
    """A ControlNet that starts from the UNet's own weights, but for a mid block without attention.

    factor  pixels a latent cell spans; each level of the first layers halves the picture
    """
    levels = (16, 32, 64, 128)[: factor.bit_length()]
    whole = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=levels)
    small = ControlNetModel.from_config({**whole.config, "mid_block_type": "UNetMidBlock2D"})
    own = small.state_dict()
    fitting = {key: value for key, value in whole.state_dict().items() if key in own and own[key].shape == value.shape}
    small.load_state_dict(fitting, strict=False)
    return small


if __name__ == "__main__":
    typer.run(main)
