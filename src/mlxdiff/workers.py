"""Work on many files on several cores, whose results come in the order of the files.

Threads do: zlib, SHA-256 and Pillow let go of Python's lock while they work.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .computer import cores

MOST = 8  # each may hold a decoded picture
AHEAD = 4  # items for each thread that are under way or wait to be told

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Generator[tuple[T, Callable[[], R]]]:
    """Each item in turn, with a function that waits for the work on it and returns or raises what came of it.

    Some items ahead are worked on meanwhile, so that what is in memory does not grow with their number. Warnings are
    ignored until the end: threads that change the filters each for itself would leave them as whoever came last found
    them.
    """
    n_threads = min(MOST, cores.allowed())
    waiting: deque[tuple[T, Future[R]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(n_threads, thread_name_prefix="mlxdiff-files") as pool:
        warnings.simplefilter("ignore")
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= AHEAD * n_threads:
                    done = waiting.popleft()
                    yield done[0], done[1].result
            while waiting:
                done = waiting.popleft()
                yield done[0], done[1].result
        finally:
            for _, future in waiting:
                future.cancel()
