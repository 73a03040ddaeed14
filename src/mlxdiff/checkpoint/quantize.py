"""Linear layers of a built module to 8 or 4 bits, in place: less memory for a picture that is nearly the same."""

from __future__ import annotations

from typing import TypeVar

import mlx.nn as nn

from ..errors import RequestError

Module = TypeVar("Module", bound=nn.Module)

BITS = (8, 4)
GROUP_SIZES = (128, 64, 32)

# Layers left as they are: few weights, whose error meets all that follows. On the built-in UNet at 4 bits, proj_in and
# proj_out alone (4 % of the weights) make a fifth of the error; in SD 1.x they are convolutions anyway.
KEPT = ("time_embedding", "add_embedding", "proj_in", "proj_out", "text_projection")


def quantize(module: Module, bits: int, group_size: int = 64) -> Module:
    """Quantizes the weights of the module's linear layers, `group_size` of a row sharing a scale, and returns it.

    Layers whose width `group_size` does not divide use groups of 32; those that 32 does not divide, embeddings,
    convolutions and the layers in KEPT stay. Raises RequestError for other than 8 or 4 bits.
    """
    if bits not in BITS or isinstance(bits, float):
        raise RequestError(f"Weights cannot be quantized to {bits!r} bits.", "Choose 8 or 4.")
    if group_size not in GROUP_SIZES:
        raise RequestError(f"Weights cannot be quantized in groups of {group_size!r}.", "Choose 32, 64 or 128.")

    def choose(path: str, layer: nn.Module) -> bool | dict[str, int]:
        if not isinstance(layer, nn.Linear) or any(name in path.split(".") for name in KEPT):
            return False
        width = layer.weight.shape[1]
        fitting = next((size for size in (group_size, 32) if width % size == 0), None)
        return False if fitting is None else {"group_size": fitting, "bits": bits}

    nn.quantize(module, group_size=group_size, bits=bits, class_predicate=choose)
    return module


def quantized_layers(module: nn.Module) -> dict[str, int]:
    """Path of each quantized layer of the module -> its group size."""
    return {path: layer.group_size for path, layer in module.named_modules() if isinstance(layer, nn.QuantizedLinear)}
