"""Teaches a LoRA to draw the model's pictures in a few steps without guidance, from captions alone.

    python training/distill.py cut-out/ emoji-4steps.safetensors

The LoRA draws from noise as it will be used, and for each step learns where the model itself gets from there with
several smaller steps and guidance (progressive distillation, Salimans and Ho 2022, on the student's own path). Killed,
the same command goes on. Needs the extra `train`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import canvas
import denoising
import given
import loop
import lora
import sampling
import torch
import typer
from catalogue import Catalogue
from diffusers import DDIMScheduler
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from permissions import follow_umask
from safetensors.torch import save_file
from scenes import scene
from torch.nn import functional


def main(
    pictures: Annotated[Path, typer.Argument(help="A folder that prepare.py packages wrote.")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    model: Annotated[Path, typer.Option(help="A folder in the diffusers layout.")] = denoising.BUILT_IN,
    few: Annotated[int, typer.Option(min=1, help="Steps of the LoRA.")] = 4,
    each: Annotated[int, typer.Option(min=1, help="The model's steps for each of those.")] = 5,
    guidance: Annotated[float, typer.Option(help="The model's guidance; the LoRA needs none.")] = sampling.GUIDANCE,
    rank: Annotated[int, typer.Option(min=1, help="Rank of each change.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Batches in all.")] = 1500,
    minutes: Annotated[float, typer.Option(min=0, help="Stop this run then; the same command goes on.")] = math.inf,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions a batch.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-3,
    decay: Annotated[float, typer.Option(help="Fraction of the steps, at the end, in which it falls to 0.")] = 0.5,
    bf16: denoising.Bf16 = None,
    seed: Annotated[int, typer.Option(help="Of captions, noise and first values.")] = 0,
) -> None:
    """Distils MODEL, on captions of PICTURES, into a LoRA of its UNet and writes it to OUTPUT."""
    given.check_output(output)
    place = loop.start(seed)
    parts = denoising.load(model, bf16)
    predicted = parts.noises.config.prediction_type
    if predicted != "v_prediction":
        raise SystemExit(f"{model} predicts {predicted}, not v. Take a model with v_prediction.")
    _, catalogue = canvas.read(pictures)
    student = copy.deepcopy(parts.unet)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=lora.UNET_LAYERS), student)
    clock = loop.Clock(steps, minutes, warmup=50, decay=decay)
    settings = {"batch_size": batch_size, "seed": seed, "rank": rank, "few": few}
    rates: dict[str, float] = {"learning_rate": learning_rate, "weight_decay": 0.0, "keep": 0.98}
    training = loop.Training(place, student, output.with_suffix(".pt"), settings, clock, **rates)
    courses = Courses.of(parts, few, each)
    chance = random.Random(f"{seed} {place.rank} {clock.done}")
    training.run(losses(training, parts, courses, guidance, catalogue, batch_size, chance))
    if place.leads:
        training.average.swap()
        facts = {
            "ss_output_name": output.stem,
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(rank),
            "ss_network_alpha": str(rank),
            "modelspec.description": f"{few} steps of DDIM without guidance, {clock.done} batches of {batch_size}",
        }
        save_file(lora.kohya("lora_unet", get_peft_model_state_dict(student), rank), output, metadata=facts)
        follow_umask(output)
        place.say(f"{output}: {output.stat().st_size / 1e3:.0f} kB after {clock.done} steps")
    training.finish()


@dataclass(frozen=True)
class Courses:
    """The timesteps of the LoRA, each with those that the model takes on the way to the next.

    legs     for each of the LoRA's steps its timestep, the model's, and the next one's; -1 is the end
    signals  (1001,) of clean latents in noisy ones at a timestep; the last is the end's, which is clean
    """

    legs: list[list[int]]
    signals: torch.Tensor

    @classmethod
    def of(cls, parts: denoising.Parts, few: int, each: int) -> Courses:
        scheduler = DDIMScheduler.from_config(parts.noises.config, timestep_spacing="trailing")
        scheduler.set_timesteps(few * each)
        times = [*scheduler.timesteps.tolist(), -1]
        legs = [times[i * each : (i + 1) * each + 1] for i in range(few)]
        clean = torch.ones(1, device=parts.device)
        return cls(legs, torch.cat([parts.noises.alphas_cumprod.to(parts.device), clean]).sqrt())

    def _scales(self, time: int, after: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the latents and of v in a step of DDIM (Song et al. 2021, with v in place of the noise)."""
        signal, next_signal = self.signals[time], self.signals[after]
        noise, next_noise = ((1 - each.square()).clamp(min=0).sqrt() for each in (signal, next_signal))
        return next_signal * signal + next_noise * noise, next_noise * signal - next_signal * noise

    def step(self, latents: torch.Tensor, velocity: torch.Tensor, time: int, after: int) -> torch.Tensor:
        of_latents, of_velocity = self._scales(time, after)
        return of_latents * latents + of_velocity * velocity

    def needed(self, latents: torch.Tensor, reached: torch.Tensor, time: int, after: int) -> torch.Tensor:
        """The v with which one step gets there."""
        of_latents, of_velocity = self._scales(time, after)
        return (reached - of_latents * latents) / of_velocity


