"""What kernels for NVIDIA's compute capability 9.0 (H100, H200) need of CUDA's driver, which MLX does not tell."""

from __future__ import annotations

import ctypes
from functools import cache

import mlx.core as mx
import numpy as np

from . import cuda

MAP_BYTES = 128  # of a tensor map
BARRIER_BYTES = 16  # of the two barriers of a stage
_MULTIPROCESSORS, _MAJOR = 16, 75  # device attributes
_TYPES = {mx.float16: 6, mx.float32: 7, mx.bfloat16: 9}  # CU_TENSOR_MAP_DATA_TYPE_FLOAT16 and so on
_SWIZZLE_128B, _L2_PROMOTION_128B = 3, 2
_SOMEWHERE = 1 << 16  # an address that the kernel replaces


@cache
def available() -> bool:
    """Whether MLX computes on such a GPU."""
    return cuda.available() and _attribute(_MAJOR) == 9


@cache
def multiprocessors() -> int:
    """How many blocks run at the same time, if one fills a multiprocessor."""
    return _attribute(_MULTIPROCESSORS)


Boxed = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape of a row-major array, and that of the boxes in which the copy engine moves it."""


@cache
def tensor_maps(*arrays: Boxed, dtype: mx.Dtype) -> mx.array:
    """The maps of arrays, one behind the other, by which the copy engine moves them; a kernel puts addresses in.

    The last axis of a box has 128 bytes, that of an array a multiple of 16.
    """
    return mx.array(np.frombuffer(b"".join(_tensor_map(shape, box, dtype) for shape, box in arrays), np.uint8))


def _tensor_map(shape: tuple[int, ...], box: tuple[int, ...], dtype: mx.Dtype) -> bytes:
    buffer = (ctypes.c_uint8 * (MAP_BYTES + 64))()
    address = -(-ctypes.addressof(buffer) // 64) * 64  # where the driver wants it
    rank = len(shape)
    strides = [dtype.size]  # in bytes, the last axis first, as all the driver takes
    for length in reversed(shape[1:]):
        strides.append(strides[-1] * length)
    _called(
        "cuTensorMapEncodeTiled",
        ctypes.c_void_p(address),
        _TYPES[dtype],
        rank,
        ctypes.c_void_p(_SOMEWHERE),
        (ctypes.c_uint64 * rank)(*reversed(shape)),
        (ctypes.c_uint64 * (rank - 1))(*strides[1:]),
        (ctypes.c_uint32 * rank)(*reversed(box)),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        0,
        _SWIZZLE_128B,
        _L2_PROMOTION_128B,
        0,
    )
    return ctypes.string_at(address, MAP_BYTES)


def _attribute(which: int) -> int:
    """Of the first GPU that the process sees, which is MLX's."""
    value = ctypes.c_int()
    _called("cuDeviceGetAttribute", ctypes.byref(value), which, 0)
    return value.value


def _called(name: str, *arguments: object) -> None:
    result = getattr(_driver(), name)(*arguments)
    if result != 0:
        raise RuntimeError(f"CUDA's driver refused {name} with error {result}.")


@cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL("libcuda.so.1")
    driver.cuInit(0)
    return driver
