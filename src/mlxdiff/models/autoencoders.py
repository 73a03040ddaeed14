"""The autoencoders that there are, and which of them a config is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from . import tiling
from .tiny_vae import AutoencoderTiny, TinyVAEConfig, decode_streamed
from .vae import AutoencoderKL, VAEConfig

Autoencoder = AutoencoderKL | AutoencoderTiny
AutoencoderConfig = VAEConfig | TinyVAEConfig

TINY = "AutoencoderTiny"


def read_config(values: Mapping[str, Any]) -> AutoencoderConfig:
    """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for another autoencoder."""
    return TinyVAEConfig.from_dict(values) if values.get("_class_name") == TINY else VAEConfig.from_dict(values)


def build(config: AutoencoderConfig) -> Autoencoder:
    """The network, with its initial, unevaluated weights."""
    return AutoencoderTiny(config) if isinstance(config, TinyVAEConfig) else AutoencoderKL(config)


def decode_tiled(vae: Autoencoder, z: mx.array, tile: int) -> mx.array:
    """`vae.decode(z)` up to floating-point rounding, in strips of at most `tile` x `tile` pixels.

    z (B, h, w, C) -> (B, h*f, w*f, 3), one by one. Not lazy. Raises RequestError for a tile that is not a positive
    multiple of f.
    """
    if isinstance(vae, AutoencoderTiny):
        return decode_streamed(vae, z, tile)
    return tiling.decode_tiled(vae, z, tile)
