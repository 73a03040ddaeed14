"""Layers with a change that is applied beside them and not merged: y = layer(x) + change(x)."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from .layers import OnStreams, QuantizedLinear


class ChangedQuantizedLinear(OnStreams, nn.Module):
    """A linear layer of 8 or 4 bits with a change of low rank, down (r, in) and up (out, r), already scaled."""

    layer: QuantizedLinear

    def __init__(self, layer: QuantizedLinear, down: mx.array, up: mx.array):
        super().__init__()
        self.layer, self.down, self.up = layer, down, up

    @property
    def bias(self) -> mx.array:
        return self.layer.bias

    def product(self, x: mx.array) -> mx.array:
        """The layer without its bias."""
        return self.layer.product(x, (self.down, self.up))

    def __call__(self, x: mx.array) -> mx.array:
        return self.product(x) + self.layer.bias if "bias" in self.layer else self.product(x)


def joined(layers: Sequence[nn.Module]) -> ChangedQuantizedLinear | None:
    """One layer of several that have the same input, of which some may have a change; None where that is not all."""
    inner = [layer.layer if isinstance(layer, ChangedQuantizedLinear) else layer for layer in layers]
    plain = [layer for layer in inner if isinstance(layer, QuantizedLinear)]
    if len(plain) < len(layers):
        return None
    first, *_ = plain
    sizes = [layer.scales.shape[0] for layer in plain]
    first.update({name: mx.concatenate([layer[name] for layer in plain]) for name in ("weight", "scales", "biases")})
    changes = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, ChangedQuantizedLinear)]
    # Each change reaches the rows of its own layer alone.
    rows = [(sum(sizes[:i]), sum(sizes[i + 1 :])) for i, _ in changes]
    up = [mx.pad(layer.up, [around, (0, 0)]) for around, (_, layer) in zip(rows, changes, strict=True)]
    return ChangedQuantizedLinear(
        first, mx.concatenate([layer.down for _, layer in changes]), mx.concatenate(up, axis=1)
    )
