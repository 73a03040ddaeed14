"""Prompts longer than the text encoder reads: chunks of 75 tokens between start and end, each encoded on its own.

Each program cuts in its own way, which the other files here say; what they make is the value defined here. It knows
ids and weights, no vectors and no MLX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import RequestError
from ..syntax.prompt import LARGEST_WEIGHT, Fragment
from ..tokenizer import Tokenizer

MAX_CHUNKS = 1000


@dataclass(frozen=True)
class Placement:
    """Vectors `first` to `first + vectors` of a textual inversion, in the place of token embeddings.

    offset  where in the chunk; 0 is its start token
    """

    offset: int
    name: str
    vectors: int
    first: int = 0


@dataclass(frozen=True)
class Chunk:
    """What one call of a text encoder reads.

    ids         77, with start, end and padding; 0 under a placement
    weights     77, each token's; 1 for start, end and padding
    placements  textual inversions
    hidden      places of tokens that nothing may attend to (compel)
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    placements: tuple[Placement, ...] = ()
    hidden: frozenset[int] = frozenset()

    @property
    def is_weighted(self) -> bool:
        """Whether any token has another weight than 1."""
        return any(weight != 1 for weight in self.weights)


@dataclass(frozen=True)
class Chunked:
    """A text's chunks, at least one. lost: ids that did not fit and do nothing, which only plain prompts have.

    token_count: the tokens that the text takes, those before a break's padding included.
    """

    chunks: tuple[Chunk, ...]
    token_count: int
    lost: tuple[int, ...] = ()


class Names:
    """The textual inversions that a prompt may name, and how many vectors each has."""

    def __init__(self, vectors: Mapping[str, int], tokenizer: Tokenizer):
        self._vectors = dict(vectors)
        longest_first = sorted(filter(None, vectors), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._by_first: dict[int, list[tuple[list[int], str]]] = {}
        for name in vectors:
            ids = tokenizer.text_ids(name)
            if ids:
                self._by_first.setdefault(ids[0], []).append((ids, name))
        for found in self._by_first.values():
            found.sort(key=lambda item: len(item[0]), reverse=True)

    def at(self, ids: Sequence[int], position: int) -> tuple[str, int, int] | None:
        """Name, number of vectors and number of tokens of the longest name that stands at `position`: A1111's way."""
        for name_ids, name in self._by_first.get(ids[position], ()):
            if list(ids[position : position + len(name_ids)]) == name_ids:
                return name, self._vectors[name], len(name_ids)
        return None

    def split(self, text: str) -> list[str | tuple[str, int]]:
        """The text between the names, and each name with its number of vectors: diffusers' way."""
        if self._pattern is None:
            return [text]
        parts: list[str | tuple[str, int]] = []
        end = 0
        for match in self._pattern.finditer(text):
            parts += [text[end : match.start()], (match[0], self._vectors[match[0]])]
            end = match.end()
        return [*parts, text[end:]]

    def named(self, name: str) -> tuple[str, int] | None:
        """Name and number of vectors: ComfyUI's way."""
        return (name, self._vectors[name]) if name in self._vectors else None


@dataclass(frozen=True)
class Share:
    """Chunks and what part of a prompt's encoding theirs is; the shares of a prompt add up to 1."""

    chunks: tuple[Chunk, ...]
    weight: float


def empty(tokenizer: Tokenizer) -> Chunk:
    """The chunk of an empty prompt."""
    return make_chunk([], [], [], tokenizer)


def make_chunk(
    ids: Sequence[int], weights: Sequence[float], placements: Sequence[Placement], tokenizer: Tokenizer
) -> Chunk:
    """Start, tokens, end and padding."""
    short = tokenizer.room - len(ids)
    padded = (tokenizer.bos_id, *ids, tokenizer.eos_id, *(tokenizer.pad_id,) * short)
    return Chunk(padded, (1.0, *weights, *(1.0,) * (short + 1)), tuple(placements))


def finite_weight(fragment: Fragment) -> float:
    """The weight of a fragment. Raises RequestError for NaN and for one that numbers of single precision overflow with,
    which some syntaxes can say, and many brackets in each other."""
    if not abs(fragment.weight) <= LARGEST_WEIGHT:
        raise RequestError(
            f"The weight of {fragment.text[:40]!r} is {fragment.weight:.6g}.", "Write a number such as (red:1.2)."
        )
    return fragment.weight


def check_count(chunks: int) -> None:
    """Raises RequestError for more chunks than anybody waits for."""
    if chunks > MAX_CHUNKS:
        raise RequestError(f"The prompt takes more than {MAX_CHUNKS} chunks of tokens.", "Shorten it.")
