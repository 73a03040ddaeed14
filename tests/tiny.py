"""Tiny random pipelines of every family, written to disk by diffusers and transformers: the oracle's own files.

Their tokenizer is the built-in model's, so that prompts mean different tokens; weights are random but seeded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessorPil,
)

EMOJI = Path(__file__).parents[1] / "src" / "mlxdiff" / "assets" / "emoji"
WORDS = 3414
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMOJI / "tokenizer", pad_token=pad_token)


def text_config(**changes) -> CLIPTextConfig:
    values = {
        "vocab_size": WORDS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": WORDS - 2,
        "eos_token_id": WORDS - 1,
        "pad_token_id": WORDS - 1,
        "hidden_act": "quick_gelu",
        "projection_dim": 32,
    }
    return CLIPTextConfig(**values | changes)


def unet(**changes) -> UNet2DConditionModel:
    values = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**values | changes)


def vae(**changes) -> AutoencoderKL:
    values = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 32,
        "scaling_factor": 0.18215,
    }
    return AutoencoderKL(**values | changes)


def _xl_unet(*, time_ids: int, context: int = 64, in_channels: int = 4) -> UNet2DConditionModel:
    return unet(
        in_channels=in_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=time_ids * 8 + 32,
        cross_attention_dim=context,
    )


def sd15() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=unet(),
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd21() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(hidden_act="gelu", num_hidden_layers=2)),
        tokenizer=tokenizer(pad_token="!"),
        unet=unet(use_linear_projection=True, attention_head_dim=(2, 4)),
        scheduler=DDIMScheduler(
            **BETAS, prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl(scheduler, *, zeros: bool = True, kind=StableDiffusionXLPipeline, in_channels: int = 4):
    return kind(
        vae=vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config(hidden_act="gelu")),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(pad_token="!"),
        unet=_xl_unet(time_ids=6, in_channels=in_channels),
        scheduler=scheduler,
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    return _xl(EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"))


def sdxl_encoded_empty() -> StableDiffusionXLPipeline:
    return _xl(EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"), zeros=False)


def turbo() -> StableDiffusionXLPipeline:
    return _xl(EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing"))


def refiner() -> StableDiffusionXLImg2ImgPipeline:
    return StableDiffusionXLImg2ImgPipeline(
        vae=vae(scaling_factor=0.13025),
        text_encoder=None,
        text_encoder_2=CLIPTextModelWithProjection(text_config(hidden_act="gelu")),
        tokenizer=None,
        tokenizer_2=tokenizer(pad_token="!"),
        unet=_xl_unet(time_ids=5, context=32),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def _taking(channels: int, kind, base=sd15, **more):
    """A pipeline of another kind, whose UNet takes so many channels."""
    pipe = base()
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    return kind(**parts, unet=unet(in_channels=channels), **more)


_UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def sd15_inpainting() -> StableDiffusionInpaintPipeline:
    return _taking(9, StableDiffusionInpaintPipeline, **_UNCHECKED)


def sd21_inpainting() -> StableDiffusionInpaintPipeline:
    pipe = sd21()
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    nine = unet(use_linear_projection=True, attention_head_dim=(2, 4), in_channels=9)
    return StableDiffusionInpaintPipeline(**parts, unet=nine, **_UNCHECKED)


def sd15_editing() -> StableDiffusionInstructPix2PixPipeline:
    return _taking(8, StableDiffusionInstructPix2PixPipeline, **_UNCHECKED)


def depth() -> StableDiffusionDepth2ImgPipeline:
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    neck = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    estimator = DPTForDepthEstimation(DPTConfig(**size, **neck, image_size=32, patch_size=16))
    return _taking(
        5, StableDiffusionDepth2ImgPipeline, depth_estimator=estimator, feature_extractor=DPTImageProcessorPil()
    )


def sdxl_inpainting() -> StableDiffusionXLInpaintPipeline:
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    return _xl(scheduler, kind=StableDiffusionXLInpaintPipeline, in_channels=9)


def sdxl_editing() -> StableDiffusionXLInstructPix2PixPipeline:
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    return _xl(scheduler, kind=StableDiffusionXLInstructPix2PixPipeline, in_channels=8)


PIPELINES = {"sd15": sd15, "sd21": sd21, "sdxl": sdxl, "sdxl_encoded_empty": sdxl_encoded_empty, "turbo": turbo}


def write(make, folder: Path, **options) -> Path:
    """Builds a pipeline from seeded random weights and saves it. Raises where a part of it would be shared."""
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    make().save_pretrained(folder, **options)
    return folder
