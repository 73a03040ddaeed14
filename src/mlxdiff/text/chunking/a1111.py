"""A1111's chunks, which may end at a comma, and end at BREAK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import RequestError
from ..syntax.prompt import Break, Piece
from ..tokenizer import Tokenizer
from .chunk import Chunk, Chunked, Names, Placement, check_count, empty, finite_weight, make_chunk

COMMA_BACKTRACK = 20
"""A1111's default for how far back a chunk may end at a comma, in tokens."""


def chunk(
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
        weight = finite_weight(piece)
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
            and len(self._ids) == self._tokenizer.room
            and self._comma is not None
            and self._tokenizer.room - self._comma <= self._backtrack
        ):
            cut = self._comma + 1
            ids, weights = self._ids[cut:], self._weights[cut:]
            del self._ids[cut:], self._weights[cut:]
            self.finish()
            self._ids, self._weights = ids, weights
        if len(self._ids) == self._tokenizer.room:
            self.finish()

    def append(self, token: int, weight: float) -> None:
        self._ids.append(token)
        self._weights.append(weight)

    def place(self, name: str, vectors: int, weight: float) -> None:
        _check_vectors(name, vectors, self._tokenizer.room)
        if len(self._ids) + vectors > self._tokenizer.room:
            self.finish()
        self._placements.append(Placement(len(self._ids) + 1, name, vectors))
        self._ids += [0] * vectors
        self._weights += [weight] * vectors

    def finish(self, last: bool = False) -> None:
        """Pads the open chunk and opens the next."""
        self._count += len(self._ids) if last else self._tokenizer.room
        chunk = make_chunk(self._ids, self._weights, self._placements, self._tokenizer)
        self._chunks.append(_ended(chunk, self._tokenizer))
        check_count(len(self._chunks))
        self._ids, self._weights, self._placements, self._comma = [], [], [], None

    def chunked(self) -> Chunked:
        if self._ids or not self._chunks:
            self.finish(last=True)
        return Chunked(tuple(self._chunks), self._count)


def level(texts: Sequence[Chunked], tokenizer: Tokenizer) -> list[tuple[Chunk, ...]]:
    """The same number of chunks for all texts, as A1111 encodes what one prompt says at different steps."""
    longest = max(len(text.chunks) for text in texts)
    return [text.chunks + (empty(tokenizer),) * (longest - len(text.chunks)) for text in texts]


def _ended(chunk: Chunk, tokenizer: Tokenizer) -> Chunk:
    """Padding behind the first end of text, also where the prompt itself spells one."""
    after = chunk.ids.index(tokenizer.eos_id) + 1
    return replace(chunk, ids=chunk.ids[:after] + (tokenizer.pad_id,) * (tokenizer.max_length - after))


def _check_vectors(name: str, vectors: int, room: int) -> None:
    if not 1 <= vectors <= room:
        raise RequestError(
            f"The textual inversion {name!r} has {vectors} vectors.", f"A prompt takes those of 1 to {room}."
        )
