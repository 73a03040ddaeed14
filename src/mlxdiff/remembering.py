"""What a function made lately, by its arguments; of pictures in memory their digests, so that none is held."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from .request.pictures import IN_MEMORY, Pixels

P = ParamSpec("P")
T = TypeVar("T")


def remembered(
    most: int, *, most_bytes: float = float("inf"), nbytes: Callable[[Any], int] = lambda _: 0
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keeps the last `most` results of a function of positional arguments, and no more than `most_bytes` of them.

    The last one stays whatever its size. Any thread may call; what raised is not kept.
    """

    def of(make: Callable[P, T]) -> Callable[P, T]:
        kept: dict[tuple, T] = {}
        lock = Lock()

        @wraps(make)
        def remembering(*args: P.args, **kwargs: P.kwargs) -> T:
            assert not kwargs
            key = tuple((IN_MEMORY, each.sha256) if isinstance(each, Pixels) else each for each in args)
            with lock:
                if key in kept:
                    kept[key] = kept.pop(key)  # what was used last goes last
                    return kept[key]
            made = make(*args, **kwargs)
            with lock:
                kept[key] = made
                while len(kept) > 1 and (len(kept) > most or sum(map(nbytes, kept.values())) > most_bytes):
                    del kept[next(iter(kept))]
            return made

        return remembering

    return of
