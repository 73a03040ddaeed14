"""SDXL (base, refiner, Turbo): two text encoders side by side, and an embedding of the pooled text and the sizes.

Both encoders give their penultimate hidden states, without the final norm; the second also gives the pooled text.
The refiner has only the second, and gets an aesthetic score instead of the target size (Podell et al. 2023, 2.2).
"""

from __future__ import annotations

import mlx.core as mx

from ..errors import CheckpointError
from .base import Branches, Checkpoint, Conditioning, Family, PromptEncoder, each_once, is_distilled, load_text_encoder

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


def load_encoder(checkpoint: Checkpoint, dtype: mx.Dtype, bits: int | None) -> PromptEncoder:
    suffixes = [suffix for suffix in ("", "_2") if f"text_encoder{suffix}" in checkpoint.index.components]
    if "_2" not in suffixes:
        raise CheckpointError(
            f"{checkpoint.folder} names no text_encoder_2 in its model_index.json.", "Use a complete SDXL checkpoint."
        )
    encoders = [load_text_encoder(checkpoint, suffix, dtype, bits) for suffix in suffixes]
    scored = bool(checkpoint.index.options.get("requires_aesthetics_score", False))
    zeros_for_absent = bool(checkpoint.index.options.get("force_zeros_for_empty_prompt", True))

    def states(texts: list[str]) -> list[mx.array]:
        outputs = [clip(mx.array(tokenizer.batch(texts))) for tokenizer, clip in encoders]
        context = mx.concatenate([output.hidden_states[-2] for output in outputs], axis=-1)
        return [context, outputs[-1].pooled]

    def encode(branches: Branches, *, height: int, width: int) -> dict[str, Conditioning]:
        n_images = max(1 if texts is None else len(texts) for texts in branches.values())
        found = {}
        for name, texts in branches.items():
            absent = texts is None and zeros_for_absent
            texts = [""] if texts is None else list(texts)
            context, pooled = each_once(states, texts * (n_images if len(texts) == 1 else 1))
            if absent:
                context, pooled = mx.zeros_like(context), mx.zeros_like(pooled)
            score = NEGATIVE_AESTHETIC_SCORE if name == "negative" else AESTHETIC_SCORE
            ids = [height, width, 0, 0, *((score,) if scored else (height, width))]
            found[name] = Conditioning(context, pooled, mx.array([ids] * n_images, dtype=mx.float32))
        return found

    return PromptEncoder(encode, tuple(clip for _, clip in encoders))


def usual(checkpoint: Checkpoint) -> tuple[int, float]:
    return (1, 0.0) if is_distilled(checkpoint) else (50, 5.0)


SDXL = Family(
    name="sdxl",
    pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    load_encoder=load_encoder,
    usual=usual,
    upcasts_vae=True,
)
