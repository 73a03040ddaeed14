"""What a run starts from, and what its pictures tell the network at every step: encoded by the VAE.

    takes (Checkpoint)   starts from                       behind the latents
    nothing              noise on the picture, if any      -
    masked picture       the same                          the mask, and the picture with the masked part gray
    picture              noise                             the picture, but not in the negative branch
    depth                noise on the picture, if any      the depth map

Draws come in the order of diffusers' pipelines: of the picture's posterior, the start, the masked picture's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from PIL import Image

from .. import autoencoding, images, masks
from ..canvas import Canvas, canvas_of
from ..catalogue import find_sampler
from ..diffusion.guidance import NEGATIVE
from ..diffusion.keeping import A1111, A1111_TIMESTEPS, COMFYUI, DIFFUSERS, Keeping, Rule
from ..diffusion.programs import PROGRAMS
from ..errors import InputError
from ..families.base import DEPTH, MASKED, PICTURE
from ..fitting import fitted, same_ratio
from ..networks import Networks
from ..recent import Recent
from ..request import Resolved
from ..resampling import resample_plane
from ..steering.additions import Steering
from .randomness import Randomness

KEPT = 8  # encoded pictures


@dataclass(frozen=True, eq=False)
class Start:
    """What a run starts with: latents (B, h, w, C) of its first level, and what its pictures add."""

    latents: mx.array
    steering: Steering
    keeping: Keeping | None


class EncodedPictures:
    """What the VAE makes of pictures; the last KEPT of them are kept, by their content."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._kept: Recent[tuple[mx.array, mx.array | None]] = Recent(KEPT)

    def posterior(self, pixels: np.ndarray) -> tuple[mx.array, mx.array | None]:
        """Mean and log variance (1, h, w, C) of a picture (H, W, 3) in [0, 1], evaluated; None of a tiny VAE."""

        def encoded() -> tuple[mx.array, mx.array | None]:
            found = autoencoding.posterior(self._networks.vae, mx.array(pixels)[None])
            mx.eval(found)
            return found

        key = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        return self._kept.get(key, encoded)

    def latents(self, pixels: np.ndarray, spread: mx.array | None) -> mx.array:
        """Latents (B, h, w, C) of a picture: a draw from its posterior for each image, or its mean without a spread."""
        mean, logvar = self.posterior(pixels)
        vae = self._networks.vae
        return vae.normalize(mean if spread is None or logvar is None else mean + mx.exp(0.5 * logvar) * spread)


def start(
    request: Resolved,
    networks: Networks,
    pictures: EncodedPictures,
    randomness: Randomness,
    branches: Iterable[str],
    given: mx.array | None,
) -> Start:
    """Encodes the request's pictures and draws its noise, which `given` (B, h, w, C) replaces.

    branches  the names of those that guidance asks for. Raises InputError for pictures that cannot be used.
    """
    checkpoint, levels = networks.checkpoint, request.noise_levels
    takes, factor = checkpoint.takes, checkpoint.scale_factor
    canvas = None if request.image is None else canvas_of(request, factor)
    masked = None if canvas is None or canvas.mask is None else canvas
    program = request.compat in PROGRAMS
    from_noise = canvas is None or takes == PICTURE or (masked is not None and request.strength == 1 and not program)
    keeps = masked is not None and (takes != MASKED or program)
    drawn = _nothing if checkpoint.has_tiny_vae else randomness.posterior
    picture = None
    if canvas is not None and (keeps or not from_noise):
        picture = pictures.latents(canvas.filled, drawn())
    noise = randomness.start() if given is None else given.astype(mx.float32)
    spread = None if masked is None else drawn()  # diffusers draws it even where it is not used
    behind: mx.array | None = None
    if takes == MASKED and masked is not None:
        behind = _masked_picture(masked, pictures, spread, noise.shape, factor)
    elif takes == PICTURE and canvas is not None:
        behind = _edited(canvas, pictures, noise.shape, scaled=bool(checkpoint.index.options.get("is_cosxl_edit")))
    elif takes == DEPTH:
        behind = _depth(request, noise.shape)
    keeping = None
    if masked is not None and picture is not None:
        cells = mx.array(_cells(request, masked, factor))[None, :, :, None]
        picture = _refilled(picture, noise, cells, request.inpaint_fill)
        if keeps:
            keeping = Keeping(_rule(request), cells, picture, noise, levels.sigmas[0] if from_noise else None)
    latents = levels.start(noise, None if from_noise else picture)
    if request.compat == "comfyui" and picture is not None:
        latents = picture + noise * levels.init_noise_sigma  # from the highest level on more than sigma
    return Start(latents, Steering(channels=_channels(behind, branches, takes)), keeping)


