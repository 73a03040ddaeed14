"""Stable Diffusion as plainly as MLX allows: mlx.nn's layers one after the other, nothing fused, prepared or compiled.

What an example in a few hundred lines does, and what mlxdiff's speed is measured against: GroupNorm as mlx.nn has it,
separate projections to queries, keys and values, `mx.fast` attention, one evaluation a step. Parameters carry the names
of diffusers, so that it takes the same weights. It reads no config but the published ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=eps, pytorch_compatible=True)


class Attention(nn.Module):
    def __init__(self, width: int, source_width: int, heads: int, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(source_width, width, bias=bias)
        self.to_v = nn.Linear(source_width, width, bias=bias)
        self.to_out = [nn.Linear(width, width)]

    def __call__(self, x: mx.array, source: mx.array) -> mx.array:
        batch, length, width = x.shape
        q, k, v = (
            a.reshape(batch, -1, self.heads, width // self.heads).transpose(0, 2, 1, 3)
            for a in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return self.to_out[0](out.transpose(0, 2, 1, 3).reshape(batch, length, width))


class GEGLU(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def __call__(self, x: mx.array) -> mx.array:
        x, gate = mx.split(self.proj(x), 2, axis=-1)
        return x * nn.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = [GEGLU(width), nn.Identity(), nn.Linear(4 * width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, context_width: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, width, heads)
        self.attn2 = Attention(width, context_width, heads)
        self.ff = FeedForward(width)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, channels: int, heads: int, n_layers: int, config: Mapping[str, Any]):
        super().__init__()
        self.linear = config.get("use_linear_projection", False)
        self.norm = group_norm(channels, 1e-6)
        self.proj_in, self.proj_out = (
            nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1) for _ in range(2)
        )
        context_width = config["cross_attention_dim"]
        self.transformer_blocks = [TransformerBlock(channels, heads, context_width) for _ in range(n_layers)]

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        y = self.proj_in(self.norm(x)).reshape(x.shape[0], -1, x.shape[-1])
        for block in self.transformer_blocks:
            y = block(y, context)
        return x + self.proj_out(y.reshape(x.shape))


class Resnet(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, temb_channels: int | None, eps: float):
        super().__init__()
        self.norm1 = group_norm(in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels is not None:
            self.time_emb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = group_norm(out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def __call__(self, x: mx.array, temb: mx.array | None = None) -> mx.array:
        y = self.conv1(nn.silu(self.norm1(x)))
        if temb is not None:
            y = y + self.time_emb_proj(nn.silu(temb))[:, None, None, :]
        y = self.conv2(nn.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if "conv_shortcut" in self else x)


class Resample(nn.Module):
    """A 3x3 convolution that halves height and width, or one behind nearest-neighbour enlargement to twice both."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.enlarges = stride == 1
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        if self.enlarges:
            batch, height, width, channels = x.shape
            x = mx.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
            x = x.reshape(batch, 2 * height, 2 * width, channels)
        return self.conv(x)


class Level(nn.Module):
    """Resnets, each with a transformer behind it or not, and a change of size at the end or not."""

    def __init__(self, resnets: list[Resnet], attentions: list[Transformer], **resample: list[Resample]):
        super().__init__()
        self.resnets = resnets
        if attentions:
            self.attentions = attentions
        for name, layers in resample.items():
            setattr(self, name, layers)

    def layer(self, i: int, x: mx.array, temb: mx.array | None, context: mx.array | None) -> mx.array:
        x = self.resnets[i](x, temb)
        if context is not None and "attentions" in self and i < len(self.attentions):
            x = self.attentions[i](x, context)
        return x


