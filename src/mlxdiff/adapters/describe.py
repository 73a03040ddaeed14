"""What an adapter's file is, in words and numbers: for `mlxdiff info FILE`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.kinds import kind_if_sound
from ..errors import MlxdiffError
from ..printable import printable
from . import family
from .folder import weights_in
from .kinds import form_of, rank_of
from .names import component_of
from .read import Adapter, Layer, read_adapter
from .refusals import other_family

MOST_TAGS = 20
_LONGEST = 300  # letters of one text out of a file

# What metadata say, by what it is called here: sd-scripts' keys, then those of the modelspec.
_TEXTS = {
    "title": ("modelspec.title", "ss_output_name"),
    "trained_on": ("ss_sd_model_name", "ss_base_model_version"),
    "clip_skip": ("ss_clip_skip",),
    "trigger": ("modelspec.trigger_phrase", "trained_words"),
    "author": ("modelspec.author",),
    "license": ("modelspec.license",),
}


def is_adapter(path: Path) -> bool:
    """Whether a file, or the one in a folder as PEFT writes it, is an adapter, by its header."""
    try:
        return kind_if_sound(weights_in(path)) == "lora"
    except (MlxdiffError, OSError):
        return False


def describe(path: Path) -> dict[str, Any]:
    """What the adapter of a file is; what the file does not say is left out. Its texts are printable, and none of
    its weights is read.

    Raises as read_adapter does.
    """
    adapter = read_adapter(path)
    found: dict[str, Any] = {name: _text(adapter.metadata, keys) for name, keys in _TEXTS.items()}
    found["tags"] = _tags(adapter.metadata.get("ss_tag_frequency", ""))
    found["embeddings"] = [_clean(inversion.name) for inversion in adapter.inversions]
    return {
        "file": str(adapter.path),
        "adapter": sorted({form_of(layer.parts, layer.numbers) for layer in adapter.layers}),
        "base": _base(adapter),
        "rank": _numbers(rank_of(layer.parts) for layer in adapter.layers),
        "alpha": _numbers(layer.numbers.get("alpha") for layer in adapter.layers),
        "layers": _by_component(adapter.layers),
        **{name: value for name, value in found.items() if value},
    }


def _base(adapter: Adapter) -> str | None:
    other = other_family([layer.name for layer in adapter.layers])
    return other if other is not None else family.WORDS.get(str(adapter.base))


def _by_component(layers: tuple[Layer, ...]) -> dict[str, int]:
    return dict(sorted(Counter(component_of(layer.name) for layer in layers).items(), reverse=True))


def _numbers(values: Any) -> list[float]:
    """The different numbers, without a fraction of 0."""
    return sorted({int(value) if value == int(value) else round(value, 6) for value in values if value is not None})


def _text(metadata: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    found = (_clean(metadata[key]) for key in keys if key in metadata)
    return next((text for text in found if text and text != "None"), None)


def _clean(text: str) -> str:
    """In one line, and of a length that can be read."""
    line = " ".join(printable(text[: 4 * _LONGEST]).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _tags(text: str) -> dict[str, int]:
    """The most frequent tags of the pictures that it was trained on, and how many pictures had each."""
    try:
        folders = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    counted: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 10**9:
                counted[_clean(tag)] += count
    return {tag: count for tag, count in counted.most_common(MOST_TAGS) if tag}
