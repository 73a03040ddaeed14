"""What was asked for last, kept by its key: the cache of whatever takes long to compute and is likely wanted again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values that were asked for last, as far as they go into `room`; for one thread.

    size  how much of the room a value takes: 1, so that the room is a number of values, if nothing else is said
    """

    def __init__(self, room: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self.room, self._size = room, size
        self._values: dict[Hashable, Value] = {}  # in the order in which they were asked for

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not kept. What was asked for longest ago goes, but never this one."""
        value: Any = self._values.pop(key) if key in self._values else make()
        self._values[key] = value
        while len(self._values) > 1 and sum(map(self._size, self._values.values())) > self.room:
            del self._values[next(iter(self._values))]
        return value

    def __len__(self) -> int:
        return len(self._values)
