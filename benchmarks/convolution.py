"""Convolutions on the CPU, fp32: the native extension's beside MLX's own and torch's (oneDNN).

The three take turns in one process; medians are printed, as GFLOP/s of the sum over taps: an algorithm that needs fewer
operations, as Winograd's does, may exceed what the processor can do. What it can do is measured by a large product.
    python benchmarks/convolution.py [--layers unet|vae] [--batch 1] [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import machine
import mlx.core as mx
import numpy as np
import torch

from mlxdiff import backend
from mlxdiff.computer import blas
from mlxdiff.kernels import native
from mlxdiff.kernels.conv import conv2d, plain

# (height and width, channels in, channels out, stride) of 3x3 convolutions.
LAYERS = {
    # Stable Diffusion 1.x and 2.x at 512x512 pixels.
    "unet": (
        (64, 4, 320, 1),
        (64, 320, 320, 1),
        (64, 960, 320, 1),
        (64, 320, 4, 1),
        (64, 320, 320, 2),
        (32, 640, 640, 1),
        (32, 1920, 640, 1),
        (16, 1280, 1280, 1),
        (16, 2560, 1280, 1),
        (8, 1280, 1280, 1),
    ),
    # The decoder's, at 512x512 pixels.
    "vae": ((64, 512, 512, 1), (128, 512, 512, 1), (256, 256, 256, 1), (512, 128, 128, 1), (512, 128, 3, 1)),
}
PAUSE = 0.05  # seconds; the threads of a library that has just worked may spin for a while
PRODUCT = 2048  # rows and columns of the product that shows the processor's speed


@dataclass(frozen=True)
class Row:
    """One layer: medians in GFLOP/s, and the largest difference from torch over the largest value."""

    name: str
    ours: float
    plain: float
    torch: float
    error: float

    @property
    def ratio(self) -> float:
        return self.ours / self.torch


def seconds(work: Callable[[], object]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each, in turns; a first turn is not counted."""
    turns = [[seconds(work) for work in works] for _ in range(repeats + 1)]
    return [statistics.median(column) for column in zip(*turns[1:], strict=True)]


def measure(batch: int, layer: tuple[int, int, int, int], repeats: int) -> Row:
    size, channels, out, stride = layer
    draw = np.random.default_rng(0).standard_normal
    image = draw((batch, size, size, channels), dtype=np.float32)
    kernel = draw((out, 3, 3, channels), dtype=np.float32)
    bias = draw(out, dtype=np.float32)
    x, w, b = mx.array(image), mx.array(kernel), mx.array(bias)
    pixels, weights = (torch.from_numpy(a.transpose(0, 3, 1, 2).copy()) for a in (image, kernel))
    added = torch.from_numpy(bias)

    def ours() -> mx.array:
        y = conv2d(x, w, b, stride=stride, padding=1)
        mx.eval(y)
        return y

    def by_torch() -> torch.Tensor:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(pixels, weights, added, stride, 1)

    expected = by_torch().permute(0, 2, 3, 1).numpy()
    error = float(np.abs(np.array(ours()) - expected).max() / np.abs(expected).max())
    works = [ours, lambda: mx.eval(plain(x, w, b, stride=stride, padding=1)), by_torch]
    operations = 2 * batch * (size // stride) ** 2 * 9 * channels * out
    fast, slow, reference = (operations / taken / 1e9 for taken in medians(works, repeats))
    return Row(f"{batch}x{size}x{size}x{channels} to {out}, stride {stride}", fast, slow, reference, error)


def peak(repeats: int) -> float:
    """GFLOP/s of a large product."""
    a = torch.ones(PRODUCT, PRODUCT)
    return 2 * PRODUCT**3 / medians([lambda: a @ a], repeats)[0] / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", choices=LAYERS, default="unet")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    backend.prepare()
    product = peak(options.repeats)
    rows = [measure(options.batch, layer, options.repeats) for layer in LAYERS[options.layers]]
    about = machine.describe("mlx", "mlxdiff", "torch") | {"blas": blas.live(), "native": native.state()}
    if options.json:
        print(json.dumps({"gflops": [asdict(row) for row in rows], "product": product, **about}))
        return
    print(machine.line(about))
    print(f"a product of {PRODUCT}x{PRODUCT}: {product:.0f} GFLOP/s")
    print("| 3x3 convolution | ours | of the product | MLX's own | torch | ours / torch | difference |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.name} | {row.ours:.0f} | {row.ours / product:.1f} | {row.plain:.0f} | {row.torch:.0f} |"
            f" {row.ratio:.1f} | {row.error:.0e} |"
        )


if __name__ == "__main__":
    main()
