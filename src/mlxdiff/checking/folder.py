"""All files of some folders, on several cores, told in the order in which they lie there."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from .fault import Fault
from .ledger import Ledger
from .picture import Known, Looked, look_at_latents, look_at_picture
from .walk import Found, find

MOST_THREADS = 8
_AHEAD = 4  # files for each thread that wait to be told


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


def look(plan: Plan, n_threads: int | None = None) -> Iterator[Looked | Fault]:
    """What is found of each file, in order; then the faults of folders and journals.

    zlib and SHA-256 let other threads run meanwhile. Few files are under way at once, whatever their number.
    """
    n_threads = max(1, min(MOST_THREADS, _cores())) if n_threads is None else n_threads
    pictures = (partial(look_at_picture, Path(path), plan.known) for path in plan.found.pictures)
    latents = (partial(look_at_latents, Path(path), plan.known) for path in plan.found.latents)
    # Threads that change the filters each for itself would leave them as whoever came last found them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for looked in _in_order(chain(pictures, latents), n_threads):
            yield Looked(Path(), is_picture=False) if looked is None else looked
    yield from plan.found.faults
    yield from plan.known.ledger.faults
    yield from plan.known.ledger.missing([root for root in plan.roots if root.is_dir()])


def _in_order(tasks: Iterator[Callable[[], Looked | None]], n_threads: int) -> Iterator[Looked | None]:
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="mlxdiff-check")
    under_way: deque[Future[Looked | None]] = deque()
    try:
        for task in tasks:
            under_way.append(pool.submit(task))
            if len(under_way) >= _AHEAD * n_threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
