"""Adapters: files of changes to a model's weights (LoRA and its relatives), in every form that people share.

    read_adapter(path) -> Adapter -> match(adapter, shapes) -> {component: {parameter: Change}}

Nothing here knows a network or merges anything: `shapes` says what parameters a model has, and a Change says what is
added to one of them. `scaled` gives the blocks of a UNet strengths of their own, `limited` takes the first directions
of each layer; `describe` says what a file is.
"""

from .blocks import scaled
from .change import Change
from .describe import describe, is_adapter
from .directions import has_directions, limited
from .match import Changes, Shapes, match
from .read import Adapter, Layer, read_adapter

__all__ = [
    "Adapter",
    "Change",
    "Changes",
    "Layer",
    "Shapes",
    "describe",
    "has_directions",
    "is_adapter",
    "limited",
    "match",
    "read_adapter",
    "scaled",
]
