"""A folder of small pictures with metadata of every sort, for the tests of galleries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.request import Request

# What would break out of a page, a script, a line or a terminal, if it could.
HOSTILE = (
    "</script><script>window.hit = 1</script>",
    '"><img src=x onerror="window.hit=2">',
    "<!-- <script> ]]> & &lt; {{title}} ${1} `x`",
    "\u2028\u2029 \u202etxt.exe\u202c \u2066 \x1b]0;title\x07 \x9b31m",
    "javascript:window.hit=3",
    "' onload='window.hit=4",
)
A1111 = """an owl, <lora:ink:0.6>
Negative prompt: blurry
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6, Seed: 9, Size: 16x24, Model: photo_v4, Mood: calm"""


def request(prompt: str, **settings: object) -> Request:
    values = {"model": "emoji", "seed": 1, "steps": 20, "height": 16, "width": 16, "sampler": "euler"} | settings
    return Request.from_dict({"prompt": prompt, "prompt_syntax": "a1111", **values})


def picture(path: Path, made: Request | None, size: tuple[int, int] = (16, 16), shade: int = 128) -> None:
    """(height, width) pixels of one gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, np.full((*size, 3), shade, np.uint8), None if made is None else picture_text(made))


def fill(folder: Path) -> Path:
    """Fourteen sound pictures, two broken files, and what is none."""
    picture(folder / "a-2.png", request("a red apple", steps=10, lora=["ink,scale=0.6"]))
    picture(folder / "a-10.png", request("a red apple", steps=30, guidance_scale=7.5, seed=2**64 - 1))
    picture(folder / "b.webp", request("a green apple", sampler="ddim", lora=["ink", "pixel-art,scale=0.3"]))
    picture(folder / "c.jpg", request("a dog", negative_prompt="dark, blurry", clip_skip=2), (24, 16))
    picture(folder / "sub" / "plain.png", None, (8, 32))
    for i, text in enumerate(HOSTILE):
        picture(folder / "hostile" / f"{i}.png", request(text, negative_prompt=text, model=text))
    told = PngInfo()
    told.add_text("parameters", A1111)
    Image.new("RGB", (16, 24), "gray").save(folder / "web-ui.png", pnginfo=told)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    clear.save(folder / "clear.png")
    turned = Image.new("RGB", (32, 16), "blue")
    turned.getexif()[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=turned.getexif())
    (folder / "broken.png").write_bytes((folder / "a-2.png").read_bytes()[:60])
    (folder / "text.png").write_text("no picture")
    (folder / "notes.txt").write_text("a text")
    picture(folder / ".hidden" / "x.png", None)
    return folder


N_SOUND, N_BROKEN = 14, 2
