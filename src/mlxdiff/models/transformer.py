"""The transformer inside a UNet's blocks: attention among pixels, attention to the prompt, and a gated MLP.

Tokens are the pixels of all feature maps of a batch, row by row: (B * h * w, C), so that nothing but attention need
know where a picture ends. Attribute names are diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ..kernels.attention import attention, self_attention
from ..kernels.geglu import geglu, linear_geglu
from ..kernels.residual import add_biased
from ..kernels.stream import Stream, add
from . import live, token_merging
from .layers import GroupNorm, LayerNorm, Linear, PointwiseConv2d, stored

# Transformer2D's own, whatever the resnet blocks have.
_GROUP_NORM_EPS = 1e-6

Match = Callable[[mx.array], token_merging.Merging | None]
"""Which of the tokens (B, T, width) stand for others in attention among themselves."""

KeysValues = tuple[mx.array, ...]
"""Keys and values of one attention, (B, S, width) each; those of a picture with a mask have (1, T, 1) behind them, by
which the output for each of T tokens is multiplied."""


class _Attention(nn.Module):
    """The projections of a multi-head attention of tokens (B * T, width) to a source (B, S, source_width).

    Attentions return what `to_out` is to be applied to: the block adds that to its stream.
    """

    def __init__(self, width: int, heads: int, source_width: int, *, upcast: bool = False):
        super().__init__()
        self.heads = heads
        self.upcast = upcast
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(source_width, width, bias=False)
        self.to_v = Linear(source_width, width, bias=False)
        self.to_out = [Linear(width, width)]


class CrossAttention(_Attention):
    """Attention of x (B * T, width) to a source that stays the same from call to call."""

    def keys_values(self, source: mx.array) -> KeysValues:
        """The keys and values of a source (B, S, source_width)."""
        return self.to_k(source), self.to_v(source)

    def __call__(self, x: mx.array, keys_values: KeysValues, pictures: Sequence[KeysValues] = ()) -> mx.array:
        """`pictures` are attended to beside the source, each for itself, and added (Ye et al. 2023, IP-Adapter)."""
        keys, values = keys_values
        q = self.to_q(x).reshape(keys.shape[0], -1, x.shape[-1])
        out = attention(q, keys, values, heads=self.heads, upcast=self.upcast)
        for keys, values, *mask in pictures:
            seen = attention(q, keys, values, heads=self.heads, upcast=self.upcast)
            out = out + (seen * mask[0] if mask else seen)
        return out.reshape(x.shape)


class SelfAttention(_Attention):
    """Attention of x (B * T, width) among the tokens of each of B images."""

    def __init__(self, width: int, heads: int, *, upcast: bool = False):
        super().__init__(width, heads, width, upcast=upcast)

    def fuse(self) -> None:
        """Makes one layer of the three whose input is the same: one product for three, with the same numbers.

        They stay three where one has a change beside it that is not of a quantized layer (models/live.py).
        """
        names = ("to_q", "to_k", "to_v")
        if any(isinstance(self[name], live.ChangedQuantizedLinear) for name in names):
            joined = live.joined([self[name] for name in names])
            if joined is not None:
                for name in names:
                    self.pop(name)
                self.to_qkv = joined
            return
        if not all(isinstance(self[name], nn.Linear | nn.QuantizedLinear) for name in names):
            return
        layers = [self.pop(name) for name in names]
        arrays = {
            name: mx.concatenate([layer[name] for layer in layers])
            for name in ("weight", "scales", "biases")
            if name in layers[0]
        }
        fused, *_ = layers
        fused.update(arrays)
        self.to_qkv = fused

    def __call__(self, x: mx.array, batch: int, perturbed: int = 0) -> mx.array:
        """Of the last `perturbed` images each token sees itself alone (Ahn et al. 2024, PAG)."""
        width = x.shape[-1]
        if "to_qkv" in self:
            qkv = self.to_qkv(x)
        else:
            qkv = mx.concatenate([self.to_q(x), self.to_k(x), self.to_v(x)], axis=-1)
        qkv = qkv.reshape(batch, -1, 3 * width)
        whole = batch - perturbed
        parts = [self_attention(qkv[:whole], heads=self.heads, upcast=self.upcast)] if whole else []
        parts += [qkv[whole:, :, 2 * width :]] if perturbed else []
        out = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return out.reshape(-1, width)


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another one (Shazeer 2020): (..., width) -> (..., out_width)."""

    def __init__(self, width: int, out_width: int):
        super().__init__()
        self.proj = Linear(width, 2 * out_width)

    def __call__(self, x: mx.array) -> mx.array:
        if type(self.proj) is Linear:  # and nothing stands in its place
            return linear_geglu(x, stored(self.proj), self.proj.bias)
        return geglu(self.proj(x))


