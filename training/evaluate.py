"""Judges a checkpoint of the built-in model's kind by numbers, and draws twelve prompts on one sheet.

    python training/evaluate.py cut-out/ work/emoji/ --sheet twelve.png

What it prints, as JSON: see Numbers. Needs the extra `train`; a GPU takes seconds, a CPU many minutes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import canvas
import captions
import denoising
import given
import sampling
import torch
import typer
from catalogue import Catalogue
from colors import GROUNDS
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from scenes import Layer, Scene, held_out, scene
from torch.nn import functional

CORNER = 8  # pixels
WHITE = 0.94
CLEAR = 12


@dataclass(frozen=True)
class Numbers:
    """Fractions of 1, but for the first two.

    vae_db       peak signal-to-noise ratio of what comes back from the latents, mean over scenes of every kind
    gradient     mean difference of neighbours in the pictures, over that of the pictures they should be
    name         the nearest training picture, at 32x32 pixels, has the prompt's name
    name_style   ... and its style
    background   the corners' color is nearest to the named one
    white        the corners' mean is above WHITE where no background is named
    words        for an ordinary word (synonyms.json) alone, the nearest training picture is one that it means
    tags         the same for Unicode's tags of at most CLEAR emoji
    """

    vae_db: float
    gradient: float
    name: float
    name_style: float
    background: float
    white: float
    words: float
    tags: float


def main(
    pictures: Annotated[Path, typer.Argument(help="A folder that prepare.py packages wrote.")],
    model: Annotated[Path, typer.Argument(help="A folder in the diffusers layout.")] = denoising.BUILT_IN,
    count: Annotated[int, typer.Option(min=1, help="Captions of names, and of words.")] = 500,
    adapter: Annotated[Path | None, typer.Option("--lora", help="A LoRA of the UNet to judge, kohya's names.")] = None,
    styles: Annotated[str, typer.Option(help="Only these, with commas between.")] = "",
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = sampling.GUIDANCE,
    steps: Annotated[int, typer.Option(min=1, help="Steps a picture.")] = sampling.STEPS,
    sheet: Annotated[Path | None, typer.Option(help="Where the twelve prompts' pictures go, three of each.")] = None,
    failures: Annotated[Path | None, typer.Option(help="Where a sheet of wrong names goes.")] = None,
    bf16: denoising.Bf16 = None,
    seed: Annotated[int, typer.Option(help="Of captions and noise.")] = 0,
) -> None:
    """Prints a model's numbers."""
    given.check_output(sheet, failures)
    parts = denoising.load(model, bf16)
    if adapter is not None:
        _put_on(parts.unet, adapter)
    textures, catalogue = canvas.read(pictures)
    easel = canvas.Canvas(textures, parts.device)
    chance = random.Random(seed)
    how = {"steps": steps, "guidance": guidance}
    asked = combinations(catalogue, chance, count, styles.split(",") if styles else catalogue.styles)
    drawn = sampling.sample(parts, [each.caption for each in asked], seed=seed, **how)
    wanted = _draw(easel, catalogue, asked)
    found = [catalogue.rows[i] for i in nearest(easel, drawn, asked)]
    pairs = [(catalogue.rows[each.layers[0].row], row) for each, row in zip(asked, found, strict=True)]
    background, white = _backgrounds(drawn, wanted, asked)
    ordinary, tags = words(catalogue, chance, count)
    spoken = [Scene((Layer(0),), GROUNDS["white"], captions.article(word)) for word in (*ordinary, *tags)]
    heard = sampling.sample(parts, [each.caption for each in spoken], seed=seed + 1, **how)
    meant = [catalogue.rows[i].name for i in nearest(easel, heard, spoken)]
    understood = [name in catalogue.meanings[word] for word, name in zip((*ordinary, *tags), meant, strict=True)]
    numbers = Numbers(
        vae_db=_peak(parts, easel, catalogue, random.Random(seed + 2), count),
        gradient=_gradient(drawn) / _gradient(wanted),
        name=_fraction([a.name == b.name for a, b in pairs]),
        name_style=_fraction([(a.name, a.style) == (b.name, b.style) for a, b in pairs]),
        background=background,
        white=white,
        words=_fraction(understood[: len(ordinary)]),
        tags=_fraction(understood[len(ordinary) :]),
    )
    print(json.dumps({name: round(value, 3) for name, value in asdict(numbers).items()}, indent=1))
    if sheet is not None:
        prompts = [prompt for prompt in sampling.TWELVE for _ in range(3)]
        sampling.sheet(sampling.sample(parts, prompts, seed=seed, **how), 6).save(sheet)
    if failures is not None:
        wrong = [i for i, (a, b) in enumerate(pairs) if a.name != b.name]
        print("wrong:", "; ".join(f"{asked[i].caption} -> {found[i].name}, {found[i].style}" for i in wrong))
        heard_as = zip((*ordinary, *tags), meant, understood, strict=True)
        print("missed:", "; ".join(f"{word} -> {name}" for word, name, right in heard_as if not right))
        if wrong:
            beside = torch.stack([drawn[wrong[:16]], wanted[wrong[:16]]], 1).flatten(0, 1)
            sampling.sheet(beside, 8).save(failures)


