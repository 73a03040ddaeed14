"""Token merging read plainly in numpy, one token at a time: the oracle of models/token_merging.py."""

from __future__ import annotations

import numpy as np


def owners(tokens: np.ndarray, size: tuple[int, int], ratio: float) -> np.ndarray:
    """Of one image's tokens (N, C): for each cell the cell that it merges into, or itself."""
    height, width = size
    tokens = tokens.astype(np.float64)
    cells = range(height * width)
    destinations = [cell for cell in cells if cell // width % 2 == 0 and cell % width % 2 == 0]
    best = {}
    for cell in sorted(set(cells) - set(destinations)):
        a, b = tokens[cell], tokens[destinations]
        cosines = b @ a / np.linalg.norm(a) / np.linalg.norm(b, axis=1)
        best[cell] = (cosines.max(), destinations[int(cosines.argmax())])
    likest = sorted(best, key=lambda cell: -best[cell][0])[: int(ratio * height * width)]
    return np.array([best[cell][1] if cell in likest else cell for cell in cells])


def averages(owner: np.ndarray) -> np.ndarray:
    """(M, N): each row makes one merged token of the cells that have the same owner."""
    rows = owner[None] == np.unique(owner)[:, None]
    return rows / rows.sum(axis=1, keepdims=True)


def copies(owner: np.ndarray) -> np.ndarray:
    """(N, M): each row gives one cell the merged token of its owner."""
    return (owner[:, None] == np.unique(owner)[None]).astype(np.float64)
