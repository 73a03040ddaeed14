"""How many images to denoise at once when nobody says: as many as memory takes, no more than pays."""

from __future__ import annotations

from .. import backend
from ..pipeline import StableDiffusion
from ..request import Resolved

LARGEST = 16  # on a GPU the time of an image hardly falls beyond this
LARGEST_ON_CPU = 4  # on a CPU it does not fall at all, and a batch is what is lost when a run is killed
MAPS = 24  # maps of the finest level that a UNet has alive at once: its input, its skip connections, an attention block
SHARE = 0.5  # of the memory; the rest is for weights that are in use, for decoding, and for other programs


def default_batch_size(sd: StableDiffusion, request: Resolved) -> int:
    """From 1 to LARGEST images of a resolved request's size."""
    on_gpu = backend.is_gpu()
    each = image_bytes(sd, request, fused_attention=on_gpu)
    room = int(backend.memory_size() * SHARE) - sd.working_bytes
    return max(1, min(room // each, LARGEST if on_gpu else LARGEST_ON_CPU))


def image_bytes(sd: StableDiffusion, request: Resolved, *, fused_attention: bool) -> int:
    """Bytes that one more image in the batch needs in a UNet call, about.

    Its finest level decides: cells x channels x MAPS numbers, twice with guidance. Attention that is not fused also
    writes its scores down, cells x cells for each of at most 8 heads, one image at a time but for fp32 copies: counted
    once where the finest level attends at all.
    """
    factor = sd.checkpoint.scale_factor
    cells = (request.height // factor) * (request.width // factor)
    channels = sd.checkpoint.unet.block_out_channels[0]
    guided = 1 if request.guidance_scale <= 1 else 2
    maps = cells * channels * MAPS * guided * sd.dtype.size
    scores = 0 if fused_attention else 8 * cells * cells * guided * 4
    return maps + scores
