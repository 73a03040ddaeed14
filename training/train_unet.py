"""Trains the UNet and the text encoder of the built-in model together, on the latents of scenes and their captions.

    python training/train_unet.py cut-out/ work/
    torchrun --nproc-per-node 2 training/train_unet.py cut-out/ work/

WORK/vae comes from train_vae.py. Killed, the same command goes on from the last state in WORK. Needs the extra `train`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import canvas
import denoising
import loop
import sampling
import torch
import typer
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SAVED_EVERY = 120  # seconds
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
    minutes: Annotated[float, typer.Option(min=0, help="Stop this run then; the same command goes on.")] = 1e9,
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
    place = loop.start(seed)
    settings = {"batch_size": batch_size, "seed": seed, "world": place.world}
    state = loop.resume(work / "unet.pt", settings, place.device)
    textures, catalogue = canvas.read(pictures)
    built_in = denoising.BUILT_IN
    tokenizer = CLIPTokenizer.from_pretrained(built_in / "tokenizer")
    vae = AutoencoderKL.from_pretrained(work / "vae").requires_grad_(False).eval().to(place.device)
    noises = DDPMScheduler.from_pretrained(built_in / "scheduler")
    text_encoder, unet = untrained() if init is None else read(init)
    predict = Predict(text_encoder, unet, noises)
    predict = predict.to(place.device, memory_format=torch.channels_last).train()
    average = loop.Average(predict, 0.9995)
    optimizer = torch.optim.AdamW(
        predict.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=place.device.type == "cuda"
    )
    clock = loop.Clock(steps, minutes, warmup=500, decay=decay, done=state["step"] if state else 0)
    if state:
        predict.load_state_dict(state["weights"])
        average.weights = state["average"]
        if state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
    called = place.wrapped(predict)
    batch = min(1024, pool)
    plans = loop.batches(catalogue, tokenizer, batch, f"{seed} {place.rank} {clock.done}", workers)
    source = latents(canvas.Canvas(textures, place.device), vae, plans, place)
    kept = Pool(pool, source, unet.config.sample_size, place.device)
    while kept.count < min(pool, 64 * batch):
        kept.add()
    silence = torch.tensor(tokenizer("", padding="max_length", max_length=77)["input_ids"], device=place.device)
    noise = torch.Generator(place.device).manual_seed(seed + 1000 * place.rank + clock.done)
    place.say(f"{len(textures)} pictures, {kept.count} scenes after {clock.seconds:.0f} s")

    def store() -> None:
        if place.leads:
            parts = {"weights": predict.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights}
            loop.save(work / "unet.pt", {"step": clock.done, "settings": settings, **parts})

    saved, seen, due = time.monotonic(), [], 0.0
    while place.shared(clock.goes_on()):
        if clock.done % REFRESHED_EVERY == 0:
            due += REFRESHED_EVERY * batch_size * fresh / batch
            while due >= 1:
                kept.add()
                due -= 1
        clean, tokens = kept.draw(batch_size, noise)
        tokens = torch.where(torch.rand(batch_size, 1, generator=noise, device=place.device) < untold, silence, tokens)
        added = torch.randn(clean.shape, generator=noise, device=place.device)
        spread = torch.rand(1, generator=noise, device=place.device) + torch.arange(batch_size, device=place.device)
        times = (spread / batch_size * noises.config.num_train_timesteps).long()  # evenly, so that the loss varies less
        with place.autocast():
            loss = called(clean, added, times, tokens)
        rate = place.shared(clock.rate())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(predict.parameters(), 1.0)
        optimizer.step()
        average.update(clock.done)
        clock.done += 1
        seen.append(loss.detach())
        if clock.tells():
            place.say(clock.line(f"loss {torch.stack(seen).mean().item():.4f}, {kept.count} scenes"))
            seen.clear()
        if time.monotonic() - saved > SAVED_EVERY:
            store()
            saved = time.monotonic()
    store()
    if place.leads:
        average.swap()
        predict.eval()
        unet.save_pretrained(work / "unet")
        predict.text_encoder.save_pretrained(work / "text_encoder")
        parts = denoising.Parts(unet, vae, predict.text_encoder, tokenizer, noises, place.device)
        if preview:
            sampling.sheet(sampling.sample(parts, PREVIEWS, steps=preview), 4).save(work / "preview.png")
        place.say(f"{work}: unet and text_encoder after {clock.done} steps")
    loop.finish(place)


def untrained() -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """A text encoder and a UNet of the built-in model's shape, their weights at random."""
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(denoising.BUILT_IN / "text_encoder"))
    return text_encoder.float(), UNet2DConditionModel.from_config(
        UNet2DConditionModel.load_config(denoising.BUILT_IN / "unet")
    )


def read(model: Path) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Those of a checkpoint."""
    return (
        CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32),
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
