"""Kernels for NVIDIA GPUs, which native/cuda/build.py has compiled: CUDA's driver does the rest in milliseconds.

Each kernel is an entry of assets/cuda/SOURCE.ptx.gz for each type of number, `group_norm_sums_float16`; or of
SOURCE.cubin.gz, which is machine code for one kind of GPU.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import mlx.core as mx

FOLDER = Path(__file__).parents[1] / "assets" / "cuda"
_TYPES = {mx.float16: "float16", mx.bfloat16: "bfloat16", mx.float32: "float32"}
_ENTRY = ".visible .entry "
_MOVERS, _MOVES = 256, 4  # threads of a block that moves pieces, and how many each moves: LOADS in number.cuh


def available() -> bool:
    """Whether MLX computes on an NVIDIA GPU and can run what is compiled."""
    return mx.default_device() != mx.cpu and mx.cuda.is_available() and hasattr(mx.fast, "precompiled_cuda_kernel")


def wide(x: mx.array) -> int:
    """How many numbers of x a thread takes at once: 16 bytes."""
    return 16 // x.itemsize


def launch(
    source: str,
    name: str,
    inputs: Sequence[mx.array],
    scalars: Sequence[int | float],
    *,
    blocks: tuple[int, int],
    threads: int,
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]],
    shared_bytes: int = 0,
) -> list[mx.array]:
    """What the entry `name` for the type of inputs[0] computes, unevaluated.

    outputs       the shape and type of each
    shared_bytes  of memory that a block asks for beside what the kernel declares
    """
    entry = f"{name}_{_TYPES[inputs[0].dtype]}"
    return mx.fast.precompiled_cuda_kernel(
        name=entry,
        compiled_source=code(source, entry),
        inputs=list(inputs),
        output_shapes=[shape for shape, _ in outputs],
        output_dtypes=[dtype for _, dtype in outputs],
        scalars=[_bits(scalar) if isinstance(scalar, float) else scalar for scalar in scalars],
        grid=(blocks[0] * threads, blocks[1], 1),
        threadgroup=(threads, 1, 1),
        shared_memory=shared_bytes,
        ensure_row_contiguous=True,
    )


def move(
    source: str, name: str, inputs: Sequence[mx.array], scalars: Sequence[int], shape: tuple[int, ...]
) -> mx.array:
    """An array of that shape and of inputs[0]'s type, by an entry that is number.cuh's `move`; unevaluated."""
    first = inputs[0]
    blocks = -(-math.prod(shape) // (wide(first) * _MOVES * _MOVERS))
    (out,) = launch(source, name, inputs, scalars, blocks=(blocks, 1), threads=_MOVERS, outputs=[(shape, first.dtype)])
    return out


def _bits(number: float) -> int:
    """The whole number of the same bits as an fp32 number: MLX 0.32 refuses floats as arguments."""
    return struct.unpack("<i", struct.pack("<f", number))[0]


@cache
def code(source: str, entry: str) -> bytes:
    """What the driver loads for an entry: its PTX, or the machine code of the source as a whole."""
    machine = FOLDER / f"{source}.cubin.gz"
    if machine.is_file():
        return machine_code(machine)
    return entries(source)[entry]


@cache
def machine_code(file: Path) -> bytes:
    """What a file of machine code contains, behind the line that says what it is made of."""
    return gzip.decompress(file.read_bytes()).partition(b"\n")[2]


@cache
def entries(source: str) -> dict[str, bytes]:
    """The PTX of each entry of a source alone: the driver compiles all of what it is given."""
    text = gzip.decompress((FOLDER / f"{source}.ptx.gz").read_bytes()).decode()
    head, *blocks = text.split(_ENTRY)
    return {block[: block.index("(")]: f"{head}{_ENTRY}{block}".encode() for block in blocks}
