"""The transformer inside a UNet's blocks: attention among pixels, attention to the prompt, and a gated MLP.

Tokens are the pixels of a feature map, row by row: (B, h * w, C). Attribute names are diffusers'.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from .layers import GroupNorm, PointwiseConv2d, attention, gelu

# Transformer2D's own, whatever the resnet blocks have.
_GROUP_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head attention of x (B, T, width) to a source (B, S, source_width), itself if there is none."""

    def __init__(self, width: int, heads: int, source_width: int | None = None, *, upcast: bool = False):
        super().__init__()
        source_width = width if source_width is None else source_width
        self.heads = heads
        self.upcast = upcast
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source_width, width, bias=False)
        self.to_v = nn.Linear(source_width, width, bias=False)
        self.to_out = [nn.Linear(width, width)]

    def __call__(self, x: mx.array, source: mx.array | None = None) -> mx.array:
        source = x if source is None else source
        out = attention(self.to_q(x), self.to_k(source), self.to_v(source), heads=self.heads, upcast=self.upcast)
        return self.to_out[0](out)


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another one (Shazeer 2020): (..., width) -> (..., out_width)."""

    def __init__(self, width: int, out_width: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * out_width)

    def __call__(self, x: mx.array) -> mx.array:
        x, gate = mx.split(self.proj(x), 2, axis=-1)
        return x * gelu(gate)


class FeedForward(nn.Module):
    """A gated MLP, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        # The dropout of training has a place in the list, and thus in the parameters' names.
        self.net = [GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nn.Module):
    """Attention to x itself (or to the context too, if `only_cross_attention`), to the context, and an MLP."""

    def __init__(self, width: int, heads: int, context_width: int, *, only_cross_attention: bool, upcast: bool):
        super().__init__()
        self.only_cross_attention = only_cross_attention
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, context_width if only_cross_attention else None, upcast=upcast)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width, upcast=upcast)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        x = x + self.attn1(self.norm1(x), context if self.only_cross_attention else None)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nn.Module):
    """Transformer blocks over the pixels of x (B, h, w, C), beside a shortcut; context (B, S, context_width)."""

    def __init__(
        self,
        channels: int,
        heads: int,
        n_layers: int,
        context_width: int,
        *,
        groups: int,
        use_linear_projection: bool,
        only_cross_attention: bool,
        upcast: bool,
    ):
        super().__init__()
        projection = nn.Linear if use_linear_projection else PointwiseConv2d
        self.norm = GroupNorm(groups, channels, _GROUP_NORM_EPS)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = [
            BasicTransformerBlock(
                channels, heads, context_width, only_cross_attention=only_cross_attention, upcast=upcast
            )
            for _ in range(n_layers)
        ]
        self.proj_out = projection(channels, channels)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        tokens = self.proj_in(self.norm(x).reshape(x.shape[0], -1, x.shape[-1]))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens).reshape(x.shape)
