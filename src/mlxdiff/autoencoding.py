"""Pixels to latents and back through the VAE: arrays of callers checked, decoded whole or in strips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from . import backend, memory
from .errors import InputError
from .models.autoencoders import decode_tiled

if TYPE_CHECKING:
    from .models.autoencoders import Autoencoder
    from .networks import Networks


def decode(networks: Networks, latents: mx.array, tile: int | None) -> mx.array:
    """Latents (B, h, w, C) to pictures (B, H, W, 3) in [0, 1]; see `StableDiffusion.decode`. Raises InputError."""
    vae = networks.vae
    memory.check_decoding(vae.config, latents.shape, vae.dtype.size)
    z = vae.denormalize(latents.astype(mx.float32)).astype(vae.dtype)
    tile = memory.tile_for(vae.config, z.shape, z.itemsize) if tile is None else tile
    if tile is None:
        return _shown(vae.decode(z))
    mx.eval(z)
    networks.make_room(memory.in_strips(vae.config, z.shape, z.itemsize))
    with backend.small_cache():
        return _shown(decode_tiled(vae, z, tile))


def posterior(vae: Autoencoder, pictures: mx.array) -> tuple[mx.array, mx.array | None]:
    """Mean and log variance of the latents, in fp32, of pictures (B, H, W, 3) in [0, 1].

    There is no variance where the VAE gives each picture one set of latents: then nothing is to be drawn.
    """
    mean, logvar = vae.encode((pictures * 2 - 1).astype(vae.dtype))
    return mean.astype(mx.float32), None if logvar is None else logvar.astype(mx.float32)


def checked(value: Any, name: str, shape: str, channels: int) -> mx.array:
    """An array of four axes, the last of so many channels; raises InputError for anything else."""
    if not isinstance(value, mx.array):
        try:
            value = mx.array(value)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"The {name} are {type(value).__name__}.", f"Give an array {shape}.") from None
    if value.ndim != 4 or value.shape[-1] != channels or 0 in value.shape:
        raise InputError(f"The {name} have shape {tuple(value.shape)}.", f"This model takes {shape}.")
    return value


def _shown(pictures: mx.array) -> mx.array:
    """What a VAE decodes to, about [-1, 1], as float in [0, 1]."""
    return mx.clip(pictures.astype(mx.float32) / 2 + 0.5, 0, 1)
