"""How far pictures of the built-in LoRA emoji-4steps are from those of 25 steps, and how much sooner they are there.

    python benchmarks/few_steps.py [--turns N] [--write]

Sixteen pictures, all of one seed, in fp32; 25 steps, 4 steps with the LoRA, and 4 steps without it. Times are medians
of turns that all of them take. The table goes into docs/faster.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from typing import Any

import machine
import numpy as np
import pages
import timing
from approximations import psnr

from mlxdiff import MlxdiffWarning, StableDiffusion

PROMPTS = (
    *("a red apple", "a castle", "a fox", "a robot", "a smiling face", "a guitar, noto style", "a green tree", "a car"),
    *("a slice of pizza", "a yellow star", "a ghost on a purple background", "a cat with sunglasses", "a whale"),
    *("three apples", "a dog face, flat style", "a rocket, twemoji style on a blue background"),
)
SEED = 7
WAYS: dict[str, dict[str, Any]] = {
    "`--steps 25`, the default": {},
    "`--lora emoji-4steps`": {"lora": "emoji-4steps"},
    "`--steps 4`": {"steps": 4},
    "`--steps 4 --cfg 1`": {"steps": 4, "guidance_scale": 1},
}
CALLS = (50, 4, 8, 4)  # of the network; two in a step with guidance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="put the table into docs/faster.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", MlxdiffWarning)  # that emoji-4steps is a few-step LoRA
    shown = f"{table(arguments.turns)}\n\n{machine.line(machine.describe('mlx', 'mlxdiff'))}.\n"
    print(shown, end="")
    if arguments.write:
        pages.write("faster.md", "few-steps", shown)


def table(turns: int) -> str:
    warm = {name: StableDiffusion("emoji", dtype="fp32") for name in WAYS}  # each keeps its LoRA on
    pictures = {name: [drawn(warm[name], prompt, settings) for prompt in PROMPTS] for name, settings in WAYS.items()}
    (exact, *_) = pictures.values()
    calls = {name: lambda name=name: drawn(warm[name], PROMPTS[0], WAYS[name]) for name in WAYS}
    in_process = timing.alternately(calls, turns=turns, between=lambda: None)
    with tempfile.TemporaryDirectory() as folder:
        commands = {name: command(settings, folder) for name, settings in WAYS.items()}
        processes = {name: lambda words=words: timing.seconds_of_process(words) for name, words in commands.items()}
        whole = timing.alternately(processes, turns=turns, between=lambda: None)
    slowest = next(iter(WAYS))
    lines = []
    for (name, found), n in zip(pictures.items(), CALLS, strict=True):
        distances = [psnr(picture, beside) for picture, beside in zip(found, exact, strict=True)]
        far = ["", ""]
        if name != slowest:
            far = [f"{statistics.median(distances):.1f} dB", f"{min(distances):.1f} dB"]
        times = [f"{in_process[slowest] / in_process[name]:.1f}", f"{whole[slowest] / whole[name]:.1f}"]
        lines.append([name, str(n), *far, *times])
    print(f"seconds in a warm process: {rounded(in_process)}; of the whole command: {rounded(whole)}", file=sys.stderr)
    header = ["", "network calls", "PSNR, median", "lowest", "times as fast, warm", "whole command"]
    return timing.table(header, lines)


def command(settings: dict[str, Any], folder: str) -> list[str]:
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    where = ["--seed", str(SEED), "--quiet", "--force", "--output", f"{folder}/picture.png"]
    return [sys.executable, "-m", "mlxdiff", "generate", PROMPTS[0], *where, *options]


def drawn(sd: StableDiffusion, prompt: str, settings: dict[str, Any]) -> np.ndarray:
    (picture,) = sd.generate(prompt, seed=SEED, **settings)
    return np.asarray(picture, np.float64) / 255


def rounded(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())


if __name__ == "__main__":
    main()
