"""What the approximations cost and save: PSNR against the exact picture, and how much faster the denoising is.

    python benchmarks/approximations.py [--pictures N] [--write] [--json]

Each picture is denoised alone, exactly and with each setting in turn, so that a ratio compares neighbours in time. The
table goes into docs/faster.md. The pictures are the built-in model's with its own steps and guidance.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import mlx.core as mx
import numpy as np

from mlxdiff import StableDiffusion, backend

PAGE = Path(__file__).parents[1] / "docs" / "faster.md"
START, END = "<!-- approximations -->\n", "<!-- /approximations -->"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--pictures", type=int, default=len(PROMPTS), choices=range(1, len(PROMPTS) + 1))
    parser.add_argument("--write", action="store_true", help="put the table into docs/faster.md")
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")
    arguments = parser.parse_args()
    described = machine.describe("mlx", "mlxdiff") | {"device": str(backend.describe()["device"])}
    rows = measured(StableDiffusion(arguments.model).load(), PROMPTS[: arguments.pictures])
    if arguments.json:
        print(json.dumps({"model": arguments.model, **described, "pictures": arguments.pictures, "settings": rows}))
        return
    shown = f"{table(rows)}\n\n{machine.line(described)}.\n"
    print(shown, end="")
    if arguments.write:
        head, rest = PAGE.read_text().split(START, 1)
        PAGE.write_text(head + START + shown + END + rest.split(END, 1)[1])


def measured(sd: StableDiffusion, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """For each setting its PSNRs in dB and its speed-ups, one a picture."""
    rows = [{"setting": setting, "psnr": [], "speedup": []} for setting in SETTINGS]
    for setting in ({}, *SETTINGS):
        denoised(sd, prompts[0], 0, {"steps": 3, **setting})
    for seed, prompt in enumerate(prompts):
        exact, seconds = denoised(sd, prompt, seed, {})
        for row in rows:
            picture, took = denoised(sd, prompt, seed, row["setting"])
            row["psnr"].append(round(psnr(picture, exact), 1))
            row["speedup"].append(round(seconds / took, 3))
    return rows


def denoised(sd: StableDiffusion, prompt: str, seed: int, setting: dict[str, Any]) -> tuple[np.ndarray, float]:
    """The picture (H, W, 3), and the seconds that its denoising steps took."""
    latents = mx.array([])
    start = time.perf_counter()
    for latents in sd.generate_latents(prompt, seed=seed, **setting):
        mx.eval(latents)
    took = time.perf_counter() - start
    return np.array(sd.decode(latents))[0], took


def psnr(picture: np.ndarray, exact: np.ndarray) -> float:
    error = float(((picture - exact) ** 2).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [["setting", "times as fast", "PSNR, median", "lowest"], ["---"] * 4]
    for row in rows:
        options = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in row["setting"].items())
        fast, middle = statistics.median(row["speedup"]), statistics.median(row["psnr"])
        lines.append([f"`{options}`", f"{fast:.2f}", f"{middle:.1f} dB", f"{min(row['psnr']):.1f} dB"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
