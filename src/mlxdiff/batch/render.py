"""Requests of many images, rendered a batch at a time: the loop between the command line and the pipeline.

Knows nothing of bars, files or terminals: it yields what happened, and whoever iterates draws it and keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from .. import images
from ..pipeline import StableDiffusion
from ..request import Request
from .ahead import encoded_ahead

PER_BATCH = 4


@dataclass(frozen=True)
class Denoised:
    """Denoising step `step` of `steps` is done, and evaluated, for the `n_images` images that share a batch.

    `indices` says which. `latents` and `denoised`, the step's guess of x0, are (n_images, h, w, C).
    """

    step: int
    steps: int
    n_images: int
    latents: mx.array
    denoised: mx.array
    indices: tuple[int, ...]

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


def split(request: Request, batch_size: int) -> Iterator[tuple[int, Request]]:
    """Cuts a resolved request into requests of at most `batch_size` images, each with the index of its first."""
    prompts, seeds = request.prompts, request.seeds
    for first in range(0, request.batch_size, batch_size):
        part = slice(first, first + batch_size)
        yield first, replace(request, prompt=prompts[part], seed=seeds[part], n_images=1)


def render(
    sd: StableDiffusion,
    request: Request,
    *,
    batch_size: int = PER_BATCH,
    decode_batch_size: int = 1,
    tile: int | None = None,
) -> Iterator[Denoised | Rendered]:
    """Renders a resolved request, evaluating one denoising step at a time.

    An image does not depend on its batch: each has its own seed and noise stream.
    """
    for coming in encoded_ahead(sd, split(request, batch_size), lambda item: item[1]):
        assert coming is not None
        first, part = coming
        latents = mx.array([])
        for event in denoise(sd, part, indices=tuple(range(first, first + part.batch_size))):
            latents = event.latents
            yield event
        for item in decode(sd, latents, part, decode_batch_size=decode_batch_size, tile=tile):
            yield replace(item, index=first + item.index)


def denoise(sd: StableDiffusion, request: Request, *, indices: tuple[int, ...]) -> Iterator[Denoised]:
    """Denoises the images of a resolved request as one batch, each step evaluated when it is yielded."""
    steps = request.n_steps
    for step in sd.denoise(request):
        mx.eval(step.latents)
        yield Denoised(step.index + 1, steps, request.batch_size, step.latents, step.denoised, indices)


def decode(
    sd: StableDiffusion,
    latents: mx.array,
    request: Request,
    *,
    decode_batch_size: int = 1,
    tile: int | None = None,
) -> Iterator[Rendered]:
    """Decodes latents (B, h, w, C), which the request made, `decode_batch_size` at a time."""
    for first in range(0, latents.shape[0], decode_batch_size):
        chunk = latents[first : first + decode_batch_size]
        for offset, picture in enumerate(images.to_uint8(sd.decode(chunk, tile=tile))):
            yield Rendered(first + offset, request.single(first + offset), picture, np.array(chunk[offset]))
