"""CLIP's image encoder (Radford et al. 2021): pixels (B, H, W, 3) to one vector, or to a vector for each patch.

One network serves OpenCLIP-H and bigG, which IP-Adapters look at pictures with, and CLIP-L: they differ in config
alone. It knows nothing about files and sizes of pictures. Attribute names are transformers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import CheckpointError
from ..kernels.linear import linear
from . import config as read
from .clip import ACTIVATIONS, CLIPEncoder
from .layers import LayerNorm, Linear

MOST_PATCHES = 4096  # bigG has 256; memory grows with their square


@dataclass(frozen=True)
class CLIPVisionConfig:
    """`config.json` of an image encoder, with transformers' defaults. image_size and patch_size are in pixels."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPVisionConfig:
        """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for another kind of encoder."""
        read.choice(values, "model_type", "clip_vision_model", ("clip_vision_model", "clip"))
        nested = values.get("vision_config")  # a config of both halves of CLIP keeps the image half here
        if isinstance(nested, Mapping):
            values = {"projection_dim": values.get("projection_dim", cls.projection_dim)} | dict(nested)
        read.choice(values, "num_channels", 3, (3,))
        config = cls(
            hidden_size=read.whole(values, "hidden_size", cls.hidden_size),
            intermediate_size=read.whole(values, "intermediate_size", cls.intermediate_size),
            projection_dim=read.whole(values, "projection_dim", cls.projection_dim),
            num_hidden_layers=read.whole(values, "num_hidden_layers", cls.num_hidden_layers, low=2, high=1000),
            num_attention_heads=read.whole(values, "num_attention_heads", cls.num_attention_heads),
            image_size=read.whole(values, "image_size", cls.image_size, high=8192),
            patch_size=read.whole(values, "patch_size", cls.patch_size, high=8192),
            hidden_act=read.choice(values, "hidden_act", cls.hidden_act, tuple(ACTIVATIONS)),
            layer_norm_eps=read.positive(values, "layer_norm_eps", cls.layer_norm_eps, high=1),
        )
        config._check()
        return config

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch_size) ** 2

    def _check(self) -> None:
        if self.hidden_size % self.num_attention_heads != 0:
            raise _inconsistent(
                f"hidden_size {self.hidden_size} is not a multiple of its num_attention_heads"
                f" {self.num_attention_heads}"
            )
        if not 1 <= self.patches <= MOST_PATCHES:
            raise _inconsistent(
                f"patch_size {self.patch_size} cuts a picture of image_size {self.image_size} into {self.patches}"
                " patches"
            )


@dataclass(frozen=True)
class CLIPVisionOutput:
    """What the encoder makes of B pictures of T - 1 patches.

    embedding    (B, P): the class token's last state, normalized and projected
    penultimate  (B, T, D): the states of all tokens before the last layer, the class token's first
    """

    embedding: mx.array
    penultimate: mx.array


class CLIPVisionModel(nn.Module):
    """The image half of CLIP with its projection; parameters' paths are CLIPVisionModelWithProjection's keys."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = config
        self.vision_model = _Transformer(config)
        self.visual_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def __call__(self, pixels: mx.array) -> CLIPVisionOutput:
        """pixels (B, image_size, image_size, 3), normalized as steering/clip_pixels.py does."""
        pooled, penultimate = self.vision_model(pixels.astype(self.visual_projection.weight.dtype))
        return CLIPVisionOutput(self.visual_projection(pooled), penultimate)


class _Transformer(nn.Module):
    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.pre_layrnorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # transformers' spelling
        self.encoder = CLIPEncoder(config)
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, pixels: mx.array) -> tuple[mx.array, mx.array]:
        """The class token's last state (B, D), normalized, and the states before the last layer (B, T, D)."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        *layers, last = self.encoder.layers
        for layer in layers:
            x = layer(x, None)
        return self.post_layernorm(last(x, None)[:, 0]), x


class _Embeddings(nn.Module):
    """A learned token for the picture as a whole, and the patches projected; positions are added."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = config
        self.class_embedding = mx.zeros(config.hidden_size)
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(config.patches + 1, config.hidden_size)

    def __call__(self, pixels: mx.array) -> mx.array:
        batch, size = pixels.shape[0], self.config.patch_size
        side = self.config.image_size // size
        cut = pixels[:, : side * size, : side * size].reshape(batch, side, size, side, size, 3)
        # A convolution whose stride is its kernel's size is one product.
        rows = cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * side, size * size * 3)
        patches = linear(rows, self.patch_embedding.weight.reshape(self.config.hidden_size, -1))
        whole = mx.broadcast_to(self.class_embedding, (batch, 1, self.config.hidden_size))
        return mx.concatenate([whole, patches], axis=1) + self.position_embedding.weight


def _inconsistent(problem: str) -> CheckpointError:
    return CheckpointError(f"The image encoder's {problem}.", "Download the image encoder again.")
