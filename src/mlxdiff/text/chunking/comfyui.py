"""ComfyUI's chunks, which keep short fragments whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..syntax.prompt import Fragment
from ..tokenizer import Tokenizer
from .chunk import Chunk, Chunked, Names, Placement, check_count, finite_weight, make_chunk

WORD_GROUP = 8
"""From this many tokens on a fragment is cut in two instead of moving to the next chunk."""


def chunk(fragments: Sequence[Fragment], tokenizer: Tokenizer, names: Names | None = None) -> Chunked:
    """ComfyUI's chunks: a fragment of fewer than 8 tokens that does not fit moves on whole, a longer one is cut.

    names  what `embedding:NAME` stands for; an unknown name is left out. None leaves such names as text.
    """
    chunks: list[Chunk] = []
    ids: list[int] = []
    weights: list[float] = []
    placements: list[Placement] = []
    count = 0

    def finish() -> None:
        nonlocal ids, weights, placements
        chunks.append(make_chunk(ids, weights, placements, tokenizer))
        check_count(len(chunks))
        ids, weights, placements = [], [], []

    for group in _comfyui_groups(fragments, tokenizer, names):
        count += len(group.ids)
        start, long = 0, len(group.ids) >= min(WORD_GROUP, tokenizer.room + 1)
        while len(group.ids) - start > tokenizer.room - len(ids):
            end = start + tokenizer.room - len(ids) if long else start
            placements += _placed(group, start, end, len(ids))
            ids += group.ids[start:end]
            weights += [group.weight] * (end - start)
            start = end
            finish()
        placements += _placed(group, start, len(group.ids), len(ids))
        ids += group.ids[start:]
        weights += [group.weight] * (len(group.ids) - start)
    finish()
    return Chunked(tuple(chunks), count)


@dataclass(frozen=True)
class _Group:
    """A fragment's tokens, or a textual inversion's vectors."""

    ids: tuple[int, ...]
    weight: float
    name: str | None = None


def _comfyui_groups(fragments: Sequence[Fragment], tokenizer: Tokenizer, names: Names | None) -> list[_Group]:
    groups = []
    for fragment in fragments:
        weight = finite_weight(fragment)
        for text in _comfyui_words(fragment.text):
            if names is not None and text.startswith(_EMBEDDING):
                found, text = _comfyui_embedding(text.removeprefix(_EMBEDDING), names)
                if found is not None:
                    groups.append(_Group((0,) * found[1], weight, found[0]))
                if not text:
                    continue
            groups.append(_Group(tuple(tokenizer.text_ids(text)), weight))
    return groups


_EMBEDDING = "embedding:"


def _comfyui_words(text: str) -> list[str]:
    """Text cut before each `embedding:` that follows a space or a new line, which goes."""
    first, *rest = text.replace("\n" + _EMBEDDING, " " + _EMBEDDING).split(" " + _EMBEDDING)
    return [word for word in (first, *(_EMBEDDING + word for word in rest)) if word]


def _comfyui_embedding(text: str, names: Names) -> tuple[tuple[str, int] | None, str]:
    """The textual inversion that a text behind `embedding:` starts with, and what is left of the text."""
    name, *rest = text.split() or [""]
    left = " ".join(rest)
    found = names.named(name)
    if found is None and name.strip(",") != name:
        # A comma may belong to a name; if it does not, it stays as text.
        short = name.strip(",")
        return names.named(short), f"{name[len(short) :]} {left}"
    return found, left


def _placed(group: _Group, start: int, end: int, offset: int) -> list[Placement]:
    """The part of a textual inversion that a chunk holds."""
    return [] if group.name is None or start == end else [Placement(offset + 1, group.name, end - start, start)]
