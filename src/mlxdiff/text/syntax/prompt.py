"""What every prompt syntax is parsed to: one value that knows no program, no tokenizer and no MLX.

Prompt            the texts that are encoded for a run
├── networks      <lora:NAME:0.8>, split off
└── parts         sub-prompts, each guided on its own (A1111's AND), with a weight
    └── entries   the texts of a part, and the last call of the network for each (A1111's [a:b:0.5])
        └── sections   encoded one by one and joined along the tokens (compel's .and())
            └── terms  encoded one by one and added (compel's .blend())
                └── pieces   text with a weight, and breaks between chunks
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RequestError

MAX_LETTERS = 100_000
"""Longest prompt that is parsed, in characters: some 350 chunks of 75 tokens."""

MAX_PARTS = 100
"""Most sub-prompts of a prompt, each of which the network or the text encoders work for on its own."""


LARGEST_WEIGHT = 1e30
"""Of a word or a sub-prompt, of either sign: with larger ones numbers of single precision overflow."""


@dataclass(frozen=True)
class Fragment:
    """Text whose tokens all have one weight; 1 is none."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Break:
    """What follows starts a new chunk of tokens."""


Piece = Fragment | Break


@dataclass(frozen=True)
class Term:
    """Pieces that are encoded together, and their share of the sum."""

    pieces: tuple[Piece, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Section:
    """The weighted sum of its terms' encodings, times `weight`; weights of terms are divided by their sum if
    `normalized`."""

    terms: tuple[Term, ...]
    weight: float = 1.0
    normalized: bool = True


@dataclass(frozen=True)
class Entry:
    """What a part says up to and with network call `last_call` (from 0), and the text that it was read from."""

    last_call: int
    text: str
    sections: tuple[Section, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces in order: the whole of an entry in every syntax but compel's blends and conjunctions."""
        return tuple(piece for section in self.sections for term in section.terms for piece in term.pieces)


@dataclass(frozen=True)
class Part:
    """A sub-prompt with its own weight in the guidance. entries: in order of their last call, never empty."""

    entries: tuple[Entry, ...]
    weight: float = 1.0

    def entry(self, call: int) -> Entry:
        """The entry for the network's call number `call` (from 0): the first whose last call is not over.

        As in A1111, an entry that ends with step n also serves call n, counted from 0; past the end it is the first.
        """
        return next((entry for entry in self.entries if call <= entry.last_call), self.entries[0])


@dataclass(frozen=True)
class Network:
    """An extra network that a prompt asks for. kind: `lora`, `hypernet`, ...; values as they are written.

    named: pairs of key and value, for `key=value`.
    """

    kind: str
    positional: tuple[str, ...]
    named: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt. parts: never empty. ignored: what the syntax knows and mlxdiff does not do, in words."""

    parts: tuple[Part, ...]
    networks: tuple[Network, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """The run whose steps a prompt's schedule divides.

    calls        how often the network is called: A1111 counts two a step for Heun, DPM2, DPM2 a, DPM++ SDE,
                 DPM++ 2S a and Restart
    first_calls  calls of the pass before this one, for hires fix; None in a first pass
    """

    calls: int
    first_calls: int | None = None


def one_entry(text: str, pieces: tuple[Piece, ...], last_call: int) -> Entry:
    """An entry of one section and one term."""
    return Entry(last_call, text, (Section((Term(pieces),)),))


def check_parts(count: int) -> None:
    """Raises RequestError for more sub-prompts than anybody waits for."""
    if count > MAX_PARTS:
        raise RequestError(f"The prompt has {count:,} sub-prompts.", f"Write {MAX_PARTS} or fewer.")


def check_text(text: str) -> None:
    """Raises RequestError for what is no text, or too long to parse."""
    if not isinstance(text, str):
        raise RequestError(f"A prompt is {type(text).__name__}, not text.", "Give a string.")
    if len(text) > MAX_LETTERS:
        raise RequestError(
            f"The prompt has {len(text):,} characters.", f"Shorten it to {MAX_LETTERS:,}, or use --prompt-syntax plain."
        )
