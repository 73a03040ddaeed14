"""Trains the UNet and the text encoder of the built-in model together, on the latents of scenes and their captions.

    python training/train_unet.py cut-out/ work/
    torchrun --nproc-per-node 2 training/train_unet.py cut-out/ work/

WORK/vae comes from train_vae.py. Killed, the same command goes on from the last state in WORK. Needs the extra `train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import canvas
import denoising
import given
import loop
import sampling
import torch
import typer
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from permissions import follow_umask
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

REFRESHED_EVERY = 8  # steps between two batches of new scenes
PREVIEWS = (
    *sampling.TWELVE,
    "a dog face on a blue background",
    "a guitar, noto style",
    "a rocket, twemoji style",
    "an astronaut, flat style",
)


def main(
    pictures: Annotated[Path, typer.Argument(help="A folder that prepare.py packages wrote.")],
    work: Annotated[Path, typer.Argument(help="The folder with vae/, of states and of what comes out.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches in all.")] = 25000,
    minutes: Annotated[float, typer.Option(min=0, help="Stop this run then; the same command goes on.")] = math.inf,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a batch, of each GPU.")] = 512,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-3,
    decay: Annotated[float, typer.Option(help="Fraction of the steps, at the end, in which it falls to 0.")] = 0.3,
    untold: Annotated[float, typer.Option(help="Fraction of captions left out, so that guidance works.")] = 0.1,
    pool: Annotated[int, typer.Option(min=1, help="Scenes whose latents are kept and drawn from.")] = 150_000,
    fresh: Annotated[float, typer.Option(help="New scenes as a fraction of those trained on.")] = 0.2,
    init: Annotated[Path | None, typer.Option(help="A checkpoint that is trained on, not new weights.")] = None,
    preview: Annotated[int, typer.Option(min=0, help="Steps of WORK/preview.png's pictures; 0 draws none.")] = 25,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make up scenes.")] = 8,
    seed: Annotated[int, typer.Option(help="Of scenes, noise and first values.")] = 0,
) -> None:
    """Trains on PICTURES and writes WORK/unet and WORK/text_encoder."""
    given.make(work)
    place = loop.start(seed)
    textures, catalogue = canvas.read(pictures)
    tokenizer = CLIPTokenizer.from_pretrained(denoising.BUILT_IN / "tokenizer")
    noises = DDPMScheduler.from_pretrained(denoising.BUILT_IN / "scheduler")
    if not (work / "vae" / "config.json").is_file():
        raise SystemExit(f"There is no {work / 'vae'}. Run training/train_vae.py first.")
    vae = given.part(AutoencoderKL, work / "vae").requires_grad_(False).eval().to(place.device)
    predict = Predict(*(untrained() if init is None else read(init)), noises)
    predict = predict.to(place.device, memory_format=torch.channels_last).train()
    clock = loop.Clock(steps, minutes, warmup=500, decay=decay)
    settings = {"batch_size": batch_size, "seed": seed, "world": place.world}
    rates: dict[str, float] = {"learning_rate": learning_rate, "weight_decay": 1e-2, "keep": 0.9995}
    training = loop.Training(place, predict, work / "unet.pt", settings, clock, **rates)

    each = min(1024, pool)
    plans = loop.batches(catalogue, tokenizer, each, f"{seed} {place.rank} {clock.done}", workers)
    source = latents(canvas.Canvas(textures, place.device), vae, plans, place)
    kept = Pool(pool, source, predict.unet.config.sample_size, place.device)
    while kept.count < min(pool, 64 * each):
        kept.add()
    place.say(f"{len(textures)} pictures, {kept.count} scenes after {clock.seconds:.0f} s")
    training.run(losses(training, kept, tokenizer, noises, batch_size, untold, fresh * batch_size / each, seed))

    if place.leads:
        training.average.swap()
        predict.eval()
        predict.unet.save_pretrained(work / "unet")
        predict.text_encoder.save_pretrained(work / "text_encoder")
        for name in ("unet", "text_encoder"):
            follow_umask(work / name)
        parts = denoising.Parts(
            predict.unet, vae, predict.text_encoder, tokenizer, noises, place.device, place.device.type == "cuda"
        )
        if preview:
            sampling.sheet(sampling.sample(parts, PREVIEWS, steps=preview), 4).save(work / "preview.png")
        place.say(f"{work}: unet and text_encoder after {clock.done} steps")
    training.finish()


def losses(
    training: loop.Training,
    kept: Pool,
    tokenizer: CLIPTokenizer,
    noises: DDPMScheduler,
    batch_size: int,
    untold: float,
    added_a_step: float,
    seed: int,
) -> Callable[[], tuple[torch.Tensor, Callable[[], str]]]:
    """What Training.run calls: the loss of scenes from the pool, into which new ones come now and then."""
    device, clock = training.place.device, training.clock
    silence = torch.tensor(tokenizer("", padding="max_length", max_length=77)["input_ids"], device=device)
    chance = torch.Generator(device).manual_seed(seed + 1000 * training.place.rank + clock.done)
    n_times = noises.config.num_train_timesteps
    seen: list[torch.Tensor] = []
    due = 0.0

    def compute() -> tuple[torch.Tensor, Callable[[], str]]:
        nonlocal due
        if clock.done % REFRESHED_EVERY == 0:
            due += REFRESHED_EVERY * added_a_step
            while due >= 1:
                kept.add()
                due -= 1
        clean, tokens = kept.draw(batch_size, chance)
        tokens = torch.where(torch.rand(batch_size, 1, generator=chance, device=device) < untold, silence, tokens)
        noise = torch.randn(clean.shape, generator=chance, device=device)
        spread = torch.rand(1, generator=chance, device=device) + torch.arange(batch_size, device=device)
        times = (spread / batch_size * n_times).long()  # evenly, so that the loss varies less
        loss = training.called(clean, noise, times, tokens)
        seen.append(loss.detach())
        return loss, tell

    def tell() -> str:
        mean = torch.stack(seen).mean().item()
        seen.clear()
        return f"loss {mean:.4f}, {kept.count} scenes"

    return compute


def untrained() -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """A text encoder and a UNet of the built-in model's shape, their weights at random."""
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(denoising.BUILT_IN / "text_encoder"))
    return text_encoder.float(), UNet2DConditionModel.from_config(
        UNet2DConditionModel.load_config(denoising.BUILT_IN / "unet")
    )


