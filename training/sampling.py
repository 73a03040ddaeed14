"""Pictures from prompts in torch and diffusers, for previews and for evaluate.py: DDIM with guidance, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from denoising import Parts
from diffusers import DDIMScheduler
from PIL import Image

STEPS, GUIDANCE = 25, 1.5
TWELVE = (
    "a happy dog",
    "a robot",
    "a cat with sunglasses",
    "a car",
    "a spaceship",
    "a house",
    "a red apple",
    "three apples",
    "a blue bird on a yellow background",
    "a slice of pizza",
    "a tree",
    "a birthday cake",
)


@torch.no_grad()
def sample(
    parts: Parts,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 128,
) -> torch.Tensor:
    """(N, 3, H, W) in [0, 1], on the CPU."""
    device = parts.device
    shape = (len(prompts), 4, parts.unet.config.sample_size, parts.unet.config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    drawn = [
        _batch(parts, list(prompts[i : i + batch]), noise[i : i + batch].to(device), steps, guidance)
        for i in range(0, len(prompts), batch)
    ]
    return torch.cat(drawn)


def _batch(parts: Parts, prompts: list[str], latents: torch.Tensor, steps: int, guidance: float) -> torch.Tensor:
    device = latents.device
    said = parts.tokenizer([*prompts, ""], padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    with parts.autocast():
        context = parts.text_encoder(said["input_ids"].to(device)).last_hidden_state
        context = torch.cat([context[-1:].expand(len(prompts), -1, -1), context[:-1]])
        scheduler = DDIMScheduler.from_config(parts.noises.config)
        scheduler.set_timesteps(steps, device)
        for time in scheduler.timesteps:
            without, with_ = parts.unet(latents.repeat(2, 1, 1, 1), time, context).sample.float().chunk(2)
            latents = scheduler.step(without + guidance * (with_ - without), time, latents).prev_sample
        pictures = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample
    return (pictures.float() / 2 + 0.5).clamp(0, 1).cpu()


def sheet(pictures: torch.Tensor, columns: int) -> Image.Image:
    """Pictures (N, 3, H, W) in [0, 1] in rows, two pixels apart."""
    size = pictures.shape[-1]
    ground = Image.new("RGB", (columns * (size + 2), -(-len(pictures) // columns) * (size + 2)))
    for i, picture in enumerate(_arrays(pictures)):
        ground.paste(Image.fromarray(picture), (i % columns * (size + 2), i // columns * (size + 2)))
    return ground


def _arrays(pictures: torch.Tensor) -> Iterator[Any]:
    yield from (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
