"""Items that come when they come, such as the lines of a pipe, for a consumer that has other work in the meantime."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

GRACE = (
    0.1  # seconds to wait before saying that there is nothing: a program that writes lines writes them close together
)
POLL = 0.2  # seconds between looks at `stop`
AHEAD = 10_000  # items read before they are asked for

_END = object()


def as_they_come(items: Iterable[T], stop: Callable[[], bool] = lambda: False) -> Iterator[T | None]:
    """Yields the items, read by a thread of their own, and None whenever there is none for a moment.

    Ends early once `stop` says so. An error of the items is raised here, in its place.
    """
    arrived: queue.Queue[object] = queue.Queue(AHEAD)

    def read() -> None:
        try:
            for item in items:
                arrived.put(item)
        except BaseException as error:  # whatever it is, it belongs to the consumer
            arrived.put(_Raised(error))
        arrived.put(_END)

    threading.Thread(target=read, daemon=True, name="mlxdiff-reader").start()
    while True:
        try:
            item = arrived.get(timeout=GRACE)
        except queue.Empty:
            yield None
            while arrived.empty():
                if stop():
                    return
                _wait(arrived)
            continue
        if item is _END:
            return
        if isinstance(item, _Raised):
            raise item.error
        yield item  # type: ignore[misc]


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _wait(arrived: queue.Queue[object]) -> None:
    """Until something is there, or it is time to look at `stop`; takes nothing away."""
    with arrived.not_empty:
        if not arrived.queue:
            arrived.not_empty.wait(POLL)
