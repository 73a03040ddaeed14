"""What the bounds of `mlxdiff info --check --rerender` lie between: a picture beside the same one, and beside others.

    python benchmarks/rerendering.py [--pictures N] [--write]

The built-in model's pictures with each of three samplers, fp32 and its own guidance. The table goes into
docs/checking.md.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import machine
import numpy as np
import pages
import timing
from approximations import psnr

from mlxdiff import StableDiffusion

PROMPTS = ("a red apple", "a fox, noto style", "a castle on a blue background", "a smiling face")
SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m")
CHANGES: dict[str, dict[str, Any]] = {
    "another seed": {"seed": 100},
    "one word more in the prompt": {"word": " today"},
    "`--guidance-scale` 1.7 instead of 1.5": {"guidance_scale": 1.7},
    "21 steps instead of 20": {"steps": 21},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=len(PROMPTS), choices=range(1, len(PROMPTS) + 1))
    parser.add_argument("--write", action="store_true", help="put the table into docs/checking.md")
    arguments = parser.parse_args()
    shown = f"{table(measured(arguments.pictures))}\n\n{machine.line(machine.describe('mlx', 'mlxdiff'))}.\n"
    print(shown, end="")
    if arguments.write:
        pages.write("checking.md", "rerendering", shown)


def measured(pictures: int) -> dict[str, list[tuple[float, int]]]:
    """(dB, largest difference of 255) of each kind of change."""
    sd, half = StableDiffusion("emoji", dtype="fp32"), StableDiffusion("emoji", dtype="fp16")
    found: dict[str, list[tuple[float, int]]] = {}
    for sampler in SAMPLERS:
        prompts = list(PROMPTS[:pictures])
        given = {"sampler": sampler, "steps": 20, "guidance_scale": 1.5}
        exact = [drawn(sd, prompt, i, given) for i, prompt in enumerate(prompts)]
        batch = [np.asarray(picture) for picture in sd.generate(prompts, seed=0, **given)]
        for i, prompt in enumerate(prompts):

            def add(change: str, picture: np.ndarray, beside: np.ndarray) -> None:
                found.setdefault(change, []).append(compared(picture, beside))

            add("the same again", drawn(sd, prompt, i, given), exact[i])
            add(f"in a batch of {pictures}", batch[i], exact[i])
            few = given | {"steps": 6}
            add("in fp16 (6 steps)", drawn(half, prompt, i, few), drawn(sd, prompt, i, few))
            for name, change in CHANGES.items():
                word, seed = change.get("word", ""), change.get("seed", 0)
                others = {key: value for key, value in change.items() if key not in ("word", "seed")}
                add(name, drawn(sd, prompt + word, seed + i, given | others), exact[i])
    return found


def drawn(sd: StableDiffusion, prompt: str, seed: int, settings: dict[str, Any]) -> np.ndarray:
    (picture,) = sd.generate(prompt, seed=seed, **settings)
    return np.asarray(picture)


def compared(picture: np.ndarray, beside: np.ndarray) -> tuple[float, int]:
    differs = np.abs(picture.astype(np.float64) - beside)
    return psnr(differs / 255, np.zeros(1)), int(differs.max())


def table(found: dict[str, list[tuple[float, int]]]) -> str:
    lines = []
    for name, pairs in found.items():
        finite = [decibels for decibels, _ in pairs if decibels < math.inf]
        said = span(finite, ".0f") + (", or equal" if len(finite) < len(pairs) else "") if finite else "equal"
        lines.append([name, said, span([largest for _, largest in pairs], "d")])
    return timing.table(["compared with the picture", "dB", "largest difference"], lines)


def span(values: list[Any], form: str) -> str:
    """`54 to 61`, or one number where both are the same."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