class TimeMLP(nn.Module):
    def __init__(self, width: int, out_width: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, out_width)
        self.linear_2 = nn.Linear(out_width, out_width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(nn.silu(self.linear_1(x)))


class UNet(nn.Module):
    """The UNet of SD 1.5, SD 2.1 and SDXL; takes what mlxdiff's takes."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        channels: list[int] = config["block_out_channels"]
        n, temb = len(channels), 4 * channels[0]
        heads, depths = (
            [value] * n if isinstance(value, int) else value
            for value in (config["attention_head_dim"], config.get("transformer_layers_per_block", 1))
        )
        self.time_ids_width = config.get("addition_time_embed_dim")
        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = TimeMLP(channels[0], temb)
        if self.time_ids_width is not None:
            self.add_embedding = TimeMLP(config["projection_class_embeddings_input_dim"], temb)

        def transformers(level: int, kind: str, count: int) -> list[Transformer]:
            if "CrossAttn" not in kind:
                return []
            return [Transformer(channels[level], heads[level], depths[level], config) for _ in range(count)]

        skips, width = [channels[0]], channels[0]
        self.down_blocks = []
        for i, (out, kind) in enumerate(zip(channels, config["down_block_types"], strict=True)):
            resnets = [Resnet(width if j == 0 else out, out, temb, 1e-5) for j in range(2)]
            last = i == n - 1
            resample = {} if last else {"downsamplers": [Resample(out, 2)]}
            self.down_blocks.append(Level(resnets, transformers(i, kind, 2), **resample))
            skips += [out] * (2 if last else 3)
            width = out
        middle = [Resnet(width, width, temb, 1e-5) for _ in range(2)]
        self.mid_block = Level(middle, transformers(n - 1, "CrossAttn", 1))
        self.up_blocks = []
        for i, kind in zip(reversed(range(n)), config["up_block_types"], strict=True):
            resnets = []
            for _ in range(3):
                resnets.append(Resnet(width + skips.pop(), channels[i], temb, 1e-5))
                width = channels[i]
            resample = {} if i == 0 else {"upsamplers": [Resample(width, 1)]}
            self.up_blocks.append(Level(resnets, transformers(i, kind, 3), **resample))
        self.conv_norm_out = group_norm(channels[0], 1e-5)
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

    def __call__(
        self,
        sample: mx.array,
        timestep: mx.array,
        context: mx.array,
        *,
        pooled: mx.array | None = None,
        time_ids: mx.array | None = None,
    ) -> mx.array:
        batch, dtype = sample.shape[0], sample.dtype
        steps = mx.broadcast_to(timestep, (batch,))
        temb = self.time_embedding(sinusoids(steps, self.conv_in.weight.shape[0]).astype(dtype))
        if self.time_ids_width is not None and pooled is not None and time_ids is not None:
            ids = sinusoids(time_ids.reshape(-1), self.time_ids_width).reshape(batch, -1)
            temb = temb + self.add_embedding(mx.concatenate([pooled, ids.astype(dtype)], axis=-1))
        x = self.conv_in(sample)
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, temb, context)
                skips.append(x)
            if "downsamplers" in block:
                x = block.downsamplers[0](x)
                skips.append(x)
        for i in range(2):
            x = self.mid_block.layer(i, x, temb, context)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, mx.concatenate([x, skips.pop()], axis=-1), temb, context)
            if "upsamplers" in block:
                x = block.upsamplers[0](x)
        return self.conv_out(nn.silu(self.conv_norm_out(x)))


def sinusoids(positions: mx.array, width: int) -> mx.array:
    """(N,) -> (N, width), cosines first."""
    frequencies = mx.exp(mx.arange(width // 2) * (-math.log(10_000) / (width // 2)))
    angles = positions.astype(mx.float32)[:, None] * frequencies
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


class MidAttention(Attention):
    """The VAE's: one head, a norm in front and a shortcut around it."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, heads=1, bias=True)
        self.group_norm = group_norm(channels, 1e-6)

    def __call__(self, x: mx.array, source: mx.array | None = None) -> mx.array:
        del source
        cells = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return x + super().__call__(cells, cells).reshape(x.shape)


class MidBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.resnets = [Resnet(channels, channels, None, 1e-6) for _ in range(2)]
        self.attentions = [MidAttention(channels)]

    def __call__(self, x: mx.array) -> mx.array:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Decoder(nn.Module):
    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        channels = config["block_out_channels"][::-1]
        self.conv_in = nn.Conv2d(config["latent_channels"], channels[0], 3, padding=1)
        self.mid_block = MidBlock(channels[0])
        self.up_blocks = []
        width = channels[0]
        for i, out in enumerate(channels):
            resnets = [Resnet(width if j == 0 else out, out, None, 1e-6) for j in range(3)]
            resample = {} if i == len(channels) - 1 else {"upsamplers": [Resample(out, 1)]}
            self.up_blocks.append(Level(resnets, [], **resample))
            width = out
        self.conv_norm_out = group_norm(width, 1e-6)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def __call__(self, z: mx.array) -> mx.array:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, None, None)
            if "upsamplers" in block:
                x = block.upsamplers[0](x)
        return self.conv_out(nn.silu(self.conv_norm_out(x)))


class VAEDecoder(nn.Module):
    """The half of a VAE that makes pictures: latents (B, h, w, 4) to (B, 8h, 8w, 3) in [0, 1]."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.scaling_factor = config["scaling_factor"]
        self.post_quant_conv = nn.Conv2d(config["latent_channels"], config["latent_channels"], 1)
        self.decoder = Decoder(config)

    def __call__(self, latents: mx.array) -> mx.array:
        pictures = self.decoder(self.post_quant_conv(latents / self.scaling_factor))
        return mx.clip(pictures / 2 + 0.5, 0, 1)


def load(module: nn.Module, path: Path, dtype: mx.Dtype, *prefixes: str) -> None:
    """Fills a module from a safetensors file in torch's layout, with the keys that begin like one of the prefixes."""
    tensors = mx.load(str(path))
    assert isinstance(tensors, dict)
    weights = [
        (key, (array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).astype(dtype))
        for key, array in tensors.items()
        if key.startswith(prefixes)
    ]
    module.load_weights(weights)
    mx.eval(module.parameters())


def sample(
    unet: UNet, scheduler: Mapping[str, Any], noise: mx.array, steps: int, guidance_scale: float, **told: mx.array
) -> Iterator[mx.array]:
    """Euler's method with classifier-free guidance from unit noise; `told` holds both halves, the negative first."""
    betas = np.linspace(scheduler["beta_start"] ** 0.5, scheduler["beta_end"] ** 0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    timesteps = (np.arange(steps) * (1000 // steps)).round()[::-1] + scheduler["steps_offset"]
    sigmas = [*(((1 - alphas) / alphas) ** 0.5)[timesteps.astype(int)], 0.0]
    x = noise * (sigmas[0] ** 2 + 1) ** 0.5
    for timestep, (sigma, below) in zip(timesteps, pairwise(sigmas), strict=True):
        scaled = mx.concatenate([x, x]) / (sigma**2 + 1) ** 0.5
        negative, positive = mx.split(unet(scaled, mx.array(float(timestep)), **told), 2)
        x = x + (negative + guidance_scale * (positive - negative)) * (below - sigma)
        yield x
