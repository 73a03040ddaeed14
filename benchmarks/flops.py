"""The floating-point operations of a UNet call, counted from its config: how far a time is from the hardware's limit.

A product and a sum are two operations. Convolutions, matrix products and attention are counted; norms, activations and
sums of arrays, under 1 % together, are not.
"""

from __future__ import annotations

from mlxdiff.models.unet import UNetConfig


def unet(config: UNetConfig, rows: int, height: int, width: int, tokens: int = 77) -> int:
    """Operations of one call with `rows` latents of height x width cells, told `tokens` tokens each."""
    channels, last = config.block_out_channels, config.levels - 1
    cells = [height * width // 4**level for level in range(config.levels)]
    temb = config.time_embed_dim

    def convolution(n: int, i: int, o: int, kernel: int = 3) -> int:
        return 2 * n * i * o * kernel**2

    def resnet(level: int, i: int, o: int) -> int:
        shortcut = convolution(cells[level], i, o, 1) if i != o else 0
        return convolution(cells[level], i, o) + convolution(cells[level], o, o) + 2 * temb * o + shortcut

    def transformer(level: int, n_layers: int, kind: str) -> int:
        if "CrossAttn" not in kind:
            return 0
        n, c, told = cells[level], channels[level], config.cross_attention_dim[level]
        to_itself = 2 * n * c * 4 * c + 4 * n * n * c
        to_context = 2 * n * c * 2 * c + 2 * tokens * told * 2 * c + 4 * n * tokens * c
        feed_forward = 2 * n * c * 12 * c
        return n_layers * (to_itself + to_context + feed_forward) + 2 * 2 * n * c * c

    total = convolution(cells[0], config.in_channels, channels[0], config.conv_in_kernel)
    total += 2 * (channels[0] * temb + temb * temb)
    if config.added_width is not None:
        total += 2 * (config.added_width * temb + temb * temb)
    skips, x = [channels[0]], channels[0]
    for level, kind in enumerate(config.down_block_types):
        for n_layers in config.down_transformers[level]:
            total += resnet(level, x, channels[level]) + transformer(level, n_layers, kind)
            x = channels[level]
            skips.append(x)
        if level < last:
            total += convolution(cells[level + 1], x, x)
            skips.append(x)
    if config.mid_block_type is not None:
        total += resnet(last, x, x) + transformer(last, config.mid_transformer, config.mid_block_type)
        total += resnet(last, x, x) if "CrossAttn" in config.mid_block_type else 0
    for level, kind in zip(reversed(range(config.levels)), config.up_block_types, strict=True):
        for n_layers in config.up_transformers[level]:
            total += resnet(level, x + skips.pop(), channels[level]) + transformer(level, n_layers, kind)
            x = channels[level]
        if level > 0:
            total += convolution(cells[level - 1], x, x)
    return rows * (total + convolution(cells[0], x, config.out_channels, config.conv_out_kernel))
