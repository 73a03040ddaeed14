"""Latents of one pass enlarged for the next: cell by cell, or as the decoded picture, by a filter or a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from PIL import Image

from .. import autoencoding, hub, images, upscaling
from ..catalogue import UPSCALERS
from ..fitting import fitted
from ..resampling import resample

if TYPE_CHECKING:
    from ..networks import Networks
    from ..request import Resolved


def enlarged(networks: Networks, latents: mx.array, request: Resolved, size: tuple[int, int]) -> mx.array:
    """Latents (B, h, w, C) of a pass as the next one, which `request` is the view of, starts from: (B, h', w', C).

    size  (height, width) in cells to enlarge to; what the pass has no room for is cut off around the centre

    Unevaluated if cells are what is enlarged. Otherwise pictures are decoded one by one, rounded to 8 bits as the
    request says, enlarged, and encoded to the mean of the VAE's posterior; the backbone is let go for that as for any
    decoding.
    """
    factor = networks.checkpoint.scale_factor
    name = request.hires_upscaler
    assert name is not None
    row = UPSCALERS.get(name)
    if row is not None and row.in_latents:
        large = resample(latents, *size, row.kernel, antialias=row.antialias)
    else:
        path = None if row is not None else hub.find_part(name, "upscaler")
        large = mx.concatenate(
            [_redrawn(networks, one, request, size, path) for one in mx.split(latents, len(latents))]
        )
    return _cut(large, request.height // factor, request.width // factor)


def enlarged_picture(
    pixels: np.ndarray, height: int, width: int, network: Path | None = None, *, dtype: mx.Dtype | None = None
) -> np.ndarray:
    """A picture (H, W, 3) uint8 as (height, width, 3): by the network in a file, what remains by Lanczos' filter.

    dtype  the network's; None is the device's own
    """
    if network is not None:
        for _ in upscaling.in_turn(network, pixels.shape[0], pixels.shape[1], height, width):
            pixels = upscaling.upscale(network, pixels, dtype=dtype)
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(fitted(Image.fromarray(pixels), (height, width), "stretch"))


def _redrawn(
    networks: Networks, latents: mx.array, request: Resolved, size: tuple[int, int], network: Path | None
) -> mx.array:
    factor = networks.checkpoint.scale_factor
    pixels = images.to_uint8(autoencoding.decode(networks, latents, None)[0], request.rounding)
    large = enlarged_picture(pixels, size[0] * factor, size[1] * factor, network, dtype=networks.dtype)
    vae = networks.vae
    mean, _ = autoencoding.posterior(vae, mx.array(large.astype(np.float32) / 255)[None])
    encoded = vae.normalize(mean)
    mx.eval(encoded)
    return encoded


def _cut(latents: mx.array, height: int, width: int) -> mx.array:
    top, left = (latents.shape[1] - height) // 2, (latents.shape[2] - width) // 2
    return latents[:, top : top + height, left : left + width]
