"""LoRAs from the command line: options, tags, a line each, sweeps, runs that are killed, and files that are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import lora_files
import numpy as np
import pytest
import tiny
from diffusers import StableDiffusionPipeline
from killing import killed_after
from PIL import Image
from program import mlxdiff
from safetensors.numpy import load_file, save_file

from mlxdiff import StableDiffusion
from mlxdiff.metadata import read_picture
from mlxdiff.request import Lora

SMALL = ("-m", "emoji", "--height", "32", "--width", "32", "--steps", "2", "--dtype", "fp32")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of three LoRAs for the built-in model."""
    folder = tmp_path_factory.mktemp("loras")
    pipe = StableDiffusionPipeline.from_pretrained(tiny.EMOJI)
    for seed, name in enumerate(("ink", "dust", "glow")):
        lora_files.by_kohya(pipe, folder / f"{name}.safetensors", seed=seed, rank=2)
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)


def render(cwd: Path, name: str, *options: str, prompt: str = "a red apple", **environment: str) -> np.ndarray:
    mlxdiff("generate", prompt, *SMALL, "--seed", "1", "-o", name, *options, cwd=cwd, **environment)
    return pixels(cwd / name)


def test_an_option_a_tag_and_a_field_of_a_line_are_the_same(tmp_path, made):
    found = {"MLXDIFF_LORAS": str(made)}
    expected = render(tmp_path, "option.png", "--lora", f"{made / 'ink.safetensors'},scale=0.3")
    tagged = render(tmp_path, "tagged.png", prompt="a red apple <lora:ink:0.3>", **found)
    lines = [
        {"prompt": "a red apple", "lora": ["ink,scale=0.3"], "seed": 1, "output": "line.png"},
        {"prompt": "a red apple", "lora": [{"ref": "ink", "scale": 0.3}], "seed": 1, "output": "object.png"},
        {"prompt": "a red apple", "seed": 1, "output": "none.png"},
    ]
    (tmp_path / "lines.txt").write_text("\n".join(map(json.dumps, lines)))
    mlxdiff("generate", "--prompts-file", "lines.txt", "-o", "out", "--batch-size", "1", *SMALL, cwd=tmp_path, **found)
    for other in (tagged, pixels(tmp_path / "out/line.png"), pixels(tmp_path / "out/object.png")):
        assert np.array_equal(other, expected)
    assert np.abs(pixels(tmp_path / "out/none.png") - expected).mean() > 3
    request = read_picture(tmp_path / "tagged.png").request
    assert request is not None
    assert (request.prompt, request.lora) == ("a red apple", (Lora("ink", 0.3),))
    again = tmp_path / "again.png"
    mlxdiff("generate", "--from", "tagged.png", "-o", again, cwd=tmp_path, **found)
    assert np.array_equal(pixels(again), expected)


def test_a_line_a_lora_is_each_alone_also_when_the_run_is_killed(tmp_path, made):
    found = {"MLXDIFF_LORAS": str(made)}
    names = ("ink", "dust", "glow", "ink", "dust", "glow")
    prompts = [f"a cat <lora:{name}:0.3>" for name in names]
    (tmp_path / "lines.txt").write_text("\n".join(prompts))
    command = ("generate", "--prompts-file", "lines.txt", "-o", "out", "--seed", "5", "--batch-size", "1", *SMALL)
    before = 2
    killed_after(tmp_path, "out/*.png", *command, n=before, **found)
    done = mlxdiff(*command, "--json", cwd=tmp_path, **found)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events].count("picture") == 6 - before
    sd = StableDiffusion("emoji", dtype="fp32")
    for event in events:
        (lora,) = event["request"]["lora"]
        assert lora["ref"] == names[event["index"]]
        settings = {"height": 32, "width": 32, "steps": 2, "seed": event["seed"]}
        (alone,) = sd.generate("a cat", lora=f"{made / lora['ref']}.safetensors,scale=0.3", **settings)
        found_there = pixels(tmp_path / event["path"])
        assert np.abs(found_there - np.asarray(alone, np.int16)).max() <= 1  # threads may decide last bits


