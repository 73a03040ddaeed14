"""What the approximations cost and save: PSNR against the exact picture, and how much faster the denoising is.

    python benchmarks/approximations.py [--pictures N] [--write] [--json]
    python benchmarks/approximations.py --transformer [--json]

Each picture is denoised alone, exactly and with each setting in turn, so that a ratio compares neighbours in time. The
tables go into docs/faster.md. The pictures are the built-in model's with its own steps and guidance.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import machine
import mlx.core as mx
import numpy as np
import pages
import timing

from mlxdiff import StableDiffusion
from mlxdiff.models.transformer import Transformer2DModel

PROMPTS = ("a red apple", "a smiling cat face", "a green tree", "a blue car", "a slice of pizza", "a yellow star")
SETTINGS: tuple[dict[str, Any], ...] = (
    {"guidance_end": 0.8},
    {"guidance_end": 0.6},
    {"guidance_end": 0.4},
    {"guidance_start": 0.2},
    {"cache_interval": 2},
    {"cache_interval": 3},
    {"cache_interval": 5},
    {"token_merging": 0.5},
    {"token_merging": 0.75},
    {"guidance_end": 0.6, "cache_interval": 3},
)
MERGED = (0.0, 0.25, 0.5, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--pictures", type=int, default=len(PROMPTS), choices=range(1, len(PROMPTS) + 1))
    parser.add_argument("--transformer", action="store_true", help="token merging in SD 1.5's finest transformer alone")
    parser.add_argument("--write", action="store_true", help="put the table into docs/faster.md")
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")
    arguments = parser.parse_args()
    described = machine.describe("mlx", "mlxdiff")
    if arguments.transformer:
        rows, tabled = transformer_alone(), transformer_table
    else:
        rows, tabled = measured(StableDiffusion(arguments.model).load(), range(arguments.pictures)), table
    if arguments.json:
        print(json.dumps({"model": arguments.model, **described, "settings": rows}))
        return
    shown = f"{tabled(rows)}\n\n{machine.line(described)}.\n"
    print(shown, end="")
    if arguments.write:
        mark = "transformer" if arguments.transformer else "approximations"
        pages.write("faster.md", mark, shown)


def measured(sd: StableDiffusion, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """For each setting its PSNRs in dB and its speed-ups, one a picture; each seed has a prompt of its own."""
    rows = [{"setting": setting, "psnr": [], "speedup": []} for setting in SETTINGS]
    for setting in ({}, *SETTINGS):
        denoised(sd, 0, {"steps": 3, **setting})
    for seed in seeds:
        exact, seconds = denoised(sd, seed, {})
        for row in rows:
            picture, took = denoised(sd, seed, row["setting"])
            row["psnr"].append(round(psnr(picture, exact), 1))
            row["speedup"].append(round(seconds / took, 3))
    return rows


def denoised(sd: StableDiffusion, seed: int, setting: dict[str, Any]) -> tuple[np.ndarray, float]:
    """The picture (H, W, 3), and the seconds that its denoising steps took."""
    latents = mx.array([])
    start = time.perf_counter()
    for latents in sd.generate_latents(PROMPTS[seed], seed=seed, **setting):
        mx.eval(latents)
    took = time.perf_counter() - start
    return np.array(sd.decode(latents))[0], took


def psnr(picture: np.ndarray, exact: np.ndarray) -> float:
    error = float(((picture - exact) ** 2).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        options = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in row["setting"].items())
        fast, middle = statistics.median(row["speedup"]), statistics.median(row["psnr"])
        lines.append([f"`{options}`", f"{fast:.2f}", f"{middle:.1f} dB", f"{min(row['psnr']):.1f} dB"])
    return timing.table(["setting", "times as fast", "PSNR, median", "lowest"], lines)


def transformer_alone(turns: int = 5) -> list[dict[str, Any]]:
    """What merging saves where there are many tokens: 64x64 cells, two rows, random weights."""
    transformer = Transformer2DModel(
        320, 8, 1, 768, groups=32, use_linear_projection=False, only_cross_attention=False, upcast=False
    )
    x = mx.random.normal((2, 64, 64, 320), key=mx.random.key(0))
    keys_values = transformer.keys_values(mx.random.normal((2, 77, 768), key=mx.random.key(1)))
    calls = {str(ratio): partial(run, transformer, x, keys_values, ratio) for ratio in MERGED}
    for call in calls.values():
        call()
    seconds = timing.alternately(calls, turns=turns, between=lambda: None)
    exact = seconds[str(MERGED[0])]
    return [
        {"token_merging": ratio, "seconds": seconds[str(ratio)], "speedup": exact / seconds[str(ratio)]}
        for ratio in MERGED
    ]


def run(transformer: Transformer2DModel, x: mx.array, keys_values: list, ratio: float) -> None:
    mx.eval(transformer(x, keys_values, ratio))


def transformer_table(rows: list[dict[str, Any]]) -> str:
    lines = [[f"{row['token_merging']:g}", f"{row['seconds']:.3f}", f"{row['speedup']:.2f}"] for row in rows]
    return timing.table(["token merging", "seconds", "times as fast"], lines)


if __name__ == "__main__":
    main()
