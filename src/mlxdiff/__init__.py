"""Stable Diffusion on Apple's MLX: lazy latents, batches, and the same pictures as diffusers.

Importing this package imports no MLX, so that `mlxdiff --help` answers at once; the names below arrive on first use.
It only arranges that MLX on a Linux CPU gets a fast BLAS, whichever of the two is imported first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import blas

if TYPE_CHECKING:
    from .diffusion.step import Step
    from .errors import MlxdiffError, MlxdiffWarning
    from .pipeline import StableDiffusion
    from .request import Request
    from .text.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = ["MlxdiffError", "MlxdiffWarning", "Request", "StableDiffusion", "Step", "Tokenizer", "__version__"]

_HOME = {
    "MlxdiffError": "errors",
    "MlxdiffWarning": "errors",
    "Request": "request",
    "StableDiffusion": "pipeline",
    "Step": "diffusion.samplers",
    "Tokenizer": "text.tokenizer",
}

blas.install()


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
