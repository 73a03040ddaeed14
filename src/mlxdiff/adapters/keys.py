"""Keys of adapter files: the name of a module, and which part of its change a tensor is.

Every program has its own endings for the same parts. Facts about names only: nothing here reads a file.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What follows the module's name, by the name that the part has here. PEFT may leave an adapter's name within.
_ENDINGS = {
    "up": r"(\.lora_up|\.lora_B|\.lora\.up|_lora\.up|\.lora_linear_layer\.up)(\.default)?(\.weight)?",
    "down": r"(\.lora_down|\.lora_A|\.lora\.down|_lora\.down|\.lora_linear_layer\.down)(\.default)?(\.weight)?",
    "mid": r"\.lora_mid\.weight",
    "up_bias": r"\.lora_B(\.default)?\.bias",
    "alpha": r"\.alpha",
    "scale": r"\.scale",
    "magnitude": r"\.dora_scale",
    "row_magnitude": r"\.lora_magnitude_vector(\.default)?(\.weight)?",
    **{name: rf"\.{name}(\.default)?" for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{name: rf"\.{name}(\.default)?" for name in ("hada_t1", "hada_t2")},
    **{name: rf"\.{name}(\.default)?" for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b")},
    **{name: rf"\.{name}(\.default)?" for name in ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
    **{f"glora_{name}": rf"\.{name}\.weight" for name in ("a1", "a2", "b1", "b2", "bm")},
    "oft_blocks": r"\.oft_blocks",
    "oft_rescale": r"\.rescale",
    "diff": r"\.diff|\.w_norm",
    "diff_bias": r"\.diff_b|\.b_norm",
    "factor": r"\.ia3_l(\.default)?",
    "on_input": r"\.on_input",
    "weight": r"\.weight",
    "bias": r"\.bias",
}
_KEY = re.compile(
    r"(?P<module>.+?)(?:" + "|".join(f"(?P<{part}>{ending})" for part, ending in _ENDINGS.items()) + ")"
)

PEFT = "base_model.model."
"""What PEFT writes before the name of every module."""


class Key(NamedTuple):
    """A tensor's module, as the file names it, and the part of the change that it is (see _ENDINGS)."""

    module: str
    part: str


def split(key: str) -> Key | None:
    """The module and the part of a key; None for one that no adapter has."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    part = next(name for name in _ENDINGS if found.group(name) is not None)
    return Key(found.group("module"), part)
