"""How many images to denoise at once when nobody says: as many as memory takes, no more than pays."""

from __future__ import annotations

from .. import backend
from ..pipeline import StableDiffusion
from ..request import Request

LARGEST = 16  # on a GPU the time of an image hardly falls beyond this
LARGEST_ON_CPU = 4  # on a CPU it does not fall at all, and a group is what is lost when a run is killed
SHARE = 0.5  # of the memory; the rest is for weights that are in use, for decoding, and for other programs


def default_batch_size(sd: StableDiffusion, request: Request) -> int:
    """From 1 to LARGEST images of a resolved request's size."""
    on_gpu = backend.is_gpu()
    each = image_bytes(sd, request, fused_attention=on_gpu)
    room = int(backend.memory_size() * SHARE) - sd.working_bytes
    return max(1, min(room // each, LARGEST if on_gpu else LARGEST_ON_CPU))


def image_bytes(sd: StableDiffusion, request: Request, *, fused_attention: bool) -> int:
    """Bytes that one more image in the batch needs in a call of the backbone, about; twice as many with guidance."""
    assert request.height is not None
    assert request.width is not None
    factor = sd.checkpoint.scale_factor
    cells = (request.height // factor) * (request.width // factor)
    guided = 1 if request.guidance_scale is not None and request.guidance_scale <= 1 else 2
    return guided * sd.checkpoint.backbone.bytes_per_row(cells, sd.dtype.size, fused_attention=fused_attention)
