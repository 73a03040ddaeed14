"""On a Mac: whether pictures are right there, and which of the choices for its chip pay. Run once, send the output.

Renders pictures of the built-in model on the GPU and on the CPU and compares them, then times each choice of
`MLXDIFF_METAL` beside MLX's own way, operation by operation and for a whole UNet, in turns within one process:
    python benchmarks/metal.py [--json] [--turns 5] [--model sd15]
Elsewhere than on Metal it can only be tried: --anywhere.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import checkpoints
import devices
import machine
import mlx.core as mx
import numpy as np
import timing
import unet_peers
from unet_peers import Call, evaluated

from mlxdiff import StableDiffusion, backend
from mlxdiff.kernels import apple
from mlxdiff.kernels.attention import attention
from mlxdiff.kernels.conv import conv2d
from mlxdiff.models.unet import UNetConfig

PROMPTS = ("a red apple", "a cat, noto style", "a rocket, on a blue background")
CONVOLUTIONS = ((2, 64, 320), (2, 32, 640), (2, 16, 1280), (2, 8, 1280))  # rows, side, channels: of a UNet of SD 1.5
ATTENTIONS = ((2, 4096, 8, 40), (2, 1024, 8, 80), (2, 4096, 5, 64))  # rows, tokens, heads, head size


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """Of two 8-bit pictures; 99 where they are equal."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else float(min(99.0, 10 * np.log10(255**2 / error)))


@contextmanager
def choices(names: tuple[str, ...]) -> Iterator[None]:
    """Within it these hold, whatever the chip."""
    before = apple.used
    apple.used = lambda: names
    try:
        yield
    finally:
        apple.used = before


def drawn(dtype: str, steps: int) -> list[np.ndarray]:
    """The pictures of PROMPTS on MLX's default device."""
    sd = StableDiffusion("emoji", dtype=dtype)
    return [np.asarray(sd.generate(prompt, seed=7, steps=steps)[0]) for prompt in PROMPTS]


def pictures(steps: int) -> list[dict[str, Any]]:
    """The GPU's pictures beside those of the CPU in fp32, in decibels: of the worst picture."""
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    wanted = drawn("fp32", steps)
    mx.set_default_device(device)
    rows = []
    for dtype in ("fp32", "fp16") if backend.is_gpu() else ("fp32",):
        found = drawn(dtype, steps)
        worst = min(decibels(one, other) for one, other in zip(found, wanted, strict=True))
        rows.append({"dtype": dtype, "decibels": worst})
    return rows


def both_ways(name: str, choice: str, make: Callable[[], Call], turns: int) -> dict[str, Any]:
    """What `make` makes with a choice and without, in turns; `differs` is relative to the largest value."""
    calls, results = {}, {}
    for way, names in (("plain", ()), ("own", (choice,))):
        with choices(names):  # a compiled network keeps what held when it was first called
            made = make()
            results[way] = np.array(made().astype(mx.float32))
        calls[way] = functools.partial(_within, made, names)
    times = timing.in_turns(calls, turns=turns, turn_seconds=0.2, between=mx.clear_cache)
    differs = float(np.abs(results["plain"] - results["own"]).max() / max(np.abs(results["plain"]).max(), 1e-9))
    return {"operation": name, "choice": choice, **times, "differs": differs}


def _within(call: Call, names: tuple[str, ...]) -> mx.array:
    with choices(names):
        return call()


def operations(turns: int, shrink: int) -> Iterator[dict[str, Any]]:
    """Convolutions and attention of a UNet's shapes, those that a choice changes; half precision on a GPU."""
    dtype = mx.float16 if backend.is_gpu() else mx.float32
    for rows, side, channels in CONVOLUTIONS:
        side, channels = max(4, side // shrink), max(8, channels // shrink)
        x = mx.random.normal((rows, side, side, channels)).astype(dtype)
        weight = (mx.random.normal((channels, 3, 3, channels)) / (3 * channels**0.5)).astype(dtype)
        mx.eval(x, weight)
        with choices(apple.CHOICES):
            serves = apple.unfolds(x, weight, 1) or shrink > 1
        if serves:
            name = f"convolution {rows}x{side}x{side}x{channels}"
            yield both_ways(name, apple.UNFOLD, lambda x=x, w=weight: lambda: evaluated(conv2d(x, w, padding=1)), turns)
    for rows, tokens, heads, size in ATTENTIONS:
        q, k, v = (mx.random.normal((rows, max(8, tokens // shrink), heads * size)).astype(dtype) for _ in range(3))
        mx.eval(q, k, v)
        with choices(apple.CHOICES):
            if apple.head_size(size) == size:
                continue
        name = f"attention {rows}x{q.shape[1]}, {heads} heads of {size}"

        def make(q: mx.array = q, k: mx.array = k, v: mx.array = v, heads: int = heads) -> Call:
            return lambda: evaluated(attention(q, k, v, heads=heads))

        yield both_ways(name, apple.HEADS96, make, turns)


def network(model: str, turns: int) -> Iterator[dict[str, Any]]:
    """A UNet's call for one picture with guidance, with each choice beside none."""
    config = checkpoints.published(model)["unet"]
    parsed, dtype = UNetConfig.from_dict(config), devices.dtype_name()
    weights = checkpoints.random_weights(unet_peers.UNet2DConditionModel(parsed), dtype)
    peer = unet_peers.Mlxdiff(config, {path: mx.array(array) for path, array in weights.items()})
    size = config["sample_size"]
    inputs = unet_peers.Inputs.random(parsed, 2, size, size, dtype)
    for choice in apple.CHOICES:
        yield both_ways(f"UNet, {checkpoints.TITLES[model]}", choice, lambda: peer.ready(inputs), turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=checkpoints.MODELS, default="sd15")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--shrink", type=int, default=1, help="divide the operations' sides, to try the script")
    parser.add_argument("--anywhere", action="store_true", help="also where there is no Metal")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not mx.metal.is_available() and not options.anywhere:
        sys.exit("MLX has no Metal here: this is for Macs. To try the script all the same: --anywhere")
    backend.prepare()
    about = {**machine.describe("mlx", "mlxdiff"), "chooses": ",".join(apple.used()) or apple.NONE}
    about["architecture"] = str(mx.device_info(mx.default_device()).get("architecture", ""))
    with choices(()):
        rendered = pictures(options.steps)
        timed = [*operations(options.turns, options.shrink), *network(options.model, options.turns)]
    if options.json:
        print(json.dumps({**about, "pictures": rendered, "timed": timed}))
        return
    print(machine.line(about), end="\n\n")
    header = ("pictures beside the CPU's, worst of three", "decibels")
    print(timing.table(header, [(row["dtype"], f"{row['decibels']:.1f}") for row in rendered]), end="\n\n")
    rows = [
        (
            *(row["operation"], row["choice"], f"{1000 * row['plain']:.2f}", f"{1000 * row['own']:.2f}"),
            *(f"{row['plain'] / row['own']:.2f}", f"{row['differs']:.1e}"),
        )
        for row in timed
    ]
    print(timing.table(("operation", "choice", "MLX's way, ms", "chosen, ms", "times as fast", "differs"), rows))


if __name__ == "__main__":
    main()
