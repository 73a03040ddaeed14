"""Adapters: files of changes to a model's weights (LoRA and its relatives), in every form that people share.

    read_adapter(path) -> Adapter -> match(adapter, shapes) -> {component: {parameter: Change}}

Nothing here knows a network or merges anything: `shapes` says what parameters a model has, and a Change says what is
added to one of them.
"""

from .change import Change
from .match import Changes, Shapes, match
from .read import Adapter, Layer, read_adapter

__all__ = ["Adapter", "Change", "Changes", "Layer", "Shapes", "match", "read_adapter"]
