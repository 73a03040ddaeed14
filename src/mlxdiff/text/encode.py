"""Parsed prompts to what a network attends to: chunks, states, weights, joined as each program does it.

It knows text encoders as functions of chunks; which hidden state they give, and whether it is normalized, is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..errors import CheckpointError
from . import emphasis as weigh
from .chunking import a1111, comfyui, compel, plain
from .chunking.chunk import Chunk, Chunked, Names, check_count, empty
from .syntax.prompt import Entry, Fragment, Part, Section, Term
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Encoder:
    """One of a model's text encoders.

    states  N chunks -> states (N, T, C) and pooled text (N, P)
    names   the textual inversions that prompts may name
    """

    tokenizer: Tokenizer
    states: Callable[[Sequence[Chunk]], tuple[mx.array, mx.array]]
    names: Names | None = None


@dataclass(frozen=True)
class Encoded:
    """context: (S, C), the encoders' channels side by side. pooled: (P,), the last encoder's, of the first chunk."""

    context: mx.array
    pooled: mx.array


def encode_a1111(
    part: Part,
    encoders: Sequence[Encoder],
    emphasis: weigh.Emphasis = weigh.original,
    comma_backtrack: int = a1111.COMMA_BACKTRACK,
) -> list[Encoded]:
    """One encoding for each entry of a part, all of one length. They share the mean that "Original" restores."""
    contexts, pooled = [], mx.zeros((len(part.entries), 0))
    for encoder in encoders:
        cut = [a1111.chunk(entry.pieces, encoder.tokenizer, encoder.names, comma_backtrack) for entry in part.entries]
        rows = a1111.level(cut, encoder.tokenizer)
        states, pooled = _states(encoder, rows)  # (entries, chunks, T, C)
        columns = [
            emphasis(states[:, index], weigh.weights_of(chunks)) for index, chunks in enumerate(zip(*rows, strict=True))
        ]
        contexts.append(mx.concatenate(columns, axis=1))
    lengths = sorted({context.shape[1] for context in contexts})
    if len(lengths) > 1:
        raise CheckpointError(
            f"The text encoders give a prompt {' and '.join(map(str, lengths))} positions.",
            "Their tokenizers must read equally many tokens: get the files anew.",
        )
    context = mx.concatenate(contexts, axis=-1)
    return [Encoded(row, text) for row, text in zip(context, pooled, strict=True)]


def encode_comfyui(entry: Entry, encoders: Sequence[Encoder]) -> Encoded:
    """An entry of a prompt in ComfyUI's syntax. Encoders with names read `embedding:NAME`."""
    fragments = [piece for piece in entry.pieces if isinstance(piece, Fragment)]
    contexts, pooled = [], mx.zeros((1, 0))
    for encoder in encoders:
        chunks = comfyui.chunk(fragments, encoder.tokenizer, encoder.names).chunks
        states, pooled = _from_empty(encoder, chunks)
        contexts.append(states)
    return _encoded(contexts, pooled)


def encode_plain(entry: Entry, encoders: Sequence[Encoder]) -> tuple[Encoded, Chunked]:
    """An entry as diffusers reads it, and the first encoder's chunk, whose `lost` says what was cut."""
    cut = [plain.chunk(entry.text, encoder.tokenizer, encoder.names) for encoder in encoders]
    contexts, pooled = [], mx.zeros((1, 0))
    for encoder, chunked in zip(encoders, cut, strict=True):
        states, pooled = encoder.states(chunked.chunks)
        contexts.append(_flat(states))
    return _encoded(contexts, pooled), cut[0]


def encode_compel(entry: Entry, encoders: Sequence[Encoder]) -> Encoded:
    """An entry of a prompt in compel's syntax; its pooled text is that of the prompt as it is written, as in compel."""
    contexts = []
    for encoder in encoders:
        base = _flat(encoder.states([empty(encoder.tokenizer)])[0])
        contexts.append(mx.concatenate([_section(encoder, section, base) for section in entry.sections]))
    last = encoders[-1]
    _, pooled = last.states(plain.chunk(entry.text, last.tokenizer, last.names).chunks)
    return _encoded(contexts, pooled)


def _section(encoder: Encoder, section: Section, base: mx.array) -> mx.array:
    total = sum(term.weight for term in section.terms) if section.normalized else 1.0
    terms = [_term(encoder, term, base) for term in section.terms]
    whole = weigh.summed(terms, [term.weight / total for term in section.terms], base)
    return weigh.strengthened(whole, section.weight, base)


def _term(encoder: Encoder, term: Term, base: mx.array) -> mx.array:
    fragments = [piece for piece in term.pieces if isinstance(piece, Fragment)]
    _, shares = compel.chunk(fragments, encoder.tokenizer, encoder.names)
    chunks = [chunk for share in shares for chunk in share.chunks]
    states = weigh.from_empty(encoder.states(chunks)[0], base, weigh.weights_of(chunks))
    copies = [_flat(copy) for copy in mx.split(states, len(shares))]
    return weigh.summed(copies, [share.weight for share in shares], base)


def _from_empty(encoder: Encoder, chunks: Sequence[Chunk]) -> tuple[mx.array, mx.array]:
    if not any(chunk.is_weighted for chunk in chunks):
        states, pooled = encoder.states(chunks)
        return _flat(states), pooled
    states, pooled = encoder.states([*chunks, empty(encoder.tokenizer)])
    return _flat(weigh.from_empty(states[:-1], states[-1], weigh.weights_of(chunks))), pooled


def _states(encoder: Encoder, rows: Sequence[tuple[Chunk, ...]]) -> tuple[mx.array, mx.array]:
    """States (rows, chunks, T, C) and pooled text (rows, P) of each row's first chunk; equal rows are encoded once."""
    distinct = list(dict.fromkeys(rows))
    check_count(sum(map(len, distinct)))
    place = {row: index for index, row in enumerate(distinct)}
    order = mx.array([place[row] for row in rows])
    states, pooled = encoder.states([chunk for row in distinct for chunk in row])
    states = states.reshape(len(distinct), -1, *states.shape[1:])
    return states[order], pooled.reshape(len(distinct), -1, pooled.shape[-1])[:, 0][order]


def _flat(states: mx.array) -> mx.array:
    """Chunks (N, T, C) side by side: (N * T, C)."""
    return states.reshape(-1, states.shape[-1])


def _encoded(contexts: Sequence[mx.array], pooled: mx.array) -> Encoded:
    length = max(context.shape[0] for context in contexts)
    return Encoded(mx.concatenate([weigh.repeated(context, length) for context in contexts], axis=-1), pooled[0])
