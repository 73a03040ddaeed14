"""Textual inversions (Gal et al. 2022): files of a few vectors that a text encoder reads as tokens.

Layouts: one tensor under any name (A1111's `emb_params`, diffusers' token), A1111's `string_to_param.*`, and SDXL's
`clip_l` with `clip_g`. Only safetensors are read: the older .pt and .bin are pickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..errors import CheckpointError, RequestError, UnsupportedError
from .header import FLOATS, Header, read_header
from .load import map_tensors

CLIP_L, CLIP_G = "clip_l", "clip_g"
ONE = ""  # the only encoder of SD 1.x and 2.x
_PARAM = "string_to_param"
_PICKLES = (".pt", ".bin", ".pth", ".ckpt")
_GENERIC = ("emb_params", "*")  # keys that say nothing of the token


@dataclass(frozen=True)
class Inversion:
    """vectors: for each encoder (ONE, or CLIP_L and CLIP_G) (n, D), with the same n for all; lazy.

    name   what prompts call it: the file's name without its ending
    token  what the file itself calls it, as diffusers' files do; None where it does not say
    """

    name: str
    token: str | None
    vectors: Mapping[str, mx.array]

    @property
    def count(self) -> int:
        """How many tokens it takes."""
        return next(iter(self.vectors.values())).shape[0]


def read_inversion(path: Path, name: str | None = None) -> Inversion:
    """Reads a file's header and maps its vectors.

    Raises UnsupportedError for a pickle, CheckpointError for a file that is damaged or no textual inversion.
    """
    if path.suffix.lower() in _PICKLES:
        raise UnsupportedError(
            f"{path} is a pickle, which could run any code when it is opened.",
            "Get the textual inversion as .safetensors, or convert one that you trust.",
        )
    header = read_header(path)
    keys = _keys(path, header)
    arrays = map_tensors(path)
    vectors = {encoder: _rows(arrays[key]) for encoder, key in keys.items()}
    if len({rows.shape[0] for rows in vectors.values()}) != 1:
        counts = " and ".join(str(rows.shape[0]) for rows in vectors.values())
        raise CheckpointError(f"{path} has {counts} vectors for the two text encoders.", "Download it again.")
    key = keys.get(ONE)
    token = None if key is None or key in _GENERIC or key.startswith(_PARAM) else key
    return Inversion(path.stem if name is None else name, token, vectors)


def vectors_for(inversion: Inversion, widths: Sequence[int]) -> tuple[mx.array, ...]:
    """(n, D) for each of a model's text encoders, whose hidden sizes D are `widths`. Raises RequestError for another
    model's file: one that has no vectors for an encoder, or some that fit none."""
    left = dict(inversion.vectors)
    found = []
    for width in widths:
        key = next((key for key, rows in left.items() if rows.shape[1] == width), None)
        if key is None or (key == ONE and len(widths) > 1):
            break
        found.append(left.pop(key))
    if left or len(found) != len(widths):
        has = " and ".join(str(rows.shape[1]) for rows in inversion.vectors.values())
        raise RequestError(
            f"The textual inversion {inversion.name!r} is of another kind of model: its vectors have {has} numbers, "
            f"the text encoder's have {' and '.join(map(str, widths))}.",
            "Use one that was made for this model.",
        )
    return tuple(found)


def _keys(path: Path, header: Header) -> dict[str, str]:
    """The tensor of each encoder."""
    shapes = {key: info.shape for key, info in header.tensors.items() if info.dtype in FLOATS and info.shape}
    params = [key for key in shapes if key.startswith(_PARAM)]
    if CLIP_L in shapes and CLIP_G in shapes:
        keys = {CLIP_L: CLIP_L, CLIP_G: CLIP_G}
    elif len(params) == 1 or len(shapes) == 1:
        keys = {ONE: next(iter(params or shapes))}
    else:
        raise CheckpointError(
            f"{path} is no textual inversion: it holds {len(shapes)} tensors of numbers.",
            "Such a file holds one, or clip_l and clip_g for SDXL.",
        )
    for key in keys.values():
        if len(shapes[key]) > 2 or 0 in shapes[key]:
            raise CheckpointError(
                f"{path} is no textual inversion: {key!r} has the shape {list(shapes[key])}.",
                "Such a file holds one row a token.",
            )
    return keys


def _rows(vectors: mx.array) -> mx.array:
    return vectors[None] if vectors.ndim == 1 else vectors
