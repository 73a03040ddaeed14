"""The extension's operations beside MLX's own and torch's, in a UNet's and a VAE's shapes, fp32, on a CPU.

The three take turns in one process, so that a busy moment hits all; medians are printed. Without the extension this
says why it is not there.
    python benchmarks/native.py [--repeats 7] [--threads N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from unittest.mock import patch

import machine
import mlx.core as mx
import numpy as np
import torch
import torch.nn.functional as F

from mlxdiff import backend
from mlxdiff.computer import blas
from mlxdiff.kernels import native
from mlxdiff.kernels.activations import silu
from mlxdiff.kernels.attention import attention
from mlxdiff.kernels.geglu import geglu
from mlxdiff.kernels.group_norm import group_norm_silu
from mlxdiff.kernels.layer_norm import layer_norm

PAUSE = 0.05  # seconds; idle threads of torch's and OpenBLAS's pools spin for a while, on cores that others need

# (batch, queries, keys, heads, head size): SD 2.1's attention at 64x64 latent cells, among pixels and to the prompt,
# SD 1.5's sizes, and the VAE's.
ATTENTIONS = (
    (1, 4096, 4096, 5, 64),
    (1, 1024, 1024, 10, 64),
    (1, 256, 256, 20, 64),
    (1, 4096, 77, 5, 64),
    (1, 4096, 4096, 8, 40),
    (1, 256, 256, 8, 160),
    (1, 4096, 4096, 1, 512),
)
NORMS = ((1, 64, 64, 320), (1, 32, 32, 640), (1, 16, 16, 1280), (1, 256, 256, 256))
TOKENS = ((1, 4096, 320), (1, 1024, 640), (1, 256, 1280))

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One operation: medians in milliseconds."""

    name: str
    extension: float
    plain: float
    torch: float


def arrays(*shapes: tuple[int, ...]) -> tuple[list[mx.array], list[torch.Tensor]]:
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    return [mx.array(a) for a in drawn], [torch.from_numpy(a) for a in drawn]


def in_turns(name: str, ours: Callable[[], mx.array], theirs: Work, repeats: int) -> Row:
    def plain() -> None:
        with patch.object(native, "serving", lambda *_: None):
            mx.eval(ours())

    works: tuple[Work, ...] = (lambda: mx.eval(ours()), plain, theirs)
    times = [[seconds(work) for work in works] for _ in range(repeats + 1)][1:]
    return Row(name, *(1e3 * statistics.median(column) for column in zip(*times, strict=True)))


def seconds(work: Work) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def attention_row(batch: int, queries: int, keys: int, heads: int, size: int, repeats: int) -> Row:
    width = heads * size
    (q, k, v), tensors = arrays((batch, queries, width), (batch, keys, width), (batch, keys, width))

    def theirs() -> torch.Tensor:
        tq, tk, tv = (a.unflatten(-1, (heads, size)).transpose(1, 2) for a in tensors)
        return F.scaled_dot_product_attention(tq, tk, tv).transpose(1, 2).flatten(2)

    name = f"attention {batch}x{queries}x{keys}, {heads} heads of {size}"
    return in_turns(name, lambda: attention(q, k, v, heads=heads), theirs, repeats)


def group_norm_row(shape: tuple[int, ...], repeats: int) -> Row:
    (x, weight, bias), (tx, tw, tb) = arrays(shape, shape[-1:], shape[-1:])
    tx = tx.permute(0, 3, 1, 2)
    return in_turns(
        f"group norm, silu {'x'.join(map(str, shape))}",
        lambda: group_norm_silu(x, weight, bias, 32, 1e-5),
        lambda: F.silu(F.group_norm(tx, 32, tw, tb, 1e-5)),
        repeats,
    )


def layer_norm_row(shape: tuple[int, ...], repeats: int) -> Row:
    (x, weight, bias), (tx, tw, tb) = arrays(shape, shape[-1:], shape[-1:])
    name = f"layer norm {'x'.join(map(str, shape))}"
    return in_turns(
        name, lambda: layer_norm(x, weight, bias, 1e-5), lambda: F.layer_norm(tx, shape[-1:], tw, tb), repeats
    )


def geglu_row(batch: int, length: int, width: int, repeats: int) -> Row:
    (x,), (tx,) = arrays((batch, length, 8 * width))

    def theirs() -> torch.Tensor:
        value, gate = tx.chunk(2, dim=-1)
        return value * F.gelu(gate)

    return in_turns(f"geglu {batch}x{length}x{8 * width}", lambda: geglu(x), theirs, repeats)


def silu_row(shape: tuple[int, ...], repeats: int) -> Row:
    (x,), (tx,) = arrays(shape)
    return in_turns(f"silu {'x'.join(map(str, shape))}", lambda: silu(x), lambda: F.silu(tx), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="for both; as many as OpenBLAS has unless given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    backend.prepare()  # as StableDiffusion does
    extension = native.serving()
    if extension is None:
        sys.exit(f"The extension is {native.state()}.")
    if options.threads is not None:
        extension.set_threads(options.threads)
    torch.set_num_threads(extension.threads())
    n = options.repeats
    rows = [attention_row(*sizes, n) for sizes in ATTENTIONS]
    rows += [group_norm_row(shape, n) for shape in NORMS]
    rows += [layer_norm_row(shape, n) for shape in TOKENS]
    rows += [geglu_row(*shape, n) for shape in TOKENS]
    rows += [silu_row(NORMS[-1], n)]
    about = machine.describe("mlx", "torch", "scipy-openblas32") | {
        "blas": blas.live(),
        "native": f"{extension.instruction_set()}, {extension.threads()} threads",
    }
    if options.json:
        print(json.dumps({"milliseconds": [asdict(row) for row in rows], **about}))
        return
    print(machine.line(about))
    print(f"{'operation':44} {'extension':>9} {'MLX':>9} {'torch':>9}   (ms, fp32)")
    for row in rows:
        print(f"{row.name:44} {row.extension:9.2f} {row.plain:9.2f} {row.torch:9.2f}")


if __name__ == "__main__":
    main()
