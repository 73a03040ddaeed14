"""What to say of a file that is no adapter, or none for this model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.header import Header
from ..checkpoint.identify import architecture_of, not_a_model, unwrapped
from ..checkpoint.inversion import read_inversion
from ..errors import CheckpointError, MlxdiffError, UnsupportedError

_SHOWN = 3
_WANTED = "A LoRA for Stable Diffusion 1.x, 2.x or XL is wanted here."
# Families whose adapters have the forms of ours, by names that only they have.
_OTHERS = (
    (r"double_blocks|single_blocks|single_transformer_blocks", "FLUX or a model built like it"),
    (r"joint_blocks|context_embedder|^lora_te3_|text_encoder_3", "Stable Diffusion 3"),
    (r"^lora_prior_|effnet|clip_txt_pooled_mapper", "Stable Cascade"),
    (
        r"^(lora_)?transformer[._]|^blocks\.\d|diffusion_model[._](blocks|layers|transformer_blocks)[._]",
        "a transformer, not for a UNet",
    ),
    (r"motion_modules?[._]|temporal_transformer", "AnimateDiff (video)"),
    (r"^(lora_)?controlnet|control_model", "a ControlNet"),
)


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(repr(name[:120]) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more keys"


def other_family(names: Sequence[str]) -> str | None:
    """What else an adapter's modules are of."""
    return next((what for pattern, what in _OTHERS if any(re.search(pattern, name) for name in names)), None)


def not_an_adapter(path: Path, header: Header) -> MlxdiffError:
    """A file without any tensor of an adapter, named as what it is."""
    if not header.tensors:
        return CheckpointError(f"{path} holds no tensors.", "Download it again.")
    try:
        names = unwrapped(header.tensors, path)
    except CheckpointError:
        names = {key: key for key in header.tensors}
    if architecture_of({name: header.tensors[key].shape for name, key in names.items()}) is not None:
        return UnsupportedError(f"{path} is a whole checkpoint, not a LoRA.", "Give it as --model.")
    try:
        read_inversion(path)
    except MlxdiffError:
        pass
    else:
        return UnsupportedError(f"{path} is a textual inversion, not a LoRA.", "Give it as --embedding.")
    found = not_a_model(path, names)
    kind = re.fullmatch(
        rf"{re.escape(str(path))} is (only )?(an? [^(,]+?)( \(.*\))?, not a whole checkpoint\.", found.problem
    )
    if kind is not None and kind[2] != "a LoRA":
        return UnsupportedError(f"{path} is {kind[2]}, not a LoRA.", _WANTED)
    return UnsupportedError(f"{path} is no LoRA: it holds {listed(list(header.tensors))}.", _WANTED)
