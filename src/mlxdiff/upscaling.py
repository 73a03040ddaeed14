"""Enlarging finished pictures with a network from one .safetensors file: as a whole, or in tiles that leave no seams.

A tile is computed with what lies around it. Where that is all that its pixels depend on, the picture is the one that
the network makes of the whole, up to floating-point rounding. It always is for compact networks, whose pixels depend on
a few others. An ESRGAN of 23 blocks looks 349 pixels far: a picture that is too large for the memory is cut into tiles
that overlap and are blended there, and then differs by what lies farther off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from . import backend, memory
from .checkpoint import transform
from .checkpoint.header import read_header
from .checkpoint.load import StoredWeights, read_arrays, steps
from .checkpoint.upscaler_names import upscaler_names
from .errors import CheckpointError, InputError, RequestError, UnsupportedError
from .images import to_uint8
from .models.upscaler import Upscaler, UpscalerConfig, build, pack
from .request import MAX_SIDE

SMALLEST = 32  # cells a side of a tile, however little memory there is
OVERLAP = 64  # cells around a tile where what it depends on reaches farther; the inner half of them is blended
TIMES = 3  # that a network enlarges a picture, one after the other
ROWS = 256  # of floats that become bytes at once

Span = tuple[int, int]


def factor_of(path: Path) -> int:
    """How many times as wide and as high an upscaler makes a picture: a file, or a folder with one; reads its header.

    Raises UnsupportedError for a file that is none, CheckpointError for a damaged one.
    """
    return config_of(path).factor


def config_of(path: Path) -> UpscalerConfig:
    """What an upscaler is, from its header alone; raises as `factor_of`."""
    return _opened(path)[0]


def is_upscaler(path: Path) -> bool:
    """Whether a .safetensors file is an upscaler that can be used; raises CheckpointError for a damaged file."""
    try:
        config_of(path)
    except UnsupportedError:
        return False
    return True


def check(path: Path, height: int, width: int) -> None:
    """Raises RequestError where a picture of that size, enlarged, would not fit; else as `factor_of`."""
    factor = factor_of(path)
    height, width = height * factor, width * factor
    needed = memory.upscaled(height, width)
    if max(height, width) > MAX_SIDE or needed > backend.memory_size():
        raise RequestError(
            f"Enlarged {factor} times the picture has {width}x{height} pixels, which take about {needed / 1e9:.3g} GB;"
            f" {backend.memory_size() / 1e9:.3g} GB are there, and {MAX_SIDE} pixels a side are possible.",
            "Enlarge a smaller one.",
        )


def in_turn(path: Path, height: int, width: int, to_height: int, to_width: int) -> Iterator[tuple[int, int]]:
    """The sizes (height, width) that a picture has each time before an upscaler enlarges it, until it is as large as
    it is to be: at most TIMES, as in A1111, and once where its factor is 1. Reads the header of its file."""
    factor = factor_of(path)
    for _ in range(TIMES if factor > 1 else 1):
        if height >= to_height and width >= to_width:
            return
        yield height, width
        height, width = height * factor, width * factor


def upscale(
    path: Path, pixels: np.ndarray, *, dtype: mx.Dtype | str | None = None, tile: int | None = None
) -> np.ndarray:
    """A picture (H, W, 3) uint8 to one of (k H, k W, 3), by the network in a file, or in a folder with one.

    dtype  of the weights; None is fp16 on a GPU and fp32 on a CPU. bf16 counts as fp32: it has too few digits
    tile   pixels a side of a tile; None is as large as memory allows, and that is mostly the whole picture

    Not lazy. The network last used is kept. Raises UnsupportedError and CheckpointError for the file, InputError for
    pixels of another form, RequestError where the result does not fit into the memory.
    """
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise InputError(
            f"The picture is {pixels.dtype} of shape {pixels.shape}.", "It must be uint8 (height, width, 3)."
        )
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise RequestError(f"The tile is {tile!r} pixels.", "It is a positive number.")
    check(path, *pixels.shape[:2])
    network = load(path, dtype)
    config = network.config
    # A network that packs pixels wants whole cells.
    more = [(0, -side % config.packed) for side in pixels.shape[:2]]
    padded = np.pad(pixels, [*more, (0, 0)], mode="reflect")
    wanted = None if tile is None else max(1, tile // config.packed)
    with backend.small_cache():
        large = _enlarged(network, padded, wanted)
    height, width = (side * config.factor for side in pixels.shape[:2])
    return large[:height, :width]


def load(path: Path, dtype: mx.Dtype | str | None = None) -> Upscaler:
    """The network in a file, its weights in memory; the last one is kept for as long as its file stays the same."""
    wanted = backend.default_dtype() if dtype is None else backend.parse_dtype(dtype)
    path = _file(path)
    about = os.stat(path)
    return _loaded(path, wanted == mx.float16, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=1)
def _loaded(path: Path, half: bool, *_: int) -> Upscaler:
    config, names = _opened(path)
    header = read_header(path)
    arrays = read_arrays(path, header, names.values())
    with backend.callers_randomness():
        network = build(config)
    stored = StoredWeights({name: arrays[key] for name, key in names.items()}, str(path))
    chosen = steps(stored, dtype=mx.float16 if half else mx.float32)
    transform.apply(chosen, network, dict(stored.arrays))
    weights: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    mx.eval(weights)
    for name, array in weights.items():
        if not mx.isfinite(array).all().item():
            raise CheckpointError(f"{path} has {name!r} with NaN or infinity.", "Get the file again.")
    return network


def _opened(path: Path) -> tuple[UpscalerConfig, dict[str, str]]:
    """What the network is, and its weights' names with the keys that are stored."""
    path = _file(path)
    header = read_header(path)
    names = upscaler_names(header.tensors)
    shapes = {name: header.tensors[key].shape for name, key in names.items()}
    return UpscalerConfig.of(shapes, str(path)), names


