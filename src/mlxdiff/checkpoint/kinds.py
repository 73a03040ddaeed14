"""Which kind of part one .safetensors file is, from the names and shapes in its header. Needs no MLX, reads no data.

The kinds are those of part_kinds.py, and `model` for a whole checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ..errors import MlxdiffError
from ..part_kinds import MODEL
from .header import FLOATS, Header, read_header
from .identify import FIRST_CONV

_TEXT_ENCODERS = re.compile(r"(^|\.)(cond_stage_model|conditioner\.embedders)\.")
_IP_ADAPTER = re.compile(r"(image_proj|ip_adapter)\.")
_CONTROL = re.compile(
    r"(control_model|controlnet_cond_embedding|controlnet_down_blocks|input_hint_block|zero_convs)\."
    r"|adapter\.(body|conv_in)\.|body\.\d+\.(resnets|block1|block2|in_conv)\."
)
_LORA = re.compile(
    r".*(^|[._])lora[._]|.*\.(lora_(up|down|mid|A|B)\b|lora_(embedding|magnitude)_|hada_[wt]\d|lokr_[wt]\d)"
    r"|.*\.(dora_scale|oft_blocks|oft_diag|ia3_l|diff|diff_b|w_norm|b_norm|set_weight|on_input)$"
    r"|(lora|lycoris)_.*\.[ab][12]\.weight$"
)
# What trainers of upscalers put around their network.
_UPSCALER = re.compile(r"(params(_ema)?\.)?(conv_first\.weight$|body\.0\.(weight|bias)$|(.*\.)?rdb\d\.conv\d\.)", re.I)
_VAE = re.compile(
    r"(first_stage_model\.|vae\.|taesd_)?(encoder|decoder)\.(conv_in|(layers\.)?\d+)\.|first_stage_model\."
)
_TINY_VAE = re.compile(r"\d+\.((conv|skip)\.(\d+\.)?)?(weight|bias)")
_EMBEDDING = re.compile(r"emb_params$|string_to_param\b|clip_[lg]$")
_MOST_EMBEDDED = 1000  # vectors


def kind_of(header: Header) -> str | None:
    """`model`, a kind of part, or None for what is neither: a UNet alone, latents, a model of another kind."""
    names = header.tensors.keys()
    if any(name.endswith(FIRST_CONV) for name in names):
        return MODEL if any(map(_TEXT_ENCODERS.search, names)) else None
    for kind, pattern in (("ip_adapter", _IP_ADAPTER), ("control", _CONTROL), ("lora", _LORA)):
        if any(map(pattern.match, names)):
            return kind
    if any(map(_UPSCALER.match, names)):
        return "upscaler"
    if any(map(_VAE.match, names)) or (len(names) > 4 and all(map(_TINY_VAE.fullmatch, names))):
        return "vae" if _is_vae(names) else None
    return "embedding" if _is_embedding(header) else None


@lru_cache(maxsize=4096)
def _kind_at(path: Path, *_: int) -> str | None:
    return kind_of(read_header(path))


def kind_of_file(path: Path) -> str | None:
    """The kind of a file, by its header. Raises CheckpointError for one that is damaged, UnsupportedError for a
    pickle."""
    about = path.stat()
    return _kind_at(path, about.st_size, about.st_mtime_ns, about.st_ino)


def kind_if_sound(path: Path) -> str | None:
    """As `kind_of_file`, but None where the file cannot be read either."""
    try:
        return kind_of_file(path)
    except (MlxdiffError, OSError):
        return None


def _is_vae(names: Iterable[str]) -> bool:
    return not any(name.startswith(("unet.", "text_encoder.")) for name in names)


def _is_embedding(header: Header) -> bool:
    """A few rows as wide as a text encoder: under a name that says so, or a single tensor."""
    tensors = {name: info for name, info in header.tensors.items() if info.dtype in FLOATS}
    known = any(map(_EMBEDDING.match, tensors))
    if not known and (len(tensors) != 1 or next(iter(tensors)).endswith((".weight", ".bias"))):
        return False
    return all(_is_rows(info.shape) for name, info in tensors.items() if len(tensors) == 1 or _EMBEDDING.match(name))


def _is_rows(shape: tuple[int, ...]) -> bool:
    return len(shape) in (1, 2) and shape[-1] >= 16 and (len(shape) == 1 or 0 < shape[0] <= _MOST_EMBEDDED)
