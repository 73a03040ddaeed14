"""What a folder in the diffusers layout holds: its pipeline, its components, and the weight files of each.

Nothing here reads a weight or needs MLX.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ModelNotFoundError, UnsupportedError
from ..files import mistaken_for, open_regular
from ..parts import MODEL_INDEX, PARTS, STEMS

MAX_JSON_BYTES = 8 * 2**20  # the largest index of a published model has about 1 MB

PREFERRED_VARIANT = "fp16"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")

_VARIANT = r"(?P<variant>[A-Za-z0-9_]+)"
_SINGLE = re.compile(rf"(?P<stem>{'|'.join(STEMS)})(\.{_VARIANT})?\.safetensors")
# The variant's place in an index's name has moved: name.safetensors.index.fp16.json, name.fp16.safetensors.index.json.
_INDEXES = (
    re.compile(rf"(?P<stem>{'|'.join(STEMS)})\.safetensors\.index(\.{_VARIANT})?\.json"),
    re.compile(rf"(?P<stem>{'|'.join(STEMS)})\.{_VARIANT}\.safetensors\.index\.json"),
)


@dataclass(frozen=True)
class Component:
    """One part of a pipeline: the library its class comes from, and the class."""

    library: str
    class_name: str


@dataclass(frozen=True)
class ModelIndex:
    """`model_index.json`: the pipeline's class, its components by folder name, and its plain options."""

    class_name: str
    components: Mapping[str, Component]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class WeightFiles:
    """The safetensors files of one component; `index` maps each key to its file's name where they are several."""

    paths: tuple[Path, ...]
    index: Mapping[str, str] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; CheckpointError for a file that is missing, too large, too deep or anything else."""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}).", "Check the path, or download the model again."
        ) from None
    if len(content) > MAX_JSON_BYTES:
        raise CheckpointError(
            f"{path} is larger than {MAX_JSON_BYTES // 2**20} MiB, too large for a config.", "Download it again."
        )
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        what = mistaken_for(content[:512])
        if what is not None and not what.startswith("JSON"):
            raise CheckpointError(f"{path} is {what}, not JSON.", "Download the file itself.") from None
        detail = "too deeply nested" if isinstance(error, RecursionError) else str(error)[:100]
        raise CheckpointError(f"{path} is not JSON ({detail}).", "Download it again.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a JSON {type(values).__name__}, not an object.", "Download it again.")
    if "error" in values and len(values) <= 3:
        raise CheckpointError(
            f"{path} is a server's error message ({str(values['error'])[:100]!r}).", "Download the file itself."
        )
    return values


def read_model_index(folder: Path) -> ModelIndex:
    """Reads `model_index.json`; components that are null (a safety checker left out) are skipped.

    Raises ModelNotFoundError where the folder is not a model in the diffusers layout, CheckpointError where it is a
    broken one.
    """
    path = folder / MODEL_INDEX
    if not path.exists():
        raise _no_model(folder)
    return parse_model_index(path, read_json(path))


def parse_model_index(path: Path, values: Mapping[str, Any]) -> ModelIndex:
    """What the values of a `model_index.json` say; `path` names them in errors, which are `read_model_index`'s."""
    class_name = values.get("_class_name")
    if not isinstance(class_name, str):
        raise CheckpointError(f"{path} names no pipeline (_class_name).", "Download it again.")
    components, options = {}, {}
    for name, value in values.items():
        if name.startswith("_"):
            continue
        if not isinstance(value, list):
            options[name] = value
            continue
        component = _component(path, name, value)
        if component is not None:
            components[name] = component
    return ModelIndex(class_name, components, options)


def check_parts(index: ModelIndex, path: Path) -> None:
    """Raises CheckpointError where a part is missing that no checkpoint can do without, UnsupportedError for a part of
    another class than those that mlxdiff implements. `path` is the checkpoint's, for errors.
    """
    for part in PARTS:
        found = index.components.get(part.name)
        if found is None and part.needed:
            raise CheckpointError(
                f"{path} names no {part.name} in its {MODEL_INDEX}.", "Use a complete Stable Diffusion checkpoint."
            )
        if found is not None and part.classes and found.class_name not in part.classes:
            raise UnsupportedError(
                f"The {part.name} of {path} is a {found.class_name}, which mlxdiff does not implement.",
                f"Use a model whose {part.name} is a {' or a '.join(part.classes)}.",
            )


