"""The noise of a run: what each image starts from, and what its steps draw, as the request asks and a program does.

Every image draws from streams of its own, so that a picture never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..catalogue import find_sampler
from ..diffusion.batches import BatchNoise
from ..diffusion.brownian import brownian_noise
from ..diffusion.noise import NoiseStream, batch_noise, stream_noise
from ..diffusion.programs import PROGRAMS
from ..diffusion.step import Noise
from ..diffusion.variations import Variation, image_noise, initial_batch
from ..request import Resolved


class Randomness:
    """What a resolved request draws, in this order: a picture's posterior, the start, the steps.

    shape  (h, w, C) of the latents
    """

    def __init__(self, request: Resolved, shape: tuple[int, int, int]) -> None:
        self._request, self._shape = request, shape
        self._streams = [NoiseStream(seed, request.rng) for seed in request.seeds]
        self._batches = None
        if request.compat == "comfyui":
            self._batches = BatchNoise(request.seeds, request.batch_places, shape, request.rng)

    def posterior(self) -> mx.array | None:
        """(B, h, w, C) for the spread of an encoded picture; None where its mean is taken, as other programs do.

        A1111 draws it from a generator that the seed does not decide, ComfyUI takes the mean.
        """
        return None if _program(self._request) else batch_noise(self._streams, *self._shape)

    def start(self) -> mx.array:
        """(B, h, w, C) unit noise that the loop starts from."""
        request = self._request
        if request.variation_strength == 0 and request.seed_resize is None and request.ensd == 0:
            return batch_noise(self._streams, *self._shape) if self._batches is None else self._batches.start()
        factor = request.height // self._shape[0]
        resized, variation = request.seed_resize, None
        if request.variation_strength > 0:
            variation = Variation(request.variation_seed, request.variation_strength)
        noises = [
            image_noise(
                seed,
                *self._shape,
                source=request.rng,
                variation=variation,
                resized_from=None if resized is None else (resized.height // factor, resized.width // factor),
                step_seed_delta=request.ensd,
            )
            for seed in request.seeds
        ]
        self._streams = [noise.stream for noise in noises]
        return initial_batch(noises)

    def steps(self, levels: Sequence[float]) -> Noise:
        """What the sampler draws in its steps, which go from one of these levels to the next; call it after `start`.

        ComfyUI's paths reach from the first of them to the last above 0, all others over the request's levels.
        """
        request, brownian = self._request, kind_of(self._request) == "brownian"
        if self._batches is not None:
            ends = min(level for level in levels if level > 0), levels[0]
            # A last step alone, which ends at 0, draws nothing.
            return self._batches.brownian(ends) if brownian and ends[0] < ends[1] else self._batches.steps()
        if brownian:
            return brownian_noise(request.seeds, *self._shape, request.noise_levels.ends, request.rng)
        return stream_noise(self._streams, *self._shape)


def kind_of(request: Resolved) -> str:
    """Of the noise that the sampler's steps draw (see `SamplerRow.noise`), which may be another with --compat."""
    row = find_sampler(request.sampler)
    return row.program_noise if _program(request) and row.program_noise is not None else row.noise


def _program(request: Resolved) -> bool:
    return request.compat in PROGRAMS
