"""Pictures a second over batch sizes with the built-in model, and the share of the time that the model does not take.

Each size renders the same prompts through the batch runner into a new folder, journal and PNG files included. Outside
the model is the time in which the main thread neither waits for MLX nor fetches a picture from it: Python, and whatever
of the writing is not overlapped. The sizes take turns, so that a busy moment hits all, and medians are printed.
    python benchmarks/batch.py [--images 48] [--steps 10] [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import mlx.core as mx

from mlxdiff import Model, Request, backend, images
from mlxdiff.batch.jobs import Batch, grouped, jobs_of
from mlxdiff.batch.journal import Journal, Run
from mlxdiff.batch.models import Models
from mlxdiff.batch.naming import parse_output
from mlxdiff.batch.prompts import Entry
from mlxdiff.batch.runner import run
from mlxdiff.batch.store import Store

SIZES = (1, 2, 4, 6, 8, 12, 16)
THINGS = ("apple", "cat", "house", "tree", "fish", "star", "car", "moon")


@dataclass(frozen=True)
class Row:
    batch_size: int
    images_a_second: float
    outside: float


def batches_of(models: Models, folder: Path, n_images: int, steps: int, size: int) -> list[Batch]:
    entries = [
        Entry(Request(f"a {THINGS[i % len(THINGS)]}", seed=i, steps=steps, model="emoji"), None, str(i))
        for i in range(n_images)
    ]
    found = grouped(jobs_of(entries, models.resolve, parse_output(f"{folder}/", several=True)), size)
    return [batch for batch in found if batch is not None]


@dataclass
class Waiting:
    """Adds up the seconds that a function takes, whoever calls it."""

    seconds: float = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def measure(models: Models, batches: list[Batch], folder: Path, size: int) -> tuple[float, float]:
    """Seconds of a run, from the first line of the journal to the last, and those in which it waited for the model."""
    waiting = Waiting()
    # MLX lets no more than a few operations queue up, so that most of async_eval is waiting, too.
    plain = mx.eval, mx.async_eval, images.to_uint8
    mx.eval, mx.async_eval, images.to_uint8 = (waiting.timed(function) for function in plain)
    try:
        start = time.perf_counter()
        journal = Journal(folder)
        journal.begin(Run("benchmark", 0, size))
        for _ in run(models, batches, Store(folder, journal)):
            pass
        return time.perf_counter() - start, waiting.seconds
    finally:
        mx.eval, mx.async_eval, images.to_uint8 = plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    models = Models()
    models.use(Model("emoji"))
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as temporary:
        for turn in range(options.repeats + 1):  # the first turn warms up
            for size in SIZES:
                folder = Path(temporary) / f"{turn}-{size}"
                n_images = size if turn == 0 else options.images
                batches = batches_of(models, folder, n_images, options.steps, size)
                now = measure(models, batches, folder, size)
                if turn > 0:
                    times[size].append(now)
    rows = []
    for size, measured in times.items():
        total, model = (statistics.median(column) for column in zip(*measured, strict=True))
        rows.append(Row(size, options.images / total, 1 - model / total))
    about = machine.describe("mlx", "mlxdiff", "scipy-openblas32") | {"backend": backend.backend_name()}
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], **about}))
        return
    print(machine.line(about))
    print(f"{options.images} pictures, {options.steps} steps")
    print("| batch size | images/s | outside the model |\n|---|---|---|")
    for row in rows:
        print(f"| {row.batch_size} | {row.images_a_second:.2f} | {row.outside:.1%} |")


if __name__ == "__main__":
    main()