def weight_files(folder: Path, variant: str | None = None) -> WeightFiles:
    """The safetensors files that hold a component's weights, single or in shards.

    `variant` is the middle part of a name such as model.fp16.safetensors. None takes the plain file where there is
    one, else the variant there is, fp16 before others. Raises CheckpointError where there are no weights, and
    UnsupportedError where there are only pickles.
    """
    try:
        names = {entry.name for entry in folder.iterdir() if not entry.is_dir()}
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be read ({error.strerror or error}).", "Check the path, or download the model again."
        ) from None
    path = folder / choose_weights(names, variant, str(folder))
    if path.suffix == ".json":
        index = _read_shard_index(path)
        return WeightFiles(tuple(folder / name for name in sorted(set(index.values()))), index)
    return WeightFiles((path,))


def tiny_vae_halves(folder: Path) -> list[Path]:
    """A folder's files with the decoder and the encoder of a TAESD, by their names; [] unless there is one of each."""
    halves = [sorted(folder.glob(f"*{half}.safetensors")) for half in ("decoder", "encoder")]
    return [files[0] for files in halves] if [len(files) for files in halves] == [1, 1] else []


def choose_weights(names: Collection[str], variant: str | None, place: str) -> str:
    """Which of a folder's file names to load: a single safetensors file, or the index of several.

    `place` names the folder in errors; they are `weight_files`'.
    """
    found = _weights_by_variant(names)
    if variant is not None:
        if variant in found:
            return found[variant]
    elif None in found:
        return found[None]
    elif PREFERRED_VARIANT in found:
        return found[PREFERRED_VARIANT]
    elif len(found) == 1:
        return next(iter(found.values()))
    sought = [f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors" for stem in reversed(STEMS)]
    problem = f"{place} holds neither {' nor '.join(sought)}"
    if found:
        have = ", ".join(sorted(found.values()))
        raise CheckpointError(f"{problem}, but {have}.", "Name one of the variants that are there.")
    if any(name.endswith(PICKLES) for name in names):
        raise UnsupportedError(
            f"{problem}, only pickled weights, which could run any code when they are opened.",
            "Download the model's safetensors files, or convert them: diffusers' "
            "save_pretrained(..., safe_serialization=True).",
        )
    raise CheckpointError(f"{problem}.", "The model is not complete: download it again.")


def _weights_by_variant(names: Collection[str]) -> dict[str | None, str]:
    """Variant (None is the plain one) -> file name; a single file goes before an index, diffusers' stem before."""
    found: dict[str | None, str] = {}
    for pattern in (_SINGLE, *_INDEXES):
        matches = filter(None, map(pattern.fullmatch, sorted(names)))  # sorted: diffusion_... comes before model
        for match in matches:
            found.setdefault(match["variant"], match[0])
    return found


def _read_shard_index(path: Path) -> dict[str, str]:
    """The `weight_map` of an index, its file names checked: they stay in the index's folder."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map.", "Download it again.")
    for key, name in weight_map.items():
        # A backslash or a colon would leave the folder on Windows.
        if not isinstance(name, str) or not name.endswith(".safetensors") or re.search(r"[/\\:\0]", name):
            raise CheckpointError(
                f"{path} keeps {key!r} in {name!r}, which is no safetensors file beside it.", "Download it again."
            )
    return weight_map


def _component(path: Path, name: str, value: list[Any]) -> Component | None:
    if value == [None, None]:
        return None
    # The name is also a folder's: an identifier cannot lead out of the model.
    if len(value) != 2 or not all(isinstance(item, str) for item in value) or not name.isidentifier():
        raise CheckpointError(
            f"{path} describes the component {name!r} as {value!r}.",
            "It should be [library, class]; download it again.",
        )
    return Component(*value)


def _no_model(folder: Path) -> ModelNotFoundError:
    if not folder.exists():
        return ModelNotFoundError(f"There is no folder {folder}.", "Check the path.")
    if not folder.is_dir():
        return ModelNotFoundError(f"{folder} is a file, not a folder with a {MODEL_INDEX}.", "Give the model's folder.")
    if (folder / "config.json").exists():
        return ModelNotFoundError(
            f"{folder} is one component of a model: it has a config.json and no {MODEL_INDEX}.",
            "Give the folder that contains it, with the other components.",
        )
    return ModelNotFoundError(
        f"{folder} is no model in the diffusers layout: it has no {MODEL_INDEX}.",
        "Give a folder that has one, or a model's id on the hub.",
    )
