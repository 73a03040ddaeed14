"""Changes as large as the parameter itself: a difference (`diff`, norms), or another value in its place."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Added:
    """A difference, in the parameter's shape."""

    value: mx.array
    rank: None = None

    def delta(self, weight: mx.array) -> mx.array:
        del weight
        return self.value.astype(mx.float32)

    def low_rank(self) -> None:
        return None


@dataclass(frozen=True)
class Replaced:
    """The parameter's new value, in its shape."""

    value: mx.array
    rank: None = None

    def delta(self, weight: mx.array) -> mx.array:
        return self.value.astype(mx.float32) - weight

    def low_rank(self) -> None:
        return None
