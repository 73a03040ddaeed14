"""Names that checkpoints have used for what a module calls otherwise, as small tables.

A table is a tuple of (regular expression, replacement), applied to each key in order. Modules carry the names of
today's diffusers and transformers, so what is listed here is history.
"""

from __future__ import annotations

import re

Rename = tuple[tuple[str, str], ...]

UNCHANGED: Rename = ()

# transformers 4 wrote it before every key of a text encoder; transformers 5 only where there is a projection.
TEXT_MODEL_PREFIX: Rename = ((r"^text_model\.", ""),)

# The VAE's attention, as diffusers named it before 0.15.
OLD_VAE_ATTENTION: Rename = (
    (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)

# By the names that parts.py has for them.
TABLES: dict[str | None, Rename] = {
    None: UNCHANGED,
    "text_model_prefix": TEXT_MODEL_PREFIX,
    "old_vae_attention": OLD_VAE_ATTENTION,
}

# Buffers that a module can work out: 0, 1, 2, ... was stored beside CLIP's position embeddings.
IGNORED = (r"(^|\.)position_ids$",)


def rename_key(key: str, table: Rename) -> str:
    """The parameter path that a checkpoint's key stands for."""
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key


def is_ignored(key: str) -> bool:
    """Whether a checkpoint may hold this key although no module has a place for it."""
    return any(re.search(pattern, key) for pattern in IGNORED)
