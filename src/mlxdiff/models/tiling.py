"""Decoding a large picture in strips, in the memory of two feature maps.

The picture is identical to one decoded as a whole, up to floating-point rounding.

Cutting the latents would change the picture: a decoder normalizes over the whole of it. So the decoder runs layer by
layer, each layer strip by strip. A strip of rows borrows a row of each neighbour, which is all that a 3x3 convolution
sees; the statistics of a map are gathered while its strips are made; strips are dropped when their last reader is done.
What is alive at once: a layer's input, its output, and the workspace of one strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from ..errors import RequestError
from ..kernels.activations import silu
from ..kernels.attention import attention
from .layers import GroupNorm, GroupNormSiLU, ResnetBlock2D, Upsample2D, enlarge
from .vae import Attention, AutoencoderKL

# Bytes of a convolution's input at once. On a CPU MLX's convolution makes nine copies of it, and all temporaries of an
# evaluation are alive together; a GPU wants more work at a time.
STRIP_BYTES, STRIP_BYTES_ON_CPU = 2**25, 2**23


@dataclass
class FeatureMap:
    """x (B, H, W, C) as strips of rows, with the mean and the variance of each group of channels (B, groups, 1)."""

    strips: list[mx.array]
    mean: mx.array
    variance: mx.array


def strip_bytes() -> int:
    """Bytes of a strip at most, on the default device."""
    return STRIP_BYTES_ON_CPU if mx.default_device() == mx.cpu else STRIP_BYTES


def decode_tiled(vae: AutoencoderKL, z: mx.array, tile: int) -> mx.array:
    """`vae.decode(z)` up to floating-point rounding, in strips of at most `tile` x `tile` cells or `strip_bytes`.

    z (B, h, w, C) -> (B, h*f, w*f, 3), one by one. Not lazy: each strip of each layer is evaluated before the
    next is begun. Raises RequestError for a tile that is not a positive multiple of f.
    """
    check_tile(tile, vae.scale_factor)
    if "post_quant_conv" in vae:
        z = vae.post_quant_conv(z)
    return mx.concatenate([_decode(vae, z[i : i + 1], tile) for i in range(z.shape[0])])


def check_tile(tile: object, factor: int) -> None:
    """Raises RequestError for a tile that is not a positive multiple of the VAE's factor."""
    if isinstance(tile, bool) or not isinstance(tile, int) or tile <= 0 or tile % factor != 0:
        raise RequestError(f"The tile is {tile!r} pixels.", f"It is a positive multiple of {factor}.")


def _decode(vae: AutoencoderKL, z: mx.array, tile: int) -> mx.array:
    decoder, groups = vae.decoder, vae.config.norm_num_groups

    def cut(x: mx.array, scale: int = 1) -> list[mx.array]:
        """Strips that are small enough when they are enlarged to `scale` times the size."""
        width = x.shape[2] * scale
        rows = min(tile * tile // width, strip_bytes() // (width * x.shape[3] * x.dtype.size)) // scale
        return [x[:, i : i + max(rows, 1)] for i in range(0, x.shape[1], max(rows, 1))]

    mid = decoder.mid_block
    x = gather(cut(decoder.conv_in(z)), groups)
    x = _resnet(mid.resnets[0], x, groups)
    if "attentions" in mid:
        x = _attention(mid.attentions[0], x, groups)
        x.strips = cut(_evaluated(mx.concatenate(x.strips, axis=1)))
    x = _resnet(mid.resnets[1], x, groups)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x, groups)
        if "upsamplers" in block:
            x.strips = [piece for strip in x.strips for piece in cut(strip, 2)]
            x = _upsampled(block.upsamplers[0], x, groups)
    rows = convolve(decoder.conv_out, x.strips, lambda strip: _normalized(decoder.conv_norm_out, strip, x))
    return mx.concatenate([_evaluated(strip) for strip in rows], axis=1)


def _resnet(block: ResnetBlock2D, x: FeatureMap, groups: int) -> FeatureMap:
    """The block's output; x is used up."""
    h = gather(convolve(block.conv1, list(x.strips), lambda strip: _normalized(block.norm1, strip, x)), groups)
    residuals = convolve(block.conv2, h.strips, lambda strip: _normalized(block.norm2, strip, h))
    shortcut = block.conv_shortcut if "conv_shortcut" in block else lambda strip: strip
    return gather((shortcut(x.strips.pop(0)) + residual for residual in residuals), groups)


