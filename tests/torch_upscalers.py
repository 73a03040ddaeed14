"""The upscalers of the papers in torch, random, and written as people share them: the oracle of mlxdiff's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def leaky(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2)


class Dense(nn.Module):
    """Residual dense block (Wang et al. 2018, figure 4)."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.conv1 = conv(width, growth)
        self.conv2 = conv(width + growth, growth)
        self.conv3 = conv(width + 2 * growth, growth)
        self.conv4 = conv(width + 3 * growth, growth)
        self.conv5 = conv(width + 4 * growth, width)

    def forward(self, x):
        x1 = leaky(self.conv1(x))
        x2 = leaky(self.conv2(torch.cat((x, x1), 1)))
        x3 = leaky(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = leaky(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        return 0.2 * self.conv5(torch.cat((x, x1, x2, x3, x4), 1)) + x


class Block(nn.Module):
    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (Dense(width, growth) for _ in range(3))

    def forward(self, x):
        return 0.2 * self.rdb3(self.rdb2(self.rdb1(x))) + x


class RRDBNet(nn.Module):
    """Under Real-ESRGAN's names; `packed` 2 and 4 are its networks of x2 and x1."""

    def __init__(self, width: int = 8, blocks: int = 2, growth: int = 4, doublings: int = 2, packed: int = 1):
        super().__init__()
        self.packed, self.doublings = packed, doublings
        self.conv_first = conv(3 * packed**2, width)
        self.body = nn.Sequential(*(Block(width, growth) for _ in range(blocks)))
        self.conv_body = conv(width, width)
        for i in range(doublings):
            setattr(self, f"conv_up{i + 1}", conv(width, width))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, 3)

    def forward(self, x):
        x = self.conv_first(F.pixel_unshuffle(x, self.packed))
        x = x + self.conv_body(self.body(x))
        for i in range(self.doublings):
            x = leaky(getattr(self, f"conv_up{i + 1}")(F.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(leaky(self.conv_hr(x)))


class Shortcut(nn.Module):
    def __init__(self, inside: nn.Module):
        super().__init__()
        self.sub = inside

    def forward(self, x):
        return x + self.sub(x)


class OldDense(nn.Module):
    """A dense block whose convolutions are chains of their own, as in 2018."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for i in range(5):
            layers = [conv(width + i * growth, growth if i < 4 else width)]
            setattr(self, f"conv{i + 1}", nn.Sequential(*layers, *([nn.LeakyReLU(0.2)] if i < 4 else [])))

    def forward(self, x):
        seen = [x]
        for i in range(5):
            seen.append(getattr(self, f"conv{i + 1}")(torch.cat(seen, 1)))
        return 0.2 * seen[-1] + x


class OldBlock(nn.Module):
    def __init__(self, width: int, growth: int):
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (OldDense(width, growth) for _ in range(3))

    def forward(self, x):
        return 0.2 * self.RDB3(self.RDB2(self.RDB1(x))) + x


class OldRRDBNet(nn.Module):
    """ESRGAN as it was first published: one chain of numbered layers."""

    def __init__(self, width: int = 8, blocks: int = 2, growth: int = 4, doublings: int = 2):
        super().__init__()
        trunk = nn.Sequential(*(OldBlock(width, growth) for _ in range(blocks)), conv(width, width))
        ups = [
            layer
            for _ in range(doublings)
            for layer in (nn.Upsample(scale_factor=2), conv(width, width), nn.LeakyReLU(0.2))
        ]
        end = [conv(width, width), nn.LeakyReLU(0.2), conv(width, 3)]
        self.model = nn.Sequential(conv(3, width), Shortcut(trunk), *ups, *end)

    def forward(self, x):
        return self.model(x)


class SRVGGNetCompact(nn.Module):
    """Real-ESRGAN's compact network; `prelu` False has plain ReLUs."""

    def __init__(self, width: int = 8, convs: int = 3, factor: int = 4, *, prelu: bool = True):
        super().__init__()
        self.factor = factor
        layers: list[nn.Module] = [conv(3, width)]
        for _ in range(convs):
            layers += [nn.PReLU(width) if prelu else nn.ReLU(), conv(width, width)]
        layers += [nn.PReLU(width) if prelu else nn.ReLU(), conv(width, 3 * factor**2)]
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return F.pixel_shuffle(self.body(x), self.factor) + F.interpolate(x, scale_factor=self.factor, mode="nearest")


def seeded(make, **options) -> nn.Module:
    """A network whose weights are as large as trained ones, so that every layer counts."""
    torch.manual_seed(0)
    network = make(**options).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            parameter.data = 0.1 + 0.3 * torch.rand(parameter.shape)
        if parameter.ndim == 4 and "conv_last" not in name:
            parameter.data *= 1.5
    return network


def write(network: nn.Module, path: Path, *, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """The network's weights as a .safetensors file."""
    state: Mapping[str, torch.Tensor] = network.state_dict()
    save_file({f"{prefix}{key}": value.to(dtype).contiguous() for key, value in state.items()}, path)
    return path


def as_of_2019(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Real-ESRGAN's names to those of ESRGAN's second publication."""
    named = {}
    for key, value in state.items():
        for new, old in (("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv"), (".rdb", ".RDB")):
            key = key.replace(new, old)
        named[key.replace("body.", "RRDB_trunk.", 1) if key.startswith("body.") else key] = value
    return named
