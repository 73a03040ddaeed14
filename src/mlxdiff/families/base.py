"""What every family offers the pipeline: configs read from the checkpoint, its networks, and how it hears a prompt.

A family is a value, not a class to inherit from. It knows its text encoders and its defaults; it knows neither the
sampler nor the loop. docs/adding-a-family.md walks through one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.detect import ModelIndex, read_json, read_model_index
from ..checkpoint.load import load_component
from ..checkpoint.rename import OLD_VAE_ATTENTION
from ..errors import CheckpointError, UnsupportedError
from ..models.unet import UNet2DConditionModel, UNetConfig
from ..models.vae import AutoencoderKL, VAEConfig


@dataclass(frozen=True)
class Conditioning:
    """What the network is told beside the latents; B is doubled ([negative; positive]) when guided.

    context (B, 77, D) for cross-attention; pooled (B, P) and time_ids (B, n) for SDXL's embedding of text and size.
    """

    context: mx.array
    pooled: mx.array | None = None
    time_ids: mx.array | None = None

    def arrays(self) -> list[mx.array]:
        return [array for array in (self.context, self.pooled, self.time_ids) if array is not None]


PromptEncoder = Callable[..., Conditioning]
"""encode(prompts, negative_prompt, *, guided, height, width) -> Conditioning; one prompt an image."""


@dataclass(frozen=True)
class Defaults:
    """What the checkpoint asks for when the caller is silent: steps, guidance, and the size in pixels."""

    steps: int
    guidance_scale: float
    height: int
    width: int


@dataclass(frozen=True)
class Checkpoint:
    """The configs of one checkpoint: everything that can be known without reading a weight."""

    folder: Path
    index: ModelIndex
    unet: UNetConfig
    vae: VAEConfig
    scheduler: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction."""
        return self.vae.scale_factor


@dataclass(frozen=True)
class Family:
    """One family of checkpoints.

    pipelines     the `_class_name`s of model_index.json that it serves
    load_encoder  (checkpoint, dtype, quantize) -> PromptEncoder
    usual         (checkpoint) -> (steps, guidance_scale) that the family is known to want
    upcasts_vae   whether `force_upcast` in the VAE's config is obeyed: decode in fp32
    """

    name: str
    pipelines: tuple[str, ...]
    load_encoder: Callable[[Checkpoint, mx.Dtype, int | None], PromptEncoder]
    usual: Callable[[Checkpoint], tuple[int, float]]
    upcasts_vae: bool


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads every config of a folder in the diffusers layout. Raises CheckpointError or UnsupportedError."""
    index = read_model_index(folder)
    for name in ("unet", "vae", "scheduler"):
        if name not in index.components:
            raise CheckpointError(
                f"{folder} names no {name} in its model_index.json.", "Use a complete Stable Diffusion checkpoint."
            )
    settings = folder / "mlxdiff.json"
    return Checkpoint(
        folder=folder,
        index=index,
        unet=UNetConfig.from_dict(read_json(folder / "unet" / "config.json")),
        vae=VAEConfig.from_dict(read_json(folder / "vae" / "config.json")),
        scheduler=read_json(folder / "scheduler" / "scheduler_config.json"),
        settings=read_json(settings) if settings.exists() else {},
    )


def defaults(family: Family, checkpoint: Checkpoint) -> Defaults:
    """The checkpoint's `mlxdiff.json` decides, then what the family is known to want."""
    steps, guidance_scale = family.usual(checkpoint)
    size = checkpoint.unet.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    values = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "height": height * checkpoint.scale_factor,
        "width": width * checkpoint.scale_factor,
    }
    for key, value in checkpoint.settings.items():
        if key not in values or isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise CheckpointError(
                f"{checkpoint.folder / 'mlxdiff.json'} has {key!r}: {value!r}.",
                f"It may hold numbers named {', '.join(values)}.",
            )
        values[key] = type(values[key])(value)
    return Defaults(**values)


def is_distilled(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is a few-step (Turbo) one.

    Adversarially distilled checkpoints say so only through their scheduler: an Euler class with trailing spacing.
    """
    return (
        checkpoint.scheduler.get("_class_name") in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
        and checkpoint.scheduler.get("timestep_spacing") == "trailing"
    )


def load_unet(checkpoint: Checkpoint, dtype: mx.Dtype, bits: int | None) -> UNet2DConditionModel:
    if checkpoint.unet.in_channels != checkpoint.vae.latent_channels:
        raise UnsupportedError(
            f"The UNet of {checkpoint.folder} takes {checkpoint.unet.in_channels} channels, the VAE has"
            f" {checkpoint.vae.latent_channels}: an inpainting or editing checkpoint.",
            "Use a text-to-image checkpoint.",
        )
    return load_component(UNet2DConditionModel(checkpoint.unet), checkpoint.folder / "unet", dtype=dtype, bits=bits)


def load_vae(family: Family, checkpoint: Checkpoint, dtype: mx.Dtype) -> AutoencoderKL:
    """The VAE in `dtype`, or in fp32 where fp16 would overflow (SDXL's)."""
    if family.upcasts_vae and checkpoint.vae.force_upcast:
        dtype = mx.float32
    vae = AutoencoderKL(checkpoint.vae)
    return load_component(vae, checkpoint.folder / "vae", dtype=dtype, rename=OLD_VAE_ATTENTION)


def each_once(encode: Callable[[list[str]], list[mx.array]], texts: Sequence[str]) -> list[mx.array]:
    """Runs `encode` on each different text once and spreads the rows: outputs have one row a text of `texts`."""
    distinct = list(dict.fromkeys(texts))
    rows = mx.array([distinct.index(text) for text in texts])
    return [array[rows] for array in encode(distinct)]


def check_vocabulary(folder: Path, largest: int, size: int) -> None:
    """The text encoder has a row for every id of its tokenizer; MLX would read past the table without a word."""
    if largest > size:
        raise CheckpointError(
            f"The tokenizer in {folder} has {largest} tokens, its text encoder {size}.",
            "They belong to different models: download the model again.",
        )
