"""What a LoRA costs: putting it on beside loading the model, and a UNet call with it beside one without.

    python benchmarks/lora.py            the built-in model
    python benchmarks/lora.py --large    a random UNet of SD 1.5's size (needs 2 GB of disk and 12 GB of memory)

docs/lora.md has the numbers. The LoRA changes every linear layer of attention and of the feed-forward parts. What is
compared takes turns. On a CPU processor time is counted, and time by the clock on a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import machine
import timing
from quantization import random_model

RANKS = (8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="a random UNet of SD 1.5's size instead")
    parser.add_argument("--dtype", default=None, help="the default of the device, if not given")
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    print(machine.line(machine.describe("mlx", "mlxdiff")))
    with tempfile.TemporaryDirectory() as home:
        os.environ["MLXDIFF_HOME"] = home
        model = str(random_model(Path(home) / "large")) if arguments.large else "emoji"
        for rank in RANKS:
            measure(model, rank, Path(home), arguments)


def measure(model: str, rank: int, folder: Path, arguments: argparse.Namespace) -> None:

    from mlxdiff import StableDiffusion
    from mlxdiff.hashing import content_hash
    from mlxdiff.loras import Weighted

    path = lora(model, rank, folder / f"rank-{rank}.safetensors")
    adapters = (Weighted(path, content_hash(path), 0.8, 0.8),)
    rows = []
    for bits in (None, 8, 4):
        sds = {name: StableDiffusion(model, dtype=arguments.dtype, quantize=bits) for name in ("without", "with")}
        loading = [seconds(partial(sd.networks.adapted, "backbone", ())) for sd in sds.values()]
        networks = sds["with"].networks
        networks.adapting.check(adapters)  # what a request does when it is resolved
        putting, taking = [], []
        for _ in range(3):
            putting.append(seconds(partial(networks.adapted, "backbone", adapters)))
            taking.append(seconds(partial(networks.adapted, "backbone", ())))
        networks.adapted("backbone", adapters)
        calls = {name: call_of(sd) for name, sd in sds.items()}
        times = in_turns(calls, arguments.turns)
        ratio = times["with"] / times["without"] - 1
        rows.append(
            [
                "none" if bits is None else f"{bits} bits",
                *(f"{1000 * statistics.median(each):.0f} ms" for each in (loading, putting, taking)),
                *(f"{1000 * times[name]:.1f} ms" for name in ("without", "with")),
                f"{100 * ratio:+.1f} %",
            ]
        )
    size = path.stat().st_size / 1e6
    print(f"\nRank {rank}, {size:.1f} MB\n")
    header = (
        "quantize",
        "loading the UNet",
        "putting it on",
        "taking it off",
        "a call without",
        "with it",
        "difference",
    )
    print(timing.table(header, rows))


def seconds(call: Callable[[], object]) -> float:
    from mlxdiff import backend

    clock = time.perf_counter if backend.is_gpu() else time.process_time
    start = clock()
    call()
    return clock() - start


def in_turns(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Medians; what is called first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            taken = seconds(call)
            if turn > 0:
                times[name].append(taken)
    return {name: statistics.median(each) for name, each in times.items()}


def call_of(sd) -> Callable[[], object]:
    """A call of the UNet for one image with guidance."""
    import mlx.core as mx

    from mlxdiff.conditioning import Conditioning

    backbone = sd.networks.backbone
    config = backbone.config
    size = config.latent_size
    width = config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    context = mx.random.normal((2, 77, width), key=mx.random.key(0))
    latents = mx.random.normal((2, *size, config.in_channels), key=mx.random.key(1))
    prepared = backbone.prepare(Conditioning(context), [500.0], guidance_scale=1.0)
    return lambda: mx.eval(backbone(latents, 500.0, prepared))


def lora(model: str, rank: int, path: Path) -> Path:
    """A random LoRA for all linear layers of the UNet's transformers, in kohya's naming, fp16."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from mlxdiff import StableDiffusion
    from mlxdiff.families import base

    network = base.build_network(StableDiffusion(model).checkpoint, "unet")
    parameters: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    arrays = {}
    for i, (name, weight) in enumerate(parameters.items()):
        if "transformer_blocks" not in name or weight.ndim != 2:
            continue
        key = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        down = mx.random.normal((rank, weight.shape[1]), key=mx.random.key(2 * i)) * 0.02
        up = mx.random.normal((weight.shape[0], rank), key=mx.random.key(2 * i + 1)) * 0.02
        arrays |= {f"{key}.lora_down.weight": down.astype(mx.float16), f"{key}.lora_up.weight": up.astype(mx.float16)}
    mx.save_safetensors(str(path), arrays)
    return path


if __name__ == "__main__":
    main()
