"""A denoiser from which another model's takes over within a run, as A1111's refiner does: the sampler goes on."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ..diffusion.guidance import Guided


class Handover:
    """Denoises with the first until `is_due` at a level, from then on with what `take_over` gives.

    take_over  called once, with the latents at that level and the number of calls before; the first one is forgotten by
               then
    """

    def __init__(
        self, first: Guided, is_due: Callable[[float], bool], take_over: Callable[[mx.array, int], Guided]
    ) -> None:
        self._now: Guided | None = first
        self._is_due, self._take_over = is_due, take_over
        self._calls, self._is_done = 0, False

    def __call__(self, latents: mx.array, sigma: float) -> mx.array:
        return self.branches(latents, sigma)[0]

    def branches(self, latents: mx.array, sigma: float) -> tuple[mx.array, dict[str, mx.array]]:
        """As `Guided.branches`."""
        if not self._is_done and self._is_due(sigma):
            self._is_done, self._now = True, None
            self._now = self._take_over(latents, self._calls)
        self._calls += 1
        assert self._now is not None
        return self._now.branches(latents, sigma)
