"""What both trainers share: the model's parts in torch, its loss, and a loop over random batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import given
import torch
import typer
from dataset import Dataset
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

BUILT_IN = Path(__file__).parents[1] / "src" / "mlxdiff" / "assets" / "emoji"

Bf16 = Annotated[
    bool | None, typer.Option("--bf16/--fp32", help="Compute so; bf16 on a GPU, fp32 on a CPU, unless given.")
]


@dataclass(frozen=True)
class Parts:
    """A checkpoint in diffusers' classes, on a device, with every weight frozen."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    noises: DDPMScheduler
    device: torch.device
    half: bool

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Products in bf16 where that was asked for; on a CPU plain attention, whose gradients are faster there."""
        fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
        plain = [SDPBackend.MATH]
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.half),
            sdpa_kernel(plain if self.device.type == "cpu" else fused + plain),
        ):
            yield


def load(model: Path, half: bool | None = None) -> Parts:
    """Reads a folder in the diffusers layout; on a GPU if there is one.

    half  computes in bf16; None does so on a GPU
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    networks = [
        given.part(kind, model / name, dtype=torch.float32).requires_grad_(False).to(device).eval()
        for name, kind in kinds.items()
    ]
    noises = given.part(DDPMScheduler, model / "scheduler")
    tokenizer = given.part(CLIPTokenizer, model / "tokenizer")
    half = device.type == "cuda" if half is None else half
    return Parts(*networks, tokenizer, noises, device, half)


Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]
"""(noisy latents, timesteps, token ids, controls) -> the UNet's output."""


def train(
    parts: Parts,
    data: Dataset,
    predict: Predict,
    trained: Iterable[torch.nn.Parameter],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    untold: float = 0.1,
    noisier: int = 1,
) -> float:
    """Trains the parameters by the checkpoint's own objective (Ho et al. 2020; Salimans and Ho 2022 for v).

    untold   fraction of the captions that are left out, so that guidance keeps working
    noisier  a timestep is the noisiest of so many random ones

    AdamW, with a short warm-up and a cosine to zero. Returns the mean loss of the last tenth.
    """
    generator = torch.Generator(parts.device).manual_seed(seed)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    began, recent = time.monotonic(), []
    silence = parts.tokenizer("", padding="max_length", max_length=77, return_tensors="pt")["input_ids"].to(
        parts.device
    )

    def heard(tokens: torch.Tensor) -> torch.Tensor:
        silent = torch.rand((len(tokens), 1), generator=generator, device=parts.device) < untold
        return torch.where(silent, silence, tokens)

    for step in range(steps):
        latents, tokens, controls = data.batch(batch_size, generator)
        loss = _loss(parts, latents, lambda *noised: predict(*noised, heard(tokens), controls), generator, noisier)  # noqa: B023
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= steps - max(1, steps // 10):
            recent.append(loss.detach())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step + 1} of {steps}, loss {loss.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)
    return torch.stack(recent).mean().item()


def _loss(
    parts: Parts,
    latents: torch.Tensor,
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    generator: torch.Generator,
    noisier: int,
) -> torch.Tensor:
    """The mean squared error of the output at random timesteps."""
    device = parts.device
    noise = torch.randn(latents.shape, generator=generator, device=device)
    n_times = parts.noises.config.num_train_timesteps
    times = torch.randint(n_times, (noisier, len(latents)), generator=generator, device=device).amax(0)
    noisy = parts.noises.add_noise(latents, noise, times)
    with parts.autocast():
        output = predict(noisy, times)
    kind = parts.noises.config.prediction_type
    if kind == "v_prediction":
        target = parts.noises.get_velocity(latents, noise, times)
    else:
        target = noise if kind == "epsilon" else latents
    return functional.mse_loss(output.float(), target)
