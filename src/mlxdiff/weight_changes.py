"""How adapters change a network's weights: merged into them, or as layers that run in others' place."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

Delta = Callable[[str, mx.array], mx.array | None]
"""(path of a parameter, the parameter in fp32) -> what is added to it, in its shape and MLX's layout; None where
nothing is."""

Live = Callable[[str, nn.Module], nn.Module | None]
"""(path of a layer, the layer) -> the layer to run in its place (models/live.py); None where it stays."""

Survival = dict[str, mx.array]
"""path of a quantized layer -> how much of a change survived that was merged into it.

Three numbers: the product of the change that is there with the change that was asked for, and the squares of both."""