def _nothing() -> None:
    """What a tiny VAE, which gives one encoding and no posterior, leaves to draw."""


def _channels(behind: mx.array | None, branches: Iterable[str], takes: str) -> dict[str, mx.array]:
    """What goes behind the latents in each branch; the negative one of an editing model does not see the picture."""
    if behind is None:
        return {}
    unseen = mx.zeros_like(behind)
    return {name: unseen if takes == PICTURE and name == NEGATIVE else behind for name in branches}


def _rule(request: Resolved) -> Rule:
    if request.compat == "comfyui":
        return COMFYUI
    if request.compat != "a1111":
        return DIFFUSERS
    return A1111 if find_sampler(request.sampler).a1111_levels is None else A1111_TIMESTEPS


def _cells(request: Resolved, canvas: Canvas, factor: int) -> np.ndarray:
    """The mask in latent cells (h, w), as the program reads it."""
    read = {"a1111": masks.rounded_cells, "comfyui": masks.linear_cells}.get(request.compat or "", masks.nearest_cells)
    assert canvas.mask is not None
    return read(canvas.mask, factor)


def _refilled(picture: mx.array, noise: mx.array, cells: mx.array, fill: str | None) -> mx.array:
    """The picture's latents with what is asked for in the masked part; colours were filled before it was encoded."""
    if fill == "noise":
        return picture * (1 - cells) + noise * cells
    return picture * (1 - cells) if fill == "blank" else picture


def _masked_picture(
    canvas: Canvas, pictures: EncodedPictures, spread: mx.array | None, shape: tuple[int, ...], factor: int
) -> mx.array:
    """(B, h, w, 1 + C): the mask, and the latents of the picture whose masked part is gray."""
    assert canvas.mask is not None
    gray = np.where(canvas.mask[:, :, None] >= 0.5, np.float32(0.5), canvas.picture)
    latents = mx.broadcast_to(pictures.latents(gray, spread), shape)
    cells = mx.array(masks.nearest_cells(canvas.mask, factor))[None, :, :, None]
    return mx.concatenate([mx.broadcast_to(cells, (*shape[:3], 1)), latents], axis=-1)


def _edited(canvas: Canvas, pictures: EncodedPictures, shape: tuple[int, ...], *, scaled: bool) -> mx.array:
    """(B, h, w, C): the mode of the picture's posterior, as the VAE gives it, or normalized (CosXL Edit)."""
    mode = pictures.latents(canvas.picture, None) if scaled else pictures.posterior(canvas.picture)[0]
    return mx.broadcast_to(mode, shape)


def _depth(request: Resolved, shape: tuple[int, ...]) -> mx.array:
    """(B, h, w, 1): the depth map in [-1, 1], -1 the farthest."""
    assert request.depth is not None
    depth = images.read_gray(request.depth)
    size = request.height, request.width
    if not same_ratio(depth.shape, size):
        depth = np.asarray(fitted(Image.fromarray(depth), size, request.fit))
    small = resample_plane(depth, shape[1], shape[2], "bicubic")
    low, high = float(small.min()), float(small.max())
    if low == high:
        raise InputError("The depth map has the same depth everywhere.", "Give one in which near and far differ.")
    scaled = (2 * (small - low) / (high - low) - 1).astype(np.float32)
    return mx.broadcast_to(mx.array(scaled)[None, :, :, None], (*shape[:3], 1))
