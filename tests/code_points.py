"""What becomes of code points, ours against transformers', in processes beside each other: there are a million."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from transformers import CLIPTokenizer

from mlxdiff.text.bpe import BYTE_SYMBOLS
from mlxdiff.text.normalize import normalize, words

CHUNK = 512


def contexts(char: str) -> str:
    """A character among letters, digits, marks and spaces, and where NFC would join or reorder it."""
    return f"A{char}b1{char}!{char} e{char}\u0327\u0345\u0301\u0334 {char}\u0301 \u1100{char} {char}"


def differing(folder: Path, points: Sequence[int]) -> list[int]:
    """The first point of each chunk that is not normalized or cut as by the tokenizer of a folder."""
    backend = CLIPTokenizer.from_pretrained(folder).backend_tokenizer
    found = []
    for first in range(0, len(points), CHUNK):
        text = " ".join(contexts(chr(point)) for point in points[first : first + CHUNK])
        normalized = normalize(text)
        expected = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]
        cut = ["".join(BYTE_SYMBOLS[byte] for byte in word.encode()) for word in words(normalized)]
        if normalized != backend.normalizer.normalize_str(text) or cut != expected:
            found.append(points[first])
    return found


def differing_in_parts(folder: Path, parts: Sequence[Sequence[int]]) -> list[int]:
    """`differing` of all the parts, one to a process at a time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        return [point for found in pool.map(differing, [folder] * len(parts), parts) for point in found]
