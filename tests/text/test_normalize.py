"""Every code point, against the parts of transformers' tokenizer that know Unicode."""

from __future__ import annotations

import pytest
import regex

from mlxdiff.text.bpe import BYTE_SYMBOLS
from mlxdiff.text.normalize import normalize, words

CHUNK = 512
SURROGATES = range(0xD800, 0xE000)
UNIFORM = regex.compile(r"[\p{Lo}\p{Co}\p{Cn}\p{So}]")


def contexts(char: str) -> str:
    """A character among letters, digits, marks and spaces, and where NFC would join or reorder it."""
    return f"A{char}b1{char}!{char} e{char}\u0327\u0345\u0301\u0334 {char}\u0301 \u1100{char} {char}"


def check(reference, points: list[int]) -> None:
    backend = reference.backend_tokenizer
    for first in range(0, len(points), CHUNK):
        text = " ".join(contexts(chr(point)) for point in points[first : first + CHUNK])
        normalized = normalize(text)
        assert normalized == backend.normalizer.normalize_str(text)
        expected = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]
        assert ["".join(BYTE_SYMBOLS[byte] for byte in word.encode()) for word in words(normalized)] == expected


def test_code_points_are_normalized_and_cut_as_by_transformers(reference):
    """Of the many that all behave alike (ideographs, symbols, unassigned), one in 31."""
    points = [i for i in range(0x20000) if i not in SURROGATES and (i % 31 == 0 or not UNIFORM.match(chr(i)))]
    check(reference, points)


@pytest.mark.slow
@pytest.mark.parametrize("plane", range(17))
def test_every_code_point_is_normalized_and_cut_as_by_transformers(reference, plane):
    check(reference, [i for i in range(plane << 16, (plane + 1) << 16) if i not in SURROGATES])


@pytest.mark.parametrize("text", ["<|endoftext|>", "x<|startoftext|>y", "<|||>", "<|endoftext|>>", "<|'s|>"])
def test_names_of_special_tokens_are_cut_as_by_transformers(reference, text):
    assert words(text) == [word for word, _ in reference.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
