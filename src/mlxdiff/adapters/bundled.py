"""Textual inversions inside a LoRA file, as OneTrainer and kohya's successors put them there for its prompts."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from ..checkpoint.header import Header
from ..checkpoint.inversion import CLIP_G, CLIP_L, ONE, Inversion
from ..checkpoint.load import read_arrays
from ..errors import CheckpointError

BUNDLED = "bundle_emb."


def bundled_inversions(path: Path, header: Header) -> tuple[Inversion, ...]:
    """`bundle_emb.NAME.VECTORS`, lazy: `clip_l` and `clip_g` for SDXL's encoders, any other word for an only encoder.

    Raises CheckpointError for tensors that are no textual inversion.
    """
    keys: dict[str, dict[str, str]] = {}
    for key in header.tensors:
        if not key.startswith(BUNDLED):
            continue
        name, _, vectors = key[len(BUNDLED) :].partition(".")
        encoder = vectors if vectors in (CLIP_L, CLIP_G) else ONE
        shape = header.tensors[key].shape
        found = keys.setdefault(name, {})
        if not name or encoder in found or len(shape) not in (1, 2) or 0 in shape:
            raise CheckpointError(
                f"{path} holds {key!r} in the shape {list(shape)}, which is no textual inversion.", "Download it again."
            )
        found[encoder] = key
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
