"""Textual inversions inside a LoRA file, as OneTrainer and kohya's successors put them there for its prompts."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from ..checkpoint.header import Header
from ..checkpoint.inversion import CLIP_G, CLIP_L, ONE, Inversion
from ..checkpoint.load import read_arrays
from ..errors import CheckpointError

BUNDLED = "bundle_emb."

_ENCODERS = {"string_to_param.*": ONE, CLIP_L: CLIP_L, CLIP_G: CLIP_G}


def bundled_inversions(path: Path, header: Header) -> tuple[Inversion, ...]:
    """`bundle_emb.NAME.(string_to_param.*|clip_l|clip_g)`, lazy. Raises CheckpointError for any other such key."""
    keys: dict[str, dict[str, str]] = {}
    for key in header.tensors:
        if not key.startswith(BUNDLED):
            continue
        ending = next((ending for ending in _ENCODERS if key.endswith(f".{ending}")), None)
        shape = header.tensors[key].shape
        name = "" if ending is None else key[len(BUNDLED) : -len(ending) - 1]
        if ending is None or not name or len(shape) not in (1, 2) or 0 in shape:
            raise CheckpointError(
                f"{path} holds {key!r} in the shape {list(shape)}, which is no textual inversion.", "Download it again."
            )
        keys.setdefault(name, {})[_ENCODERS[ending]] = key
    if not keys:
        return ()
    arrays = read_arrays(path, header, [key for found in keys.values() for key in found.values()])
    inversions = []
    for name, found in keys.items():
        vectors = {encoder: _rows(arrays[key]) for encoder, key in found.items()}
        if len({rows.shape[0] for rows in vectors.values()}) != 1:
            raise CheckpointError(f"{path} brings an uneven textual inversion {name!r}.", "Download it again.")
        inversions.append(Inversion(name, name, vectors))
    return tuple(inversions)


def _rows(vectors: mx.array) -> mx.array:
    return vectors[None] if vectors.ndim == 1 else vectors