def _upsampled(block: Upsample2D, x: FeatureMap, groups: int) -> FeatureMap:
    """The block's output; x is used up."""
    return gather(convolve(block.conv, x.strips, enlarge), groups)


def _attention(block: Attention, x: FeatureMap, groups: int) -> FeatureMap:
    """The block's output, where each cell attends to all; in strips whose scores are no larger. x is used up."""
    whole = mx.concatenate(x.strips, axis=1)
    x.strips.clear()
    _, height, width, _ = whole.shape
    cells = _normalized(block.group_norm, whole, x).flatten(1, 2)
    k, v = block.to_k(cells), block.to_v(cells)
    mx.eval(whole, cells, k, v)
    rows = max(1, strip_bytes() // (height * width * width * 4))

    def attended(top: int) -> mx.array:
        strip = whole[:, top : top + rows]
        q = block.to_q(cells[:, top * width : (top + rows) * width])
        return strip + block.to_out[0](attention(q, k, v, heads=1)).reshape(strip.shape)

    return gather((attended(top) for top in range(0, height, rows)), groups)


def convolve(
    conv: Callable[[mx.array], mx.array], strips: Iterable[mx.array], prepare: Callable[[mx.array], mx.array]
) -> Iterator[mx.array]:
    """Strips of conv(prepare(x)), conv a 3x3 convolution with padding, prepare one cell's concern; uses up a list."""
    coming = map(prepare, _taken(strips) if isinstance(strips, list) else strips)
    above, strip = None, next(coming)
    while strip is not None:
        following = next(coming, None)
        below = None if following is None else following[:, :1]
        window = [rows for rows in (above, strip, below) if rows is not None]
        y = conv(window[0] if len(window) == 1 else mx.concatenate(window, axis=1))
        # What the borrowed rows became lacks neighbours of its own. A mere view would keep it in memory.
        first, last = int(above is not None), y.shape[1] - int(below is not None)
        yield mx.contiguous(y[:, first:last])
        above, strip = strip[:, -1:], following


def _taken(strips: list[mx.array]) -> Iterator[mx.array]:
    while strips:
        yield strips.pop(0)


def gather(strips: Iterable[mx.array], groups: int) -> FeatureMap:
    """Evaluates strips one by one, and merges their moments as they come (Chan et al. 1983)."""
    kept: list[mx.array] = []
    count, mean, total = 0, mx.array(0.0), mx.array(0.0)
    for strip in strips:
        size = strip[0].size // groups
        its_mean, its_total = _moments(strip, groups)
        count += size
        shift = its_mean - mean
        mean = mean + shift * (size / count)
        total = total + its_total + shift * shift * (size * (count - size) / count)
        mx.eval(strip, mean, total)
        kept.append(strip)
    return FeatureMap(kept, mean, total / count)


def _moments(x: mx.array, groups: int) -> tuple[mx.array, mx.array]:
    """The mean and the sum of squared deviations of each group of channels of x (B, h, w, C): (B, groups, 1) each."""
    batch, channels = x.shape[0], x.shape[-1]
    x = x.astype(mx.float32)

    def total(a: mx.array) -> mx.array:
        # Whole rows are added first, as in group_norm.
        return a.sum(axis=1).sum(axis=1).reshape(batch, groups, -1).sum(axis=-1, keepdims=True)

    mean = total(x) / (x[0].size // groups)
    centred = x - _spread(mean, channels)
    return mean, total(centred * centred)


def _normalized(norm: GroupNorm, strip: mx.array, x: FeatureMap) -> mx.array:
    """A strip of norm(x)."""
    channels = strip.shape[-1]
    centred = strip.astype(mx.float32) - _spread(x.mean, channels)
    out = centred * (_spread(mx.rsqrt(x.variance + norm.eps), channels) * norm.weight) + norm.bias
    return (silu(out) if isinstance(norm, GroupNormSiLU) else out).astype(strip.dtype)


def _spread(a: mx.array, channels: int) -> mx.array:
    """A number a group (B, groups, 1) to one a channel (B, 1, 1, C)."""
    batch, groups, _ = a.shape
    return mx.broadcast_to(a, (batch, groups, channels // groups)).reshape(batch, 1, 1, channels)


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array
