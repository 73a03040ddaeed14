"""A strength for each block of the UNet, as A1111's users of LoRA Block Weight know them.

BASE                  the text encoders, and what is in no numbered block
IN00 to IN11          the blocks on the way down, numbered as in the original implementation (SDXL: to IN08)
MID                   the block in the middle, also M00
OUT00 to OUT11        the blocks on the way up
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..errors import RequestError
from .match import Changes, Shapes
from .names import UNET, original_names

_BLOCK = re.compile(r"(IN|OUT)(\d{1,2})")
_WAYS = {"input": "IN", "output": "OUT"}
BASE, MIDDLE = "BASE", "MID"


def scaled(changes: Changes, shapes: Shapes, blocks: Mapping[str, float]) -> Changes:
    """The changes of a model of these shapes, each times the factor of its block; a block without one keeps 1.

    A factor of 0 leaves the change out. Raises RequestError for a block that the model does not have.
    """
    names = original_names({path.rpartition(".")[0] for path in shapes.get(UNET, {})})
    known = {BASE, *(_block(name) for name in names.values())}
    factors = {_spelled(name): factor for name, factor in blocks.items()}
    unknown = sorted(factors.keys() - known)
    if unknown:
        raise RequestError(
            f"The model has no block {unknown[0]!r}.", f"Its blocks are {', '.join(sorted(known, key=_order))}."
        )
    found: Changes = {}
    for component, by_path in changes.items():
        for path, change in by_path.items():
            original = names.get(path.rpartition(".")[0], "") if component == UNET else ""
            factor = factors.get(_block(original), 1.0)
            if factor != 0:
                found.setdefault(component, {})[path] = replace(change, factor=change.factor * factor)
    return found


def _block(original: str) -> str:
    """The block of a module, by the original implementation's name."""
    found = re.match(r"(input|output)_blocks\.(\d+)\.", original)
    if found is not None:
        return f"{_WAYS[found[1]]}{int(found[2]):02}"
    return MIDDLE if original.startswith("middle_block.") else BASE


def _spelled(name: str) -> str:
    """A block's name in capitals and two digits."""
    name = name.strip().upper()
    if name in ("M00", "MID00"):
        return MIDDLE
    found = _BLOCK.fullmatch(name)
    return name if found is None else f"{found[1]}{int(found[2]):02}"


def _order(name: str) -> tuple[int, str]:
    return (("BASE", "IN", "MID", "OUT").index(re.sub(r"\d", "", name)), name)
