"""Every code point, against the parts of transformers' tokenizer that know Unicode."""

from __future__ import annotations

import pytest
import regex
from code_points import differing, differing_in_parts

from mlxdiff.text.normalize import words

SURROGATES = range(0xD800, 0xE000)
UNIFORM = regex.compile(r"[\p{Lo}\p{Co}\p{Cn}\p{So}]")


def test_code_points_are_normalized_and_cut_as_by_transformers(clip_folder):
    """Of the many that all behave alike (ideographs, symbols, unassigned), one in 31."""
    points = [i for i in range(0x20000) if i not in SURROGATES and (i % 31 == 0 or not UNIFORM.match(chr(i)))]
    assert differing(clip_folder, points) == []


@pytest.mark.slow
def test_every_code_point_is_normalized_and_cut_as_by_transformers(clip_folder):
    planes = [[i for i in range(plane << 16, (plane + 1) << 16) if i not in SURROGATES] for plane in range(17)]
    assert sum(len(plane) for plane in planes) == 0x110000 - len(SURROGATES)
    assert differing_in_parts(clip_folder, planes) == []


def test_a_difference_is_seen(clip_folder, monkeypatch):
    monkeypatch.setattr("code_points.normalize", lambda text: text)
    assert differing(clip_folder, [0x41, 0xC0]) == [0x41]


@pytest.mark.parametrize("text", ["<|endoftext|>", "x<|startoftext|>y", "<|||>", "<|endoftext|>>", "<|'s|>"])
def test_names_of_special_tokens_are_cut_as_by_transformers(reference, text):
    assert words(text) == [word for word, _ in reference.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
