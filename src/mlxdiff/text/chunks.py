"""Prompts longer than the text encoder reads: chunks of 75 tokens between start and end, each encoded on its own.

Each program cuts in its own way; what they make is the same value. It knows ids and weights, no vectors and no MLX.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from .syntax.prompt import Break, Fragment, Piece
from .tokenizer import CONTEXT, Tokenizer

ROOM = CONTEXT - 2
"""Tokens of a chunk beside its start and its end."""

COMMA_BACKTRACK = 20
"""A1111's default for how far back a chunk may end at a comma, in tokens."""

WORD_GROUP = 8
"""From this many tokens on ComfyUI cuts a fragment in two instead of moving it to the next chunk."""

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

    def named(self, name: str) -> tuple[str, int] | None:
        """Name and number of vectors: ComfyUI's way."""
        return (name, self._vectors[name]) if name in self._vectors else None


def plain(text: str, tokenizer: Tokenizer) -> Chunked:
    """One chunk as diffusers makes it: what does not fit is cut. Never warns; `lost` says what to warn of."""
    ids = tokenizer.encode(text)
    room = tokenizer.max_length - 1
    lost = tuple(ids[room:-1])
    padded = [*ids[:room], tokenizer.eos_id] if lost else tokenizer.pad(ids)
    return Chunked((Chunk(tuple(padded), (1.0,) * len(padded)),), len(ids) - 2, lost)


def a1111(
    pieces: Sequence[Piece], tokenizer: Tokenizer, names: Names | None = None, comma_backtrack: int = COMMA_BACKTRACK
) -> Chunked:
    """A1111's chunks: full ones, which may end at a comma up to `comma_backtrack` tokens back (0: never).

    Each piece is tokenized on its own. A textual inversion is found by the tokens of its name, wherever they stand; it
    is never cut in two. Where it is moved to the next chunk because of a comma, A1111 leaves its vectors behind in the
    padding of the one before: so it is here.
    """
    building = _Builder(tokenizer, comma_backtrack)
    for piece in pieces:
        if isinstance(piece, Break):
            building.finish()
            continue
        ids = tokenizer.text_ids(piece.text)
        weight = _finite(piece)
        position = 0
        while position < len(ids):
            building.make_room(ids[position])
            found = None if names is None else names.at(ids, position)
            if found is None:
                building.append(ids[position], weight)
                position += 1
            else:
                name, vectors, length = found
                building.place(name, vectors, weight)
                position += length
    return building.chunked()


class _Builder:
    """A1111's chunks while they fill up. ids and weights: of the one that is open."""

    def __init__(self, tokenizer: Tokenizer, comma_backtrack: int):
        self._tokenizer, self._backtrack = tokenizer, comma_backtrack
        self._chunks: list[Chunk] = []
        self._count = 0
        self._ids: list[int] = []
        self._weights: list[float] = []
        self._placements: list[Placement] = []
        self._comma: int | None = None  # where the last comma of the open chunk stands

    def make_room(self, token: int) -> None:
        """Ends the open chunk if it is full, at a comma if there is one near."""
        if token == self._tokenizer.comma_id:
            self._comma = len(self._ids)
        elif (
            self._backtrack != 0
            and len(self._ids) == ROOM
            and self._comma is not None
            and ROOM - self._comma <= self._backtrack
        ):
            cut = self._comma + 1
            ids, weights = self._ids[cut:], self._weights[cut:]
            del self._ids[cut:], self._weights[cut:]
            self.finish()
            self._ids, self._weights = ids, weights
        if len(self._ids) == ROOM:
            self.finish()

    def append(self, token: int, weight: float) -> None:
        self._ids.append(token)
        self._weights.append(weight)

    def place(self, name: str, vectors: int, weight: float) -> None:
        _check_vectors(name, vectors)
        if len(self._ids) + vectors > ROOM:
            self.finish()
        self._placements.append(Placement(len(self._ids) + 1, name, vectors))
        self._ids += [0] * vectors
        self._weights += [weight] * vectors

    def finish(self, last: bool = False) -> None:
        """Pads the open chunk and opens the next."""
        self._count += len(self._ids) if last else ROOM
        self._chunks.append(_chunk(self._ids, self._weights, self._placements, self._tokenizer))
        _check_count(len(self._chunks))
        self._ids, self._weights, self._placements, self._comma = [], [], [], None

    def chunked(self) -> Chunked:
        if self._ids or not self._chunks:
            self.finish(last=True)
        return Chunked(tuple(self._chunks), self._count)


def comfyui(fragments: Sequence[Fragment], tokenizer: Tokenizer, names: Names | None = None) -> Chunked:
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
        chunks.append(_chunk(ids, weights, placements, tokenizer))
        _check_count(len(chunks))
        ids, weights, placements = [], [], []

    for group in _comfyui_groups(fragments, tokenizer, names):
        count += len(group.ids)
        start, long = 0, len(group.ids) >= WORD_GROUP
        while len(group.ids) - start > ROOM - len(ids):
            end = start + ROOM - len(ids) if long else start
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
        weight = _finite(fragment)
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


def level(texts: Sequence[Chunked], tokenizer: Tokenizer) -> list[tuple[Chunk, ...]]:
    """The same number of chunks for all texts, as A1111 encodes what one prompt says at different steps."""
    longest = max(len(text.chunks) for text in texts)
    empty = _chunk([], [], [], tokenizer)
    return [text.chunks + (empty,) * (longest - len(text.chunks)) for text in texts]


def empty(tokenizer: Tokenizer) -> Chunk:
    """The chunk of an empty prompt."""
    return _chunk([], [], [], tokenizer)


def _chunk(
    ids: Sequence[int], weights: Sequence[float], placements: Sequence[Placement], tokenizer: Tokenizer
) -> Chunk:
    """Start, tokens, end and padding; everything behind the first end is padding."""
    short = ROOM - len(ids)
    padded = [tokenizer.bos_id, *ids, *[tokenizer.eos_id] * (short + 1)]
    after = padded.index(tokenizer.eos_id) + 1
    if tokenizer.pad_id != tokenizer.eos_id:
        padded[after:] = [tokenizer.pad_id] * (CONTEXT - after)
    return Chunk(tuple(padded), (1.0, *weights, *(1.0,) * (short + 1)), tuple(placements))


def _finite(fragment: Fragment) -> float:
    if not math.isfinite(fragment.weight):
        raise RequestError(
            f"The weight of {fragment.text[:40]!r} is {fragment.weight}.", "Write a number such as (red:1.2)."
        )
    return fragment.weight


def _check_vectors(name: str, vectors: int) -> None:
    if not 1 <= vectors <= ROOM:
        raise RequestError(
            f"The textual inversion {name!r} has {vectors} vectors.", f"A prompt takes those of 1 to {ROOM}."
        )


def _check_count(chunks: int) -> None:
    if chunks > MAX_CHUNKS:
        raise RequestError(f"The prompt takes more than {MAX_CHUNKS} chunks of {ROOM} tokens.", "Shorten it.")
