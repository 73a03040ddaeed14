"""Branches of guidance as calls of the backbone: those whose conditionings fit together share one.

The one place that batches. Guidance (diffusion/guidance.py) asks for branches by name, and knows no batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from .conditioning import Conditioning, concatenate
from .diffusion.schedule import Schedule
from .models.backbone import Backbone, Extra
from .models.step_cache import StepCache


class Branches:
    """`predict(latents, sigma, names) -> denoised by name` for one run.

    conditionings   of B rows each, by the name of the branch; prompts may differ in length
    cache_interval  calls of the backbone that share its deep features; 1 computes them each time

    What prompts and timesteps alone decide is computed once for each group of branches that share a call.
    """

    def __init__(
        self,
        backbone: Backbone,
        conditionings: Mapping[str, Conditioning],
        levels: Schedule,
        guidance_scale: float,
        *,
        token_merging: float = 0.0,
        cache_interval: int = 1,
    ) -> None:
        self._backbone, self._conditionings, self._levels = backbone, conditionings, levels
        self._guidance_scale, self._token_merging, self._interval = guidance_scale, token_merging, cache_interval
        self._prepared: dict[tuple[str, ...], Any] = {}
        # A call for fewer branches goes on with the features of its last one, so that is what caches are kept by.
        self._caches: dict[str, StepCache] = {}

    def __call__(self, latents: mx.array, sigma: float, names: tuple[str, ...]) -> dict[str, mx.array]:
        """Denoised (B, h, w, C) fp32 of each branch, unevaluated."""
        denoised: dict[str, mx.array] = {}
        for group in self._groups(names):
            together = latents if len(group) == 1 else mx.concatenate([latents] * len(group))
            denoised |= zip(group, mx.split(self._call(group, together, sigma), len(group)), strict=True)
        return denoised

    def _call(self, group: tuple[str, ...], latents: mx.array, sigma: float) -> mx.array:
        if group not in self._prepared:
            conditioning = concatenate([self._conditionings[name] for name in group])
            self._prepared[group] = self._backbone.prepare(
                conditioning, self._levels.timesteps, guidance_scale=self._guidance_scale
            )
        scaled, timestep = self._levels.scale_input(latents, sigma), self._levels.timestep(sigma)
        output = self._backbone(scaled, timestep, self._prepared[group], self._extra(group))
        return self._levels.to_denoised(output, latents, sigma)

    def _extra(self, group: tuple[str, ...]) -> Extra:
        cache = None
        if self._interval > 1:
            cache = self._caches.setdefault(group[-1], StepCache(self._interval))
        return Extra(token_merging=self._token_merging, step_cache=cache)

    def _groups(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The branches by the shapes of their conditionings, in their order."""
        found: dict[tuple, list[str]] = {}
        for name in names:
            shapes = tuple(array.shape[1:] for array in self._conditionings[name].arrays())
            found.setdefault(shapes, []).append(name)
        return [tuple(group) for group in found.values()]
