"""Keeps every step of the images that are under way, until someone takes them as a trajectory."""

from __future__ import annotations

import numpy as np

from .render import Denoised


class Recorder:
    """Keeps the steps that it is shown; what it has of an image is handed out, and forgotten, by `take`."""

    def __init__(self) -> None:
        self._steps: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def keep(self, event: Denoised) -> None:
        """Of a batch that is tried again only the last try is kept, of passes of several sizes the last one."""
        latents, denoised = np.array(event.latents), np.array(event.denoised)
        for offset, index in enumerate(event.indices):
            kept = self._steps.get(index)
            if event.step == 1 or not kept or kept[-1][0].shape != latents[offset].shape:
                self._steps[index] = []
            self._steps[index].append((latents[offset], denoised[offset]))

    def take(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Latents after each step of image `index`, and predicted x0, both (T, 1, h, w, C)."""
        left, foreseen = zip(*self._steps.pop(index), strict=True)
        return np.stack(left)[:, None], np.stack(foreseen)[:, None]
