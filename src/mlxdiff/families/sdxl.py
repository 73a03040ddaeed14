"""SDXL (base, refiner, Turbo): two text encoders side by side, and an embedding of the pooled text and the sizes.

Both encoders give their penultimate hidden states, or earlier ones (clip skip), without the final norm; the second
also gives the pooled text.
The refiner has only the second, and gets an aesthetic score instead of the target size (Podell et al. 2023, 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from ..errors import CheckpointError
from ..models.clip import CLIPOutput
from ..text.encode import Encoder
from ..text.tokenizer import Tokenizer
from .base import (
    MASKED,
    PICTURE,
    Branches,
    Checkpoint,
    Conditioning,
    Family,
    PromptEncoder,
    check_clip_skip,
    each_once,
    encoders_of,
    is_distilled,
    load_text_encoder,
    read_tokenizer,
)

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


def load_encoder(checkpoint: Checkpoint, dtype: mx.Dtype, bits: int | None) -> PromptEncoder:
    found = {f"text_encoder{s}": load_text_encoder(checkpoint, s, dtype, bits) for s in _suffixes(checkpoint)}
    pairs = [(tokenizer, loaded.module) for tokenizer, loaded in found.values()]
    networks = tuple(clip for _, clip in pairs)
    scored = bool(checkpoint.index.options.get("requires_aesthetics_score", False))
    zeros_for_absent = bool(checkpoint.index.options.get("force_zeros_for_empty_prompt", True))

    def state(output: CLIPOutput, clip_skip: int) -> mx.array:
        return output.hidden_states[-1 - clip_skip]

    def conditioning(branch: str, context: mx.array, pooled: mx.array, height: int, width: int) -> Conditioning:
        score = NEGATIVE_AESTHETIC_SCORE if branch == "negative" else AESTHETIC_SCORE
        ids = [height, width, 0, 0, *((score,) if scored else (height, width))]
        return Conditioning(context, pooled, mx.array([ids] * context.shape[0], dtype=mx.float32))

    def encode(branches: Branches, *, height: int, width: int, clip_skip: int) -> dict[str, Conditioning]:
        check_clip_skip(clip_skip, networks)

        def states(texts: list[str]) -> list[mx.array]:
            outputs = [clip(mx.array(tokenizer.batch(texts))) for tokenizer, clip in pairs]
            context = mx.concatenate([state(output, clip_skip) for output in outputs], axis=-1)
            return [context, outputs[-1].pooled]

        n_images = max(1 if texts is None else len(texts) for texts in branches.values())
        encoded = {}
        for name, texts in branches.items():
            absent = texts is None and zeros_for_absent
            texts = [""] if texts is None else list(texts)
            context, pooled = each_once(states, texts * (n_images if len(texts) == 1 else 1))
            if absent:
                context, pooled = mx.zeros_like(context), mx.zeros_like(pooled)
            encoded[name] = conditioning(name, context, pooled, height, width)
        return encoded

    def encoders(clip_skip: int, vectors: Mapping[str, tuple[mx.array, ...]]) -> list[Encoder]:
        check_clip_skip(clip_skip, networks)
        return encoders_of(pairs, [lambda output: state(output, clip_skip)] * len(pairs), vectors)

    by_component = {component: loaded for component, (_, loaded) in found.items()}
    return PromptEncoder(encode, encoders, conditioning, by_component, tuple(tokenizer for tokenizer, _ in pairs))


def tokenizers(checkpoint: Checkpoint) -> tuple[Tokenizer, ...]:
    return tuple(read_tokenizer(checkpoint, suffix) for suffix in _suffixes(checkpoint))


def _suffixes(checkpoint: Checkpoint) -> list[str]:
    suffixes = [suffix for suffix in ("", "_2") if f"text_encoder{suffix}" in checkpoint.index.components]
    if "_2" not in suffixes:
        raise CheckpointError(
            f"{checkpoint.folder} names no text_encoder_2 in its model_index.json.", "Use a complete SDXL checkpoint."
        )
    return suffixes


def usual(checkpoint: Checkpoint) -> tuple[int, float]:
    if checkpoint.takes == PICTURE:
        return 100, 5.0
    if checkpoint.takes == MASKED:
        return 50, 7.5
    return (1, 0.0) if is_distilled(checkpoint) else (50, 5.0)


SDXL = Family(
    name="sdxl",
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
    load_encoder=load_encoder,
    tokenizers=tokenizers,
    usual=usual,
    upcasts_vae=True,
)
