"""`mlxdiff decode` as a shell runs it: latents to pictures, trajectories to animations."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from program import mlxdiff
from safetensors.numpy import load_file, save_file

from mlxdiff.containers.xmp import TRAINED
from mlxdiff.latents import load_latents, save_latents
from mlxdiff.metadata import read_picture
from mlxdiff.trajectory import save_trajectory

N_STEPS = 4
SMALL = ("--seed", "3", "--height", "64", "--width", "64")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """apple.png, and apple.trajectory.safetensors of its steps."""
    folder = tmp_path_factory.mktemp("saved")
    options = ("--steps", str(N_STEPS), *SMALL, "-o", "apple.png", "--save-trajectory")
    mlxdiff("generate", "a red apple", *options, cwd=folder)
    return folder


def test_without_a_name_it_is_an_animation_beside_it(saved):
    done = mlxdiff("decode", "apple.trajectory.safetensors", cwd=saved)
    assert done.stdout == "apple.webp\n"
    with Image.open(saved / "apple.webp") as film:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == N_STEPS
    assert np.abs(frames[-1] - pixels(saved / "apple.png")).mean() < 6
    assert read_picture(saved / "apple.webp").request == read_picture(saved / "apple.png").request


def test_pictures_of_the_steps_end_in_the_picture_itself(saved, tmp_path):
    done = mlxdiff("decode", saved / "apple.trajectory.safetensors", "-o", "steps/at.png", cwd=tmp_path)
    names = [f"steps/at-{i:03d}.png" for i in range(N_STEPS)]
    assert done.stdout.splitlines() == names
    assert (tmp_path / names[-1]).read_bytes() == (saved / "apple.png").read_bytes()
    final = pixels(saved / "apple.png").astype(int)
    errors = [np.abs(pixels(tmp_path / name) - final).mean() for name in names]
    assert max(errors) < 45, "what a step foresees looks like the picture; what it leaves is at 58 after the first"
    assert 0 == errors[-1] < errors[-2] < min(errors[:-2])
    assert [read_picture(tmp_path / name).request is None for name in names] == [True] * (N_STEPS - 1) + [False]


def test_a_folder_gets_the_pictures_under_the_files_name(saved, tmp_path):
    (tmp_path / "v1.0").mkdir()
    trajectory = saved / "apple.trajectory.safetensors"
    for folder in ("v1.0", "new"):
        done = mlxdiff("decode", trajectory, "-o", folder, "--decode-batch-size", "3", "--json", cwd=tmp_path)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["path"] for line in said] == [f"{folder}/apple-{i:03d}.png" for i in range(N_STEPS)]
        assert {line["seed"] for line in said} == {3}
    assert np.abs(pixels(tmp_path / said[-1]["path"]).astype(int) - pixels(saved / "apple.png")).max() <= 1


def test_gif_at_a_rate(saved, tmp_path):
    mlxdiff("decode", saved / "apple.trajectory.safetensors", "-o", "a.gif", "--fps", "5", cwd=tmp_path)
    with Image.open(tmp_path / "a.gif") as film:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert durations[:-1] == [200] * (len(durations) - 1)
    assert durations[-1] > 1000


def test_several_images_are_several_films(saved, tmp_path):
    file = load_file(saved / "apple.trajectory.safetensors")
    request = load_latents(saved / "apple.trajectory.safetensors").request
    assert request is not None
    both = type(request).from_dict({**json.loads(request.to_json()), "n_images": 2, "seed": [3, 8]})
    left, foreseen = (np.concatenate([file[name], -file[name]], axis=1) for name in ("latents", "denoised"))
    save_trajectory(tmp_path / "two.trajectory.safetensors", left, foreseen, both)
    done = mlxdiff("decode", "two.trajectory.safetensors", cwd=tmp_path)
    assert done.stdout == "two-3.webp\ntwo-8.webp\n"
    mlxdiff("decode", "two.trajectory.safetensors", "-o", "x.png", cwd=tmp_path)
    assert np.abs(pixels(tmp_path / "x-3-003.png").astype(int) - pixels(saved / "apple.png")).max() <= 1
    assert read_picture(tmp_path / "x-8-003.png").request == both.single(1)


def test_a_trajectory_of_another_tool_needs_a_model_and_is_not_documented(saved, tmp_path):
    latents = load_file(saved / "apple.trajectory.safetensors")["denoised"]
    save_file({"latents": latents}, tmp_path / "bare.safetensors")
    done = mlxdiff("decode", "bare.safetensors", cwd=tmp_path, code=2)
    assert "does not say which model" in done.stderr
    mlxdiff("decode", "bare.safetensors", "-m", "emoji", cwd=tmp_path)
    assert read_picture(tmp_path / "bare.webp").request is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-o", "x.jpg"), 2, "cannot become x.jpg"),
        (("--fps", "0"), 2, "0 frames a second"),
        (("--fps", "1000"), 2, "1000 frames a second"),
        (("-o", "{here}/taken.webp"), 1, "taken.webp exists already"),
        (("-o", "{here}/taken.png"), 1, "taken-002.png exists already"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(saved, tmp_path, arguments, code, words):
    before = {"taken.webp", "taken-002.png"}
    for name in before:
        (tmp_path / name).write_text("mine")
    arguments = [part.format(here=tmp_path) for part in arguments]
    done = mlxdiff("decode", saved / "apple.trajectory.safetensors", *arguments, cwd=tmp_path, code=code)
    assert words in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not (saved / "apple-000.png").exists()


def test_a_damaged_trajectory(saved, tmp_path):
    file = load_file(saved / "apple.trajectory.safetensors")
    save_file({**file, "denoised": file["denoised"][:2]}, tmp_path / "short.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((saved / "apple.trajectory.safetensors").read_bytes()[:-9])
    nan = np.full_like(file["denoised"], np.nan)
    request = load_latents(saved / "apple.trajectory.safetensors").request
    assert request is not None
    save_trajectory(tmp_path / "nan.safetensors", file["latents"], nan, request)
    for name, words in (("short", "fit together"), ("cut", "not a sound safetensors"), ("nan", "not numbers")):
        done = mlxdiff("decode", f"{name}.safetensors", "-m", "emoji", cwd=tmp_path, code=1)
        assert words in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.safetensors",
        "nan.safetensors",
        "short.safetensors",
    ]


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """a-3.png and a-4.png with their latents, and b.safetensors that holds both images."""
    folder = tmp_path_factory.mktemp("kept")
    small = ("--steps", "1", *SMALL, "--save-latents", "--n-images", "2", "--batch-size", "2")
    mlxdiff("generate", "a cat", *small, "-o", "a.png", cwd=folder)
    files = [load_file(folder / f"a-{seed}.safetensors")["latents"] for seed in (3, 4)]
    request = load_latents(folder / "a-3.safetensors").request
    assert request is not None
    both = type(request).from_dict({**json.loads(request.to_json()), "n_images": 2, "seed": 3})
    save_latents(folder / "b.safetensors", np.concatenate(files), both)
    return folder


def test_several_files_go_into_a_folder(kept, tmp_path):
    for folder in ("out", "v1.0/"):
        done = mlxdiff("decode", kept / "a-3.safetensors", kept / "a-4.safetensors", "-o", folder, cwd=tmp_path)
        names = [f"{folder.rstrip('/')}/a-{seed}.png" for seed in (3, 4)]
        assert done.stdout.split() == names
        for name in names:
            assert (tmp_path / name).read_bytes() == (kept / Path(name).name).read_bytes()


def test_without_a_name_the_picture_beside_the_latents_stays(kept):
    before = (kept / "a-3.png").read_bytes()
    done = mlxdiff("decode", "a-3.safetensors", "a-4.safetensors", cwd=kept)
    assert done.stdout.split() == ["a-3-decoded.png", "a-4-decoded.png"]
    mlxdiff("decode", "a-3.safetensors", cwd=kept, code=1)
    mlxdiff("decode", "a-3.safetensors", "--force", cwd=kept)
    assert (kept / "a-3.png").read_bytes() == before == (kept / "a-3-decoded.png").read_bytes()


def test_without_a_picture_of_its_name_it_has_the_latents_name(kept, tmp_path):
    for name in ("a-3", "b"):
        shutil.copy(kept / f"{name}.safetensors", tmp_path)
    done = mlxdiff("decode", "a-3.safetensors", "b.safetensors", cwd=tmp_path)
    assert done.stdout.split() == ["a-3.png", "b-3.png", "b-4.png"]
    done = mlxdiff("decode", "b.safetensors", "-o", "in/c.png", cwd=tmp_path)
    assert done.stdout.split() == ["in/c-3.png", "in/c-4.png"]


def test_two_files_never_become_one_picture(kept, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(kept / "a-3.safetensors", tmp_path)
    shutil.copy(kept / "a-3.safetensors", tmp_path / "other")
    both = ("a-3.safetensors", "other/a-3.safetensors")
    done = mlxdiff("decode", *both, "-o", "out", cwd=tmp_path, code=2)
    assert "would both become out/a-3.png" in done.stderr
    done = mlxdiff("decode", *both, "-o", "one.png", cwd=tmp_path, code=2)
    assert "Name a folder instead" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def repainted(tmp_path_factory) -> Path:
    """new.png, whose left half is repainted in photo.png, with its latents and its steps."""
    folder = tmp_path_factory.mktemp("repainted")
    shades = np.random.default_rng(0).integers(0, 256, (64, 72, 3), np.uint8)
    Image.fromarray(shades).save(folder / "photo.png")
    mask = Image.new("L", (72, 64), 0)
    mask.paste(255, (0, 0, 36, 64))
    mask.save(folder / "mask.png")
    options = ("--seed", "3", "--steps", "2", "--save-latents", "--save-trajectory", "-o", "new.png")
    mlxdiff("generate", "a dog", "--image", "photo.png", "--mask", "mask.png", *options, cwd=folder)
    return folder


def test_a_repainted_picture_is_put_back_into_the_picture_it_was_made_from(repainted):
    mlxdiff("decode", "new.safetensors", "-o", "again.png", cwd=repainted)
    assert (repainted / "again.png").read_bytes() == (repainted / "new.png").read_bytes()
    mlxdiff("decode", "new.trajectory.safetensors", "-o", "at.png", cwd=repainted)
    assert (repainted / "at-001.png").read_bytes() == (repainted / "new.png").read_bytes()
    assert (pixels(repainted / "at-000.png")[:, 36:] == pixels(repainted / "photo.png")[:, 36:]).all()


@pytest.mark.parametrize("lost", ["photo.png", "mask.png"])
@pytest.mark.parametrize("change", ["is gone", "has changed"])
def test_without_that_picture_it_claims_nothing(repainted, tmp_path, lost, change):
    folder = tmp_path / "copy"
    shutil.copytree(repainted, folder)
    if change == "is gone":
        (folder / lost).unlink()
    else:
        Image.new("RGB", (72, 64), "white").save(folder / lost)
    done = mlxdiff("decode", "new.safetensors", "-o", "late.png", cwd=folder)
    assert lost in done.stderr
    assert "without the part that was to stay" in done.stderr
    found = read_picture(folder / "late.png")
    assert found.request is None
    assert found.provenance == TRAINED, "the model drew every pixel of it"


def test_a_repainting_that_does_not_say_its_size(repainted, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(repainted, folder)
    found = load_latents(folder / "new.safetensors")
    assert found.request is not None
    save_latents(folder / "new.safetensors", found.array, replace(found.request, height=None), force=True)
    done = mlxdiff("decode", "new.safetensors", "-o", "late.png", cwd=folder)
    assert "does not say at which size" in done.stderr
