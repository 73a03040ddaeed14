"""What an earlier process left of the same command: its record, and the seed that it drew.

A command is the same if its request, its seed and what else it asks for are the same: a hash of them is its name.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..request import Request
from .essence import canonical, earlier, essence
from .journal import Journal, Run, hash_of
from .models import Models
from .naming import OutputPattern
from .unfinished import Unfinished, first_known

SEEDS = 2**32


@contextmanager
def continued(folder: Path, request: Request, suffix: str, asked: str) -> Iterator[tuple[Unfinished, Request]]:
    """What an earlier process left of the same command, and the request with its seed; else with one that is drawn."""
    keys = [hash_of(text, str(request.seed), asked)[:16] for text in _canonical(request)]
    unfinished = Unfinished(folder, first_known(folder, keys), suffix)
    try:
        yield unfinished, request.replaced(seed=seed_of(request, unfinished.run))
    except BaseException:
        unfinished.release()
        raise


def seed_of(request: Request, recorded: Run | None) -> Any:
    if request.seed is not None:
        return request.seed
    return secrets.randbelow(SEEDS) if recorded is None else recorded.seed


def run_of(models: Models, journal: Journal, base: Request, pattern: OutputPattern) -> str:
    """The name of the run in the journal: a hash of what the command asks for."""
    names = [hash_of(text, str(base.seed), str(pattern.template)) for text in _canonical(base)]
    name = next((name for name in names if name in journal.runs), names[0])
    if name not in journal.runs and journal.runs:
        # mlxdiff 0.1 hashed what the model made of it.
        asked = models.resolve(base.replaced(seed=0 if base.seed is None else base.seed))
        text = canonical(essence(asked.replaced(seed=None)))
        former = hash_of(text, str(base.seed), str(pattern.template))
        name = former if former in journal.runs else name
    return name


def _canonical(request: Request) -> list[str]:
    """What is asked for as JSON, and as mlxdiff 0.1 may have written it."""
    values = request.replaced(seed=None, hashes=None).values()
    return [canonical(values), *map(canonical, earlier(values))]
