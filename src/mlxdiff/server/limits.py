"""How much one request may ask for, and how many wait."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError
from ..request import Request, Resolved

READ_PIXELS = 2**24
"""Of a picture that is sent, before it is decoded: 16.8 million."""


@dataclass(frozen=True)
class Limits:
    """Bounds that the operator sets.

    queue   requests that may wait beside the one that is rendered
    images  pictures of one request
    steps   denoising steps of a pass
    pixels  of a picture, in any of its passes and finished
    bytes   of a body
    """

    queue: int = 8
    images: int = 10
    steps: int = 150
    pixels: int = 2048 * 2048
    bytes: int = 32 * 2**20

    def check_count(self, request: Request) -> None:
        """Raises RequestError for too many pictures."""
        if request.batch_size > self.images:
            raise RequestError(f"{request.batch_size} pictures are asked for.", f"Ask for at most {self.images}.")

    def check(self, request: Resolved) -> None:
        """Raises RequestError for a picture that takes more than this server gives."""
        steps = max((each.n_steps for each in request.passes), default=request.n_steps)
        if max(steps, request.steps) > self.steps:
            raise RequestError(f"{max(steps, request.steps)} steps are asked for.", f"Ask for at most {self.steps}.")
        sizes = ((request.height, request.width), request.final_size, request.finished_size)
        height, width = max(sizes, key=lambda size: size[0] * size[1])
        if height * width > self.pixels:
            raise RequestError(
                f"A picture of {width}x{height} pixels is asked for.", f"At most {self.pixels:,} pixels are rendered."
            )
