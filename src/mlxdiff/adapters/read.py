"""Adapter files: their header checked, their tensors grouped by the module that they change, their arrays lazy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from ..checkpoint.header import Header, read_header
from ..checkpoint.inversion import Inversion
from ..checkpoint.load import read_arrays
from ..errors import CheckpointError, UnsupportedError
from . import family
from .bundled import BUNDLED, bundled_inversions
from .folder import weights_in
from .keys import PEFT, split
from .peft_config import PeftConfig, config_of
from .refusals import listed, not_an_adapter
from .scalars import read_scalars

# Parts that are one number, which is read at once.
_SCALARS = ("alpha", "scale", "on_input")
# Parts that only stand beside others.
_BESIDE = {*_SCALARS, "magnitude", "row_magnitude"}
_DAMAGED = "The file is damaged: download it again."


@dataclass(frozen=True)
class Layer:
    """What an adapter changes of one module.

    name     the module, as the file names it
    parts    the tensors by what they are (keys.py), lazy, in torch's layout
    numbers  `alpha`, `scale` and `on_input`, where the file has them
    """

    name: str
    parts: Mapping[str, mx.array]
    numbers: Mapping[str, float] = field(default_factory=dict)

    def scale(self, rank: int) -> float:
        """What the change is multiplied by: alpha / rank, and 1 where the file has no alpha."""
        if "scale" in self.numbers:
            return self.numbers["scale"]
        return self.numbers["alpha"] / rank if "alpha" in self.numbers else 1.0


@dataclass(frozen=True)
class Adapter:
    """A file of changes to a model's weights.

    name        the file's name without its ending
    metadata    the texts in its header
    layers      what it changes, module by module
    base        the family that it was made for ("sd1", "sd2", "sdxl"), as far as shapes and metadata tell
    inversions  textual inversions that it brings along for its prompts
    """

    path: Path
    metadata: Mapping[str, str]
    layers: tuple[Layer, ...]
    base: str | None
    inversions: tuple[Inversion, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem


def read_adapter(path: Path) -> Adapter:
    """Reads the header of an adapter's .safetensors file, or of the one in its folder, and maps its arrays.

    Raises UnsupportedError for a pickle and for a file of something else, which is named; CheckpointError for one that
    is damaged, or holds keys that no known form of adapter has.
    """
    path = weights_in(path)
    header = read_header(path)
    modules = _modules(path, header)
    scalars = {key for parts in modules.values() for part, key in parts.items() if part in _SCALARS}
    numbers = read_scalars(path, header, scalars)
    arrays = read_arrays(path, header, [k for parts in modules.values() for k in parts.values() if k not in scalars])
    config = config_of(path, header)
    layers = tuple(_layer(path, name, parts, arrays, numbers, config) for name, parts in modules.items())
    base = family.of_layers({layer.name: layer.parts for layer in layers}, header.metadata)
    return Adapter(path, header.metadata, layers, base, bundled_inversions(path, header))


def _modules(path: Path, header: Header) -> dict[str, dict[str, str]]:
    """module -> part -> key."""
    modules: dict[str, dict[str, str]] = {}
    unknown = []
    for key, info in header.tensors.items():
        if key.startswith(BUNDLED):
            continue
        found = split(key)
        if found is None:
            unknown.append(key)
            continue
        if 0 in info.shape:
            raise CheckpointError(f"{path} has {key!r} in the shape {list(info.shape)}: it is empty.", _DAMAGED)
        if found.part == "oft_blocks" and len(info.shape) == 4:
            raise UnsupportedError(f"{path} is a BOFT, which mlxdiff does not read.", "Use a LoRA, a LoHa or a LoKr.")
        parts = modules.setdefault(found.module, {})
        if found.part in parts:
            raise CheckpointError(f"{path} holds the same as {key!r} under two names.", "Use a file with one of them.")
        parts[found.part] = key
    # A model's own weights end like IA3's, and like the layers that PEFT keeps whole.
    alone = [name for name, parts in modules.items() if parts.keys() <= {"weight", "bias"} and PEFT not in name]
    unknown += [key for name in alone for key in modules.pop(name).values()]
    if not any(parts.keys() - _BESIDE for parts in modules.values()):
        raise not_an_adapter(path, header)
    if unknown:
        raise CheckpointError(
            f"{path} holds {listed(unknown)}, which no form of LoRA that mlxdiff knows has.",
            "Use a LoRA for Stable Diffusion 1.x, 2.x or XL.",
        )
    return modules


def _layer(
    path: Path,
    name: str,
    parts: Mapping[str, str],
    arrays: Mapping[str, mx.array],
    numbers: Mapping[str, float],
    config: PeftConfig | None,
) -> Layer:
    own = {part: numbers[key] for part, key in parts.items() if part in _SCALARS}
    bad = next((part for part, value in own.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise CheckpointError(f"{path} has {parts[bad]!r} = {own[bad]}.", _DAMAGED)
    # OFT's alpha is a limit, and 0 is none.
    if (own.get("alpha") == 0 and "oft_blocks" not in parts) or own.get("scale") == 0:
        raise CheckpointError(
            f"{path} has an alpha of 0 for {name!r}: it would change nothing.", "Use a file whose alpha is not 0."
        )
    if config is not None:
        own |= config.numbers(name)
    return Layer(name, {part: arrays[key] for part, key in parts.items() if part not in _SCALARS}, own)
