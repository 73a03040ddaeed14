"""What `info --prompt` says of a prompt: its chunks and tokens, for each stretch of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..request import Request
from . import config, output


def about_prompt(text: str, model: str | None, syntax: str | None, *, negative: bool) -> dict[str, Any]:
    """What a prompt tells a model. Reads its tokenizer and configs, and no weight."""
    from ..pipeline import StableDiffusion
    from ..prompts.report import prompt_report

    layers = config.layers()
    default, revision, _ = layers.default_model()
    if model is not None:
        default, revision = model, None
    syntax = layers.config.defaults.get("prompt_syntax") if syntax is None else syntax
    request = Request(text, model=default, revision=revision, prompt_syntax=syntax)
    sd = StableDiffusion.open(request.wanted_model)
    return prompt_report(sd.resolve(request), sd.networks.tokenizers[0], negative=negative)


def tell_prompt(values: Mapping[str, Any], *, json: bool) -> None:
    """One JSON object, or for each part of the prompt and each stretch of the run its chunks and their tokens."""
    if json:
        output.say_json(values)
        return
    calls = "" if values["calls"] == values["steps"] else f", {values['calls']} calls of the network"
    rows = [
        ("model", values["model"]),
        ("prompt syntax", values["prompt_syntax"]),
        ("steps", f"{values['steps']}{calls}"),
    ]
    rows += [("LoRA", lora) for lora in values["lora"]]
    for i, part in enumerate(values["parts"], start=1):
        if len(values["parts"]) > 1 or part["weight"] != 1:
            rows.append((f"part {i}", f"weight {part['weight']:g}"))
        for entry in part["entries"]:
            rows += _entry(entry, alone=len(part["entries"]) == 1)
    rows += [("left out", thing) for thing in values["left_out"]]
    output.table(rows)


def _entry(entry: Mapping[str, Any], *, alone: bool) -> Iterator[tuple[str, str]]:
    from ..prompts.report import as_text

    if not alone:
        first, last = entry["first_call"], entry["last_call"]
        yield ("never" if first is None else f"calls {first} to {last}" if first < last else f"call {first}"), ""
    for i, chunk in enumerate(entry["chunks"], start=1):
        weight = "" if chunk["weight"] == 1 else f", weight {chunk['weight']:.4g}"
        tokens = f"{len(chunk['tokens'])} of {chunk['room']} tokens{weight}"
        yield f"chunk {i}", "\n".join(filter(None, (tokens, as_text(chunk["tokens"]))))
    if entry["cut"]:
        yield "cut", entry["cut"]