def losses(
    training: loop.Training,
    parts: denoising.Parts,
    courses: Courses,
    guidance: float,
    catalogue: Catalogue,
    batch_size: int,
    chance: random.Random,
) -> Callable[[], tuple[torch.Tensor, Callable[[], str]]]:
    """What Training.run calls: how far the LoRA's steps are from where the model gets, over a batch's whole way."""
    place, teacher = training.place, training.place.compiled(parts.unet)
    side, channels = parts.unet.config.sample_size, parts.unet.config.in_channels
    silence = _heard(parts, [""])
    seen: list[torch.Tensor] = []

    def compute() -> tuple[torch.Tensor, Callable[[], str]]:
        said = _heard(parts, [scene(catalogue, chance).caption for _ in range(batch_size)])
        both = torch.cat([silence.expand_as(said), said])
        latents = torch.randn((batch_size, channels, side, side), device=place.device)
        found = []
        with parts.autocast():
            for leg in courses.legs:
                with torch.no_grad():
                    reached = latents
                    for time, after in pairwise(leg):
                        without, with_ = _velocity(teacher, reached.repeat(2, 1, 1, 1), time, both).chunk(2)
                        reached = courses.step(reached, without + guidance * (with_ - without), time, after)
                    wanted = courses.needed(latents, reached, leg[0], leg[-1])
                velocity = _velocity(training.called, latents, leg[0], said)
                found.append(functional.mse_loss(velocity, wanted))
                latents = courses.step(latents, velocity.detach(), leg[0], leg[-1])
        loss = torch.stack(found)
        seen.append(loss.detach())
        return loss.log().mean(), tell  # the first step's is a hundred times the last's, which draws the edges

    def tell() -> str:
        means = torch.stack(seen).mean(0).tolist()
        seen.clear()
        return "loss " + " ".join(f"{mean:.4f}" for mean in means)

    return compute


@torch.no_grad()
def _heard(parts: denoising.Parts, said: list[str]) -> torch.Tensor:
    ids = parts.tokenizer(said, padding="max_length", truncation=True, max_length=77, return_tensors="pt")["input_ids"]
    return parts.text_encoder(ids.to(parts.device)).last_hidden_state


def _velocity(unet: Callable[..., Any], latents: torch.Tensor, time: int, context: torch.Tensor) -> torch.Tensor:
    times = torch.full((len(latents),), time, device=latents.device)
    return unet(latents.contiguous(memory_format=torch.channels_last), times, context, return_dict=False)[0].float()


if __name__ == "__main__":
    typer.run(main)
