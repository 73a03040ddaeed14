"""Byte-pair encoding (Sennrich et al. 2016) over the bytes of UTF-8, as GPT-2 and CLIP use it.

Knows words and ids; it knows nothing of prompts, padding or special tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

END_OF_WORD = "</w>"


def _byte_symbols() -> tuple[str, ...]:
    """One printable character for each byte: itself where Latin-1 prints it, else the next one from U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


BYTE_SYMBOLS = _byte_symbols()
SYMBOL_BYTES = {symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)}
_PRINTABLE_FIRST = (*(s for s in BYTE_SYMBOLS if ord(s) < 256), *(s for s in BYTE_SYMBOLS if ord(s) >= 256))


@dataclass(frozen=True)
class Vocabulary:
    """ids: symbol -> id. merges: (left id, right id) -> (rank, id of the two together); the lowest rank goes first."""

    ids: Mapping[str, int]
    merges: Mapping[tuple[int, int], tuple[int, int]]


def vocabulary(ids: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> Vocabulary:
    """Raises KeyError(symbol) where a merge takes or makes a symbol that has no id."""
    table = {}
    for rank, (left, right) in enumerate(merges):
        table[ids[left], ids[right]] = rank, ids[left + right]
    return Vocabulary(ids, table)


def ids_of_merges(merges: Iterable[tuple[str, str]], special: Iterable[str]) -> dict[str, int]:
    """The ids that follow from the merges alone, CLIP's way: bytes, bytes that end a word, merges, special tokens."""
    ends = [symbol + END_OF_WORD for symbol in _PRINTABLE_FIRST]
    symbols = [*_PRINTABLE_FIRST, *ends, *(left + right for left, right in merges), *special]
    return {symbol: index for index, symbol in enumerate(symbols)}


def encode_word(word: str, vocab: Vocabulary, unknown: int) -> list[int]:
    """The ids of one word; a byte that has no symbol in the vocabulary becomes `unknown`."""
    symbols = [BYTE_SYMBOLS[byte] for byte in word.encode()]
    symbols[-1] += END_OF_WORD
    return merge([vocab.ids.get(symbol, unknown) for symbol in symbols], vocab.merges)


def merge(ids: list[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Joins neighbours, lowest rank and then leftmost first, until none can be joined.

    A heap over a linked list: n log n, so that a word of 10,000 letters is no problem.
    """
    ids = list(ids)
    n = len(ids)
    before = list(range(-1, n - 1))
    after = list(range(1, n + 1))
    heap = []

    def offer(left: int) -> None:
        right = after[left]
        if left >= 0 and right < n and (ids[left], ids[right]) in merges:
            rank, joined = merges[ids[left], ids[right]]
            heapq.heappush(heap, (rank, left, joined))

    for left in range(n - 1):
        offer(left)
    while heap:
        rank, left, joined = heapq.heappop(heap)
        right = after[left]
        # An entry is stale when one of its two has been joined to something else since.
        if ids[left] < 0 or right >= n or merges.get((ids[left], ids[right])) != (rank, joined):
            continue
        ids[left], ids[right] = joined, -1
        after[left] = after[right]
        if after[right] < n:
            before[after[right]] = left
        if before[left] >= 0:
            offer(before[left])
        offer(left)
    return [index for index in ids if index >= 0]


def decode_symbols(symbols: Sequence[str]) -> str:
    """Symbols back to text, a space after each word; bytes that are no UTF-8 become U+FFFD."""
    text = bytearray()
    for symbol in symbols:
        ends = symbol.endswith(END_OF_WORD)
        for char in symbol.removesuffix(END_OF_WORD):
            text += bytes([SYMBOL_BYTES[char]]) if char in SYMBOL_BYTES else char.encode()
        if ends:
            text += b" "
    return text.decode(errors="replace").strip()
