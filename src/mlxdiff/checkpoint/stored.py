"""The description of a component of a stored quantized copy, in its config.json.

    "quantization_config": {"quant_method": "mlxdiff", "format": 1, "bits": 8, "group_size": 64,
                            "layers": {"path.of.a.layer": 64, ...}}

Each layer listed has its packed weight, scales and biases in the safetensors beside it; the number is its group size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError, UnsupportedError
from .detect import read_json
from .quantize import BITS, GROUP_SIZES

KEY = "quantization_config"
METHOD = "mlxdiff"
FORMAT = 1
AGAIN = "Delete the quantized copy, and make it again with pull --quantize."


@dataclass(frozen=True)
class Quantization:
    """How a component is quantized; `layers` has the path of every quantized layer, and its group size."""

    bits: int
    group_size: int
    layers: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The value of KEY in a config.json."""
        return {
            "quant_method": METHOD,
            "format": FORMAT,
            "bits": self.bits,
            "group_size": self.group_size,
            "layers": dict(sorted(self.layers.items())),
        }

    def check_asked(self, source: str, bits: int | None) -> None:
        """Raises RequestError where other bits are asked for than the copy has."""
        if bits is not None and bits != self.bits:
            raise RequestError(
                f"{source} is stored in {self.bits} bits, and {bits} are asked for.",
                "Leave quantize out, or name the model that the copy was made from.",
            )

    def check_layers(self, source: str, layers: Mapping[str, int]) -> None:
        """Raises CheckpointError unless the layers recorded are those that this mlxdiff quantizes."""
        if dict(self.layers) != dict(layers):
            path = min(self.layers.items() ^ layers.items())[0]
            where = "is not" if path not in self.layers else "is otherwise" if path in layers else "should not be"
            raise CheckpointError(f"{source}: the layer {path!r} {where} quantized in it.", AGAIN)


def read_quantization(folder: Path) -> Quantization | None:
    """What the folder's config.json records; None for a component that mlxdiff has not quantized.

    Raises CheckpointError for a damaged record, UnsupportedError for a format of another version.
    """
    path = folder / "config.json"
    record: Any = read_json(path).get(KEY) if path.exists() else None
    if not isinstance(record, dict) or record.get("quant_method") != METHOD:
        return None
    if record.get("format") != FORMAT or isinstance(record["format"], bool | float):
        raise UnsupportedError(
            f"{path} is a quantized copy of the format {str(record.get('format'))[:40]}, not {FORMAT}.", AGAIN
        )
    bits: Any = record.get("bits")
    group_size: Any = record.get("group_size")
    layers: Any = record.get("layers")
    if not _is_among(bits, BITS) or not _is_among(group_size, GROUP_SIZES) or not isinstance(layers, dict):
        raise CheckpointError(f"{path} has a damaged record of how it is quantized.", AGAIN)
    if not all(_is_among(size, GROUP_SIZES) for size in layers.values()):
        raise CheckpointError(f"{path} has a damaged list of quantized layers.", AGAIN)
    return Quantization(bits, group_size, layers)


def _is_among(value: Any, known: tuple[int, ...]) -> bool:
    return type(value) is int and value in known
