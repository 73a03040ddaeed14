"""IP-Adapter (Ye et al. 2023): pictures as prompts, by a second cross-attention beside the one to the text.

    image encoder's output -> projection -> tokens (B, T, D) -> keys and values for each cross-attention

The adapter is a network of its own: what it gives enters a call of the UNet as data, so that the UNet's weights stay as
they are. Attribute names are those of the published files, but for the numbers of `ip_adapter.*`.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..kernels.activations import gelu
from ..kernels.attention import attention
from .layers import LayerNorm, Linear

HEAD_SIZE = 64  # of every published resampler; a file does not say it
PLAIN, PLUS, FULL = "plain", "plus", "full"


@dataclass(frozen=True)
class IPAdapterConfig:
    """What an adapter's file says by its shapes.

    kind         PLAIN reads the picture's one vector; PLUS and FULL read the states of all its patches
    image_width  of what it reads
    width        D of the tokens: what the UNet's cross-attention takes
    tokens       of a picture; None for FULL, which makes one of every patch
    layers       widths of the UNet's cross-attentions, in diffusers' order: the way down, the way up, the bottom
    inner        PLUS and FULL: the width inside the projection
    heads, depth, mlp  PLUS: attention heads, layers, and the width of their MLPs
    """

    kind: str
    image_width: int
    width: int
    tokens: int | None
    layers: tuple[int, ...]
    inner: int = 0
    heads: int = 0
    depth: int = 0
    mlp: int = 0


class IPAdapter(nn.Module):
    """The adapter of a config."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        self.config = config
        self.image_proj = {PLAIN: PlainProjection, PLUS: Resampler, FULL: FullProjection}[config.kind](config)
        self.ip_adapter = [_KeysValues(config.width, width) for width in config.layers]

    def __call__(self, seen: mx.array) -> mx.array:
        """Tokens (N, T, D) of N pictures, of the image encoder's vectors (N, W) or states (N, patches + 1, W)."""
        return self.image_proj(seen)

    def keys_values(self, tokens: mx.array) -> list[tuple[mx.array, mx.array]]:
        """Keys and values (B, S, width) of tokens (B, S, D) for each cross-attention, in the order of the config."""
        return [(layer.to_k_ip(tokens), layer.to_v_ip(tokens)) for layer in self.ip_adapter]


class _KeysValues(nn.Module):
    def __init__(self, source_width: int, width: int):
        super().__init__()
        self.to_k_ip = Linear(source_width, width, bias=False)
        self.to_v_ip = Linear(source_width, width, bias=False)


class PlainProjection(nn.Module):
    """The picture's vector to a few tokens, by one linear layer."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        assert config.tokens is not None
        self.proj = Linear(config.image_width, config.tokens * config.width)
        self.norm = LayerNorm(config.width)

    def __call__(self, vectors: mx.array) -> mx.array:
        return self.norm(self.proj(vectors).reshape(vectors.shape[0], -1, self.norm.weight.shape[0]))


class FullProjection(nn.Module):
    """Every patch's state to a token, by an MLP."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        # The activation has a place in the list, and thus in the parameters' names.
        self.proj = [
            Linear(config.image_width, config.inner),
            nn.Identity(),
            Linear(config.inner, config.width),
            LayerNorm(config.width),
        ]

    def __call__(self, states: mx.array) -> mx.array:
        up, _, down, norm = self.proj
        return norm(down(gelu(up(states))))


class Resampler(nn.Module):
    """Learned queries that gather from the patches' states (the Perceiver of Alayrac et al. 2022)."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        assert config.tokens is not None
        self.latents = mx.zeros((1, config.tokens, config.inner))
        self.proj_in = Linear(config.image_width, config.inner)
        self.proj_out = Linear(config.inner, config.width)
        self.norm_out = LayerNorm(config.width)
        self.layers = [[_Gather(config), _mlp(config)] for _ in range(config.depth)]

    def __call__(self, states: mx.array) -> mx.array:
        latents = mx.broadcast_to(self.latents, (states.shape[0], *self.latents.shape[1:]))
        states = self.proj_in(states)
        for gather, (norm, up, _, down) in self.layers:
            latents = latents + gather(states, latents)
            latents = latents + down(gelu(up(norm(latents))))
        return self.norm_out(self.proj_out(latents))


class _Gather(nn.Module):
    """Attention of latents (N, T, inner) to states (N, S, inner) and to themselves."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        width = config.heads * HEAD_SIZE
        self.heads = config.heads
        self.norm1 = LayerNorm(config.inner)
        self.norm2 = LayerNorm(config.inner)
        self.to_q = Linear(config.inner, width, bias=False)
        self.to_kv = Linear(config.inner, 2 * width, bias=False)
        self.to_out = Linear(width, config.inner, bias=False)

    def __call__(self, states: mx.array, latents: mx.array) -> mx.array:
        latents = self.norm2(latents)
        keys, values = mx.split(self.to_kv(mx.concatenate([self.norm1(states), latents], axis=1)), 2, axis=-1)
        return self.to_out(attention(self.to_q(latents), keys, values, heads=self.heads))


def _mlp(config: IPAdapterConfig) -> list[nn.Module]:
    return [
        LayerNorm(config.inner),
        Linear(config.inner, config.mlp, bias=False),
        nn.Identity(),
        Linear(config.mlp, config.inner, bias=False),
    ]


@dataclass(frozen=True, eq=False)
class Attached:
    """An adapter as a run uses it: conditioning.Attend.

    scales  one a cross-attention; where it is 0, nothing is attended to
    masks   one a picture, each (1, cells, 1) for each cross-attention; None where pictures count everywhere, and then
            all pictures share one attention
    """

    adapter: IPAdapter
    scales: tuple[float, ...]
    masks: tuple[tuple[mx.array, ...], ...] | None = None

    def __call__(self, tokens: mx.array) -> list[list[tuple[mx.array, ...]]]:
        """Keys, values and masks for each cross-attention, of tokens (B, P, T, D)."""
        if self.masks is None:
            sources = [(tokens.reshape(tokens.shape[0], -1, tokens.shape[-1]), None)]
        else:
            sources = [(tokens[:, i], masks) for i, masks in enumerate(self.masks)]
        found: list[list[tuple[mx.array, ...]]] = [[] for _ in self.scales]
        for source, masks in sources:
            for i, (keys, values) in enumerate(self.adapter.keys_values(source)):
                if self.scales[i] != 0:
                    # Attention is linear in the values: so scaled once, and not in every call.
                    found[i].append((keys, values * self.scales[i], *([] if masks is None else [masks[i]])))
        return found
