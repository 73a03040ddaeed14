"""TAESD as its author publishes it: a decoder and an encoder, each a chain of numbered layers, in one file or in two.

    taesd_decoder.safetensors   1.weight, 3.conv.0.weight, ...     the chain begins with a clamp, which has no weights
    taesd_encoder.safetensors   0.weight, 1.conv.0.weight, ...
    one file with both          the same below encoder. and decoder., or below taesd_encoder. and taesd_decoder.
    diffusers' weights          encoder.layers.0.weight, decoder.layers.0.weight, ...

No file says how its network is built: names and shapes do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import CheckpointError, UnsupportedError
from .detect import tiny_vae_halves
from .header import TensorInfo, read_header
from .load import read_arrays

_LAYER = re.compile(r"(\d{1,3})(\.conv\.[024])?\.(weight|bias)")
_HALF = re.compile(r"(?:taesd_)?(encoder|decoder)\.(layers\.)?(.+)")
_REMEDY = "Give the files as they were published."


@dataclass(frozen=True)
class TinyVAEFile:
    """`config` is what diffusers' config.json would say; `names` has each weight by diffusers' name: (file, key)."""

    config: Mapping[str, Any]
    names: Mapping[str, tuple[Path, str]]

    def weights(self) -> dict[str, mx.array]:
        """The lazy arrays under diffusers' names."""
        arrays: dict[str, mx.array] = {}
        for path in sorted({path for path, _ in self.names.values()}):
            inside = {name: key for name, (place, key) in self.names.items() if place == path}
            found = read_arrays(path, read_header(path), inside.values())
            arrays |= {name: found[key] for name, key in inside.items()}
        return arrays


def read_tiny_vae(path: Path) -> TinyVAEFile | None:
    """The TAESD in a file, or in a folder with an encoder and a decoder; None for anything else.

    Beside a file with a decoder alone the encoder is looked for, and the other way round. Raises CheckpointError where
    the layers do not make a chain.
    """
    names: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(path):
        tensors = read_header(file).tensors
        named = _named(tensors)
        if not named:
            return None
        names |= {name: (file, key) for name, key in named.items()}
        shapes |= {name: tensors[key].shape for name, key in named.items()}
    if not names:
        return None
    if not any(name.startswith("decoder.") for name in names):
        raise UnsupportedError(f"{path} has the encoder of a tiny VAE alone.", "Put its decoder beside it.")
    return TinyVAEFile(_config(shapes, path), names)


def _files(path: Path) -> list[Path]:
    """The file and its other half, or the two in a folder."""
    if path.is_dir():
        return tiny_vae_halves(path)
    for half, other in (("decoder", "encoder"), ("encoder", "decoder")):
        if path.stem.endswith(half):
            beside = path.with_name(f"{path.stem.removesuffix(half)}{other}{path.suffix}")
            return [path, beside] if beside.is_file() else [path]
    return [path]


def _named(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Diffusers' names -> the keys that are stored; {} where it is no TAESD."""
    keys = [key for key, info in tensors.items() if info.shape not in ((), (1,))]  # ComfyUI's vae_scale and vae_shift
    if keys and all(map(_LAYER.fullmatch, keys)):
        # The clamp is number 0 of a decoder, an encoder's first convolution is.
        half = "encoder" if "0.weight" in keys else "decoder"
        return {_layer(half, key): key for key in keys}
    named = {}
    for key in keys:
        match = _HALF.fullmatch(key)
        if match is None or not _LAYER.fullmatch(match[3]):
            return {}
        half, inside = match[1], match[3]
        named[f"{half}.layers.{inside}" if match[2] else _layer(half, inside)] = key
    return named


def _layer(half: str, key: str) -> str:
    number, _, rest = key.partition(".")
    return f"{half}.layers.{int(number) - (half == 'decoder')}.{rest}"


def _config(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    encoder = {name.removeprefix("encoder.layers.") for name in shapes if name.startswith("encoder.")}
    decoder = {name.removeprefix("decoder.layers.") for name in shapes if name.startswith("decoder.")}
    up = _levels_of(decoder, 2, 2, path)
    down = _levels_of(encoder, 1, 1, path) if encoder else up[::-1]
    first = shapes.get("decoder.layers.0.weight", ())
    if len(first) != 4:
        raise CheckpointError(f"{path} is no sound tiny VAE: its decoder has no first convolution.", _REMEDY)
    return {
        "_class_name": "AutoencoderTiny",
        "latent_channels": first[1],
        "encoder_block_out_channels": [first[0]] * len(down),
        "decoder_block_out_channels": [first[0]] * len(up),
        "num_encoder_blocks": down,
        "num_decoder_blocks": up,
        "has_encoder": bool(encoder),
    }


def _levels_of(names: Collection[str], start: int, step: int, path: Path) -> list[int]:
    """Blocks at each level of a chain whose blocks begin at `start`.

    Between levels stand `step` layers, of which the last is a convolution: (upsampling and) a convolution.
    """
    largest = max((int(name.partition(".")[0]) for name in names), default=0)
    levels, number = [], start
    while number <= largest:
        blocks = 0
        while f"{number}.conv.0.weight" in names:
            blocks, number = blocks + 1, number + 1
        levels.append(blocks)
        if number == largest:
            return levels
        number += step
    raise CheckpointError(f"{path} is no sound tiny VAE: its layers do not make a chain.", _REMEDY)
