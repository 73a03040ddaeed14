"""What IP-Adapters make of a request's pictures: prompts beside the text. What was seen of a picture is kept.

picture -> image encoder -> vector or states -> adapter -> tokens for the prompt's branches, and for the others
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from .. import backend, memory
from ..checkpoint.load import load_component
from ..hashing import picture_hash
from ..models.clip_vision import CLIPVisionModel, CLIPVisionOutput
from ..models.ip_adapter import PLAIN, Attached, IPAdapter
from ..models.unet_attentions import places, sizes
from ..models.unet_config import UNetConfig
from ..networks import Networks, check_finite, evaluate
from ..recent import Recent
from ..request import Resolved
from ..request.pictures import Pixels
from ..resampling import resample_plane
from .additions import SeenPictures
from .clip_pixels import clip_pixels
from .ip_adapter_files import load_ip_adapter
from .ip_adapters import Found, find, levels_of
from .overlays import overlay_of
from .regions import read_region

KEPT = 64  # pictures; what bigG sees of one takes 1.7 MB in fp32
NOTHING = "nothing"  # stands for a picture of zeros, which adapters that read patches are told in place of a picture


class PicturePrompts:
    """The pictures of requests as prompts. Each is seen alone, so that it is the same whatever it is rendered with."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._seen: Recent[CLIPVisionOutput] = Recent(KEPT)
        self._encoders: dict[str, CLIPVisionModel] = {}
        self._adapters: dict[str, IPAdapter] = {}

    def see(self, requests: Sequence[Resolved]) -> None:
        """Looks at all pictures of the requests, as far as KEPT go, and lets the image encoders go unless they stay."""
        for request in requests:
            for found in self._found(request):
                self._see(found)
        self._make_room()

    def of(self, request: Resolved, cells: tuple[int, int]) -> tuple[SeenPictures, ...]:
        """What the request's pictures tell, evaluated; `cells` are height and width of its latents."""
        all_found = self._found(request)
        told = tuple(self._told(found, request, cells) for found in all_found)
        self._make_room({_key(found.path) for found in all_found})
        return told

    def _found(self, request: Resolved) -> list[Found]:
        backbone = self._networks.checkpoint.backbone
        return [find(setting, backbone) for setting in request.ip_adapter or ()]

    def _told(self, found: Found, request: Resolved, cells: tuple[int, int]) -> SeenPictures:
        seen, nothing = self._see(found)
        adapter = self._adapter(found.path)
        positive = adapter(mx.concatenate(seen))[None]
        negative = mx.repeat(adapter(nothing), len(seen), axis=0)[None]
        backbone = self._networks.checkpoint.backbone
        assert isinstance(backbone, UNetConfig)  # find has refused all others
        scales = tuple(found.setting.scale_at(place.path) for place in places(backbone))
        masks = _masks(found, request, cells, backbone, self._networks.checkpoint.scale_factor)
        attend = Attached(adapter, scales, masks)
        mx.eval(positive, negative)
        return SeenPictures(positive, negative, attend, *levels_of(found.setting, request.noise_levels.sigmas))

    def _see(self, found: Found) -> tuple[list[mx.array], mx.array]:
        """What the adapter reads of each picture, (1, W) or (1, patches + 1, W), and of no picture."""
        if found.config.kind == PLAIN:
            vectors = [self._output(found, picture).embedding for picture in found.setting.image]
            return vectors, mx.zeros_like(vectors[0])
        states = [self._output(found, picture).penultimate for picture in found.setting.image]
        return states, self._output(found, None).penultimate

    def _output(self, found: Found, picture: str | Pixels | None) -> CLIPVisionOutput:
        """What the image encoder makes of a picture, or of zeros."""
        key = _key(found.encoder / "config.json"), NOTHING if picture is None else picture_hash(picture)

        def see() -> CLIPVisionOutput:
            size = found.vision.image_size
            pixels = np.zeros((size, size, 3), np.float32) if picture is None else clip_pixels(picture, size)
            output = self._encoder(found)(mx.array(pixels)[None])
            mx.eval(output.embedding, output.penultimate)
            return output

        return self._seen.get(key, see)

    def _encoder(self, found: Found) -> CLIPVisionModel:
        key = _key(found.encoder / "config.json")
        if key not in self._encoders:
            self._encoders.clear()
            with backend.callers_randomness():
                encoder = CLIPVisionModel(found.vision)
                load_component(encoder, found.encoder, dtype=self._networks.dtype)
            evaluate(memory.arrays_of(encoder))
            check_finite((encoder,), str(found.encoder))
            self._encoders[key] = encoder
        return self._encoders[key]

    def _adapter(self, path: Path) -> IPAdapter:
        key = _key(path)
        if key not in self._adapters:
            with backend.callers_randomness():
                adapter = load_ip_adapter(path, self._networks.dtype)
            evaluate(memory.arrays_of(adapter))
            check_finite((adapter,), str(path))
            self._adapters[key] = adapter
        return self._adapters[key]

    def _make_room(self, needed: set[str] | None = None) -> None:
        """Lets image encoders, and adapters that are not needed now, go where they do not fit beside the others."""
        others = [*self._encoders.values(), *self._adapters.values()]
        if others and not memory.keeps_encoders(memory.size_of(*others), self._networks.working_bytes):
            self._encoders.clear()
            self._adapters = {key: adapter for key, adapter in self._adapters.items() if key in (needed or ())}
            mx.clear_cache()


def _masks(
    found: Found, request: Resolved, cells: tuple[int, int], backbone: UNetConfig, factor: int
) -> tuple[tuple[mx.array, ...], ...] | None:
    if found.setting.mask is None:
        return None
    masks = []
    for source in found.setting.mask:
        region = read_region(source, request.height, request.width, overlay_of(source, request, factor))
        # As diffusers scales them to each feature map; they may leave [0, 1] a little.
        scaled = [resample_plane(region, *size, "bicubic") for size in sizes(backbone, *cells)]
        levels = [mx.array(weights.reshape(1, -1, 1)) for weights in scaled]
        masks.append(tuple(levels[place.level] for place in places(backbone)))
    return tuple(masks)


def _key(path: Path) -> str:
    """A file in this state: as long as it is the same, so are the weights that were read."""
    about = path.stat()
    return f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"
