"""Pictures in a row as a file that moves: WebP or GIF, written whole or not at all.

Frames are taken one at a time. Knows nothing of what they show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .containers import jpeg_webp_gif, xmp
from .errors import RequestError
from .files import atomic_write
from .images import webp_texts

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

    `text` says how it was made: WebP keeps all of it, GIF the XMP packet. Raises OutputError, and RequestError for a
    wrong format or a rate outside 0.1 to 50 frames a second.
    """
    kind = animation_format(path)
    if kind is None:
        raise RequestError(f"{path} is no animation by its name.", f"End it in {' or '.join(FORMATS)}.")
    check_fps(fps)
    durations = [round(1000 / fps)] * (n_frames - 1) + [HOLD]
    options: dict[str, Any] = {"duration": durations, "loop": 0}
    if kind == "WEBP":
        options |= {"quality": QUALITY, "method": 4, **({} if text is None else webp_texts(text))}
    else:
        options |= {"disposal": 1, "optimize": False}

    packet = None if kind == "WEBP" or text is None else text.get(xmp.NAME)

    def save(stream: BinaryIO) -> None:
        pictures = _pictures(frames, kind)
        first = next(pictures)
        if packet is None:
            first.save(stream, kind, save_all=True, append_images=pictures, **options)
            return
        held = BytesIO()
        first.save(held, kind, save_all=True, append_images=pictures, **options)
        stream.write(_with_xmp(held.getvalue(), packet))

    atomic_write(path, save, force=force)


def _with_xmp(data: bytes, packet: str) -> bytes:
    """A GIF file with an application extension for XMP behind its global header, as part 3 of XMP wants it.

    The packet is not cut into sub-blocks. A reader that skips them goes on from wherever it lands in the bytes behind
    the packet, which count down to its end.
    """
    end = 13 + jpeg_webp_gif.gif_table(data[10])
    extension = jpeg_webp_gif.GIF_XMP + packet.encode() + jpeg_webp_gif.GIF_BEHIND_XMP
    return b"GIF89a" + data[6:end] + extension + data[end:]


def _pictures(frames: Iterable[np.ndarray], kind: str) -> Iterator[Image.Image]:
    for frame in frames:
        picture = Image.fromarray(frame)
        # A palette of its own for each frame; dither would flicker.
        yield picture if kind == "WEBP" else picture.quantize(256, dither=Image.Dither.NONE)


def frame_paths(stem: Path, n_frames: int) -> list[Path]:
    """STEM-000.png and so on, with as many digits as the last one needs."""
    digits = max(3, len(str(n_frames - 1)))
    return [stem.with_name(f"{stem.name}-{i:0{digits}d}.png") for i in range(n_frames)]
