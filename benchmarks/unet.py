"""One call of a UNet with random weights, beside diffusers, torch.compile and OpenVINO: where nearly all time goes.

Every peer gets the same weights and inputs, and no table is printed unless their outputs agree. The peers take turns,
and medians are printed. A batch is of images: guidance doubles it to rows, as in a picture's denoising. fp16 on a GPU,
fp32 on a CPU unless --dtype bfloat16 is given; then errors are those from mlxdiff in fp32. On a busy machine compare
the processor's seconds (cpu), which all threads of a call take together.
    python benchmarks/unet.py [--model sd21] [--batches 1,2,4,8,16] [--peers mlxdiff,plain,diffusers,compile] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import checkpoints
import devices
import flops
import machine
import mlx.core as mx
import numpy as np
import timing
import unet_peers

from mlxdiff import backend
from mlxdiff.models.unet import UNetConfig

GPU_PEERS = "mlxdiff,plain,diffusers,compile"
CPU_PEERS = "mlxdiff,diffusers"
# Root mean square of the difference over that of the reference; rounding alone stays a factor of five below, but not
# in bf16, where OpenVINO is off by 0.12.
TOLERANCE = {"float16": 3e-2, "bfloat16": 0.2, "float32": 1e-4}


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=checkpoints.MODELS, default="sd21")
    parser.add_argument("--size", type=int, help="latent cells along a side; the model's usual one unless given")
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16], help="images, commas between")
    parser.add_argument("--no-guidance", action="store_true", help="one row an image instead of two")
    gpu = backend.is_gpu()
    parser.add_argument("--peers", default=GPU_PEERS if gpu else CPU_PEERS, help=f"of {', '.join(unet_peers.NAMES)}")
    parser.add_argument("--threads", type=int, help="on a CPU, of every peer; each one's own choice unless given")
    parser.add_argument("--dtype", choices=["bfloat16"], help="bf16 on a CPU")
    parser.add_argument("--turns", type=int, default=5 if gpu else 3)
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="how long a peer's turn lasts at least")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    asked = options.peers.split(",")
    if unknown := set(asked) - set(unet_peers.NAMES):
        parser.error(f"no peer is called {', '.join(sorted(unknown))}")
    options.peers = [name for name in unet_peers.NAMES if name in asked]  # the first is what others are compared with
    return options


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over the expected one's; infinite where a number is not finite."""
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return error if np.isfinite(error) else float("inf")


def compared(
    peers: dict[str, unet_peers.Peer], inputs: unet_peers.Inputs, options: Any, expected: np.ndarray | None
) -> list[dict[str, Any]]:
    """Times and errors of every peer for one batch; errors are from what is expected, or from the first peer."""
    calls, errors = {}, {}
    for name, peer in peers.items():
        calls[name] = peer.ready(inputs)
        output = peer.output(calls[name]())
        expected = output if expected is None else expected
        errors[name] = relative_error(output, expected)
        devices.free()
    tolerance = TOLERANCE[options.dtype or devices.dtype_name()]
    if wrong := [f"{name} by {error:.1e}" for name, error in errors.items() if not error <= tolerance]:
        sys.exit(f"Not the same work: {', '.join(wrong)} from {next(iter(peers))}; {tolerance:.0e} is allowed.")
    spent: dict[str, list[float]] = {name: [] for name in calls}
    counted = {name: counting(call, spent[name]) for name, call in calls.items()}
    times = timing.in_turns(counted, turns=options.turns, turn_seconds=options.turn_seconds, between=devices.free)
    return [
        {
            "peer": name,
            "seconds": times[name],
            "cpu": statistics.median(spent[name]),
            "error": errors[name],
            "note": peers[name].note,
        }
        for name in peers
    ]


def counting(call: unet_peers.Call, spent: list[float]) -> unet_peers.Call:
    """The same call, which notes the processor's seconds."""

    def counted() -> Any:
        start = time.process_time()
        result = call()
        spent.append(time.process_time() - start)
        return result

    return counted


