"""Pictures of several passes from the command line: files, sheets, sweeps, and what a kill leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from killing import killed_after, names
from PIL import Image
from program import mlxdiff
from safetensors.numpy import load_file

from mlxdiff import Request, StableDiffusion
from mlxdiff.batch.render import denoise
from mlxdiff.metadata import read_picture


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, int)


SMALL = ("-m", "emoji", "--height", "32", "--width", "32", "--steps", "2", "--seed", "1")
HIRES = ("--hires", "1.5", "--hires-upscaler", "lanczos")


def test_a_killed_batch_with_a_second_pass_goes_on(tmp_path):
    command = ("generate", "a cat", "--n-images", "4", "--batch-size", "2", *SMALL, *HIRES, "--hires-steps", "20")
    killed_after(tmp_path, "a-cat-*.png", *command, n=3)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    done = mlxdiff(*command, "--json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(event["event"] for event in events) == ["found"] * len(before) + ["picture"] * (4 - len(before))
    assert all((tmp_path / name).stat().st_mtime_ns == when for name, when in before.items())
    assert events[0]["request"]["hires"] == 1.5
    assert len(names(tmp_path)) == 4, names(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    mlxdiff(*command, cwd=whole)
    for name in names(whole):
        assert np.array_equal(*(pixels(folder / name) for folder in (tmp_path, whole)))
        assert pixels(whole / name).shape == (48, 48, 3)
    again = mlxdiff("generate", "--from", str(whole / "a-cat-2.png"), "-o", "again.png", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    one, two = (pixels(path) for path in (whole / "a-cat-2.png", tmp_path / "again.png"))
    assert np.abs(one - two).max() <= 1


def test_a_sweep_over_the_factor_has_cells_of_every_size(tmp_path):
    swept = mlxdiff("grid", "--prompt", "a cat", *SMALL, "--vary", "hires=1,1.5,2", "-o", "s.png", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    height, width, _ = pixels(tmp_path / "s.png").shape
    assert width == 3 * 64 + 2 * 4
    assert height > 64
    twice = mlxdiff("grid", "--prompt", "a cat", *SMALL, "--vary", "hires=1,1.5,2", "-o", "s.png", cwd=tmp_path)
    assert "Done before" in twice.stderr


def test_a_contact_sheet_and_a_trajectory_are_of_the_enlarged_picture(tmp_path):
    sheet = ("generate", "a cat", *SMALL, *HIRES, "--n-rows", "1", "-o", "sheet.png")
    assert mlxdiff(*sheet, cwd=tmp_path).returncode == 0
    assert pixels(tmp_path / "sheet.png").shape == (48, 96, 3)
    assert "Done before" in mlxdiff(*sheet, cwd=tmp_path).stderr
    kept = mlxdiff("generate", "a cat", *SMALL, *HIRES, "--save-trajectory", "-o", "one.png", cwd=tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert load_file(tmp_path / "one.trajectory.safetensors")["latents"].shape == (2, 1, 12, 12, 4)


def test_progress_counts_the_steps_of_all_passes():
    sd = StableDiffusion("emoji")
    request = sd.resolve(Request("a cat", seed=1, steps=2, height=32, width=32, hires=1.5, hires_steps=3))
    counted = [(event.step, event.steps) for event in denoise(sd, request, indices=(0,))]
    assert counted == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_random_seed_as_people_type_it_is_drawn_and_recorded(tmp_path):
    for name in ("one.png", "two.png"):
        done = mlxdiff("generate", "a cat", *SMALL, "--seed", "-1", "-o", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (read_picture(tmp_path / name).request.seed for name in ("one.png", "two.png"))
    assert one != two
    assert min(one, two) >= 0


def test_comfyuis_batch_has_one_seed_and_names_of_its_places(tmp_path):
    command = ("generate", "a cat", *SMALL, "--n-images", "3", "--compat", "comfyui")
    done = mlxdiff(*command, "--batch-size", "2", cwd=tmp_path)
    assert done.stdout.split() == ["a-cat-1-0.png", "a-cat-1-1.png", "a-cat-1-2.png"], done.stderr
    alone = mlxdiff("generate", "--from", "a-cat-1-2.png", "-o", "alone.png", cwd=tmp_path)
    assert alone.stdout.split() == ["alone.png"], alone.stderr
    assert np.abs(pixels(tmp_path / "alone.png") - pixels(tmp_path / "a-cat-1-2.png")).max() <= 1
    assert np.abs(pixels(tmp_path / "alone.png") - pixels(tmp_path / "a-cat-1-1.png")).max() > 20
