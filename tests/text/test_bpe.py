"""Byte pairs: against the textbook's quadratic loop, and the alphabet against GPT-2's."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mlxdiff.text.bpe import BYTE_SYMBOLS, decode_symbols, encode_word, ids_of_merges, merge, vocabulary


def textbook(ids: list[int], merges: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Sennrich et al. 2016, Algorithm 1, one join at a time."""
    while True:
        found = [(merges[pair][0], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]
        if not found:
            return ids
        _, i = min(found)
        ids = [*ids[:i], merges[ids[i], ids[i + 1]][1], *ids[i + 2 :]]


def test_the_bytes_have_gpt2s_symbols():
    assert dict(enumerate(BYTE_SYMBOLS)) == bytes_to_unicode()


@settings(max_examples=300, deadline=None)
@given(word=st.lists(st.integers(0, 3), max_size=40), data=st.data())
def test_merging_is_the_textbooks(word, data):
    symbols, pairs = ["a", "b", "c", "d"], []
    for _ in range(data.draw(st.integers(0, 12))):
        pair = data.draw(st.sampled_from(symbols)), data.draw(st.sampled_from(symbols))
        if pair[0] + pair[1] not in symbols:
            pairs.append(pair)
            symbols.append(pair[0] + pair[1])
    vocab = vocabulary({symbol: i for i, symbol in enumerate(symbols)}, pairs)
    assert merge(word, vocab.merges) == textbook(word, vocab.merges)


def test_bytes_without_a_symbol_become_the_unknown_token():
    vocab = vocabulary({"a": 0, "b</w>": 1, "ab</w>": 2, "?": 3}, [("a", "b</w>")])
    assert encode_word("ab", vocab, 3) == [2]
    assert encode_word("éb", vocab, 3) == [3, 3, 1]


@pytest.mark.parametrize("pair", [("a", "x"), ("x", "a"), ("a", "a")])
def test_a_merge_outside_the_vocabulary_is_reported(pair):
    with pytest.raises(KeyError):
        vocabulary({"a": 0, "b": 1}, [pair])


@given(text=st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20))
def test_bytes_decode_to_the_text_they_encode(text):
    ids = ids_of_merges([], [])
    symbols = {index: symbol for symbol, index in ids.items()}
    encoded = encode_word(text, vocabulary(ids, []), 0)
    assert decode_symbols([symbols[index] for index in encoded]) == text


def test_broken_utf8_decodes_to_a_replacement():
    assert decode_symbols([BYTE_SYMBOLS[0xF0], "a</w>", "b</w>"]) == "\ufffda b"
