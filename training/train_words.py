"""Teaches the text encoder what free words mean, by names that the UNet already draws: "a van" as "a minibus".

    python training/train_words.py cut-out/ emoji/ spoken/

No picture is needed for that, only what the UNet hears: for a caption with a word, its cross-attention must get what it
gets for the same caption with a name. Names keep their meaning, which is half of the loss. train_unet.py alone tends to
draw a mixture of what a word means; here a word gets the meaning that it has most often. Needs the extra `train`.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import canvas
import captions
import denoising
import given
import loop
import sampling
import torch
import typer
from catalogue import Catalogue
from diffusers.models.attention_processor import Attention
from permissions import follow_umask
from scenes import Scene, scene
from torch import nn
from torch.nn import functional

ORDINARY, TAG, KEYWORD = 16.0, 4.0, 0.5  # how often a word is taken, by where it comes from
ALONE = 0.5  # fraction of batches in which words stand alone
BANK = 4096  # queries kept of each layer
ASKED = 64  # queries of a layer that a batch is asked
PADS = 6  # positions behind the end that stand for all of them


def main(
    pictures: Annotated[Path, typer.Argument(help="A folder that prepare.py packages wrote.")],
    model: Annotated[Path, typer.Argument(help="A folder in the diffusers layout.")],
    output: Annotated[Path, typer.Argument(help="The folder to write: MODEL with another text encoder.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches in all.")] = 10000,
    minutes: Annotated[float, typer.Option(min=0, help="Stop this run then; the same command goes on.")] = math.inf,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions with words a batch, and as many with names.")] = 48,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-3,
    decay: Annotated[float, typer.Option(help="Fraction of the steps, at the end, in which it falls to 0.")] = 0.5,
    init: Annotated[Path | None, typer.Option(help="A checkpoint whose text encoder is trained on.")] = None,
    bf16: denoising.Bf16 = None,
    seed: Annotated[int, typer.Option(help="Of captions and noise.")] = 0,
) -> None:
    """Trains the text encoder of MODEL on the words of PICTURES and writes it, with the other parts, to OUTPUT."""
    if output.resolve() == model.resolve():
        raise SystemExit(f"{output} is the model itself. Name another folder for the new one.")
    given.make(output)
    place = loop.start(seed)
    parts = denoising.load(model, bf16)
    student = denoising.load(init or model).text_encoder.requires_grad_(True).train()
    _, catalogue = canvas.read(pictures)
    clock = loop.Clock(steps, minutes, warmup=100, decay=decay)
    rates: dict[str, float] = {"learning_rate": learning_rate, "weight_decay": 1e-3, "keep": 0.998}
    settings = {"batch_size": batch_size, "seed": seed}
    training = loop.Training(place, student, output.with_suffix(".pt"), settings, clock, **rates)
    training.run(losses(training, parts, catalogue, batch_size, random.Random(f"{seed} {clock.done}")))
    if place.leads:
        training.average.swap()
        shutil.copytree(model, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns("text_encoder"))
        student.half().save_pretrained(output / "text_encoder")
        follow_umask(output / "text_encoder")
    training.finish()


def losses(
    training: loop.Training, parts: denoising.Parts, catalogue: Catalogue, batch_size: int, chance: random.Random
) -> Callable[[], tuple[torch.Tensor, Callable[[], str]]]:
    """What Training.run calls: how far captions with words, and with names, are from what should be heard."""
    layers = list(crossings(parts.unet))
    bank = queries(parts, layers, [named(catalogue, chance)[0].caption for _ in range(32)])
    words, names = spoken(catalogue, chance), list(catalogue.by_name)
    seen: list[torch.Tensor] = []

    def compute() -> tuple[torch.Tensor, Callable[[], str]]:
        frame = alone if chance.random() < ALONE else framed
        said, meant = zip(*(frame(catalogue, chance, *next(words)) for _ in range(batch_size)), strict=True)
        plain = [frame(catalogue, chance, name, name)[0] for name in chance.choices(names, k=batch_size)]
        found, wanted = tokens(parts, (*said, *plain)), tokens(parts, (*meant, *plain))
        places, often = some(torch.cat([found, wanted]), chance)
        with torch.no_grad(), parts.autocast():
            target = parts.text_encoder(wanted[:, places], position_ids=places[None]).last_hidden_state
        with parts.autocast():
            states = training.called(found[:, places], position_ids=places[None]).last_hidden_state
            pairs = zip(layers, bank, strict=True)
            loss = torch.stack([heard(*each, states, target, often) for each in pairs]).mean()
        seen.append(loss.detach())
        return loss, tell

    def tell() -> str:
        mean = torch.stack(seen).mean().item()
        seen.clear()
        return f"loss {mean:.4f}"

    return compute


def some(ids: torch.Tensor, chance: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions up to the end of the longest caption and a few behind it, and for how many each stands.

    Most captions end after a tenth of the 77 positions; the others differ by their position alone. Now and then
    all are taken.
    """
    length = int((ids == ids[0, -1]).int().argmax(1).max()) + 1
    rest = range(length, ids.shape[1])
    if chance.random() < 1 / 16 or len(rest) <= PADS:
        return torch.arange(ids.shape[1], device=ids.device), torch.ones(ids.shape[1], device=ids.device)
    behind = sorted(chance.sample(rest, PADS))
    often = torch.tensor([1.0] * length + [len(rest) / PADS] * PADS, device=ids.device)
    return torch.tensor([*range(length), *behind], device=ids.device), often


