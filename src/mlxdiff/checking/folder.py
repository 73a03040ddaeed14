"""All files of some folders, on several cores, told in the order in which they lie there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from ..workers import in_order
from .fault import Fault
from .ledger import Ledger
from .picture import Known, Looked, look_at_latents, look_at_picture
from .walk import Found, find


@dataclass(frozen=True)
class Plan:
    """What there is to look at, and what the journals say of it."""

    roots: tuple[Path, ...]
    found: Found
    known: Known

    @property
    def n_files(self) -> int:
        return len(self.found.pictures) + len(self.found.latents)


def plan(roots: Sequence[Path]) -> Plan:
    """Finds the files below folders, and those that are named; reads the journals, and no picture yet."""
    found, ledger = find(roots), Ledger()
    for journal in found.journals:
        ledger.read(journal)
    for root in roots:
        if not root.is_dir():
            ledger.read_above(root)
    return Plan(tuple(roots), found, Known(ledger))


def look(plan: Plan) -> Iterator[Looked | Fault]:
    """What is found of each file, in order; then the faults of folders and journals."""
    pictures = (partial(look_at_picture, Path(path), plan.known) for path in plan.found.pictures)
    latents = (partial(look_at_latents, Path(path), plan.known) for path in plan.found.latents)
    tasks: Iterator[Callable[[], Looked | None]] = chain(pictures, latents)
    with closing(in_order(lambda task: task(), tasks)) as results:
        for _, result in results:
            looked = result()
            yield Looked(Path(), is_picture=False) if looked is None else looked
    yield from plan.found.faults
    yield from plan.known.ledger.faults
    yield from plan.known.ledger.missing([root for root in plan.roots if root.is_dir()])
