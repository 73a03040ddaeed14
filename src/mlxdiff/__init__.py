"""Stable Diffusion on Apple's MLX: lazy latents, batches, and the same pictures as diffusers.

Importing this package imports no MLX and changes nothing in the process; the names below arrive on first use. What is
changed when a model is first opened, docs/python.md says.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's, but not imported: Ctrl-C shows a traceback until __main__ has its guard
if TYPE_CHECKING:
    from .diffusion.step import Step
    from .errors import MlxdiffError, MlxdiffWarning
    from .listing import samplers, settings
    from .pipeline import StableDiffusion
    from .request import Model, Request, Resolved
    from .text.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = [
    "MlxdiffError",
    "MlxdiffWarning",
    "Model",
    "Request",
    "Resolved",
    "StableDiffusion",
    "Step",
    "Tokenizer",
    "__version__",
    "samplers",
    "settings",
]

_HOME = {
    "MlxdiffError": "errors",
    "MlxdiffWarning": "errors",
    "Model": "request",
    "Request": "request",
    "Resolved": "request",
    "StableDiffusion": "pipeline",
    "Step": "diffusion.step",
    "Tokenizer": "text.tokenizer",
    "samplers": "listing",
    "settings": "listing",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
