"""Every step of a run on disk, to be shown as an animation: written whole, read a step at a time.

A safetensors file like that of latents.py: `latents` (T, B, h, w, C) are the latents after each step,
noise included; the last ones are the picture's. `denoised`, of the same shape, is the predicted x0 of each step. Only
that decodes to pictures: latents before the last step contain noise, and no VAE is trained to decode that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import budget
from .errors import InputError
from .files import atomic_write
from .latents import KEY, encode_latents, open_tensors, request_in
from .request import Request

DENOISED = "denoised"
SUFFIX = ".trajectory.safetensors"
_FLOATS = ("F64", "F32", "F16")


@dataclass(frozen=True)
class Trajectory:
    """An open file of shape (T, B, h, w, C), of which no more is read than the step that is asked for."""

    shape: tuple[int, ...]
    request: Request | None
    model: str | None
    _file: Any
    _foreseen: str

    def foreseen(self, step: int) -> np.ndarray:
        """The predicted x0 of step 0 to T - 1, (B, h, w, C) fp32; for the last step the final latents."""
        name = KEY if step == self.shape[0] - 1 else self._foreseen
        return self._file.get_slice(name)[step : step + 1][0].astype(np.float32, copy=False)


def encode_trajectory(latents: np.ndarray, denoised: np.ndarray, request: Request) -> bytes:
    """The bytes of a trajectory's file: latents after each step and predicted x0, both (T, B, h, w, C)."""
    if latents.ndim != 5 or latents.shape != denoised.shape:
        raise ValueError(f"both are (T, B, h, w, C), not of shapes {latents.shape} and {denoised.shape}")
    return encode_latents(latents, request, denoised=denoised)


def save_trajectory(
    path: str | Path, latents: np.ndarray, denoised: np.ndarray, request: Request, *, force: bool = False
) -> None:
    """Writes what `encode_trajectory` makes; raises OutputError."""
    data = encode_trajectory(latents, denoised, request)
    atomic_write(path, lambda stream: stream.write(data), force=force)


@contextmanager
def open_trajectory(path: str | Path) -> Iterator[Trajectory | None]:
    """The trajectory in a file, open while in use; None for any other file, whatever is wrong with it.

    Raises InputError for a trajectory that is damaged.
    """
    path = Path(path)
    with ExitStack() as opened:
        file: Any = None
        try:
            file = opened.enter_context(open_tensors(path))
            shape = _shape(file, KEY)
        except InputError:
            shape = None
        if shape is None or len(shape) != 5:
            yield None
            return
        foreseen = DENOISED if DENOISED in list(file.keys()) else KEY
        if 0 in shape or _shape(file, foreseen) != shape:
            raise InputError(f"{path} holds steps of shape {shape} that do not fit together.", "Get the file again.")
        needed = 12 * math.prod(shape[1:])  # as stored, at most 8 bytes a number, and as fp32
        if not budget.fits(needed):
            raise InputError(f"A step in {path} {budget.lack(needed)}.", "Decode it where there is more.")
        metadata = file.metadata()
        metadata = {} if metadata is None else metadata
        yield Trajectory(shape, request_in(path, metadata), metadata.get("model"), file, foreseen)


def _shape(file: Any, name: str) -> tuple[int, ...] | None:
    """The shape of the floats of that name, if there are any."""
    if name not in list(file.keys()):
        return None
    part = file.get_slice(name)
    return tuple(part.get_shape()) if part.get_dtype() in _FLOATS else None