class FeedForward(nn.Module):
    """A gated MLP, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        # The dropout of training has a place in the list, and thus in the parameters' names.
        self.net = [GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width)]

    def add_to(self, stream: Stream, x: mx.array) -> Stream:
        """The stream with the MLP of x (..., width)."""
        return self.net[2].add_to(stream, self.net[0](x))


class BasicTransformerBlock(nn.Module):
    """Attention to x itself (or to the context too, if `only_cross_attention`), to the context, and an MLP."""

    def __init__(self, width: int, heads: int, context_width: int, *, only_cross_attention: bool, upcast: bool):
        super().__init__()
        self.norm1 = LayerNorm(width)
        if only_cross_attention:
            self.attn1 = CrossAttention(width, heads, context_width, upcast=upcast)
        else:
            self.attn1 = SelfAttention(width, heads, upcast=upcast)
        self.norm2 = LayerNorm(width)
        self.attn2 = CrossAttention(width, heads, context_width, upcast=upcast)
        self.norm3 = LayerNorm(width)
        self.ff = FeedForward(width)

    def keys_values(self, context: mx.array) -> list[KeysValues]:
        """Keys and values of the context (B, S, context_width) for each attention to it."""
        return [a.keys_values(context) for a in (self.attn1, self.attn2) if isinstance(a, CrossAttention)]

    def __call__(
        self,
        tokens: Stream,
        batch: int,
        keys_values: list[KeysValues],
        match: Match | None = None,
        perturbed: int = 0,
    ) -> Stream:
        """tokens (B * T, width); `keys_values` are this block's own, and behind them those of pictures."""
        h = self.norm1(*tokens)
        merging = None if match is None else match(tokens.whole().reshape(batch, -1, h.shape[-1]))
        to_out = self.attn1.to_out[0]
        if merging is None:
            tokens = to_out.add_to(tokens, self._attend(h, batch, keys_values, perturbed))
        else:
            tokens = add(tokens, self._attend_merged(h, batch, keys_values, merging, perturbed), to_out.bias)
        own = 2 if isinstance(self.attn1, CrossAttention) else 1
        attended = self.attn2(self.norm2(*tokens), keys_values[own - 1], keys_values[own:])
        tokens = self.attn2.to_out[0].add_to(tokens, attended)
        return self.ff.add_to(tokens, self.norm3(*tokens))

    def _attend(self, h: mx.array, batch: int, keys_values: list[KeysValues], perturbed: int) -> mx.array:
        if isinstance(self.attn1, SelfAttention):
            return self.attn1(h, batch, perturbed)
        return self.attn1(h, keys_values[0])

    def _attend_merged(
        self, h: mx.array, batch: int, keys_values: list[KeysValues], merging: token_merging.Merging, perturbed: int
    ) -> mx.array:
        """Attention of merged tokens behind `to_out`, without its bias: there are fewer of them than of h's."""
        merged = merging.merge(h.reshape(batch, -1, h.shape[-1]))
        attended = self._attend(merged.reshape(-1, h.shape[-1]), batch, keys_values, perturbed)
        attended = self.attn1.to_out[0].product(attended)
        return merging.unmerge(attended.reshape(merged.shape)).reshape(h.shape)


class Transformer2DModel(nn.Module):
    """Transformer blocks over the pixels of x (B, h, w, C), beside a shortcut.

    `merging` is the fraction of the pixels that merge in attention among themselves; of the last `perturbed` images
    each pixel sees itself alone there.
    """

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
        projection = Linear if use_linear_projection else PointwiseConv2d
        self.norm = GroupNorm(groups, channels, _GROUP_NORM_EPS)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = [
            BasicTransformerBlock(
                channels, heads, context_width, only_cross_attention=only_cross_attention, upcast=upcast
            )
            for _ in range(n_layers)
        ]
        self.proj_out = projection(channels, channels)

    def keys_values(self, context: mx.array) -> list[list[KeysValues]]:
        """Keys and values of the context (B, S, context_width) for each block."""
        return [block.keys_values(context) for block in self.transformer_blocks]

    def __call__(
        self, x: mx.array, keys_values: list[list[KeysValues]], merging: float = 0.0, perturbed: int = 0
    ) -> mx.array:
        match = partial(token_merging.match, size=(x.shape[1], x.shape[2]), ratio=merging) if merging > 0 else None
        tokens = Stream(self.proj_in(self.norm(x).reshape(-1, x.shape[-1])))
        for block, its_keys_values in zip(self.transformer_blocks, keys_values, strict=True):
            tokens = block(tokens, x.shape[0], its_keys_values, match, perturbed)
        out, bias = self.proj_out.of_stream(tokens)
        return add_biased(x, out.reshape(x.shape), bias)