def _file(path: Path) -> Path:
    """The file itself, or the only one of a folder."""
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise UnsupportedError(
            f"{path} is a folder with {len(files)} .safetensors files, of which one could be an upscaler.",
            "Name the file in it.",
        )
    return files[0]


@dataclass(frozen=True)
class _Piece:
    """One stretch of an axis in cells: what it is to give, and what it is computed from."""

    inner: Span
    outer: Span


def _enlarged(network: Upscaler, padded: np.ndarray, tile: int | None) -> np.ndarray:
    """(h c, w c, 3) uint8 of pixels (h p, w p, 3)."""
    config, itemsize = network.config, network.dtype.size
    height, width = padded.shape[0] // config.packed, padded.shape[1] // config.packed
    room = memory.upscaling_cells(config, itemsize)
    margin = min(config.reach + config.head_reach, OVERLAP)
    largest = max(height, width) if height * width <= room else max(SMALLEST, int(room**0.5) - 2 * margin)
    size = largest if tile is None else tile
    # Half of what is around a tile is blended, half of it keeps away what the cut has changed.
    is_exact = config.reach <= OVERLAP or size >= max(height, width)
    blend = 0 if is_exact else OVERLAP // 2
    around = config.reach + config.head_reach if is_exact else OVERLAP
    large = np.zeros((height * config.cell, width * config.cell, 3), np.float32)
    for rows in _pieces(height, size, blend, around):
        for columns in _pieces(width, size, blend, around):
            _add(large, network, padded, rows, columns, blend)
    out = np.empty(large.shape, np.uint8)
    for top in range(0, len(large), ROWS):
        out[top : top + ROWS] = to_uint8(large[top : top + ROWS])
    return out


def _pieces(length: int, tile: int, blend: int, around: int) -> Iterator[_Piece]:
    """An axis in stretches about equally long, each with as many cells around it as there are."""
    count = -(-length // tile)
    if blend:
        count = max(1, min(count, length // (2 * blend)))  # no two overlaps of a tile may meet
    bounds = [length * i // count for i in range(count + 1)]
    for first, last in pairwise(bounds):
        inner = max(0, first - blend), min(length, last + blend)
        yield _Piece(inner, (max(0, first - around), min(length, last + around)))


def _add(large: np.ndarray, network: Upscaler, padded: np.ndarray, rows: _Piece, columns: _Piece, blend: int) -> None:
    """Adds a tile's pixels, weighted where others overlap it."""
    config = network.config
    packed, cell = config.packed, config.cell
    (top, bottom), (left, right) = rows.outer, columns.outer
    window = padded[top * packed : bottom * packed, left * packed : right * packed]
    cells = pack(mx.array(window.astype(np.float32) / 255).astype(network.dtype)[None], packed)
    features = cells
    for features in network.body_steps(cells):
        mx.eval(features)
    first, last = columns.inner
    at_once = max(1, memory.upscaling_head_cells(config, network.dtype.size) // (last - first))
    height, width = (side * cell for side in (large.shape[0] // cell, large.shape[1] // cell))
    across = _weights(columns.inner, cell, blend, width)
    down = _weights(rows.inner, cell, blend, height)
    for row in range(*rows.inner, at_once):
        span = row, min(row + at_once, rows.inner[1])
        part = _head(network, features, cells, span, columns.inner, (rows.outer, columns.outer))
        place = np.s_[span[0] * cell : span[1] * cell, first * cell : last * cell]
        begin = (span[0] - rows.inner[0]) * cell
        large[place] += part * down[begin : begin + len(part), None, None] * across[None, :, None]


def _head(
    network: Upscaler, features: mx.array, cells: mx.array, rows: Span, columns: Span, outer: tuple[Span, Span]
) -> np.ndarray:
    """Pixels (h c, w c, 3) of the cells in these rows and columns."""
    cell, reach = network.config.cell, network.config.head_reach
    cut, keep = [], []
    for (first, last), (begin, end) in zip((rows, columns), outer, strict=True):
        low, high = max(begin, first - reach), min(end, last + reach)
        cut.append(slice(low - begin, high - begin))
        keep.append(slice((first - low) * cell, (last - low) * cell))
    window = np.s_[:, cut[0], cut[1]]
    pixels = network.head(features[window], cells[window])[:, keep[0], keep[1]]
    return np.array(pixels[0].astype(mx.float32))


def _weights(inner: Span, cell: int, blend: int, length: int) -> np.ndarray:
    """Weights of a stretch's pixels, which rise and fall where another stretch overlaps: together they are 1."""
    first, last = (bound * cell for bound in inner)
    weights = np.ones(last - first, np.float32)
    if blend:
        ramp = (np.arange(2 * blend * cell, dtype=np.float32) + 0.5) / (2 * blend * cell)
        if first > 0:
            weights[: len(ramp)] *= ramp
        if last < length:
            weights[-len(ramp) :] *= ramp[::-1]
    return weights


def described(path: Path) -> dict[str, Any]:
    """What `info` says of an upscaler."""
    config = config_of(path)
    said: dict[str, Any] = {
        "file": str(path),
        "upscaler": config.kind,
        "factor": config.factor,
        "channels": config.features,
        "blocks": config.blocks,
    }
    if config.packed > 1:
        said["packs"] = f"{config.packed}x{config.packed} pixels"
    return {**said, "reach": f"{(config.reach + config.head_reach) * config.packed} pixels"}