def tokens(parts: denoising.Parts, said: tuple[str, ...]) -> torch.Tensor:
    ids = parts.tokenizer(list(said), padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    return ids["input_ids"].to(parts.device)


def spoken(catalogue: Catalogue, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Endless words, each with the name that it means."""
    often = dict.fromkeys(catalogue.meanings, KEYWORD)
    often |= dict.fromkeys(catalogue.tags, TAG) | dict.fromkeys(catalogue.ordinary, ORDINARY)
    for word in [*often]:
        often[word] /= max(1.0, len(catalogue.meanings[word]) / 4)
    while True:
        for word in chance.choices(list(often), list(often.values()), k=256):
            yield word, max(catalogue.meanings[word], key=catalogue.meanings[word].__getitem__)


def alone(_: Catalogue, chance: random.Random, word: str, name: str) -> tuple[str, str]:
    """Both with an article, or as they are."""
    way = captions.article if chance.random() < 0.75 else str
    return way(word), way(name)


def framed(catalogue: Catalogue, chance: random.Random, word: str, name: str) -> tuple[str, str]:
    """Both in place of another name in a scene's caption."""
    frame, shown = named(catalogue, chance)
    return frame.caption.replace(shown, word), frame.caption.replace(shown, name)


def named(catalogue: Catalogue, chance: random.Random) -> tuple[Scene, str]:
    """A scene whose caption calls every thing by its name, and the name that can be replaced."""
    while True:
        found = scene(catalogue, chance)
        names = {catalogue.rows[layer.row].name for layer in found.layers}
        if all(name in found.caption for name in names):
            return found, catalogue.rows[found.layers[0].row].name


def crossings(unet: nn.Module) -> Iterator[Attention]:
    """The UNet's layers that hear the caption."""
    for name, layer in unet.named_modules():
        if name.endswith("attn2"):
            yield layer


@torch.no_grad()
def queries(parts: denoising.Parts, layers: list[Attention], prompts: list[str]) -> list[torch.Tensor]:
    """For each layer (BANK, heads, d): what it asked while these prompts were drawn."""
    found: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [
        layer.to_q.register_forward_hook(
            lambda _, __, out, kept=kept, heads=layer.heads: kept.append(_some(out, heads))
        )
        for layer, kept in zip(layers, found, strict=True)
    ]
    sampling.sample(parts, prompts, steps=8, batch=32)
    for hook in hooks:
        hook.remove()
    bank = [torch.cat(kept) for kept in found]
    return [each[torch.randperm(len(each))[:BANK]].float() for each in bank]


def _some(asked: torch.Tensor, heads: int) -> torch.Tensor:
    flat = asked.flatten(0, 1)
    return flat[torch.randperm(len(flat), device=flat.device)[:1024]].unflatten(-1, (heads, -1))


def heard(
    layer: Attention, bank: torch.Tensor, found: torch.Tensor, wanted: torch.Tensor, often: torch.Tensor
) -> torch.Tensor:
    """How far what a layer hears (B, T, d) is from what it should, over how much that differs between captions.

    often  (T,): how many positions each one stands for
    """
    asked = bank[torch.randint(len(bank), (ASKED,), device=bank.device)].transpose(0, 1)  # (heads, ASKED, d)

    def answers(states: torch.Tensor) -> torch.Tensor:
        keys, values = (to(states).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for to in (layer.to_k, layer.to_v))
        given = functional.scaled_dot_product_attention(
            asked.to(keys.dtype).expand(len(states), -1, -1, -1),
            keys,
            values,
            attn_mask=often.log().to(keys.dtype)[None],
        )
        return layer.to_out[0](given.transpose(1, 2).flatten(2)).float()

    with torch.no_grad():
        target = answers(wanted)
    return (answers(found) - target).square().mean() / target.var(0).mean()


if __name__ == "__main__":
    typer.run(main)
