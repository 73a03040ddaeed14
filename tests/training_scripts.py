"""The scripts of training/ as modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

TRAINING = Path(__file__).parents[1] / "training"


@contextmanager
def loaded() -> Iterator[dict[str, ModuleType]]:
    """All of them by name. They import each other by their bare names, so they are forgotten afterwards."""
    names = sorted(path.stem for path in TRAINING.glob("*.py"))
    sys.path.insert(0, str(TRAINING))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(TRAINING))
        for name in names:
            sys.modules.pop(name, None)
