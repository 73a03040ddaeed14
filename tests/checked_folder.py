"""A folder as a run leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlxdiff.batch.jobs import Job
from mlxdiff.batch.journal import Journal, Run
from mlxdiff.batch.store import Store
from mlxdiff.request import Resolved


def request(seed: int, **changes) -> Resolved:
    values = {"prompt": f"a cat {seed}", "seed": seed, "steps": 2, "height": 16, "width": 24, "model": "emoji"}
    values |= {"sampler": "ddim", "guidance_scale": 2.0, "dtype": "fp32", "prompt_syntax": "a1111"}
    return Resolved(**values | changes)


def write(folder: Path, names: list[str], **changes) -> None:
    """Pictures of random pixels with latents and a trajectory, and their journal."""
    journal = Journal(folder)
    journal.begin(Run("r", 1, 1))
    store = Store(folder, journal, latents=True, trajectory=True)
    for seed, name in enumerate(names, 1):
        chance = np.random.default_rng(seed)
        pixels = chance.integers(0, 256, (16, 24, 3)).astype(np.uint8)
        latents = chance.standard_normal((4, 6, 4)).astype(np.float32)
        steps = np.stack([latents, latents])[:, None]
        job = Job(seed, request(seed, **changes), folder / name, "the test", f"id{seed}", counted=True)
        store.write(job, pixels, latents, (steps, steps))
