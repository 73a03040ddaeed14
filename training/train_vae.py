"""Trains the VAE of the built-in model on scenes of cut-out pictures.

    python training/train_vae.py cut-out/ work/
    torchrun --nproc-per-node 2 training/train_vae.py cut-out/ work/

Killed, the same command goes on from the last state in WORK. Needs the extra `train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import canvas
import given
import loop
import torch
import typer
from denoising import BUILT_IN
from diffusers import AutoencoderKL
from permissions import follow_umask
from torch import nn
from torch.nn import functional
from transformers import CLIPTokenizer


def main(
    pictures: Annotated[Path, typer.Argument(help="A folder that prepare.py packages wrote.")],
    work: Annotated[Path, typer.Argument(help="The folder of states and of what comes out, WORK/vae.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches in all.")] = 12000,
    minutes: Annotated[float, typer.Option(min=0, help="Stop this run then; the same command goes on.")] = math.inf,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a batch, of each GPU.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-3,
    decay: Annotated[float, typer.Option(help="Fraction of the steps, at the end, in which it falls to 0.")] = 0.4,
    kl: Annotated[float, typer.Option(help="Weight of the latents' divergence from a normal distribution.")] = 2e-4,
    init: Annotated[Path | None, typer.Option(help="A checkpoint whose VAE is trained on, not a new one.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make up scenes.")] = 4,
    seed: Annotated[int, typer.Option(help="Of scenes, noise and first values.")] = 0,
) -> None:
    """Trains the VAE on PICTURES and writes it to WORK/vae."""
    given.make(work)
    place = loop.start(seed)
    textures, catalogue = canvas.read(pictures)
    easel = canvas.Canvas(textures, place.device)
    vae = untrained() if init is None else given.part(AutoencoderKL, init / "vae", dtype=torch.float32)
    rebuild = Rebuild(vae).to(place.device, memory_format=torch.channels_last).train()
    clock = loop.Clock(steps, minutes, warmup=200, decay=decay)
    settings = {"batch_size": batch_size, "kl": kl, "seed": seed, "world": place.world}
    rates: dict[str, float] = {"learning_rate": learning_rate, "weight_decay": 1e-3, "keep": 0.999}
    training = loop.Training(place, rebuild, work / "vae.pt", settings, clock, **rates)
    tokenizer = CLIPTokenizer.from_pretrained(BUILT_IN / "tokenizer")
    scenes = loop.batches(catalogue, tokenizer, batch_size, f"{seed} {place.rank} {clock.done}", workers)

    def compute() -> tuple[torch.Tensor, Callable[[], str]]:
        real = _batch(easel, scenes, place).contiguous(memory_format=torch.channels_last)
        real = torch.where(torch.rand(len(real), 1, 1, 1, device=place.device) < 0.5, real.flip(3), real)
        rebuilt, mean, logvar = training.called(real)
        loss = losses(rebuilt.float(), real, mean, logvar, kl)
        return loss, lambda: f"loss {loss.item():.4f}, {decibels(rebuilt.float(), real).mean().item():.1f} dB"

    training.run(compute)
    if place.leads:
        training.average.swap()
        vae.eval()
        normalize(vae, easel, scenes, place)
        vae.save_pretrained(work / "vae")
        follow_umask(work / "vae")
        place.say(f"{work / 'vae'}: {peak(vae, easel, scenes, place):.2f} dB on other scenes")
    training.finish()


def untrained() -> AutoencoderKL:
    """One of the built-in model's shape, its weights at random."""
    return AutoencoderKL.from_config(AutoencoderKL.load_config(BUILT_IN / "vae"))


class Rebuild(nn.Module):
    """Pictures -> (pictures from a sample of their latents, the latents' mean, their log variance)."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        moments = self.vae.quant_conv(self.vae.encoder(pictures))
        mean, logvar = moments.float().chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.vae.decoder(self.vae.post_quant_conv(latents)), mean, logvar


def losses(
    rebuilt: torch.Tensor, real: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor, kl: float
) -> torch.Tensor:
    """Absolute and squared differences of pixels and of neighbours' differences, which keep edges sharp."""
    total = functional.l1_loss(rebuilt, real) + 2 * functional.mse_loss(rebuilt, real)
    for axis in (2, 3):
        total = total + 0.5 * functional.l1_loss(rebuilt.diff(dim=axis), real.diff(dim=axis))
    return total + kl * 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


@torch.no_grad()
def normalize(
    vae: AutoencoderKL, easel: canvas.Canvas, scenes: Iterator[loop.Batch], place: loop.Place, rounds: int = 8
) -> None:
    """Puts each latent channel's mean and deviation into the 1x1 convolutions, so that latents have 0 and 1."""
    found = torch.cat([vae.encode(_batch(easel, scenes, place)).latent_dist.mean for _ in range(rounds)])
    mean, deviation = found.mean((0, 2, 3)), found.std((0, 2, 3))
    count = len(mean)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= deviation.view(1, -1, 1, 1)
    inner.bias[:count] = (inner.bias[:count] - mean) / deviation
    inner.weight[:count] /= deviation.view(-1, 1, 1, 1)
    inner.bias[count:] -= 2 * deviation.log()
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def peak(
    vae: AutoencoderKL, easel: canvas.Canvas, scenes: Iterator[loop.Batch], place: loop.Place, rounds: int = 8
) -> float:
    """The mean over pictures of the peak signal-to-noise ratio, in dB, of what comes back from the latents' mean."""
    ratios = []
    for _ in range(rounds):
        real = _batch(easel, scenes, place)
        back = vae.decode(vae.encode(real).latent_dist.mean).sample.clamp(-1, 1)
        ratios.append(decibels(back, real))
    return torch.cat(ratios).mean().item()


def decibels(rebuilt: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The peak signal-to-noise ratio of each picture (N, 3, h, w) in [-1, 1]."""
    return -10 * torch.log10(((rebuilt - real) / 2).square().mean((1, 2, 3)))


def _batch(easel: canvas.Canvas, scenes: Iterator[loop.Batch], place: loop.Place) -> torch.Tensor:
    return easel.draw(next(scenes)[0].to(place.device)) * 2 - 1


if __name__ == "__main__":
    typer.run(main)
