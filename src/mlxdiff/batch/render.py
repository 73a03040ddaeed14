"""One batch, a denoising step at a time, and its latents to pictures: the loop between the runner and the pipeline.

Knows nothing of bars, files or terminals: it yields what happened; the caller shows and stores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..evaluating import evaluated
from ..pipeline import StableDiffusion
from ..request import Request, Resolved


@dataclass(frozen=True)
class Denoised:
    """Denoising step `step` of `steps` is done, and evaluated, for the `n_images` images that share a batch.

    `indices` says which. `latents` and `denoised`, the step's guess of x0, are (n_images, h, w, C) of the model `sd`.
    """

    step: int
    steps: int
    n_images: int
    latents: mx.array
    denoised: mx.array
    indices: tuple[int, ...]
    sd: StableDiffusion | None = None

    @property
    def first(self) -> int:
        return self.indices[0]


@dataclass(frozen=True)
class Rendered:
    """One picture is done: `picture` (H, W, 3) uint8, `latents` (h, w, C) fp32, `request` renders it alone."""

    index: int
    request: Request
    picture: np.ndarray
    latents: np.ndarray


def denoise(sd: StableDiffusion, request: Resolved, *, indices: tuple[int, ...]) -> Iterator[Denoised]:
    """Denoises the images of a request as one batch, each step evaluated when it is yielded."""
    for step in evaluated(sd.denoise(request)):
        yield Denoised(step.index + 1, request.n_steps, request.batch_size, step.latents, step.denoised, indices, sd)


def decode(
    sd: StableDiffusion,
    latents: mx.array,
    request: Request,
    *,
    decode_batch_size: int = 1,
    tile: int | None = None,
) -> Iterator[Rendered]:
    """Decodes latents (B, h, w, C), which the request made, `decode_batch_size` at a time.

    Each picture is finished as the request says: put back into the picture that it repaints, and enlarged.
    """
    whole = request.replaced(**request.neutral_values())
    for first in range(0, latents.shape[0], decode_batch_size):
        chunk = latents[first : first + decode_batch_size]
        for offset, decoded in enumerate(sd.decode(chunk, tile=tile)):
            picture = sd.finish(whole, decoded)
            yield Rendered(first + offset, request.single(first + offset), picture, np.array(chunk[offset]))
