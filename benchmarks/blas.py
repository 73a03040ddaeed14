"""MLX's single-precision matmul on the CPU beside numpy's: the BLAS that MLX got, against the one that numpy brings.

The two take turns in one process, so that a busy moment hits both; medians are printed. A convolution stands beside the
matmul of as many operations. With --check the exit code is 1 if MLX's first matmul has less than 0.7 of numpy's speed.
    python benchmarks/blas.py [--repeats 9] [--json] [--check]
    MLXDIFF_BLAS=reference python benchmarks/blas.py      # what MLX's wheel does by itself
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import machine
import mlx.core as mx
import numpy as np

from mlxdiff import backend
from mlxdiff.computer import blas

# An idle BLAS thread spins for some 30 ms before it sleeps, and would take a core from the other's threads.
PAUSE = 0.1  # seconds
EXPECTED = 0.7
# (m, k, n) of matmuls: the one that is always quoted, then a UNet's at 64x64 latents: attention, feed-forward, context.
MATMULS = (
    (1024, 1280, 1280),
    (4096, 320, 320),
    (4096, 320, 2560),
    (1024, 640, 5120),
    (256, 1280, 1280),
    (77, 1024, 320),
)
# (height, width, channels in, channels out) of 3x3 convolutions.
CONVOLUTIONS = ((64, 64, 320, 320), (32, 32, 640, 640), (16, 16, 1280, 1280))
PAUSE = 0.05  # seconds; the threads of an OpenBLAS that has just worked spin for a while and would slow the other down


@dataclass(frozen=True)
class Row:
    """One operation: medians in GFLOP/s."""

    name: str
    mlx: float
    numpy: float

    @property
    def ratio(self) -> float:
        return self.mlx / self.numpy


def seconds(work: Callable[[], object]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(name: str, operations: float, ours: Callable[[], object], theirs: Callable[[], object], n: int) -> Row:
    for warm_up in (ours, theirs):  # touches memory
        warm_up()
    times = [(seconds(ours), seconds(theirs)) for _ in range(n)]
    mlx, numpy = (operations / statistics.median(column) / 1e9 for column in zip(*times, strict=True))
    return Row(name, mlx, numpy)


def matmul(m: int, k: int, n: int, repeats: int) -> Row:
    a, b = normal(m, k), normal(k, n)
    x, y = mx.array(a), mx.array(b)
    return in_turns(f"matmul {m}x{k}x{n}", 2 * m * k * n, lambda: mx.eval(x @ y), lambda: a @ b, repeats)


def convolution(height: int, width: int, channels: int, out: int, repeats: int) -> Row:
    image, weight = mx.array(normal(1, height, width, channels)), mx.array(normal(out, 3, 3, channels))
    a, b = normal(height * width, 9 * channels), normal(9 * channels, out)
    name = f"conv2d 3x3 {height}x{width}x{channels} to {out}"
    operations = 2 * height * width * 9 * channels * out
    return in_turns(name, operations, lambda: mx.eval(mx.conv2d(image, weight, padding=1)), lambda: a @ b, repeats)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help=f"fail if MLX has less than {EXPECTED} of numpy's speed")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    backend.prepare()
    rows = [matmul(*shape, options.repeats) for shape in MATMULS]
    rows += [convolution(*shape, options.repeats) for shape in CONVOLUTIONS]
    about = machine.describe("mlx", "mlxdiff", "numpy", "scipy-openblas32") | {"blas": blas.live()}
    if options.json:
        print(json.dumps({"gflops": [asdict(row) | {"ratio": row.ratio} for row in rows], **about}))
    else:
        print(machine.line(about))
        print(f"{'operation':34} {'MLX':>9} {'numpy':>9} {'ratio':>6}   (GFLOP/s, fp32)")
        for row in rows:
            print(f"{row.name:34} {row.mlx:9.1f} {row.numpy:9.1f} {row.ratio:6.2f}")
    slow = [row for row in rows[:1] if row.ratio < EXPECTED]
    if options.check and slow:
        sys.exit(f"slower than {EXPECTED} of numpy: {', '.join(row.name for row in slow)}")


if __name__ == "__main__":
    main()
