"""What a prompt tells a model, as data for `info --prompt`: parts, schedule, chunks, tokens, weights, what is cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..request import Resolved
from ..request.declarations import declared
from ..text import Tokenizer
from ..text.chunking import compel
from ..text.chunking.chunk import Chunk
from ..text.syntax.prompt import Entry, Fragment, Part
from . import parsing

END_OF_WORD = "</w>"


def prompt_report(request: Resolved, tokenizer: Tokenizer, *, negative: bool = False) -> dict[str, Any]:
    """What the first prompt of a request says. Calls of the network are counted from 1.

    negative  reads it as a negative prompt, in which A1111 knows neither AND nor extra networks
    """
    reading, text = parsing.reading_of(request), request.prompts[0]
    prompt = reading.parse(text, negative=negative)
    return {
        "prompt": text,
        "model": request.model,
        "prompt_syntax": reading.syntax,
        "steps": request.steps,
        "calls": reading.run.calls,
        "lora": _loras(request),
        "parts": [
            {"weight": part.weight, "entries": list(_entries(part, reading, tokenizer))} for part in prompt.parts
        ],
        "left_out": parsing.unused(prompt),
    }


def _loras(request: Resolved) -> list[str]:
    """The LoRAs that the prompt names, as the option is written."""
    kind = next(item.kind for item in declared(Resolved) if item.name == "lora")
    return [kind.show((lora,)) for lora in request.lora or ()]


def _entries(part: Part, reading: parsing.Reading, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    calls, first = reading.run.calls, 1
    for entry in part.entries:
        # Part.entry counts from 0 and goes up to and with last_call.
        last = min(entry.last_call + 1, calls)
        heard = {"first_call": first, "last_call": last} if first <= last else {"first_call": None, "last_call": None}
        yield heard | {"text": entry.text} | _chunks(entry, reading.syntax, tokenizer)
        first = max(first, last + 1)


def _chunks(entry: Entry, syntax: str, tokenizer: Tokenizer) -> dict[str, Any]:
    if syntax == "compel":
        shown = list(_compel(entry, tokenizer))
        return {"chunks": shown, "cut": ""}
    chunked = parsing.chunk(syntax, entry, tokenizer)
    return {
        "chunks": [_chunk(chunk, tokenizer) for chunk in chunked.chunks],
        "cut": tokenizer.decode(chunked.lost),
    }


def _compel(entry: Entry, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """The chunks of each term, with the term's weight in the sum."""
    for section in entry.sections:
        total = sum(term.weight for term in section.terms) if section.normalized else 1.0
        for term in section.terms:
            fragments = [piece for piece in term.pieces if isinstance(piece, Fragment)]
            for chunk in compel.chunk(fragments, tokenizer)[0].chunks:
                yield _chunk(chunk, tokenizer, section.weight * term.weight / total)


def _chunk(chunk: Chunk, tokenizer: Tokenizer, weight: float = 1.0) -> dict[str, Any]:
    ids = chunk.ids[1 : chunk.ids.index(tokenizer.eos_id)]
    tokens = [
        {"text": tokenizer.symbol(index), "weight": round(each, 6)}
        for index, each in zip(ids, chunk.weights[1:], strict=False)
    ]
    return {"room": tokenizer.room, "weight": weight, "tokens": tokens}


def as_text(tokens: list[dict[str, Any]]) -> str:
    """Tokens as people read them: `a ap|ple (red hat):1.3`. A bar stands where a word is several tokens."""
    runs: list[tuple[float, str]] = []
    for token in tokens:
        text, weight = token["text"], token["weight"]
        said = f"{text.removesuffix(END_OF_WORD)} " if text.endswith(END_OF_WORD) else f"{text}|"
        if runs and runs[-1][0] == weight:
            runs[-1] = weight, runs[-1][1] + said
        else:
            runs.append((weight, said))
    return " ".join(
        said.strip(" |") or said.strip() if weight == 1 else f"({said.strip(' |')}):{weight:.4g}"
        for weight, said in runs
    )
