"""Teaches the text encoder what free words mean, by names that the UNet already draws: "a van" as "a delivery truck".

    python training/train_words.py cut-out/ emoji/ spoken/

No picture is needed for that, only what the UNet hears: for a caption with a word, its cross-attention must get what it
gets for the same caption with a name. Names keep their meaning, which is half of the loss. train_unet.py alone tends to
draw a mixture of what a word means; here a word gets the meaning that it has most often. Needs the extra `train`.
"""

from __future__ import annotations

import copy
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import canvas
import captions
import denoising
import sampling
import torch
import typer
from catalogue import Catalogue
from diffusers.models.attention_processor import Attention
from scenes import Scene, scene
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

ORDINARY, TAG, KEYWORD = 16.0, 4.0, 1.0  # how often a word is taken, by where it comes from
BANK = 4096  # queries kept of each layer
ASKED = 64  # queries of a layer that a batch is asked


def main(
    pictures: Annotated[Path, typer.Argument(help="A folder that prepare.py packages wrote.")],
    model: Annotated[Path, typer.Argument(help="A folder in the diffusers layout.")],
    output: Annotated[Path, typer.Argument(help="The folder to write: MODEL with another text encoder.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions with words a batch, and as many without.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 5e-4,
    bf16: denoising.Bf16 = None,
    seed: Annotated[int, typer.Option(help="Of captions and noise.")] = 0,
) -> None:
    """Trains the text encoder of MODEL on the words of PICTURES and writes it, with the other parts, to OUTPUT."""
    torch.manual_seed(seed)
    parts = denoising.load(model, bf16)
    _, catalogue = canvas.read(pictures)
    chance = random.Random(seed)
    layers = list(crossings(parts.unet))
    bank = queries(parts, layers, [named(catalogue, chance)[0].caption for _ in range(32)])
    pairs = spoken(catalogue, chance)
    student = copy.deepcopy(parts.text_encoder).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    began = time.monotonic()
    for step in range(steps):
        said, meant = zip(*(next(pairs) for _ in range(batch_size)), strict=True)
        plain = [named(catalogue, chance)[0].caption for _ in range(batch_size)]
        with torch.no_grad(), parts.autocast():
            wanted = parts.text_encoder(tokens(parts, (*meant, *plain))).last_hidden_state
        with parts.autocast(), sdpa_kernel(SDPBackend.MATH):  # three times faster backward, so short, on a CPU
            found = student(tokens(parts, (*said, *plain))).last_hidden_state
            loss = torch.stack([heard(*each, found, wanted) for each in zip(layers, bank, strict=True)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step + 1} of {steps}, loss {loss.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)
    shutil.copytree(model, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns("text_encoder"))
    student.half().save_pretrained(output / "text_encoder")


def tokens(parts: denoising.Parts, said: tuple[str, ...]) -> torch.Tensor:
    ids = parts.tokenizer(list(said), padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    return ids["input_ids"].to(parts.device)


def spoken(catalogue: Catalogue, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Endless pairs: a caption with a word, and the same with the name that the word means."""
    often = dict.fromkeys(catalogue.meanings, KEYWORD)
    often |= dict.fromkeys(catalogue.tags, TAG) | dict.fromkeys(catalogue.ordinary, ORDINARY)
    for word in [*often]:
        often[word] /= max(1.0, len(catalogue.meanings[word]) / 4)
    while True:
        for word in chance.choices(list(often), list(often.values()), k=256):
            name = max(catalogue.meanings[word], key=catalogue.meanings[word].__getitem__)
            yield _framed(catalogue, chance, word, name)


def _framed(catalogue: Catalogue, chance: random.Random, word: str, name: str) -> tuple[str, str]:
    """The word alone half of the time, else in place of a name in a scene's caption; and the same with the name."""
    if chance.random() < 0.5:
        way = captions.article if chance.random() < 0.75 else str
        return way(word), way(name)
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


def heard(layer: Attention, bank: torch.Tensor, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far what a layer hears (B, 77, d) is from what it should, over how much that differs between captions."""
    asked = bank[torch.randint(len(bank), (ASKED,), device=bank.device)].transpose(0, 1)  # (heads, ASKED, d)

    def answers(states: torch.Tensor) -> torch.Tensor:
        keys, values = (to(states).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for to in (layer.to_k, layer.to_v))
        given = functional.scaled_dot_product_attention(
            asked.to(keys.dtype).expand(len(states), -1, -1, -1), keys, values
        )
        return layer.to_out[0](given.transpose(1, 2).flatten(2)).float()

    with torch.no_grad():
        target = answers(wanted)
    return (answers(found) - target).square().mean() / target.var(0).mean()


if __name__ == "__main__":
    typer.run(main)
