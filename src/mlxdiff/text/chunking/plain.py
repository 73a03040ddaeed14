"""Plain chunks: one, as diffusers makes it, and what does not fit is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..tokenizer import Tokenizer
from .chunk import Chunked, Names, Placement, make_chunk


def chunk(text: str, tokenizer: Tokenizer, names: Names | None = None) -> Chunked:
    """One chunk as diffusers makes it: what does not fit is cut. Never warns; `lost` says what to warn of.

    A textual inversion's name counts wherever it stands in the text, letter by letter, as a token that was added does.
    """
    slots = slots_of(text, tokenizer, names)
    room = tokenizer.room
    kept, lost = slots[:room], slots[room:]
    ids, placements = spread(kept)
    whole = make_chunk(ids, [1.0] * len(ids), placements, tokenizer)
    return Chunked((whole,), len(slots), tuple(slot.id for slot in lost))


@dataclass(frozen=True)
class Slot:
    """A token, or vector number `vector` of the textual inversion `name`."""

    id: int
    name: str | None = None
    vector: int = 0


def slots_of(text: str, tokenizer: Tokenizer, names: Names | None) -> list[Slot]:
    """What diffusers' tokenizer makes of a text, without start and end."""
    slots: list[Slot] = []
    for part in [text] if names is None else names.split(text):
        if isinstance(part, str):
            slots += [Slot(index) for index in tokenizer.encode(part)[1:-1]]
        else:
            slots += [Slot(0, part[0], vector) for vector in range(part[1])]
    return slots


def spread(slots: Sequence[Slot]) -> tuple[list[int], list[Placement]]:
    """The ids of slots, and one placement for each run of a textual inversion's vectors."""
    placements: list[Placement] = []
    before: Slot | None = None
    for offset, slot in enumerate(slots, start=1):
        if slot.name is not None:
            if before is not None and before.name == slot.name and before.vector + 1 == slot.vector:
                placements[-1] = replace(placements[-1], vectors=placements[-1].vectors + 1)
            else:
                placements.append(Placement(offset, slot.name, 1, slot.vector))
        before = slot
    return [slot.id for slot in slots], placements
