"""Latents to pictures by a tiny VAE (TAESD), which takes a few percent of the time of a step: for previews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np

from .. import images
from ..pipeline import StableDiffusion


def decoder(sd: StableDiffusion, reference: str | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """What decodes the model's latents (B, h, w, C) of no noise to (B, H, W, 3) uint8; None where there is no tiny VAE.

    reference  a VAE to take instead of the model's own

    Raises what opening the model with that VAE raises.
    """
    if reference is not None:
        sd = StableDiffusion.open(replace(sd.model, vae=reference, dtype=None, quantize=None))
        _ = sd.networks.vae  # of this second model nothing else is ever loaded
    elif not sd.checkpoint.has_tiny_vae:
        return None

    def decode(latents: np.ndarray) -> np.ndarray:
        finite = np.nan_to_num(latents.astype(np.float32))
        return np.concatenate([images.to_uint8(sd.decode(mx.array(one)[None])) for one in finite])

    return decode
