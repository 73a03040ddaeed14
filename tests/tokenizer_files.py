"""Tokenizers on disk as transformers 4 wrote them: any small one, and CLIP's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from transformers.convert_slow_tokenizer import bytes_to_unicode

from mlxdiff.text.vocabulary import CLIP_MERGES

BYTES = list(bytes_to_unicode().values())
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def write_tokenizer(
    folder: Path,
    merges: list[str],
    *,
    config: dict | None = None,
    **others: dict,
) -> Path:
    """A folder as transformers 4 wrote it; `others` are the contents of further JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = [*BYTES, *(symbol + "</w>" for symbol in BYTES), *(merge.replace(" ", "") for merge in merges), *SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(vocab)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    if config is not None:
        others["tokenizer_config"] = config
    for name, contents in others.items():
        (folder / f"{name}.json").write_text(json.dumps(contents), encoding="utf-8")
    return folder


def clip_merges() -> list[str]:
    return gzip.decompress(CLIP_MERGES.read_bytes()).decode().splitlines()[1:]


def write_clip_tokenizer(folder: Path) -> Path:
    """CLIP's real vocabulary, as Stable Diffusion 1.5 ships it."""

    def added(content: str) -> dict:
        return {"__type": "AddedToken", "content": content, "normalized": True, "lstrip": False, "rstrip": False}

    config = {
        "model_max_length": 77,
        "bos_token": added(SPECIAL[0]),
        "eos_token": added(SPECIAL[1]),
        "unk_token": added(SPECIAL[1]),
        "pad_token": SPECIAL[1],
        "tokenizer_class": "CLIPTokenizer",
    }
    return write_tokenizer(folder, clip_merges(), config=config)
