"""A folder of pictures with captions, in the layout of Hugging Face's imagefolder, as latents and token ids.

    metadata.jsonl   {"file_name": "apple.png", "text": "a red apple", "conditioning_image": "edges/apple.png"} a line
    apple.png, ...   square, all of one size

`conditioning_image` is what a ControlNet is shown; the other fields are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import given
import torch

AT_ONCE = 256  # pictures that the VAE encodes together


@dataclass(frozen=True)
class Dataset:
    """N pictures on the device.

    latents   (N, 4, h, w): the posterior's mean, in the scale that the UNet sees
    tokens    (N, 77) ids
    controls  (N, 3, H, W) in [0, 1], or None
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    controls: torch.Tensor | None

    def batch(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """`size` random rows of each."""
        rows = torch.randint(len(self.latents), (size,), generator=generator, device=self.latents.device)
        controls = None if self.controls is None else self.controls[rows].float() / 255
        return self.latents[rows], self.tokens[rows], controls


def read(folders: Sequence[Path], vae: Any, tokenizer: Any, device: torch.device) -> Dataset:
    """Reads and encodes folders; raises SystemExit with a sentence where one is no data set."""
    rows = [row for folder in folders for row in _rows(folder)]
    pictures = _pixels([row["file_name"] for row in rows])
    controls = None
    if all("conditioning_image" in row for row in rows):
        controls = _pixels([row["conditioning_image"] for row in rows])
        if controls.shape != pictures.shape:
            (height, width), (other_height, other_width) = pictures.shape[2:], controls.shape[2:]
            sizes = f"The pictures are {width}x{height} and the conditioning images {other_width}x{other_height}"
            raise SystemExit(f"{sizes}. Make both of one size.")
        controls = controls.to(device)
    with torch.no_grad():
        latents = [
            vae.encode(chunk.to(device).float() / 127.5 - 1).latent_dist.mean.float() * vae.config.scaling_factor
            for chunk in pictures.split(AT_ONCE)
        ]
    ids = tokenizer([row["text"] for row in rows], padding="max_length", truncation=True, max_length=77)["input_ids"]
    return Dataset(torch.cat(latents), torch.tensor(ids, device=device), controls)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's metadata, its files with their paths."""
    remedy = "Write one line of JSON for each picture: file_name and text."
    rows = given.rows(folder, ("file_name", "text"), remedy)
    return [{key: folder / value if key in given.FILES else value for key, value in row.items()} for row in rows]


def _pixels(paths: list[Path]) -> torch.Tensor:
    """(N, 3, H, W) uint8."""
    return torch.from_numpy(given.pixels(paths, "RGB")).permute(0, 3, 1, 2)
