"""The families of checkpoints, one file each, and which of them a checkpoint belongs to."""

from __future__ import annotations

import re

from ..errors import UnsupportedError
from .base import Checkpoint, Conditioning, Family
from .sd import SD
from .sdxl import SDXL

FAMILIES = (SD, SDXL)

__all__ = ["FAMILIES", "Checkpoint", "Conditioning", "Family", "family_of"]


def family_of(checkpoint: Checkpoint) -> Family:
    """The family whose pipeline class the checkpoint's model_index.json names; UnsupportedError where none does."""
    name = checkpoint.index.class_name
    for family in FAMILIES:
        if name in family.pipelines:
            return family
    supported = [pipeline for family in FAMILIES for pipeline in family.pipelines if not _EDITOR.search(pipeline)]
    raise UnsupportedError(
        f"{checkpoint.folder} is a {name}, which mlxdiff does not implement.", f"It implements {', '.join(supported)}."
    )


# They need a picture beside the prompt: no pipelines to advise.
_EDITOR = re.compile("Inpaint|InstructPix2Pix|Depth2Img")
