"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, whose output is used in cross-attention alone."""

from __future__ import annotations

import mlx.core as mx

from .base import Branches, Checkpoint, Conditioning, Family, PromptEncoder, each_once, is_distilled, load_text_encoder

# Consistency models (Luo et al. 2023) that are SD 1.x in all but their scheduler and the guidance scale as an input.
LCM = ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline")


def load_encoder(checkpoint: Checkpoint, dtype: mx.Dtype, bits: int | None) -> PromptEncoder:
    tokenizer, clip = load_text_encoder(checkpoint, "", dtype, bits)

    def states(texts: list[str]) -> list[mx.array]:
        return [clip(mx.array(tokenizer.batch(texts))).last_hidden_state]

    def encode(branches: Branches, *, height: int, width: int) -> dict[str, Conditioning]:
        del height, width  # no inputs of these networks
        # All texts at once: a text's last bits depend on how many share the call.
        texts = {name: [""] if found is None else list(found) for name, found in branches.items()}
        n_images = max(len(found) for found in texts.values())
        texts = {name: found * (n_images if len(found) == 1 else 1) for name, found in texts.items()}
        (context,) = each_once(states, [text for found in texts.values() for text in found])
        parts = mx.split(context, len(texts))
        return {name: Conditioning(part) for name, part in zip(texts, parts, strict=True)}

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