def _put_on(unet: UNet2DConditionModel, adapter: Path) -> None:
    if not adapter.is_file():
        raise SystemExit(f"There is no {adapter}. Name the .safetensors file of a LoRA.")
    try:
        weights, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(adapter)
        unet.load_lora_adapter(weights, prefix="unet", network_alphas=alphas)
    except Exception as error:  # whatever a damaged or strange file makes of them
        raise SystemExit(f"{adapter} is no LoRA of this model ({type(error).__name__}). Name another file.") from None


def words(catalogue: Catalogue, chance: random.Random, count: int) -> tuple[list[str], list[str]]:
    """Up to count / 2 ordinary words, and as many of Unicode's tags that mean few emoji."""
    clear = [tag for tag in catalogue.tags if len(catalogue.meanings[tag]) <= CLEAR]
    kinds = (catalogue.ordinary, clear)
    ordinary, tags = (chance.sample(kind, min(count // 2, len(kind))) for kind in kinds)
    return ordinary, tags


def combinations(catalogue: Catalogue, chance: random.Random, count: int, styles: Sequence[str]) -> list[Scene]:
    """Names, styles and backgrounds that were kept from training, a quarter of them on white, which is not said."""
    found: list[Scene] = []
    kept = [
        (i, color)
        for i, row in enumerate(catalogue.rows)
        for color in GROUNDS
        if row.style in styles and held_out(row.name, row.style, color)
    ]
    if not kept:
        raise SystemExit(f"Of {len(catalogue.rows)} pictures no combination with a background is held out. Take more.")
    chance.shuffle(kept)
    kept.sort(key=lambda each: each[1] != "white")  # the sort is stable
    n_white = min(count // 4, sum(color == "white" for _, color in kept))
    other = [each for each in kept if each[1] != "white"]
    for i, color in [*kept[:n_white], *other[: count - n_white]]:
        row = catalogue.rows[i]
        said = f"{captions.article(row.name)}, {row.style} style"
        text = said if color == "white" else f"{said} on {captions.article(color)} background"
        found.append(Scene((Layer(i),), GROUNDS[color], text))
    return found


def nearest(easel: canvas.Canvas, drawn: torch.Tensor, asked: Sequence[Scene]) -> list[int]:
    """For each picture the row of the training picture that is nearest at 32x32, on the ground that was asked for."""
    device = easel.pictures.device
    found = torch.zeros(len(asked), dtype=torch.int64)
    small = _small(drawn).to(device)
    for ground in sorted({each.ground for each in asked}):
        here = [i for i, each in enumerate(asked) if each.ground == ground]
        color = torch.tensor(ground, device=device).view(1, 3, 1, 1) / 255
        known = []
        for part in easel.pictures.split(512):
            values = part.float() / 255
            known.append(_small(values[:, :3] * values[:, 3:] + color * (1 - values[:, 3:])))
        found[here] = torch.cdist(small[here], torch.cat(known)).argmin(1).cpu()
    return found.tolist()


def _small(pictures: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(pictures, size=(32, 32), mode="area").flatten(1)


def _draw(easel: canvas.Canvas, catalogue: Catalogue, asked: Sequence[Scene]) -> torch.Tensor:
    device = easel.pictures.device
    parts = [asked[i : i + 128] for i in range(0, len(asked), 128)]
    return torch.cat([easel.draw(canvas.plan(part, catalogue).to(device)).cpu() for part in parts])


def _backgrounds(drawn: torch.Tensor, wanted: torch.Tensor, asked: Sequence[Scene]) -> tuple[float, float]:
    """How many backgrounds are nearest to what was asked for, and how many white ones are white.

    Judged in the corners, where the picture that it should be leaves them free.
    """
    corners = _corners(drawn)
    grounds = torch.tensor([each.ground for each in asked]) / 255
    free = (_corners(wanted) - grounds.unsqueeze(1)).abs().amax((1, 2)) < 0.02
    named = torch.tensor(list(GROUNDS.values())) / 255
    seen = named[torch.cdist(corners.median(1).values, named).argmin(1)]
    right = (seen - grounds).abs().amax(1) < 1e-3
    bright = corners.mean((1, 2)) > WHITE
    return _fraction(right[free].tolist()), _fraction(bright[free & (grounds.amin(1) == 1)].tolist())


def _corners(pictures: torch.Tensor) -> torch.Tensor:
    """(N, 4, 3): the mean color of each corner."""
    tops = (pictures[:, :, :CORNER], pictures[:, :, -CORNER:])
    return torch.stack([part.mean((2, 3)) for top in tops for part in (top[..., :CORNER], top[..., -CORNER:])], 1)


def _gradient(pictures: torch.Tensor) -> float:
    return sum(pictures.diff(dim=axis).abs().mean().item() for axis in (2, 3))


def _fraction(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))


@torch.no_grad()
def _peak(
    parts: denoising.Parts, easel: canvas.Canvas, catalogue: Catalogue, chance: random.Random, count: int
) -> float:
    """The VAE's mean peak signal-to-noise ratio on scenes of every kind, in dB."""
    ratios = []
    for _ in range(0, count, 32):
        real = _draw(easel, catalogue, [scene(catalogue, chance) for _ in range(32)]).to(parts.device)
        back = parts.vae.decode(parts.vae.encode(real * 2 - 1).latent_dist.mean).sample / 2 + 0.5
        ratios.append(-10 * torch.log10((back.clamp(0, 1) - real).square().mean((1, 2, 3))))
    return torch.cat(ratios).mean().item()


if __name__ == "__main__":
    typer.run(main)
