"""Latents and masks at another size, cell by cell as torch's `interpolate` (align_corners=False) computes them.

Each mode is linear and works on one axis after the other, so that it is two matrices: rows are new cells, columns old
ones. Whoever wants pixels enlarged uses Pillow.
"""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx
import numpy as np

_CUBIC, _CUBIC_ANTIALIASED = -0.75, -0.5  # the free constant of Keys 1981, as torch chooses it


def resample(latents: mx.array, height: int, width: int, kernel: str, *, antialias: bool = False) -> mx.array:
    """Latents (B, h, w, C) as (B, height, width, C) fp32, unevaluated.

    kernel     nearest, nearest-exact, bilinear or bicubic
    antialias  as torch's, for bilinear and bicubic: also where latents grow it differs, at the edges (and, of bicubic,
               in its constant)
    """
    rows = mx.array(weights(latents.shape[1], height, kernel, antialias))
    columns = mx.array(weights(latents.shape[2], width, kernel, antialias))
    batch, h, w, channels = latents.shape
    wide = mx.matmul(rows, latents.astype(mx.float32).reshape(batch, h, w * channels)).reshape(
        batch, height, w, channels
    )
    return mx.matmul(columns, wide)


def resample_plane(plane: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """As `resample` without antialiasing, of one channel in numpy: (H, W) as (height, width) fp32."""
    rows, columns = weights(plane.shape[0], height, kernel), weights(plane.shape[1], width, kernel)
    return (rows @ plane.astype(np.float64) @ columns.T).astype(np.float32)


@lru_cache(maxsize=32)
def weights(old: int, new: int, kernel: str, antialias: bool = False) -> np.ndarray:
    """(new, old) fp32: what each new cell takes of the old ones; every row adds up to 1."""
    found = np.zeros((new, old))
    places = np.arange(new)
    if kernel in ("nearest", "nearest-exact"):
        offset = 0.5 if kernel == "nearest-exact" else 0.0
        scale = np.float32(old) / np.float32(new)  # torch counts in fp32, which decides where a cell lies on an edge
        taken = np.floor((places.astype(np.float32) + np.float32(offset)) * scale).astype(int)
        found[places, np.minimum(taken, old - 1)] = 1
    elif antialias:
        _wide_taps(found, old / new, kernel)
    else:
        _taps(found, old / new, kernel)
    return found.astype(np.float32)


def _taps(found: np.ndarray, scale: float, kernel: str) -> None:
    """Two or four old cells around each new one, those beyond the edge being the edge's."""
    new, old = found.shape
    for place in range(new):
        centre = (place + 0.5) * scale - 0.5
        if kernel == "bilinear":
            centre = max(centre, 0.0)
            first = math.floor(centre)
            part = centre - first
            taps = {first: 1 - part, first + 1: part}
        else:
            first = math.floor(centre)
            part = centre - first
            taps = {first + i: _cubic(part - i, _CUBIC) for i in (-1, 0, 1, 2)}
        for cell, weight in taps.items():
            found[place, min(max(cell, 0), old - 1)] += weight


def _wide_taps(found: np.ndarray, scale: float, kernel: str) -> None:
    """All old cells that the kernel reaches, stretched where latents shrink; what lies beyond the edge is left out."""
    new, old = found.shape
    stretch, reach = max(scale, 1.0), 1.0 if kernel == "bilinear" else 2.0
    for place in range(new):
        centre = (place + 0.5) * scale
        first = max(int(centre - reach * stretch + 0.5), 0)
        after = min(int(centre + reach * stretch + 0.5), old)
        distances = (np.arange(first, after) - centre + 0.5) / stretch
        taps = np.array([_triangle(d) if kernel == "bilinear" else _cubic(d, _CUBIC_ANTIALIASED) for d in distances])
        found[place, first:after] = taps / taps.sum()


def _triangle(distance: float) -> float:
    return max(1.0 - abs(distance), 0.0)


def _cubic(distance: float, a: float) -> float:
    """Keys 1981, equation 4, with the constant a."""
    d = abs(distance)
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return (((d - 5) * d + 8) * d - 4) * a if d < 2 else 0.0
