"""Some of many pictures: spread over all of them, and the same ones each time."""

from __future__ import annotations

import hashlib
import heapq
from pathlib import Path

from .picture import Looked


class Sample:
    """At most `size` of the pictures that it is shown: those whose names have the smallest SHA-256.

    So the choice does not depend on the order or the machine, and a picture more in the folder replaces one at most.
    """

    def __init__(self, size: int, roots: tuple[Path, ...]) -> None:
        self.size = size
        self._roots = roots
        self._kept: list[tuple[int, str, Looked]] = []

    def show(self, looked: Looked) -> None:
        """Takes the picture into account, if it is one that can be rendered: no sheet, no animation, with a request."""
        request, pixels = looked.request, looked.pixels
        if not looked.is_picture or request is None or pixels is None or pixels.frames > 1 or request.batch_size > 1:
            return
        name = self._name(looked.path)
        rank = -int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest(), "big")
        heapq.heappush(self._kept, (rank, str(looked.path), looked))
        if len(self._kept) > self.size:
            heapq.heappop(self._kept)

    @property
    def chosen(self) -> list[Looked]:
        """In the order of their paths."""
        return [looked for _, _, looked in sorted(self._kept, key=lambda kept: kept[1])]

    def _name(self, path: Path) -> str:
        """Below the folder that was named, however that was written."""
        for root in self._roots:
            if root != path and path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name
