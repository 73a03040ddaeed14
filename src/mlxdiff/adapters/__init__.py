"""Adapters: files of changes to a model's weights (LoRA and its relatives), in every form that people share.

    read_adapter(path) -> Adapter -> match(adapter, shapes) -> {component: {parameter: Change}}

Nothing here knows a network or merges anything: `shapes` says what parameters a model has, and a Change says what is
added to one of them. `scaled` gives the blocks of a UNet strengths of their own; `describe` says what a file is.
"""

from .blocks import scaled
from .change import Change
from .describe import describe, is_adapter
from .match import Changes, Shapes, match
from .read import Adapter, Layer, read_adapter

__all__ = [
    "Adapter",
    "Change",
    "Changes",
    "Layer",
    "Shapes",
    "describe",
    "is_adapter",
    "match",
    "read_adapter",
    "scaled",
]
