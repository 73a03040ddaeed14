"""Draws scenes: batches of transparent pictures, placed, tinted and laid over each other, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import colors
import given
import numpy as np
import torch
from catalogue import Catalogue, Row
from scenes import AT_MOST, Layer, Scene
from torch.nn import functional

SIDE = 128  # pixels
NAMED = {"name": str, "style": str, "group": int, "tags": list, "words": list}  # what a line says of its picture


@dataclass(frozen=True)
class Plan:
    """Scenes as tensors, B of them with up to L layers.

    rows     (B, L) rows of the catalogue, -1 where there is no layer
    affines  (B, L, 2, 3) from the ground's coordinates to the picture's, as grid_sample has them
    tints    (B, L, 2) degrees of the old and the new hue, -1 where the picture keeps its own
    grounds  (B, 3) in [0, 1]
    """

    rows: torch.Tensor
    affines: torch.Tensor
    tints: torch.Tensor
    grounds: torch.Tensor

    def to(self, device: torch.device) -> Plan:
        parts = (self.rows, self.affines, self.tints, self.grounds)
        return Plan(*(part.to(device, non_blocking=True) for part in parts))


def plan(scenes: Sequence[Scene], catalogue: Catalogue) -> Plan:
    """Scenes as tensors."""
    rows = np.full((len(scenes), AT_MOST), -1, np.int64)
    affines = np.zeros((len(scenes), AT_MOST, 2, 3), np.float32)
    tints = np.full((len(scenes), AT_MOST, 2), -1, np.float32)
    for b, scene in enumerate(scenes):
        for i, layer in enumerate(scene.layers):
            rows[b, i] = layer.row
            affines[b, i] = _affine(layer)
            if layer.tint is not None:
                old = catalogue.rows[layer.row].color
                assert old is not None
                tints[b, i] = colors.TINTS[old], colors.TINTS[layer.tint]
    grounds = np.array([scene.ground for scene in scenes], np.float32) / 255
    return Plan(*(torch.from_numpy(part) for part in (rows, affines, tints, grounds)))


def _affine(layer: Layer) -> np.ndarray:
    turn = np.deg2rad(layer.angle)
    inverse = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / layer.scale
    return np.concatenate([inverse, -inverse @ np.array([[layer.x], [layer.y]])], 1)


class Canvas:
    """The pictures on a device, and what draws scenes of them."""

    def __init__(self, pictures: torch.Tensor, device: torch.device) -> None:
        """pictures: (N, 4, S, S) uint8, not premultiplied."""
        self.pictures = pictures.to(device)
        self.size = pictures.shape[-1]

    @torch.no_grad()
    def draw(self, plan: Plan) -> torch.Tensor:
        """(B, 3, S, S) in [0, 1]."""
        size = self.size
        drawn = plan.grounds.view(-1, 3, 1, 1).expand(-1, -1, size, size).contiguous()
        for i in range(plan.rows.shape[1]):
            (here,) = torch.nonzero(plan.rows[:, i] >= 0, as_tuple=True)
            if len(here):
                layer = self._layer(plan.rows[here, i], plan.affines[here, i], plan.tints[here, i])
                drawn[here] = drawn[here] * (1 - layer[:, 3:]) + layer[:, :3]
        return drawn

    def _layer(self, rows: torch.Tensor, affines: torch.Tensor, tints: torch.Tensor) -> torch.Tensor:
        """Pictures in their places, premultiplied; one that stays as it is keeps every pixel."""
        found = self.pictures[rows].float() / 255
        (tinted,) = torch.nonzero(tints[:, 1] >= 0, as_tuple=True)
        if len(tinted):
            found[tinted, :3] = colors.tint(found[tinted, :3], *tints[tinted].unbind(1))
        found[:, :3] *= found[:, 3:]
        scales = affines[:, 0, :2].norm(dim=1)  # more than 1: smaller than the ground
        still = (affines - affines.new_tensor([[1.0, 0, 0], [0, 1, 0]])).abs().amax((1, 2)) == 0
        (moved,) = torch.nonzero(~still, as_tuple=True)
        if len(moved):
            source = found[moved]
            half = functional.interpolate(functional.avg_pool2d(source, 2), scale_factor=2, mode="bilinear")
            source = torch.where((scales[moved] > 1.6).view(-1, 1, 1, 1), half, source)
            grid = functional.affine_grid(affines[moved], list(source.shape), align_corners=False)
            found[moved] = functional.grid_sample(source, grid, align_corners=False)
        return found


def read(folder: Path) -> tuple[torch.Tensor, Catalogue]:
    """The pictures of a folder that `prepare.py packages` wrote: (N, 4, S, S) uint8, and what they are."""
    lines = given.rows(folder, ("file_name",), "Run training/prepare.py packages first.")
    if any(not isinstance(line.get(name), kind) for line in lines for name, kind in NAMED.items()):
        raise SystemExit(f"{folder} does not name its pictures. Take the folder that prepare.py packages wrote.")
    arrays = given.pixels([folder / line["file_name"] for line in lines], "RGBA")
    if arrays.shape[1:3] != (SIDE, SIDE):
        raise SystemExit(f"The pictures are not {SIDE}x{SIDE} pixels, as the model's are. Prepare them again.")
    pictures = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
    small = torch.cat([functional.avg_pool2d(part.float() / 255, 4) for part in pictures.split(512)])
    own = colors.own(small)
    rows = [
        Row(line["name"], line["style"], line["group"], tuple(line["tags"]), tuple(line["words"]), color)
        for line, color in zip(lines, own, strict=True)
    ]
    return pictures, Catalogue.of(rows)
