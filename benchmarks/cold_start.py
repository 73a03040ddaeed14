"""From the shell's prompt to a picture on disk with the built-in model, beside a bare import of MLX.

Runs whole processes in turn and prints medians, so that a busy moment hits both. The first turn, which is left out,
fills the disk cache and writes Python's bytecode, which a user's installation has: PYTHONDONTWRITEBYTECODE is not
passed on.
    python benchmarks/cold_start.py [--repeats 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import machine
import timing

RENDER = ["-m", "mlxdiff", "generate", "a red apple", "--steps", "25", "--seed", "0", "--output"]


def seconds(arguments: list[str]) -> float:
    return timing.seconds_of_process([sys.executable, *arguments])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"import mlx.core": [], "mlxdiff --help": [], "mlxdiff generate": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats + 1):  # the first turn is left out
            now = {
                "import mlx.core": seconds(["-c", "import mlx.core"]),
                "mlxdiff --help": seconds(["-m", "mlxdiff", "--help"]),
                "mlxdiff generate": seconds([*RENDER, str(Path(folder) / f"{turn}.png")]),
            }
            for name, value in now.items():
                if turn > 0:
                    times[name].append(value)
    medians = {name: statistics.median(values) for name, values in times.items()}
    about = machine.describe("mlx", "mlxdiff", "scipy-openblas32")
    if options.json:
        print(json.dumps({"seconds": medians, **about}))
        return
    print(machine.line(about))
    print(f"{'process':20} {'seconds':>8} {'x import':>9}")
    for name, value in medians.items():
        print(f"{name:20} {value:8.2f} {value / medians['import mlx.core']:9.1f}")


if __name__ == "__main__":
    main()
