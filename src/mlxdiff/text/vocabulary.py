"""A tokenizer's files on disk, in both layouts: vocab.json with merges.txt, or tokenizer.json alone.

transformers 4 and older wrote the first, transformers 5 writes the second; where both are there the second counts.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedError
from ..files import mistaken_for, open_regular
from .bpe import Vocabulary, ids_of_merges, vocabulary
from .special import END, START, SpecialTokens, read_special_tokens

CLIP_MERGES = Path(__file__).parents[1] / "assets" / "clip" / "merges.txt.gz"
MAX_BYTES = 32 * 2**20  # CLIP's tokenizer.json has 3.6 MB
AGAIN = "Fetch the checkpoint again."


@dataclass(frozen=True)
class TokenizerFiles:
    """What a tokenizer's folder says; `max_length` is None where it says nothing."""

    vocabulary: Vocabulary
    special: SpecialTokens
    max_length: Any = None


def read_folder(folder: Path) -> TokenizerFiles:
    """Raises CheckpointError for files that are missing or damaged, UnsupportedError for another kind of tokenizer."""
    unified = folder / "tokenizer.json"
    config = _read_object(folder / "tokenizer_config.json", optional=True)
    if unified.is_file():
        contents = _read_object(unified)
        vocab, listed = _unified_vocabulary(unified, contents), contents.get("added_tokens", [])
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise CheckpointError(f"The added_tokens of {unified} is no list of tokens.", AGAIN)
    else:
        path = folder / "vocab.json"
        merges = folder / "merges.txt"
        vocab, listed = _vocabulary(path, _read_object(path), parse_merges(_read_text(merges), merges), merges), []
    special = read_special_tokens(
        config,
        _read_object(folder / "special_tokens_map.json", optional=True),
        _read_object(folder / "added_tokens.json", optional=True),
        listed,
    )
    return TokenizerFiles(vocab, special, config.get("model_max_length", config.get("max_len")))


@cache
def clip_vocabulary() -> Vocabulary:
    """OpenAI's vocabulary of 49,408 tokens, which every Stable Diffusion checkpoint uses; shipped with the package."""
    merges = list(parse_merges(gzip.decompress(CLIP_MERGES.read_bytes()).decode(), CLIP_MERGES))
    return vocabulary(ids_of_merges(merges, (START, END)), merges)


def parse_merges(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a merges.txt: two symbols and one space each. Raises CheckpointError naming the line."""
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        if line.startswith("#version"):
            continue
        parts = line.removesuffix("\r").split(" ")
        if len(parts) != 2:
            raise CheckpointError(f"Line {number} of {path} is no merge of two symbols: {line[:40]!r}.", AGAIN)
        yield parts[0], parts[1]


def _unified_vocabulary(path: Path, contents: Mapping[str, Any]) -> Vocabulary:
    model = contents.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path} describes no model.", AGAIN)
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedError(
            f"{path} is a {model['type']} tokenizer.",
            "mlxdiff implements CLIP's byte-level BPE: use such a checkpoint.",
        )
    merges = model.get("merges")
    if not isinstance(model.get("vocab"), dict) or not isinstance(merges, list):
        raise CheckpointError(f"{path} has no vocabulary with merges.", AGAIN)
    pairs = (tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in merges)
    return _vocabulary(path, model["vocab"], _checked(pairs, path), path)


def _checked(pairs: Iterable[Any], path: Path) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        match pair:
            case [str(left), str(right)]:
                yield left, right
            case _:
                raise CheckpointError(f"{path} has a merge that is no pair of symbols: {str(pair)[:40]!r}.", AGAIN)


def _vocabulary(path: Path, ids: Mapping[str, Any], merges: Iterable[tuple[str, str]], where: Path) -> Vocabulary:
    for symbol, index in ids.items():
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise CheckpointError(f"{path} gives the symbol {symbol!r} the id {index!r}.", AGAIN)
    try:
        return vocabulary(ids, merges)
    except KeyError as error:
        raise CheckpointError(f"{where} merges {error.args[0]!r}, which the vocabulary lacks.", AGAIN) from None


def _read_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not JSON.", AGAIN) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object.", AGAIN)
    return value


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_BYTES // 2**20} MiB, too large for a tokenizer.", AGAIN)
        what = mistaken_for(content[:512])
        if what is not None and not what.startswith("JSON"):
            raise CheckpointError(f"{path} is {what}.", "Download the file itself.")
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not UTF-8 text.", AGAIN) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).", AGAIN) from None
