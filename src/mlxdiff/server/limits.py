"""How much one request may ask for, and how many wait."""

from __future__ import annotations

from dataclasses import dataclass

from .. import canvas
from ..errors import RequestError
from ..request import Request, Resolved

READ_PIXELS = 2**24
"""Of a picture that is sent, before it is decoded, and with its margins: 16.8 million."""


@dataclass(frozen=True)
class Limits:
    """Bounds that the operator sets.

    queue   requests that may wait beside the one that is rendered
    images  pictures of one request
    steps   denoising steps of a pass
    pixels  of a picture, in any of its passes and finished, and of the one that its noise is taken from
    bytes   of a body
    """

    queue: int = 8
    images: int = 10
    steps: int = 150
    pixels: int = 2048 * 2048
    bytes: int = 32 * 2**20

    def check_before(self, request: Request) -> None:
        """What is to be known before a request is resolved, which may take memory already.

        Raises RequestError for too many pictures, for one of a batch of too many, whose noise is all drawn, and for
        margins that make a picture larger than one that may be sent.
        """
        if request.batch_size > self.images:
            raise RequestError(f"{request.batch_size} pictures are asked for.", f"Ask for at most {self.images}.")
        for place in request.batch_places:
            if place is not None and (place.count or place.index + 1) > self.images:
                raise RequestError(f"batch_index is {place}.", f"A batch may have at most {self.images} pictures.")

        if request.image is not None and request.expand is not None:
            height, width = canvas.base_size(request.image, request.expand)
            if height * width > READ_PIXELS:
                raise RequestError(
                    f"The picture with its margins has {width}x{height} pixels.", f"It may have {READ_PIXELS:,}."
                )

    def check(self, request: Resolved) -> None:
        """Raises RequestError for a picture that takes more than this server gives."""
        steps = max((each.n_steps for each in request.passes), default=request.n_steps)
        if max(steps, request.steps) > self.steps:
            raise RequestError(f"{max(steps, request.steps)} steps are asked for.", f"Ask for at most {self.steps}.")
        sizes = ((request.height, request.width), request.final_size, request.finished_size)
        if request.seed_resize is not None:
            sizes = (*sizes, (request.seed_resize.height, request.seed_resize.width))
        height, width = max(sizes, key=lambda size: size[0] * size[1])
        if height * width > self.pixels:
            raise RequestError(
                f"A picture of {width}x{height} pixels is asked for.", f"At most {self.pixels:,} pixels are rendered."
            )