def read(model: Path) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Those of a checkpoint."""
    return (
        given.part(CLIPTextModel, model / "text_encoder", dtype=torch.float32),
        given.part(UNet2DConditionModel, model / "unet", dtype=torch.float32),
    )


class Predict(nn.Module):
    """Clean latents, noise, timesteps and token ids -> the mean squared error of what the scheduler has predicted."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, noises: DDPMScheduler) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet
        signal = noises.alphas_cumprod.float()
        self.register_buffer("signal", signal.sqrt(), persistent=False)
        self.register_buffer("noise", (1 - signal).sqrt(), persistent=False)

    def forward(
        self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        signal, spread = (scale[times].view(-1, 1, 1, 1) for scale in (self.signal, self.noise))
        context = self.text_encoder(tokens).last_hidden_state
        noisy = (signal * clean + spread * noise).contiguous(memory_format=torch.channels_last)
        velocity = self.unet(noisy, times, context).sample
        return functional.mse_loss(velocity.float(), signal * noise - spread * clean)


class Pool:
    """Scenes' latents and tokens in a ring: new ones replace the oldest."""

    def __init__(
        self, size: int, source: Iterator[tuple[torch.Tensor, torch.Tensor]], side: int, device: torch.device
    ) -> None:
        self.latents = torch.zeros((size, 4, side, side), dtype=torch.float16, device=device)
        self.tokens = torch.zeros((size, 77), dtype=torch.int64, device=device)
        self.source, self.count, self.next = source, 0, 0

    def add(self) -> None:
        """A batch of the source takes the place of the oldest scenes."""
        found, tokens = next(self.source)
        size = len(self.latents)
        places = (torch.arange(len(found), device=found.device) + self.next) % size
        self.latents[places], self.tokens[places] = found.half(), tokens
        self.next = (self.next + len(found)) % size
        self.count = min(size, self.count + len(found))

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(self.count, (size,), generator=generator, device=self.latents.device)
        return self.latents[rows].float(), self.tokens[rows]


def latents(
    easel: canvas.Canvas, vae: AutoencoderKL, plans: Iterator[loop.Batch], place: loop.Place
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of scenes' latents, in the scale that the UNet sees, and their tokens."""
    encoder = vae.to(memory_format=torch.channels_last)
    encode = torch.compile(encoder.encoder) if place.device.type == "cuda" else encoder.encoder
    for plan, tokens in plans:
        drawn = easel.draw(plan.to(place.device)).contiguous(memory_format=torch.channels_last) * 2 - 1
        with torch.no_grad(), place.autocast():
            mean = encoder.quant_conv(encode(drawn)).float().chunk(2, 1)[0]
        yield mean * vae.config.scaling_factor, tokens.to(place.device)


if __name__ == "__main__":
    typer.run(main)
