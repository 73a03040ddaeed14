"""Thousands of damaged and hostile checkpoints: each loads and runs, or is refused in words; none crashes or hangs.

MLXDIFF_FUZZ=20000 runs more, MLXDIFF_FUZZ_FIRST=5000 other seeds. A failure names its seed, to be run alone with
MLXDIFF_FUZZ_FIRST=<seed> MLXDIFF_FUZZ=1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mutations
import pytest
import tiny
from patience import WAIT

import mlxdiff
from mlxdiff import hub, quantized

HERE = Path(__file__).parent
EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"
FIRST = int(os.environ.get("MLXDIFF_FUZZ_FIRST", "0"))
COUNT = int(os.environ.get("MLXDIFF_FUZZ", "2000"))
WORKERS = min(2, os.cpu_count() or 1)


def prepare(folder: Path) -> None:
    """Sound checkpoints: the built-in one, its quantized copy, and one in shards as diffusers writes them."""
    shutil.copytree(EMOJI, folder / "emoji", ignore=shutil.ignore_patterns("*.md"))
    quantized.write_quantized(hub.resolve(str(EMOJI)), 4, folder / "quantized")
    tiny.write(tiny.sd15, folder / "shards", max_shard_size="200KB")


def run(models: Path, scratch: Path, first: int, count: int) -> dict[int, str]:
    """The outcome of each seed; a worker that dies or hangs is replaced, and its seed has failed."""
    outcomes: dict[int, str] = {}
    while len(outcomes) < count:
        start = first + len(outcomes)
        command = [sys.executable, HERE / "fuzz_worker.py", models, scratch, str(start), str(count - len(outcomes))]
        error = scratch.with_suffix(".err")
        with (
            error.open("wb") as stderr,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as worker,
        ):
            assert worker.stdout is not None
            seed, name = None, ""
            alarm = threading.Timer(WAIT, worker.kill)
            alarm.start()
            for line in worker.stdout:
                alarm.cancel()
                alarm = threading.Timer(WAIT, worker.kill)
                alarm.start()
                word, number, rest = line.rstrip("\n").split(" ", 2)
                if word == "start":
                    seed, name = int(number), rest
                else:
                    outcomes[int(number)], seed = f"{name}: {rest}", None
            alarm.cancel()
        if seed is not None:
            outcomes[seed] = f"{name}: FAILED, the worker ended ({worker.returncode}): {error.read_text()[-1500:]}"
        elif len(outcomes) < count:
            raise AssertionError(f"The worker does not start: {error.read_text()[-3000:]}")
    return outcomes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_hostile_checkpoint_loads_or_is_refused_in_words(tmp_path):
    prepare(tmp_path / "models")
    share = -(-COUNT // WORKERS)
    shares = [(start, min(share, FIRST + COUNT - start)) for start in range(FIRST, FIRST + COUNT, share)]
    with ThreadPoolExecutor(WORKERS) as pool:
        runs = [pool.submit(run, tmp_path / "models", tmp_path / f"scratch{start}", start, n) for start, n in shares]
    outcomes = {seed: said for future in runs for seed, said in future.result().items()}
    failed = [f"seed {seed}, {said}" for seed, said in sorted(outcomes.items()) if "FAILED" in said]
    assert not failed, f"{len(failed)} of {COUNT}:\n" + "\n".join(failed[:20])
    assert len(outcomes) == COUNT
    if COUNT >= 1000:  # mutations that all load, or are all refused, would try nothing
        loaded = sum(said.endswith(": loaded") for said in outcomes.values())
        assert 0.1 < loaded / COUNT < 0.9


def test_a_seed_gives_the_same_bytes():
    import random

    for name in ("unet/config.json", "tokenizer/merges.txt", "text_encoder/model.safetensors"):
        content = (EMOJI / name).read_bytes()
        for seed in range(5):
            first, second = (mutations.mutate(name, content, random.Random(seed)) for _ in range(2))
            assert first == second
