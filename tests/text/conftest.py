"""Tokenizers to compare with: transformers' own, on CLIP's real vocabulary and on a tiny one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tokenizer_files
from tokenizer_files import write_clip_tokenizer, write_tokenizer
from transformers import CLIPTokenizer

logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def clip_merges() -> list[str]:
    return tokenizer_files.clip_merges()


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    return write_clip_tokenizer(tmp_path_factory.mktemp("clip") / "tokenizer")


@pytest.fixture(scope="session")
def reference(clip_folder) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(clip_folder)


@pytest.fixture
def tiny_folder(tmp_path):
    """Writes a tokenizer of 516 tokens that knows the word "cat": ids 514 and 515 start and end."""

    def write(**others) -> Path:
        return write_tokenizer(tmp_path / "tiny", ["c a", "ca t</w>"], **others)

    return write


@pytest.fixture
def tiny_tokenizer(tiny_folder) -> Path:
    return tiny_folder(config={"model_max_length": 77})
