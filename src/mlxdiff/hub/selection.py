"""Which files of a repository mlxdiff loads, out of all that are in it.

Left out are pickles, Flax, ONNX and OpenVINO, safety checkers, second precisions, and whole checkpoints in one file at
the root. Knows names only; the names that count are the ones that `checkpoint` loads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ..checkpoint.detect import choose_weights
from ..errors import CheckpointError, UnsupportedError
from ..parts import BY_NAME, MODEL_INDEX, PARTS, SETTINGS, STEMS

FILES = {part.name: part.files for part in PARTS}
"""The small files of each part, by its name."""

_STEM = rf"(?:{'|'.join(STEMS)})"
# The variant's place in a shard's name has moved, as it has in an index's.
_SHARDS = (
    re.compile(rf"{_STEM}(?:\.(?P<variant>\w+))?-\d{{5}}-of-(?P<count>\d{{5}})\.safetensors"),
    re.compile(rf"{_STEM}-\d{{5}}-of-(?P<count>\d{{5}})\.(?P<variant>\w+)\.safetensors"),
)


def choose_files(names: Collection[str], variant: str | None, place: str) -> list[str]:
    """The files of a repository that mlxdiff loads, out of all their names; `place` is its name in errors.

    Weights come in one precision. Left out are pickles, Flax, ONNX and OpenVINO, safety checkers, and checkpoints in a
    single file at the root.
    """
    if MODEL_INDEX not in names:
        raise UnsupportedError(
            f"{place} is no model in the diffusers layout: it has no {MODEL_INDEX}.",
            "Choose a repository that has one, with unet, vae and text_encoder folders beside it.",
        )
    chosen = [MODEL_INDEX, *({SETTINGS} & set(names))]
    for part in PARTS:
        inside = files_in(part.name, names)
        if inside.intersection(part.files):
            chosen += [f"{part.name}/{name}" for name in choose_component(part.name, inside, variant, place)]
        elif part.needed:
            raise UnsupportedError(
                f"{place} has no {part.name}, so it is no Stable Diffusion model.",
                "mlxdiff renders the families of Stable Diffusion 1, 2 and XL: choose one of them.",
            )
    return chosen


def files_in(folder: str, names: Iterable[str]) -> set[str]:
    """The names below a folder, without it."""
    return {name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")}


def choose_component(component: str, names: Collection[str], variant: str | None, place: str) -> list[str]:
    """The files of one component, out of all in its folder.

    Raises CheckpointError where it is not complete, UnsupportedError where its weights are pickles.
    """
    place, part = f"{place}/{component}", BY_NAME[component]
    files = [name for name in part.files if name in names]
    if not files or (part.is_tokenizer and not _has_vocabulary(files)):
        raise CheckpointError(f"{place} lacks {part.essential}.", "Choose another repository or revision.")
    return files if part.weights is None else files + choose_weight_files(names, variant, place)


def _has_vocabulary(names: Collection[str]) -> bool:
    return "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= set(names)


def choose_weight_files(names: Collection[str], variant: str | None, place: str) -> list[str]:
    """The safetensors of one component that `checkpoint` would load, out of its folder's names: one, or an index with
    all its shards. Errors as of `choose_component`."""
    first = choose_weights(names, variant, place)
    if not first.endswith(".json"):
        return [first]
    others = ("safetensors", "index", "json")
    its_variant = next((part for part in first.split(".")[1:] if part not in others), None)
    found = (match for name in sorted(names) for pattern in _SHARDS if (match := pattern.fullmatch(name)))
    shards = {match[0]: int(match["count"]) for match in found if match["variant"] == its_variant}
    if set(shards.values()) != {len(shards)}:
        raise CheckpointError(
            f"{place} has no complete weights: {first} lacks some of its files.",
            "Choose another repository or revision.",
        )
    return [first, *shards]