def test_a_changed_file_makes_the_picture_again(tmp_path, made):
    shutil.copy(made / "ink.safetensors", tmp_path / "style.safetensors")
    (tmp_path / "lines.txt").write_text("a cat <lora:style:0.3>")
    command = ("generate", "--prompts-file", "lines.txt", "-o", "out", "--seed", "5", "--json", *SMALL)
    found = {"MLXDIFF_LORAS": str(tmp_path)}
    assert '"event": "picture"' in mlxdiff(*command, cwd=tmp_path, **found).stdout
    assert '"event": "found"' in mlxdiff(*command, cwd=tmp_path, **found).stdout
    shutil.copy(made / "dust.safetensors", tmp_path / "style.safetensors")
    assert '"event": "picture"' in mlxdiff(*command, cwd=tmp_path, **found).stdout


def test_a_sweep_over_the_scale(tmp_path, made):
    lora = ("--lora", str(made / "ink.safetensors"))
    sweep = (
        "grid",
        "--prompt",
        "a red apple",
        "--vary",
        "lora.scale=0,0.3",
        "--save-cells",
        "cells",
        "-o",
        "sheet.png",
    )
    done = mlxdiff(*sweep, *lora, *SMALL, "--seed", "1", "--batch-size", "1", "--json", cwd=tmp_path)
    cells = [json.loads(line) for line in done.stdout.splitlines() if '"varied"' in line]
    assert [cell["varied"] for cell in cells] == [{"lora.scale": 0.0}, {"lora.scale": 0.3}]
    assert np.array_equal(pixels(tmp_path / cells[0]["path"]), render(tmp_path, "base.png"))
    third = render(tmp_path, "third.png", "--lora", f"{lora[1]},scale=0.3")
    assert np.array_equal(pixels(tmp_path / cells[1]["path"]), third)


def refused(cwd: Path, *command: str, code: int = 1) -> str:
    """What is said, in one sentence and what to do; nothing is written."""
    before = sorted(os.listdir(cwd))
    error = mlxdiff("generate", "a cat", *command, "-o", "out.png", cwd=cwd, code=code).stderr
    assert sorted(os.listdir(cwd)) == before
    lines = [line for line in error.splitlines() if line.strip() and line != "Loading the model"]
    assert len(lines) == 1
    return lines[0]


def test_files_that_are_refused(tmp_path, made):
    good = load_file(made / "ink.safetensors")
    key = next(key for key in good if key.endswith("lora_up.weight"))
    wrong = {
        "nan": {**good, key: np.full_like(good[key], np.nan)},
        "shape": {**good, key: np.ones((3, 2), np.float32)},
        "unknown": {**good, "lora_unet_nowhere.lora_up.weight": np.ones((3, 2), np.float32)},
        "alpha": {**good, key.replace("lora_up.weight", "alpha"): np.float32(0)},
    }
    for name, tensors in wrong.items():
        save_file({path: np.asarray(array) for path, array in tensors.items()}, tmp_path / f"{name}.safetensors")
        assert f"{name}.safetensors" in refused(tmp_path, *SMALL, "--lora", f"{name}.safetensors")
    (tmp_path / "short.safetensors").write_bytes((made / "ink.safetensors").read_bytes()[:-9])
    assert "short.safetensors" in refused(tmp_path, *SMALL, "--lora", "short.safetensors")
    model = tiny.EMOJI / "unet" / "diffusion_pytorch_model.safetensors"
    assert "LoRA" in refused(tmp_path, *SMALL, "--lora", str(model))
    assert "LoRA" in refused(tmp_path, "-m", str(made / "ink.safetensors"))
    assert "There is no LoRA" in refused(tmp_path, *SMALL, "--lora", "nowhere")
    assert "It is a number from" in refused(tmp_path, *SMALL, "--lora", "ink,scale=x", code=2)
    bad = {"prompt": "a cat", "lora": [str(tmp_path / "nan.safetensors")]}
    (tmp_path / "lines.txt").write_text(f"a dog\n{json.dumps(bad)}\n")
    before = sorted(os.listdir(tmp_path))
    done = mlxdiff("generate", "--prompts-file", "lines.txt", "-o", "out", *SMALL, cwd=tmp_path, code=1)
    assert "lines.txt, line 2: " in done.stderr
    assert sorted(os.listdir(tmp_path)) == before
