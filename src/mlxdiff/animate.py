"""Pictures in a row as a file that moves: WebP or GIF, written whole or not at all.

Frames are taken one at a time. Knows nothing of what they show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .errors import RequestError
from .files import atomic_write
from .images import exif_of

FORMATS = {".webp": "WEBP", ".gif": "GIF"}
HOLD = 1500  # milliseconds that the last frame stays
MIN_FPS, MAX_FPS = 0.1, 50.0  # viewers slow down what asks for less than 20 ms a frame
QUALITY = 90


def animation_format(path: str | Path) -> str | None:
    """WEBP or GIF by the file's name, or None for another one."""
    return FORMATS.get(Path(path).suffix.lower())


def check_fps(fps: float) -> None:
    """Raises RequestError for a rate outside 0.1 to 50 frames a second."""
    if not MIN_FPS <= fps <= MAX_FPS:
        raise RequestError(f"{fps:g} frames a second are not possible.", f"Ask for {MIN_FPS} to {MAX_FPS:g}.")


def write_animation(
    path: str | Path,
    frames: Iterable[np.ndarray],
    n_frames: int,
    *,
    fps: float,
    text: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Writes `n_frames` pictures (H, W, 3) uint8 as an animation that repeats for ever; the last frame is held.

    `text` says how it was made, and is kept by WebP alone. Raises OutputError, and RequestError for a wrong format or
    a rate outside 0.1 to 50 frames a second.
    """
    kind = animation_format(path)
    if kind is None:
        raise RequestError(f"{path} is no animation by its name.", f"End it in {' or '.join(FORMATS)}.")
    check_fps(fps)
    durations = [round(1000 / fps)] * (n_frames - 1) + [HOLD]
    options: dict[str, Any] = {"duration": durations, "loop": 0}
    if kind == "WEBP":
        options |= {"quality": QUALITY, "method": 4, **({} if text is None else {"exif": exif_of(text)})}
    else:
        options |= {"disposal": 1, "optimize": False}

    def save(stream: BinaryIO) -> None:
        pictures = _pictures(frames, kind)
        first = next(pictures)
        first.save(stream, kind, save_all=True, append_images=pictures, **options)

    atomic_write(path, save, force=force)


def _pictures(frames: Iterable[np.ndarray], kind: str) -> Iterator[Image.Image]:
    for frame in frames:
        picture = Image.fromarray(frame)
        # A palette of its own for each frame; dither would flicker.
        yield picture if kind == "WEBP" else picture.quantize(256, dither=Image.Dither.NONE)


def frame_paths(stem: Path, n_frames: int) -> list[Path]:
    """STEM-000.png and so on, with as many digits as the last one needs."""
    digits = max(3, len(str(n_frames - 1)))
    return [stem.with_name(f"{stem.name}-{i:0{digits}d}.png") for i in range(n_frames)]
