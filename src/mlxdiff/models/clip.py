"""CLIP's text encoder (Radford et al. 2021): token ids (B, T) to the states that a UNet attends to.

One network serves CLIP-L (SD 1.x), OpenCLIP-H (SD 2.x) and CLIP-G (SDXL's second encoder): they differ in config alone.
It knows nothing about tokenization. Attribute names are transformers', without the `text_model.` prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..errors import CheckpointError, RequestError
from ..kernels.activations import gelu, quick_gelu
from ..kernels.attention import attention
from . import config as read
from .layers import LayerNorm, Linear

# Attention's memory grows with the square of the positions; CLIP has 77, its longest relatives 248.
MOST_POSITIONS = 1024

ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}

# Configs written before transformers 4.31 say 2, although the vocabulary's end of text is its largest id.
LEGACY_EOS = 2


@dataclass(frozen=True)
class CLIPTextConfig:
    """`config.json` of a text encoder, with transformers' defaults."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPTextConfig:
        """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for another kind of encoder."""
        read.choice(values, "model_type", "clip_text_model", ("clip_text_model", "clip"))
        nested = values.get("text_config")  # a config of both halves of CLIP keeps the text half here
        if isinstance(nested, Mapping):
            values = nested
        config = cls(
            vocab_size=read.whole(values, "vocab_size", cls.vocab_size),
            hidden_size=read.whole(values, "hidden_size", cls.hidden_size),
            intermediate_size=read.whole(values, "intermediate_size", cls.intermediate_size),
            projection_dim=read.whole(values, "projection_dim", cls.projection_dim),
            num_hidden_layers=read.whole(values, "num_hidden_layers", cls.num_hidden_layers, high=1000),
            num_attention_heads=read.whole(values, "num_attention_heads", cls.num_attention_heads),
            max_position_embeddings=read.whole(
                values, "max_position_embeddings", cls.max_position_embeddings, high=MOST_POSITIONS
            ),
            hidden_act=read.choice(values, "hidden_act", cls.hidden_act, tuple(ACTIVATIONS)),
            layer_norm_eps=read.positive(values, "layer_norm_eps", cls.layer_norm_eps, high=1),
            eos_token_id=read.whole(values, "eos_token_id", cls.eos_token_id, low=0),
        )
        if config.hidden_size % config.num_attention_heads != 0:
            raise CheckpointError(
                f"The text encoder's hidden_size {config.hidden_size} is not a multiple of its "
                f"num_attention_heads {config.num_attention_heads}.",
                "Download the model again.",
            )
        return config


@dataclass(frozen=True)
class CLIPOutput:
    """What the encoder makes of B prompts of T tokens.

    last_hidden_state  (B, T, D), after the final norm
    hidden_states      the embeddings, then every layer's output (B, T, D), before the final norm
    pooled             (B, D): the last hidden state at the end of text; (B, P) where it is projected
    """

    last_hidden_state: mx.array
    hidden_states: tuple[mx.array, ...]
    pooled: mx.array


class CLIPTextModel(nn.Module):
    """The text half of CLIP; `with_projection` adds the matrix that takes the pooled state to the shared space."""

    def __init__(self, config: CLIPTextConfig, with_projection: bool = False):
        super().__init__()
        self.config = config
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = CLIPEncoder(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if with_projection:
            self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def __call__(
        self, tokens: mx.array, *, vectors: mx.array | None = None, hidden: mx.array | None = None
    ) -> CLIPOutput:
        """Raises RequestError where T exceeds the positions there are.

        tokens   (B, T) int32, every id below vocab_size
        vectors  (B, T, D) in the place of the tokens' embeddings (textual inversion)
        hidden   (B, T) bool, true for tokens that no token attends to; never for a row's first
        """
        length = tokens.shape[1]
        if length > self.config.max_position_embeddings:
            raise RequestError(
                f"The text encoder was given {length} tokens and reads {self.config.max_position_embeddings}.",
                "Shorten the prompt.",
            )
        states = [self.embeddings(tokens, vectors)]
        mask = causal_mask(length, states[0].dtype)
        if hidden is not None:
            mask = mx.where(hidden[:, None, None], -mx.inf, mask).astype(mask.dtype)
        for layer in self.encoder.layers:
            states.append(layer(states[-1], mask))
        last = self.final_layer_norm(states[-1])
        pooled = last[mx.arange(tokens.shape[0]), end_of_text(tokens, self.config.eos_token_id)]
        if "text_projection" in self:
            pooled = self.text_projection(pooled)
        return CLIPOutput(last, tuple(states), pooled)


class CLIPTextEmbeddings(nn.Module):
    """Learned vectors of tokens and of positions, added."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def __call__(self, tokens: mx.array, vectors: mx.array | None = None) -> mx.array:
        vectors = self.token_embedding(tokens) if vectors is None else vectors
        return vectors + self.position_embedding.weight[: tokens.shape[1]]


class LayerConfig(Protocol):
    """What the layers of CLIP's two halves are built from."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def intermediate_size(self) -> int: ...

    @property
    def num_hidden_layers(self) -> int: ...

    @property
    def num_attention_heads(self) -> int: ...

    @property
    def hidden_act(self) -> str: ...

    @property
    def layer_norm_eps(self) -> float: ...


class CLIPEncoder(nn.Module):
    """The stack of layers; it exists for the parameter paths."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.layers = [CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers)]


class CLIPEncoderLayer(nn.Module):
    """A pre-norm transformer layer; x (B, T, D), mask (T, T) or (B, 1, T, T), None where all tokens see all."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.layer_norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CLIPAttention(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CLIPMLP(config)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class CLIPAttention(nn.Module):
    """Multi-head self-attention with biases on all four projections."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        out = attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), heads=self.heads, mask=mask)
        return self.out_proj(out)


class CLIPMLP(nn.Module):
    """Two linear maps around the config's activation."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.hidden_act = config.hidden_act
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(ACTIVATIONS[self.hidden_act](self.fc1(x)))


def causal_mask(length: int, dtype: mx.Dtype) -> mx.array:
    """Additive mask (T, T): a token sees itself and those before it."""
    positions = mx.arange(length)
    return mx.where(positions[:, None] < positions, -mx.inf, 0.0).astype(dtype)


def end_of_text(tokens: mx.array, eos_token_id: int) -> mx.array:
    """Where each row of tokens (B, T) ends: its first `eos_token_id`, or its largest id for legacy configs; (B,)."""
    if eos_token_id == LEGACY_EOS:
        return mx.argmax(tokens, axis=-1)
    return mx.argmax(tokens == eos_token_id, axis=-1)
