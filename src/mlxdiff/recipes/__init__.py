"""What other programs write into pictures, read into Request's settings: one file a program.

recipe    what a text asks for: settings, what was lost, what was not used
names     what programs call samplers, schedules and noise
infotext  the grammar of A1111's text; a1111 reads it
finish    a recipe, with what the user gives beside it, as a Request

`read` finds the program by what it left: the texts of a file, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import a1111
from .finish import finished, sayings
from .recipe import FindModel, Recipe

Texts = Mapping[str, str]

__all__ = ["Recipe", "finished", "read", "sayings"]


def read(texts: Texts, find_model: FindModel | None = None) -> Recipe | None:
    """What the texts of a picture ask for, or None where no program's are among them.

    Raises RequestError where a program's text is there and cannot be used.
    """
    for reader in READERS:
        recipe = reader(texts, find_model)
        if recipe is not None:
            return recipe
    return None


def _a1111(texts: Texts, find_model: FindModel | None) -> Recipe | None:
    return a1111.read(texts["parameters"], find_model) if "parameters" in texts else None


# In this order: what a program writes beside A1111's text, so that others show it, says less than its own.
READERS: tuple[Callable[[Texts, FindModel | None], Recipe | None], ...] = (_a1111,)
