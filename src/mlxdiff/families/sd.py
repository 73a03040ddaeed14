"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, whose output is used in cross-attention alone."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from ..models.clip import CLIPOutput
from ..text.encode import Encoder
from ..text.tokenizer import Tokenizer
from .base import (
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

# Consistency models (Luo et al. 2023) that are SD 1.x in all but their scheduler and the guidance scale as an input.
LCM = ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline")


def load_encoder(checkpoint: Checkpoint, dtype: mx.Dtype, bits: int | None) -> PromptEncoder:
    tokenizer, loaded = load_text_encoder(checkpoint, "", dtype, bits)
    clip = loaded.module

    def state(output: CLIPOutput, clip_skip: int) -> mx.array:
        """The last hidden state, or an earlier one under the same final norm."""
        if clip_skip == 1:
            return output.last_hidden_state
        check_clip_skip(clip_skip, [clip])
        return clip.final_layer_norm(output.hidden_states[-clip_skip])

    def encode(branches: Branches, *, height: int, width: int, clip_skip: int) -> dict[str, Conditioning]:
        del height, width  # no inputs of these networks
        # All texts at once: a text's last bits depend on how many share the call.
        texts = {name: [""] if found is None else list(found) for name, found in branches.items()}
        n_images = max(len(found) for found in texts.values())
        texts = {name: found * (n_images if len(found) == 1 else 1) for name, found in texts.items()}

        def states(distinct: list[str]) -> list[mx.array]:
            return [state(clip(mx.array(tokenizer.batch(distinct))), clip_skip)]

        (context,) = each_once(states, [text for found in texts.values() for text in found])
        parts = mx.split(context, len(texts))
        return {name: Conditioning(part) for name, part in zip(texts, parts, strict=True)}

    def encoders(clip_skip: int, vectors: Mapping[str, tuple[mx.array, ...]]) -> list[Encoder]:
        return encoders_of([(tokenizer, clip)], [lambda output: state(output, clip_skip)], vectors)

    return PromptEncoder(encode, encoders, conditioning, {"text_encoder": loaded}, (tokenizer,))


def conditioning(branch: str, context: mx.array, pooled: mx.array, height: int, width: int) -> Conditioning:
    del branch, pooled, height, width  # no inputs of these networks
    return Conditioning(context)


def tokenizers(checkpoint: Checkpoint) -> tuple[Tokenizer, ...]:
    return (read_tokenizer(checkpoint, ""),)


def usual(checkpoint: Checkpoint) -> tuple[int, float]:
    if checkpoint.index.class_name in LCM:
        return 4, 8.5
    if checkpoint.takes == PICTURE:
        return 100, 7.5
    return (1, 0.0) if is_distilled(checkpoint) else (50, 7.5)


SD = Family(
    name="sd",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionDepth2ImgPipeline",
        *LCM,
    ),
    load_encoder=load_encoder,
    tokenizers=tokenizers,
    usual=usual,
    upcasts_vae=False,
)