def in_fp32(config: Any, weights: Any, inputs: dict[int, unet_peers.Inputs]) -> dict[int, np.ndarray]:
    """What mlxdiff computes in fp32, for each batch."""
    peer = unet_peers.make("mlxdiff", config, weights, {path: mx.array(array) for path, array in weights.items()})
    return {images: peer.output(peer.ready(some)()) for images, some in inputs.items()}


def main() -> None:
    options = parse()
    backend.prepare()  # as StableDiffusion does
    if options.threads is not None:
        unet_peers.limit_threads(options.threads)
    config = checkpoints.published(options.model)["unet"]
    parsed = UNetConfig.from_dict(config)
    size = config["sample_size"] if options.size is None else options.size
    dtype = devices.dtype_name()
    weights = checkpoints.random_weights(unet_peers.UNet2DConditionModel(parsed), dtype)
    arrays = (
        {path: mx.array(array) for path, array in weights.items()} if {"mlxdiff", "plain"} & {*options.peers} else {}
    )
    prepared = {}
    for images in options.batches:
        n = images if options.no_guidance else 2 * images
        prepared[images] = unet_peers.Inputs.random(parsed, n, size, size, dtype)
    wanted: dict[int, np.ndarray] = {}
    if options.dtype is not None:
        wanted = in_fp32(config, weights, prepared)
        arrays = {path: array.astype(mx.bfloat16) for path, array in arrays.items()}
        mx.eval(arrays)  # and fp32 is let go
    peers = {name: unet_peers.make(name, config, weights, arrays, options.dtype) for name in options.peers}
    rows = []
    for images in options.batches:
        n = images if options.no_guidance else 2 * images
        found = compared(peers, prepared[images], options, wanted.get(images))
        work = flops.unet(parsed, n, size, size)
        seconds = {row["peer"]: row["seconds"] for row in found}
        for row in found:
            row |= {"images": images, "rows": n, "flops_a_second": work / row["seconds"]}
            row["ratios"] = {name: seconds[name] / row["seconds"] for name in seconds if name != row["peer"]}
            print(f"{images}: {row['peer']} {row['seconds'] * 1e3:.1f} ms", file=sys.stderr)
        rows += found
    about = machine.describe("mlx", "torch", "diffusers", "openvino") | {"backend": backend.backend_name()}
    dtype = options.dtype or dtype
    settings = {
        "model": options.model,
        "size": size,
        "dtype": dtype,
        "turns": options.turns,
        "threads": options.threads,
    }
    if options.json:
        print(json.dumps({"rows": rows, "settings": settings, **about}))
        return
    print(machine.line(about))
    print(f"{checkpoints.TITLES[options.model]}, {size}x{size} latent cells, {dtype}; faster than is time over time\n")
    print(report(rows, options.peers))


def report(rows: list[dict[str, Any]], peers: list[str]) -> str:
    """The Markdown table: a line for each batch and peer, with how many times as fast as each rival it is."""
    unit, scale = ("TFLOP/s", 1e12) if backend.is_gpu() else ("GFLOP/s", 1e9)
    rivals = [name for name in peers if name not in ("mlxdiff", "plain")]
    header = ["images", "rows", "peer", "ms", "cpu ms", unit, *(f"x {name}" for name in rivals), "error", ""]
    lines = [
        [
            str(row["images"]),
            str(row["rows"]),
            row["peer"],
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['cpu'] * 1e3:.0f}",
            f"{row['flops_a_second'] / scale:.0f}",
            *(f"{row['ratios'].get(name, 1):.2f}" for name in rivals),
            f"{row['error']:.1e}" if row["error"] else "-",
            row["note"],
        ]
        for row in rows
    ]
    return timing.table(header, lines)


if __name__ == "__main__":
    main()
