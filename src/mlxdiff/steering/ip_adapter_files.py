"""IP-Adapter files (Ye et al. 2023) as their authors publish them: told apart, checked, and loaded.

Keys: `image_proj.*` makes tokens of a picture, `ip_adapter.N.to_k_ip.weight` and `to_v_ip` are for the cross-attention
number N of a UNet, counted 1, 3, 5, ... since diffusers numbers self-attentions too. What a file is its header tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from ..checkpoint import transform
from ..checkpoint.header import FLOATS, Header, read_header
from ..checkpoint.load import StoredWeights, read_arrays, steps
from ..errors import CheckpointError, UnsupportedError
from ..models.ip_adapter import FULL, HEAD_SIZE, PLAIN, PLUS, IPAdapter, IPAdapterConfig

PLAIN_TOKENS = 4  # of every published plain adapter; the file holds only their product with the width
MOST_LAYERS = 1000

Shapes = Mapping[str, tuple[int, ...]]

_KEYS_VALUES = re.compile(r"ip_adapter\.([0-9]{1,4})\.to_[kv]_ip\.weight")
_IN_LAYERS = re.compile(r"image_proj\.layers\.([0-9]{1,4})\.")
_FACE = ("image_proj.perceiver_resampler.", "image_proj.id_proj.")
_REMEDY = "Give a file such as ip-adapter_sd15.safetensors of h94/IP-Adapter."


def is_ip_adapter(header: Header) -> bool:
    """Whether a file is an IP-Adapter by its keys, of whatever kind."""
    return any(_KEYS_VALUES.fullmatch(key) for key in header.tensors) and any(
        key.startswith("image_proj.") for key in header.tensors
    )


def read_config(path: Path) -> IPAdapterConfig:
    """What a file's header says, without reading a weight.

    Raises CheckpointError for a file that is damaged or no IP-Adapter, UnsupportedError for one of faces (FaceID).
    """
    header = read_header(path)
    shapes = {key: info.shape for key, info in header.tensors.items() if info.dtype in FLOATS}
    if any(key.startswith(_FACE) for key in shapes) or any("_lora." in key for key in shapes) or _is_face_id(shapes):
        raise UnsupportedError(
            f"{path} is an IP-Adapter FaceID, which needs a program that recognizes faces.",
            "Use a plain, Plus or full-face adapter, such as ip-adapter-plus-face_sd15.safetensors of h94/IP-Adapter.",
        )
    if not is_ip_adapter(header):
        raise CheckpointError(f"{path} is no IP-Adapter.", _REMEDY)
    layers = _layers(path, shapes)
    config = _projection(path, shapes, layers)
    if config is None or min(config.image_width, config.width, *config.layers) < 1:
        raise CheckpointError(
            f"{path} is an IP-Adapter of an unknown kind, by its keys image_proj.*.", "Use a plain, Plus or full one."
        )
    return config


def load_ip_adapter(path: Path, dtype: mx.Dtype) -> IPAdapter:
    """The adapter of a file, lazy. Raises as `read_config`, and CheckpointError for weights of wrong shapes."""
    config = read_config(path)
    header = read_header(path)
    numbers = {number: i for i, number in enumerate(sorted(_numbers(header.tensors)))}
    arrays = read_arrays(path, header, header.tensors)
    stored = StoredWeights({_path_of(key, numbers): array for key, array in arrays.items()}, str(path))
    module = IPAdapter(config)
    transform.apply(steps(stored, dtype=dtype), module, dict(stored.arrays))
    return module


def _is_face_id(shapes: Shapes) -> bool:
    """FaceID's projection is the full one's, but for the place of its norm."""
    return "image_proj.proj.0.weight" in shapes and "image_proj.norm.weight" in shapes


def _numbers(keys: Mapping[str, object]) -> set[int]:
    return {int(match[1]) for key in keys if (match := _KEYS_VALUES.fullmatch(key)) is not None}


def _path_of(key: str, numbers: Mapping[int, int]) -> str:
    """The parameter of a key: the number of a cross-attention becomes its place."""
    match = _KEYS_VALUES.fullmatch(key)
    return key if match is None else key.replace(f".{match[1]}.", f".{numbers[int(match[1])]}.", 1)


def _layers(path: Path, shapes: Shapes) -> tuple[int, ...]:
    """The width of each cross-attention."""
    numbers = sorted(_numbers(shapes))
    if numbers != list(range(1, 2 * len(numbers), 2)) or len(numbers) > MOST_LAYERS:
        raise CheckpointError(
            f"{path} has weights for {len(numbers)} cross-attentions, with gaps in their numbers.",
            "It is not complete: download it again.",
        )
    found = [shapes.get(f"ip_adapter.{number}.to_k_ip.weight", ()) for number in numbers]
    if any(len(shape) != 2 for shape in found):
        raise CheckpointError(f"{path} lacks keys or values of a cross-attention.", "Download it again.")
    return tuple(shape[0] for shape in found)


def _projection(path: Path, shapes: Shapes, layers: tuple[int, ...]) -> IPAdapterConfig | None:
    """The config, from what stands under `image_proj.`; None for what is no kind of adapter that there is."""
    of = {key.removeprefix("image_proj."): shape for key, shape in shapes.items() if key.startswith("image_proj.")}
    width = shapes["ip_adapter.1.to_k_ip.weight"][1]

    def is_matrix(*keys: str) -> bool:
        return all(len(of.get(key, ())) == 2 for key in keys)

    if is_matrix("proj.weight"):
        made, image_width = of["proj.weight"]
        if width < 1 or made != PLAIN_TOKENS * width:
            raise CheckpointError(
                f"{path} makes {made} numbers of a picture, which are not {PLAIN_TOKENS} tokens of {width}.",
                "Download it again.",
            )
        return IPAdapterConfig(PLAIN, image_width, width, PLAIN_TOKENS, layers)
    if is_matrix("proj.0.weight", "proj.2.weight") and "proj.3.weight" in of:
        inner, image_width = of["proj.0.weight"]
        return IPAdapterConfig(FULL, image_width, width, None, layers, inner=inner)
    if is_matrix("proj_in.weight", "layers.0.0.to_q.weight", "layers.0.1.1.weight") and len(of.get("latents", ())) == 3:
        inner, image_width = of["proj_in.weight"]
        heads, rest = divmod(of["layers.0.0.to_q.weight"][0], HEAD_SIZE)
        depth = len({match[1] for key in shapes if (match := _IN_LAYERS.match(key)) is not None})
        mlp = of["layers.0.1.1.weight"][0]
        if rest == 0 and heads > 0 and 0 < depth <= MOST_LAYERS and mlp > 0 and of["latents"][1] > 0:
            return IPAdapterConfig(
                PLUS, image_width, width, of["latents"][1], layers, inner=inner, heads=heads, depth=depth, mlp=mlp
            )
    return None
