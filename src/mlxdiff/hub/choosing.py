"""What a repository is, and which of its files are needed: a model, a part in a folder, or a file that is one.

Knows names only, and the config.json that tells one component from another.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint.detect import PICKLES
from ..errors import ModelNotFoundError, UnsupportedError
from ..part_kinds import KINDS, MODEL, kind_of_config
from ..parts import MODEL_INDEX, STEMS
from .reference import SINGLE_FILE, can_name_a_file, shown
from .selection import FILES, choose_files, choose_weight_files

CONFIG = "config.json"
IMAGE_ENCODER = "image_encoder"
SHOWN = 12  # files that an error lists

ReadConfig = Callable[[str], Mapping[str, Any]]
"""The JSON object in a file of the repository, by its path; empty where it holds none."""

# Those for faces come with LoRAs beside them.
_IP_ADAPTER = re.compile(r"(.*/)?ip[-_]adapter(?![^/]*lora)[^/]*\.safetensors", re.IGNORECASE)
# Which image encoder of h94/IP-Adapter an adapter looks through, where that is not the one beside it.
_ENCODERS = (("vit-h", f"models/{IMAGE_ENCODER}"), ("vit-g", f"sdxl_models/{IMAGE_ENCODER}"))
_COMPONENT = re.compile(rf"(?:{'|'.join(STEMS)})(\.\w+)?\.safetensors")


class SeveralError(UnsupportedError):
    """A repository with several files, each of which could be meant: `files`, by their paths."""

    def __init__(self, place: str, files: Collection[str]):
        files = tuple(files)
        listed = ", ".join(files[:SHOWN]) + (f" and {len(files) - SHOWN} more" if len(files) > SHOWN else "")
        super().__init__(
            f"{place} holds {len(files)} {SINGLE_FILE} files: {listed}.",
            f"Name the one you want, such as: mlxdiff pull {place}/{files[0]}",
        )
        self.files = files


@dataclass(frozen=True)
class Choice:
    """What is brought of a repository.

    kind   `model`, one of KINDS, or None where only the file itself says what it is
    files  the paths of all that is needed
    file   the one file that all of this is for; None where the whole folder is the thing
    """

    kind: str | None
    files: tuple[str, ...]
    file: str | None = None


def choose(
    names: Collection[str], file: str | None, variant: str | None, place: str, read_config: ReadConfig
) -> Choice:
    """What to bring of a repository, out of all its names; `file` is the one that was asked for, or None.

    Raises UnsupportedError for what mlxdiff does not load or cannot choose from, CheckpointError for what is not
    complete, ModelNotFoundError for a file that is not there. `place` is the repository's name in errors.
    """
    if file is not None and is_single_file(file):
        return _named(names, file, place, read_config)
    if MODEL_INDEX in names:
        return Choice(MODEL, tuple(choose_files(names, variant, place)))
    component = _component(names, variant, place, read_config)
    if component is not None:
        return component
    for kind, row in KINDS.items():
        if row.file is not None and row.file in names:
            return Choice(kind, (row.file,), row.file)
    files = part_files(names)
    if len(files) == 1:
        return _named(names, files[0], place, read_config)
    if files:
        raise SeveralError(place, files)
    raise _nothing(names, place)


def is_single_file(path: str) -> bool:
    """Whether a repository's file is something by itself: no part of a model in the diffusers layout."""
    return path.lower().endswith(SINGLE_FILE) and path.partition("/")[0] not in FILES


def part_files(names: Collection[str]) -> list[str]:
    """The .safetensors files that may each be a part: those that can be kept, and are not weights beside a config."""
    return sorted(
        name for name in names if is_single_file(name) and can_name_a_file(name) and not _is_of_component(name, names)
    )


def _is_of_component(name: str, names: Collection[str]) -> bool:
    folder, file = posixpath.split(name)
    return posixpath.basename(folder) == IMAGE_ENCODER or (
        is_component_file(file) and posixpath.join(folder, CONFIG) in names
    )


def is_component_file(name: str) -> bool:
    """Whether a file's name is that of a component's weights, which mean nothing without the config beside them."""
    return _COMPONENT.fullmatch(name) is not None


def encoder_of(adapter: str) -> str:
    """The folder of the image encoder that an IP-Adapter of this path looks through, in its repository."""
    name = posixpath.basename(adapter).lower()
    beside = posixpath.join(posixpath.dirname(adapter), IMAGE_ENCODER)
    return next((folder for mark, folder in _ENCODERS if mark in name), beside)


def _named(names: Collection[str], file: str, place: str, read_config: ReadConfig) -> Choice:
    if file not in names:
        raise ModelNotFoundError(
            f"{place} has no file {shown(file)}.", "Check its name, or name the repository alone to see what it holds."
        )
    folder, name = posixpath.split(file)
    config = posixpath.join(folder, CONFIG)
    if is_component_file(name) and config in names:
        kind = kind_of_config(read_config(config))
        if kind is not None:
            return Choice(kind, (config, file), file)
    kind = next((kind for kind, row in KINDS.items() if row.file == name), None)
    if kind is None and _IP_ADAPTER.fullmatch(file):
        return Choice("ip_adapter", (*_image_encoder(names, file), file), file)
    return Choice(kind, (file,), file)


def _image_encoder(names: Collection[str], adapter: str) -> tuple[str, ...]:
    """The files of the image encoder, where the repository has one."""
    folder = encoder_of(adapter)
    wanted = (f"{folder}/{CONFIG}", f"{folder}/model.safetensors")
    return wanted if all(name in names for name in wanted) else ()


def _component(names: Collection[str], variant: str | None, place: str, read_config: ReadConfig) -> Choice | None:
    """A repository that is one component of a model, such as a ControlNet or a VAE; None for any other."""
    if CONFIG not in names:
        return None
    config = read_config(CONFIG)
    kind, class_name = kind_of_config(config), config.get("_class_name")
    if kind is None:
        if not isinstance(class_name, str):  # another library's
            return None
        known = ", ".join(name for row in KINDS.values() for name in row.classes)
        raise UnsupportedError(
            f"{place} is a component of the class {shown(class_name)}, which mlxdiff does not use by itself.",
            f"It uses {known}, and models in the diffusers layout.",
        )
    root = [name for name in names if "/" not in name]
    try:
        return Choice(kind, (CONFIG, *choose_weight_files(root, variant, place)))
    except UnsupportedError:
        raise pickles_only(place, [name for name in root if name.endswith(PICKLES)]) from None


def _nothing(names: Collection[str], place: str) -> UnsupportedError:
    pickles = sorted(name for name in names if name.lower().endswith(PICKLES) and can_name_a_file(name))
    if pickles:
        return pickles_only(place, pickles)
    return UnsupportedError(
        f"{place} is no model in the diffusers layout (it has no {MODEL_INDEX}), and holds no {SINGLE_FILE} file.",
        "Choose a repository that has one of the two.",
    )


def pickles_only(place: str, pickles: Collection[str]) -> UnsupportedError:
    """The error for what could only be had by unpickling it."""
    listed = ", ".join(shown(name)[1:-1] for name in list(pickles)[:3])
    return UnsupportedError(
        f"{place} holds only pickles ({listed}), which could run any code when they are opened.",
        "Look for the same as .safetensors. One that you trust can be converted with PyTorch:"
        " safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'NAME.safetensors')",
    )
