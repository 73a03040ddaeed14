"""Choices for Apple's newest GPUs, whose matrix units MLX uses for some operations and not for others.

Since the M5 a GPU of Apple's has matrix units ("neural accelerators"). MLX 0.32 uses them for products, and for
attention with heads of 64, 96 and 128; not for convolutions, nor for heads of 80. So there it may pay

unfold    to compute a 3x3 convolution of many channels as a product with every pixel's neighbourhood
heads96   to pad heads of 80 with zeros to 96

Neither changes what is computed. Both are off on every other chip, and nobody has measured them with mlxdiff yet:
`benchmarks/metal.py` does. `MLXDIFF_METAL` overrides the choice: `none`, or names such as `unfold,heads96`.
"""

from __future__ import annotations

import os
import platform
import re
from functools import cache

import mlx.core as mx

from ..errors import BackendError

VARIABLE = "MLXDIFF_METAL"
UNFOLD, HEADS96 = "unfold", "heads96"
CHOICES = (UNFOLD, HEADS96)
NONE = "none"

_GENERATION = 17  # of M5: applegpu_g17
_SYSTEM = (26, 2)  # the macOS whose Metal has the matrix units
_ARCHITECTURE = re.compile(r"applegpu_g(\d{1,3})\w*")

# From here up products were reported 2.0 to 2.7 times as fast in half precision; larger maps have Winograd's algorithm.
_CHANNELS, _POSITIONS = 512, 4096
_HALVES = (mx.float16, mx.bfloat16)


def used() -> tuple[str, ...]:
    """The choices that hold in this process. Raises BackendError if MLXDIFF_METAL makes no sense."""
    return _used(os.environ.get(VARIABLE, "").strip())


@cache
def _used(asked: str) -> tuple[str, ...]:
    if not mx.metal.is_available():
        return ()
    if asked:
        return chosen(asked)
    architecture = str(mx.device_info(mx.gpu).get("architecture", ""))
    return CHOICES if has_matrix_units(architecture, platform.mac_ver()[0]) else ()


def chosen(asked: str) -> tuple[str, ...]:
    """What MLXDIFF_METAL names, in the order of CHOICES; raises BackendError."""
    names = {name.strip() for name in asked.split(",")}
    if names == {NONE}:
        return ()
    if not names <= set(CHOICES):
        raise BackendError(f"{VARIABLE} is {asked[:60]!r}.", f"It is {NONE}, or some of {', '.join(CHOICES)}.")
    return tuple(name for name in CHOICES if name in names)


def has_matrix_units(architecture: str, system: str) -> bool:
    """Whether a GPU, as Metal names it ("applegpu_g17s"), has them on this version of macOS ("26.2")."""
    found = _ARCHITECTURE.fullmatch(architecture)
    version = tuple(int(part) for part in re.findall(r"\d+", system)[:2])
    return found is not None and int(found[1]) >= _GENERATION and version >= _SYSTEM


def unfolds(x: mx.array, weight: mx.array, stride: int) -> bool:
    """Whether a convolution of x (B, h, w, C) with weight (O, kernel, kernel, C) is to be `unfolded`."""
    is_wide = weight.shape[1:3] == (3, 3) and weight.shape[3] >= _CHANNELS and stride == 1
    return is_wide and x.dtype in _HALVES and x.shape[1] * x.shape[2] < _POSITIONS and UNFOLD in used()


def unfolded(x: mx.array, weight: mx.array, padding: int) -> mx.array:
    """The convolution of stride 1 as one product: x (B, h, w, C), weight (O, kernel, kernel, C) -> (B, h', w', O).

    Writes out every pixel's neighbourhood, kernel^2 times the input.
    """
    batch, height, width, channels = x.shape
    outputs, kernel = weight.shape[:2]
    x = mx.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    height, width = (side + 2 * padding - kernel + 1 for side in (height, width))
    shifted = [x[:, i : i + height, j : j + width] for i in range(kernel) for j in range(kernel)]
    around = mx.concatenate(shifted, axis=-1).reshape(batch * height * width, kernel * kernel * channels)
    return (around @ weight.reshape(outputs, -1).T).reshape(batch, height, width, outputs)


def head_size(size: int) -> int:
    """The size to which heads are to be padded with zeros: 96 for those of 80 with matrix units, else as it is."""
    return 96 if 64 < size < 96 and HEADS96 in used() else size
