"""Branches of guidance as calls of the backbone: those whose conditionings fit together share one.

The one place that batches. Guidance (diffusion/guidance.py) asks for branches by name, and knows no batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..conditioning import Conditioning, Strand, concatenate
from ..diffusion.guidance import PERTURBED, POSITIVE
from ..diffusion.schedule import Schedule
from ..models.backbone import Backbone, Extra, total
from ..models.step_cache import StepCache
from ..recent import Recent
from ..steering.additions import NOTHING, SeenPictures, Steering

MAX_PREPARED = 32
"""Groups of conditionings whose preparation is kept: more than any prompt alternates between."""


@dataclass(frozen=True)
class _Row:
    """Rows of a call: what a branch is told about some images of the batch."""

    branch: str
    images: range
    conditioning: Conditioning

    @property
    def place(self) -> tuple[str, range]:
        return self.branch, self.images


class Branches:
    """`predict(latents, sigma, names) -> denoised by name` for one run.

    strands         by the name of the branch; those of a branch cover all images
    cache_interval  calls of the backbone that share its deep features; 1 computes them each time
    steering        what pictures add to each call
    calls_before    calls of the network that the prompts have seen, of another model in the same run

    What prompts and timesteps alone decide is computed once for each group of conditionings that share a call. Calls
    are counted from 0: prompts may change from one to the next.
    """

    def __init__(
        self,
        backbone: Backbone,
        strands: Mapping[str, Sequence[Strand]],
        levels: Schedule,
        guidance_scale: float,
        *,
        token_merging: float = 0.0,
        cache_interval: int = 1,
        steering: Steering = NOTHING,
        calls_before: int = 0,
    ) -> None:
        self._backbone, self._strands, self._levels = backbone, strands, levels
        self._guidance_scale, self._token_merging, self._interval = guidance_scale, token_merging, cache_interval
        self._steering = steering
        self._n_calls = calls_before
        # By identity: the strands hold the conditionings for as long as this lives.
        self._prepared: Recent[tuple[Any, list[Any]]] = Recent(MAX_PREPARED)
        self._active: tuple[list[int], tuple[int, ...]] = [], ()
        # A call for fewer rows goes on with the features of its last ones, so that is what caches are kept by.
        self._caches: dict[tuple[str, range], tuple[list[tuple[str, range]], StepCache]] = {}

    def __call__(self, latents: mx.array, sigma: float, names: tuple[str, ...]) -> dict[str, mx.array]:
        """Denoised (B, h, w, C) fp32 of each branch, unevaluated."""
        call = self._n_calls
        self._n_calls += 1
        names = tuple(sorted(names, key=lambda name: name == PERTURBED))  # whose rows come last in a call
        rows = [_Row(name, strand.images, strand.at(call)) for name in names for strand in self._strands[_told(name)]]
        found: dict[str, list[tuple[int, mx.array]]] = {name: [] for name in names}
        for group in _groups(rows):
            together = [_of(latents, row.images) for row in group]
            denoised = self._call(group, together[0] if len(group) == 1 else mx.concatenate(together), sigma)
            for row, part in zip(group, _split(denoised, [len(row.images) for row in group]), strict=True):
                found[row.branch].append((row.images.start, part))
        return {name: _in_order(parts) for name, parts in found.items()}

    def _call(self, group: list[_Row], latents: mx.array, sigma: float) -> mx.array:
        scaled, timestep = self._levels.scale_input(latents, sigma), self._levels.timestep(sigma)
        pictures = self._steering.seen(sigma)
        prepared, steers = self._prepare(group, pictures)
        extra = self._extra(group, scaled, sigma, timestep, steers)
        output = self._backbone(self._with_channels(group, scaled), timestep, prepared, extra)
        return self._levels.to_denoised(output, latents, sigma)

    def _with_channels(self, group: list[_Row], scaled: mx.array) -> mx.array:
        channels = self._steering.channels
        if not channels:
            return scaled
        rows = mx.concatenate([_of(channels[_told(row.branch)], row.images) for row in group])
        return mx.concatenate([scaled, rows.astype(scaled.dtype)], axis=-1)

    def _prepare(self, group: list[_Row], pictures: Sequence[SeenPictures]) -> tuple[Any, list[Any]]:
        """What the backbone prepared, and what each control did."""

        def prepared() -> tuple[Any, list[Any]]:
            joined = concatenate([row.conditioning for row in group])
            branches = [(row.branch, len(row.images)) for row in group]
            told = replace(joined, pictures=tuple(each.prompt(branches) for each in pictures))
            return (
                self._backbone.prepare(told, self._levels.timesteps, guidance_scale=self._guidance_scale),
                [control.prepare(branches, joined) for control in self._steering.controls],
            )

        key = tuple((row.branch, id(row.conditioning)) for row in group), tuple(map(id, pictures))
        return self._prepared.get(key, prepared)

    def _extra(
        self, group: list[_Row], scaled: mx.array, sigma: float, timestep: float, steers: Sequence[Any]
    ) -> Extra:
        active = [i for i, control in enumerate(self._steering.controls) if control.is_active(sigma)]
        given = [self._steering.controls[i](scaled, timestep, steers[i]) for i in active]
        now = active, tuple(map(id, self._steering.seen(sigma)))
        if now != self._active:  # deep features of other controls or pictures are another thing
            self._caches, self._active = {}, now
        cache = None
        if self._interval > 1:
            cache = self._cache([row.place for row in group])
        perturbed = sum(len(row.images) for row in group if row.branch == PERTURBED)
        return Extra(total(given), token_merging=self._token_merging, step_cache=cache, perturbed=perturbed)

    def _cache(self, places: list[tuple[str, range]]) -> StepCache:
        """The cache of these rows, or of more rows that end with them."""
        kept, cache = self._caches.get(places[-1], ([], None))
        if cache is not None and kept[-len(places) :] == places:
            return cache
        if cache is None or places[-len(kept) :] != kept:
            cache = StepCache(self._interval)
        self._caches[places[-1]] = places, cache
        return cache


def _told(branch: str) -> str:
    """The branch whose conditioning a branch has: what is perturbed is the prompt's own."""
    return POSITIVE if branch == PERTURBED else branch


def _groups(rows: Sequence[_Row]) -> list[list[_Row]]:
    """The rows by the shapes of their conditionings, in their order."""
    found: dict[tuple, list[_Row]] = {}
    for row in rows:
        shapes = tuple(array.shape[1:] for array in row.conditioning.arrays())
        found.setdefault(shapes, []).append(row)
    return list(found.values())


def _of(latents: mx.array, images: range) -> mx.array:
    return latents if len(images) == latents.shape[0] else latents[images.start : images.stop]


def _split(array: mx.array, sizes: Sequence[int]) -> list[mx.array]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return list(mx.split(array, len(sizes) if len(set(sizes)) == 1 else ends))


def _in_order(parts: list[tuple[int, mx.array]]) -> mx.array:
    """The rows of all images, in the order of the batch."""
    arrays = [part for _, part in sorted(parts, key=lambda item: item[0])]
    return arrays[0] if len(arrays) == 1 else mx.concatenate(arrays)
