"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, heard through cross-attention alone."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .base import Checkpoint, Conditioning, Family, PromptEncoder, each_once, is_distilled, load_text_encoder

# Consistency models (Luo et al. 2023) that are SD 1.x in all but their scheduler and the guidance scale as an input.
LCM = ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline")


def load_encoder(checkpoint: Checkpoint, dtype: mx.Dtype, bits: int | None) -> PromptEncoder:
    tokenizer, clip = load_text_encoder(checkpoint, "", dtype, bits)

    def states(texts: list[str]) -> list[mx.array]:
        return [clip(mx.array(tokenizer.batch(texts))).last_hidden_state]

    def encode(
        prompts: Sequence[str], negative_prompt: str | None, *, guided: bool, height: int, width: int
    ) -> Conditioning:
        del height, width  # not told to these networks
        negatives = ["" if negative_prompt is None else negative_prompt] * len(prompts) if guided else []
        (context,) = each_once(states, [*negatives, *prompts])
        return Conditioning(context)

    return PromptEncoder(encode, (clip,))


def usual(checkpoint: Checkpoint) -> tuple[int, float]:
    if checkpoint.index.class_name in LCM:
        return 4, 8.5
    return (1, 0.0) if is_distilled(checkpoint) else (50, 7.5)


SD = Family(
    name="sd",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        *LCM,
    ),
    load_encoder=load_encoder,
    usual=usual,
    upcasts_vae=False,
)
