"""Colors by name: of backgrounds, and hues for what is recolored."""

from __future__ import annotations

import torch

GROUNDS = {
    "red": (214, 48, 49),
    "orange": (240, 147, 43),
    "yellow": (249, 202, 36),
    "green": (76, 175, 80),
    "teal": (0, 150, 136),
    "blue": (41, 121, 255),
    "purple": (126, 87, 194),
    "pink": (240, 98, 146),
    "brown": (121, 85, 72),
    "black": (20, 20, 20),
    "gray": (140, 140, 140),
    "white": (255, 255, 255),
}
TINTS = {"red": 0, "orange": 28, "yellow": 48, "green": 115, "teal": 175, "blue": 215, "purple": 270, "pink": 335}
"""Degrees of hue."""

SPREAD = 40  # degrees around a picture's own hue that a tint takes along
MOST = 0.6  # fraction of a picture that must have one color for it to be that picture's


def own(pictures: torch.Tensor) -> list[str | None]:
    """The color that most of each picture has. pictures: (N, 4, h, w) in [0, 1], not premultiplied."""
    hue, saturation, value = to_hsv(pictures[:, :3])
    seen = pictures[:, 3] > 0.5
    bright = seen & (saturation > 0.35) & (value > 0.35)
    names = list(TINTS)
    centres = torch.tensor(list(TINTS.values()), device=pictures.device, dtype=torch.float32)
    nearest = distance(hue.unsqueeze(1), centres.view(1, -1, 1, 1)).argmin(1)
    fractions = torch.stack([((nearest == i) & bright).sum((1, 2)) for i in range(len(names))], 1)
    fractions = fractions / seen.sum((1, 2)).clamp(min=1).unsqueeze(1)
    most, which = fractions.max(1)
    return [names[i] if much >= MOST else None for much, i in zip(most.tolist(), which.tolist(), strict=True)]


def tint(pictures: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, h, w) in [0, 1] with hues near `old` moved to `new`, both (N,) in degrees."""
    hue, saturation, value = to_hsv(pictures)
    old, new = old.view(-1, 1, 1), new.view(-1, 1, 1)
    away = (hue - old + 180) % 360 - 180
    pink = new == TINTS["pink"]
    moved = to_rgb((new + away * 0.4) % 360, torch.where(pink, saturation * 0.6, saturation), value)
    return torch.where((away.abs() < SPREAD).unsqueeze(1), moved, pictures)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Degrees between two hues."""
    return ((a - b + 180) % 360 - 180).abs()


def to_hsv(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, 3, h, w) in [0, 1] -> hue in degrees, saturation and value in [0, 1], each (N, h, w)."""
    red, green, blue = rgb.unbind(1)
    value, lowest = rgb.amax(1), rgb.amin(1)
    span = (value - lowest).clamp(min=1e-6)
    hue = torch.where(
        value == red,
        ((green - blue) / span) % 6,
        torch.where(value == green, (blue - red) / span + 2, (red - green) / span + 4),
    )
    return hue * 60, (value - lowest) / value.clamp(min=1e-6), value


def to_rgb(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The inverse of to_hsv."""

    def channel(n: int) -> torch.Tensor:
        k = (n + hue / 60) % 6
        return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)
