"""What one picture takes: from the shell's prompt to a file, by phase in seconds, and the memory that each phase needs.

The cold start is a whole `python -m mlxdiff generate`. The phases are measured in a process of their own for each size:
load (configs and weights mapped), encode (the prompt), the first step (weights read, kernels compiled), the steps after
it (their median), and decode, as a whole and in tiles. The built-in model has its own size; the others have random
weights (checkpoints.py).
    python benchmarks/latency.py [--models emoji,sd21] [--sizes 512,768,1024] [--steps 20] [--tile 512] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
import machine
import mlx.core as mx
import timing

from mlxdiff import Request, StableDiffusion, backend

PROMPT = "a red apple"
SMALL = 8  # latent cells; decoding so few reads the weights and compiles most kernels, before times are taken


@dataclass
class Phases:
    """Seconds and peak bytes by phase: what MLX held at most, and what the system counted (None where it can't)."""

    seconds: dict[str, float] = field(default_factory=dict)
    mlx_peak: dict[str, int] = field(default_factory=dict)
    resident_peak: dict[str, int | None] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        mx.reset_peak_memory()
        reset_resident_peak()
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.mlx_peak[name] = mx.get_peak_memory()
        self.resident_peak[name] = resident_peak()


def reset_resident_peak() -> None:
    """Starts the kernel's count of this process' peak afresh (proc_pid_clear_refs(5)), on Linux."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def resident_peak() -> int | None:
    """Bytes of memory that this process had at most since the last reset; None elsewhere than on Linux."""
    file = Path("/proc/self/status")
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def measure(model: str, size: int | None, steps: int, tile: int) -> Phases:
    """One picture, phase by phase; for a fresh process, so that nothing is loaded or compiled yet."""
    found = Phases()
    with found.phase("load"):
        sd = StableDiffusion(model).load()
    request = sd.resolve(Request(PROMPT, seed=0, steps=steps, height=size, width=size))
    with found.phase("encode"):
        loop = sd.denoise(request)
        step = next(loop)  # evaluates the conditioning, and nothing else
    with found.phase("first step"):
        mx.eval(step.latents)
    times = []
    with found.phase("step"):
        start = time.perf_counter()
        for step in loop:
            mx.eval(step.latents)
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    found.seconds["step"] = statistics.median(times)
    latents = step.latents
    mx.eval(sd.decode(latents[:, :SMALL, :SMALL]))
    with found.phase("decode"):
        mx.eval(sd.decode(latents))
    if tile < sd.checkpoint.scale_factor * latents.shape[1]:
        mx.clear_cache()
        with found.phase("decode in tiles"):
            mx.eval(sd.decode(latents, tile=tile))
    return found


def in_fresh_process(*arguments: Any) -> Phases:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()


def cold_start(model: str, size: int | None, steps: int, repeats: int) -> float:
    """Median seconds of a whole process that writes one picture."""
    command = [sys.executable, "-m", "mlxdiff", "--quiet", "generate", PROMPT, "--model", model]
    command += ["--steps", str(steps), "--seed", "0", "--force"]
    if size is not None:
        command += ["--height", str(size), "--width", str(size)]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--output", str(Path(folder) / "picture.png")]
        return statistics.median(timing.seconds_of_process(command) for _ in range(repeats))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["emoji", "sd21"] if backend.is_gpu() else ["emoji"]
    names = ("emoji", *checkpoints.MODELS)
    parser.add_argument("--models", type=lambda text: text.split(","), default=models, help=f"of {', '.join(names)}")
    parser.add_argument("--sizes", type=lambda text: [*map(int, text.split(","))], default=[512, 768, 1024])
    parser.add_argument("--steps", type=int, default=20, help="two at least")
    parser.add_argument("--tile", type=int, default=512, help="pixels along a tile's side")
    parser.add_argument("--repeats", type=int, default=3, help="of the cold start")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.models) - set(names):
        parser.error(f"no model is called {', '.join(sorted(unknown))}")
    if options.steps < 2:
        parser.error("the first step is measured apart, so there must be two")
    return options


def main() -> None:
    options = parse()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = name if name == "emoji" else str(checkpoints.write(name, Path(folder) / name))
            for size in [None] if name == "emoji" else options.sizes:
                phases = in_fresh_process(model, size, options.steps, options.tile)
                took = cold_start(model, size, options.steps, options.repeats)
                rows.append({"model": name, "size": size, "cold_start": took, **asdict(phases)})
                print(f"{name} {size or ''}: {took:.1f} s", file=sys.stderr)
    about = machine.describe("mlx", "mlxdiff") | {"backend": backend.backend_name()}
    settings = {"steps": options.steps, "tile": options.tile, "repeats": options.repeats}
    if options.json:
        print(json.dumps({"rows": rows, "settings": settings, **about}))
        return
    print(machine.line(about))
    print(f"{options.steps} steps with guidance, tiles of {options.tile} pixels\n\nSeconds:\n")
    print(report(rows, "seconds", lambda value: f"{value:.3f}"))
    for key, title in (("mlx_peak", "MLX's peak memory, GB:"), ("resident_peak", "The process' peak memory, GB:")):
        print(f"\n{title}\n")
        print(report(rows, key, lambda value: f"{value / 1e9:.2f}"))


def report(rows: list[dict[str, Any]], key: str, written: Any) -> str:
    """A line for each model and size, a column for each phase; seconds have the cold start in front."""
    phases = list(dict.fromkeys(phase for row in rows for phase in row[key]))
    with_start = ["cold start"] if key == "seconds" else []
    lines = []
    for row in rows:
        values = [row["cold_start"]] if with_start else []
        values += [row[key].get(phase) for phase in phases]
        size = "its own" if row["size"] is None else str(row["size"])
        lines.append([row["model"], size, *("-" if value is None else written(value) for value in values)])
    return timing.table(["model", "size", *with_start, *phases], lines)


if __name__ == "__main__":
    main()
