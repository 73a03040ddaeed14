"""What fits into the device's memory: which networks stay while others work, and whether a picture is decoded whole.

Sizes in bytes, by arithmetic alone, from the size of the machine and never from what is free on it: the same command
does the same again. Nothing decided here changes a picture by more than floating-point rounding.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import backend
from .errors import InputError, RequestError
from .models.autoencoders import AutoencoderConfig
from .models.tiling import strip_bytes
from .models.upscaler import UpscalerConfig

NETWORKS = 0.5  # of the memory that text encoders and backbone may take together and still both stay
WHOLE = 0.5  # of the memory that decoding as a whole may take
ALL = 0.9  # of the memory that the backbone may take together with decoding in strips and still stay
TILE = 512  # pixels
BATCH = 0.5  # of the memory that weights and a batch may take; the rest is for decoding and for other programs
LARGEST_BATCH = 16  # on a GPU the time of an image hardly falls beyond this
LARGEST_BATCH_ON_CPU = 4  # on a CPU it does not fall at all, and a group is what is lost when a run is killed

# Maps of a decoder's largest size that are alive at once when MLX decodes as a whole. A CPU's convolution makes nine
# copies of its input; and MLX hands out memory faster than a CPU computes.
MAPS, MAPS_ON_CPU = 8, 38
# In fp32 on an NVIDIA GPU. cuDNN's convolutions without TF32 make copies, as a CPU's: 21.5 maps with TF32, 21 with the
# kernel of mlxdiff and 38 with cuDNN's were measured at 512 and 768 pixels, and with 38 at 1024 an 80 GB GPU had too
# little.
MAPS_FP32, MAPS_COPIED = 22, 48

UPSCALING = 0.25  # of the memory that an upscaler may take for a tile: the model stays beside it
# Maps of an upscaler's widest layer that are alive at once in its body, and of its largest in its head.
BODY_MAPS, BODY_MAPS_ON_CPU = 8, 40
HEAD_MAPS, HEAD_MAPS_ON_CPU = 7, 40


def size_of(*networks: nn.Module) -> int:
    """Bytes of the networks' weights."""
    return sum(array.nbytes for array in arrays_of(*networks))


def arrays_of(*networks: nn.Module) -> list[mx.array]:
    """The networks' weights."""
    parameters: list[dict[str, mx.array]] = [dict(tree_flatten(network.parameters())) for network in networks]
    return [array for arrays in parameters for array in arrays.values()]


def keeps_encoders(encoders: int, backbone: int) -> bool:
    """Whether text encoders of that many bytes stay while a backbone of that many works."""
    return encoders + backbone <= NETWORKS * backend.memory_size()


def keeps_both(base: int, refiner: int) -> bool:
    """Whether a base's networks of that many bytes stay while a refiner of that many works."""
    return base + refiner <= NETWORKS * backend.memory_size()


def keeps_backbone(backbone: int, decoding: int) -> bool:
    """Whether a backbone of that many bytes stays while pictures are decoded in strips."""
    return backbone + decoding <= ALL * backend.memory_size()


def batch_size(row_bytes: int, rows: int, weights: int) -> int:
    """Images to denoise at once: as many as memory takes, no more than pays.

    row_bytes  what a row of a batch needs in a call of the backbone; `rows` rows an image, two with guidance
    weights    bytes of the networks that are in memory meanwhile
    """
    room = int(backend.memory_size() * BATCH) - weights
    return max(1, min(room // (row_bytes * rows), LARGEST_BATCH if backend.is_gpu() else LARGEST_BATCH_ON_CPU))


def check_denoising(row_bytes: int, n_rows: int) -> None:
    """Raises RequestError for a batch of so many rows that does not fit into memory: a CPU's process would end."""
    needed = row_bytes * n_rows
    if needed > backend.memory_size():
        raise RequestError(
            f"Denoising this takes about {needed / 1e9:.3g} GB at once, and {backend.memory_size() / 1e9:.3g} GB are"
            " there.",
            "Render fewer images at once (--batch-size), or smaller ones.",
        )


def tile_for(config: AutoencoderConfig, shape: tuple[int, ...], itemsize: int) -> int | None:
    """TILE where decoding latents of that shape (B, h, w, C) as a whole would take too much, else None."""
    return TILE if whole(config, shape, itemsize) > WHOLE * backend.memory_size() else None


def whole(config: AutoencoderConfig, shape: tuple[int, ...], itemsize: int) -> int:
    """What decoding latents of that shape as a whole takes, about; `itemsize` is of one number."""
    if not backend.is_gpu():
        maps = MAPS_ON_CPU
    elif itemsize == 4 and backend.backend_name() == "CUDA":
        maps = MAPS_FP32 if backend.tf32() or backend.convolves_in_fp32() else MAPS_COPIED
    else:
        maps = MAPS
    return shape[0] * _largest_map(config, shape, itemsize) * maps


def in_strips(config: AutoencoderConfig, shape: tuple[int, ...], itemsize: int) -> int:
    """What decoding latents of that shape in strips takes, about: one picture's maps, and a strip's workspace."""
    return _kept(config, shape, itemsize) + MAPS_ON_CPU * strip_bytes()


def check_decoding(config: AutoencoderConfig, shape: tuple[int, ...], itemsize: int) -> None:
    """Raises InputError for latents whose pictures do not fit into memory even in strips: a file may say any shape."""
    pixels = shape[0] * shape[1] * shape[2] * config.scale_factor**2
    needed = _kept(config, shape, itemsize) + pixels * 3 * 4  # one at a time, and all as fp32
    if needed > backend.memory_size():
        height, width = (side * config.scale_factor for side in shape[1:3])
        many = "" if shape[0] == 1 else f" of {shape[0]} pictures"
        raise InputError(
            f"Decoding {width}x{height} pixels{many} takes about {needed / 1e9:.3g} GB, and"
            f" {backend.memory_size() / 1e9:.3g} GB are there.",
            "Decode fewer at once, or where there is more memory.",
        )


def upscaling_cells(config: UpscalerConfig, itemsize: int) -> int:
    """How many cells an upscaler's body may take at once; `itemsize` is of one number."""
    maps = BODY_MAPS if backend.is_gpu() else BODY_MAPS_ON_CPU
    return int(UPSCALING * backend.memory_size()) // (config.widest * itemsize * maps)


def upscaling_head_cells(config: UpscalerConfig, itemsize: int) -> int:
    """How many cells an upscaler's head may make pixels of at once."""
    maps = HEAD_MAPS if backend.is_gpu() else HEAD_MAPS_ON_CPU
    return int(UPSCALING * backend.memory_size()) // (config.features * config.cell**2 * itemsize * maps)


def upscaled(height: int, width: int) -> int:
    """What a picture of that size takes while it is put together: as floats, and as bytes."""
    return height * width * 3 * (4 + 1)


def _kept(config: AutoencoderConfig, shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of one picture's maps that decoding in strips keeps."""
    return 3 * _largest_map(config, shape, itemsize) // 2 if config.keeps_maps else 0


def _largest_map(config: AutoencoderConfig, shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of a map as large as the picture, with as many channels as come in there from the level below."""
    return shape[1] * shape[2] * config.scale_factor**2 * config.largest_channels * itemsize
