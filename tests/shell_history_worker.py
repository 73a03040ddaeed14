"""A shell of its own process that adds lines to the history: a spawned process has to be able to import it."""

from __future__ import annotations

from pathlib import Path

from mlxdiff.cli.shell.history import History

LINES = 200


def add_many(path: Path, name: str) -> None:
    history = History(path)
    history.read()
    for i in range(LINES):
        history.add(f"{name} {i}")
    assert history.problem is None
