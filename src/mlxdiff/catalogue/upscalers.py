"""The table of ways to enlarge a picture between two passes that need no network, and a row from whatever name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from .find import key_of


@dataclass(frozen=True)
class Upscaler:
    """A way to enlarge.

    name       what mlxdiff calls and records it
    kernel     what a new cell is made of: nearest, nearest-exact, bilinear, bicubic; lanczos is of pixels
    antialias  whether cells at the edge lean on their neighbours alone, as torch's `antialias` does
    a1111, comfyui  what those programs call it, the first as it is written
    """

    name: str
    kernel: Literal["nearest", "nearest-exact", "bilinear", "bicubic", "lanczos"]
    antialias: bool = False
    a1111: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()

    @property
    def in_latents(self) -> bool:
        """Whether it enlarges latents, and not the decoded picture."""
        return self.kernel != "lanczos"


_ROWS = (
    Upscaler("latent", "bilinear", a1111=("Latent",), comfyui=("bilinear",)),
    Upscaler("latent-antialiased", "bilinear", antialias=True, a1111=("Latent (antialiased)",)),
    Upscaler("latent-bicubic", "bicubic", a1111=("Latent (bicubic)",), comfyui=("bicubic",)),
    Upscaler("latent-bicubic-antialiased", "bicubic", antialias=True, a1111=("Latent (bicubic antialiased)",)),
    Upscaler("latent-nearest", "nearest", a1111=("Latent (nearest)",)),
    Upscaler("latent-nearest-exact", "nearest-exact", a1111=("Latent (nearest-exact)",), comfyui=("nearest-exact",)),
    # The web UI resizes with Lanczos' filter where it has no upscaler: "None" is that, too.
    Upscaler("lanczos", "lanczos", a1111=("Lanczos", "None")),
)
UPSCALERS = {row.name: row for row in _ROWS}


def find_upscaler(text: str) -> Upscaler | None:
    """The row that mlxdiff or A1111 calls so, in any case; None where it may be the reference of a network."""
    return _names().get(key_of(text))


@cache
def _names() -> dict[str, Upscaler]:
    return {key_of(name): row for row in _ROWS for name in (row.name, *row.a1111)}
