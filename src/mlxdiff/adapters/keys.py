"""Keys of adapter files: the name of a module, and which part of its change a tensor is.

Every program has its own endings for the same parts. Facts about names only: nothing here reads a file.
"""

from __future__ import annotations

from typing import NamedTuple

# What follows the module's name, by the name that the part has here.
_ENDINGS: dict[str, tuple[str, ...]] = {
    "up": (".lora_up", ".lora_B", ".lora.up", "_lora.up", ".lora_linear_layer.up"),
    "down": (".lora_down", ".lora_A", ".lora.down", "_lora.down", ".lora_linear_layer.down"),
    "embedding_up": (".lora_embedding_B",),
    "embedding_down": (".lora_embedding_A",),
    "mid": (".lora_mid",),
    "up_bias": (".lora_B.bias",),
    "alpha": (".alpha",),
    "scale": (".scale",),
    "magnitude": (".dora_scale",),
    "row_magnitude": (".lora_magnitude_vector",),
    **{name: (f".{name}",) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: (f".{name}",) for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b")},
    **{name: (f".{name}",) for name in ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
    **{f"glora_{name}": (f".{name}.weight",) for name in ("a1", "a2", "b1", "b2", "bm")},
    "oft_blocks": (".oft_blocks",),
    "oft_rescale": (".rescale",),
    "diff": (".diff", ".w_norm"),
    "diff_bias": (".diff_b", ".b_norm"),
    "value": (".set_weight",),
    "factor": (".ia3_l",),
    "on_input": (".on_input",),
    "weight": (".weight",),
    "bias": (".bias",),
}
# Some are weights of layers, and some are not.
_PARTS = {
    f"{ending}{kind}": part
    for part, endings in _ENDINGS.items()
    for ending in endings
    for kind in ("", ".weight")
    if part not in ("weight", "bias") or kind == ""
}
_NAMED = ("up", "down", "up_bias", "row_magnitude", "embedding_up", "embedding_down")
_LONGEST = max(map(len, _PARTS))

PEFT = "base_model.model."
"""What PEFT writes before the name of every module."""


class Key(NamedTuple):
    """A tensor's module, as the file names it, and the part of the change that it is (see _ENDINGS)."""

    module: str
    part: str


def split(key: str) -> Key | None:
    """The module and the part of a key; None for one that no adapter has."""
    found = _split(key)
    if found is not None and found.part not in ("weight", "bias"):
        return found
    # PEFT puts its name for an adapter before the last word: `lora_A.NAME.weight`.
    head, _, rest = key.rpartition(".")
    inner = _split(f"{head.rpartition('.')[0]}.{rest}")
    return inner if inner is not None and inner.part in _NAMED else found


def _split(key: str) -> Key | None:
    for start in range(max(1, len(key) - _LONGEST), len(key)):
        if key[start] in "._" and (part := _PARTS.get(key[start:])) is not None:
            return Key(key[:start], part)
    return None
