"""Commands that were stopped and are given again: prompts, sheets and sweeps go on where they were."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from killing import THREADS, falling, killed_after, names, naming, start, until_stopped
from patience import WAIT
from PIL import Image
from program import mlxdiff
from safetensors.numpy import load_file

from mlxdiff.batch.journal import NAME
from mlxdiff.metadata import read_picture

SMALL = ("-m", "emoji", "--height", "32", "--width", "32", "--steps", "2")
SIX = ("generate", "a cat", "--n-images", "6", "--batch-size", "2", *SMALL)


def test_killed_with_a_drawn_seed_the_same_command_finishes_the_six(tmp_path):
    killed_after(tmp_path, "a-cat-*.png", *SIX, "--steps", "30", n=3)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    assert list(tmp_path.glob(".mlxdiff-*.run"))
    done = mlxdiff(*SIX, "--steps", "30", "--json", cwd=tmp_path)
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert sorted(events) == ["found"] * len(before) + ["picture"] * (6 - len(before))
    assert all((tmp_path / name).stat().st_mtime_ns == when for name, when in before.items())
    seeds = sorted(int(path.stem.rpartition("-")[2]) for path in tmp_path.glob("*.png"))
    assert [seed - seeds[0] for seed in seeds] == list(range(6))
    assert len(names(tmp_path)) == 6, "nothing hidden is left"
    mlxdiff(*SIX, cwd=tmp_path)
    assert len(names(tmp_path)) == 12, "a finished command makes new pictures"


def test_interrupted_it_finishes_the_batch_at_hand_and_then_the_rest(tmp_path):
    command = (*SIX, "--steps", "30")
    process = start(tmp_path, *command, program=falling(naming("a-cat-*.png"), 2, "stop"))
    until_stopped(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130, err
    assert "of 6 pictures are done. The same command again does the rest." in err
    made = len(list(tmp_path.glob("*.png")))
    assert made in (2, 4), "the batch at hand"
    again = mlxdiff(*command, cwd=tmp_path)
    assert len(again.stdout.splitlines()) == 6 - made
    assert len(names(tmp_path)) == 6


def test_a_second_living_process_draws_a_seed_of_its_own(tmp_path):
    both = [start(tmp_path, *SIX) for _ in range(2)]
    said = [process.communicate(timeout=WAIT) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(names(tmp_path)) == 12


def test_a_single_picture_that_is_there_is_found_and_another_is_in_the_way(tmp_path):
    command = ("generate", "a cat", *SMALL, "--seed", "3", "-o", "a.png")
    first = mlxdiff(*command, cwd=tmp_path)
    assert first.stdout == "a.png\n"
    when = (tmp_path / "a.png").stat().st_mtime_ns
    again = mlxdiff(*command, cwd=tmp_path)
    assert again.stdout == ""
    assert "Done before, or by another process: 1." in again.stderr
    said = json.loads(mlxdiff(*command, "--json", cwd=tmp_path).stdout)
    assert (said["event"], said["path"], said["seed"], said["request"]["steps"]) == ("found", "a.png", 3, 2)
    assert (tmp_path / "a.png").stat().st_mtime_ns == when
    other = mlxdiff(*command, "--steps", "1", cwd=tmp_path, code=1)
    assert "a.png exists already: its steps is 2, not 1." in other.stderr
    mlxdiff(*command, "--steps", "1", "--skip-existing", cwd=tmp_path)
    assert (tmp_path / "a.png").stat().st_mtime_ns == when
    mlxdiff(*command, "--steps", "1", "--force", cwd=tmp_path)
    assert (tmp_path / "a.png").stat().st_mtime_ns != when
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    mlxdiff(*command, "--steps", "1", cwd=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == data, "a damaged one is rendered again"
    assert names(tmp_path) == ["a.png"]


def test_a_picture_line_says_everything(tmp_path):
    command = ("generate", "a cat", *SMALL, "--seed", "3", "--n-images", "2", "--save-latents", "--save-trajectory")
    for i, line in enumerate(mlxdiff(*command, "--json", cwd=tmp_path).stdout.splitlines()):
        said = json.loads(line)
        assert (said["event"], said["index"], said["seed"], said["prompt"]) == ("picture", i, 3 + i, "a cat")
        assert said["path"] == f"a-cat-{3 + i}.png"
        assert said["latents"] == f"a-cat-{3 + i}.safetensors"
        assert said["trajectory"] == f"a-cat-{3 + i}.trajectory.safetensors"
        assert said["request"]["sampler"] == "ddim"
        assert 0 < said["seconds"] < WAIT
        assert said["peak_memory"] > 1e6


SHEET = ("generate", "a cat", *SMALL, "--n-rows", "2", "--n-images", "6", "--batch-size", "2", "--seed", "1")


def test_a_killed_sheet_goes_on_from_its_cells(tmp_path):
    command = (*SHEET, "--steps", "30", "-o", "out/sheet.png", "--save-latents", "--save-trajectory")
    killed_after(tmp_path, "out/.mlxdiff-*.cells/*.png", *command, n=3)
    (journal,) = (tmp_path / "out").glob(f".mlxdiff-*.cells/{NAME}")
    n_kept = journal.read_text().count("sha256")
    assert n_kept == 3
    done = mlxdiff(*command, cwd=tmp_path, **THREADS)
    assert done.stdout == "out/sheet.png\n"
    assert f"Done before, or by another process: {n_kept}." in done.stderr
    assert names(tmp_path / "out") == ["sheet.png", "sheet.safetensors", "sheet.trajectory.safetensors"]
    assert load_file(tmp_path / "out/sheet.safetensors")["latents"].shape == (6, 8, 8, 4)
    assert load_file(tmp_path / "out/sheet.trajectory.safetensors")["latents"].shape == (30, 6, 8, 8, 4)
    mlxdiff(*SIX, "--seed", "1", "--steps", "30", cwd=tmp_path, **THREADS)
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        pixels = np.asarray(sheet)
    for i in range(6):
        with Image.open(tmp_path / f"a-cat-{1 + i}.png") as cell:
            y, x = divmod(i, 3)
            part = pixels[32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
            np.testing.assert_array_equal(part, np.asarray(cell))


def test_a_finished_sheet_is_found_and_another_is_in_the_way(tmp_path):
    mlxdiff(*SHEET, "-o", "sheet.png", cwd=tmp_path)
    again = mlxdiff(*SHEET, "-o", "sheet.png", "--json", cwd=tmp_path)
    said = json.loads(again.stdout)
    assert (said["event"], said["path"], said["images"], said["seed"]) == ("found", "sheet.png", 6, 1)
    assert read_picture(tmp_path / "sheet.png").request.n_images == 6  # pyright: ignore[reportOptionalMemberAccess]
    other = mlxdiff(*SHEET, "-o", "sheet.png", "--cfg", "3", cwd=tmp_path, code=1)
    assert "exists already: its guidance_scale is 1.5, not 3.0" in other.stderr
    three = ("generate", "a cat", *SMALL, "--n-rows", "3", "--n-images", "6", "--seed", "1")
    other = mlxdiff(*three, "-o", "sheet.png", cwd=tmp_path, code=1)
    assert "exists already: it is 96x64 pixels" in other.stderr
    assert names(tmp_path) == ["sheet.png"]


SWEEP = ("grid", "-p", "a cat", "--vary", "steps=21..25", "--vary", "sampler=ddim,euler", *SMALL[:-2], "-o", "s.png")


@pytest.mark.parametrize(("more", "cells"), [((), ".mlxdiff-*.cells/*.png"), (("--save-cells", "c"), "c/*.png")])
def test_a_killed_sweep_without_a_seed_goes_on_with_its_own(tmp_path, more, cells):
    killed_after(tmp_path, cells, *SWEEP, *more, n=4)
    before = {path.name: path.read_bytes() for path in tmp_path.glob(cells)}
    done = mlxdiff(*SWEEP, *more, cwd=tmp_path)
    assert f"Done before, or by another process: {len(before)}." in done.stderr
    assert done.stdout.splitlines()[-1] == "s.png"
    assert names(tmp_path) == (["c", "s.png"] if more else ["s.png"])
    if more:
        assert len(names(tmp_path / "c")) == 10
        assert {name: (tmp_path / "c" / name).read_bytes() for name in before} == before
        seeds = {read_picture(path).request.seed for path in tmp_path.glob("c/*.png")}  # pyright: ignore[reportOptionalMemberAccess]
        assert len(seeds) == 1


def test_a_finished_sweep_with_a_seed_is_found(tmp_path):
    command = (*SWEEP[:4], "steps=1,2", *SMALL[:-2], "--seed", "4", "-o", "s.png")
    mlxdiff(*command, cwd=tmp_path)
    said = json.loads(mlxdiff(*command, "--json", cwd=tmp_path).stdout)
    assert (said["event"], said["images"]) == ("found", 2)
    other = mlxdiff(*command, "--gap", "9", cwd=tmp_path, code=1)
    assert "s.png exists already" in other.stderr
    assert names(tmp_path) == ["s.png"]


def test_a_sweep_varies_models_and_opens_each_once(tmp_path):
    emoji = Path(__file__).parents[2] / "src" / "mlxdiff" / "assets" / "emoji"
    vary = ("--vary", f"model=emoji,{emoji}", "--vary", 'negative-prompt="",ugly')
    command = ("grid", "-p", "a cat", *vary, *SMALL[2:], "--seed", "1", "--save-cells", "c", "-o", "s.png", "--json")
    *cells, sheet = [json.loads(line) for line in mlxdiff(*command, cwd=tmp_path).stdout.splitlines()]
    assert [cell["request"]["model"] for cell in cells] == ["emoji", "emoji", str(emoji), str(emoji)]
    assert sorted((cell["row"], cell["column"]) for cell in cells) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {cell["varied"]["negative_prompt"] for cell in cells} == {"", "ugly"}
    assert sheet["event"] == "sheet"


def test_a_refused_command_leaves_nothing(tmp_path):
    for command in (
        (*SIX, "-o", "out/{seed}.png", "--height", "33"),
        (*SHEET, "-o", "out/sheet.bmp"),
        (*SHEET, "-o", "out/sheet.png", "--n-rows", "7"),
        (*SWEEP[:-1], "out/s.png", "--vary", "cfg=1,2"),
        (*SWEEP[:-1], "out/s.png", "--save-latents"),
    ):
        mlxdiff(*command, cwd=tmp_path, code=2)
        assert names(tmp_path) == []
