"""`--upscaler`: pictures enlarged once they are finished, recorded, repeated, resumed, decoded and described."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch_upscalers as papers
from PIL import Image
from safetensors.numpy import load_file
from torch_upscalers import RRDBNet, SRVGGNetCompact, seeded

from mlxdiff import StableDiffusion, upscaling
from mlxdiff.cli.app import main
from mlxdiff.errors import MlxdiffWarning
from mlxdiff.hashing import content_hash
from mlxdiff.metadata import read_picture
from mlxdiff.metadata.parameters import parameters_text, parse_parameters
from mlxdiff.request import Request
from mlxdiff.upscaling import upscale

SMALL = ("-m", "emoji", "--height", "32", "--width", "40", "--steps", "2", "--seed", "4")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the program in the folder of the test; fails where it exits with another code than `code`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    papers.write(seeded(SRVGGNetCompact, factor=3), tmp_path / "x3.safetensors")

    def program(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert end.value.code == code, err
        return out, err

    return program


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_picture_is_enlarged_and_says_so(run, tmp_path):
    run("generate", "a cat", *SMALL, "-o", "plain.png", "--save-latents")
    run("generate", "a cat", *SMALL, "-o", "large.png", "--save-latents", "--upscaler", "x3.safetensors")
    assert pixels("plain.png").shape == (32, 40, 3)
    np.testing.assert_array_equal(pixels("large.png"), upscale(tmp_path / "x3.safetensors", pixels("plain.png")))
    latents = load_file("large.safetensors")["latents"]
    np.testing.assert_array_equal(latents, load_file("plain.safetensors")["latents"])
    found = read_picture(Path("large.png"))
    assert found.request is not None
    assert found.request.upscaler == "x3.safetensors"
    assert dict(found.request.hashes) == {"x3.safetensors": content_hash(Path("x3.safetensors"))}
    assert (found.request.height, found.request.width) == (32, 40)
    assert "Postprocess upscaler: x3.safetensors" in found.parameters
    run("generate", "--from", "large.png", "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("large.png").read_bytes()
    run("decode", "large.safetensors", "-o", "decoded.png")
    assert Path("decoded.png").read_bytes() == Path("large.png").read_bytes()
    run("decode", "plain.safetensors", "-o", "later.png", "--upscaler", "x3.safetensors")
    np.testing.assert_array_equal(pixels("later.png"), pixels("large.png"))
    assert read_picture(Path("later.png")).request == found.request


def test_latents_are_decoded_where_their_upscaler_is_not(run):
    run("generate", "a cat", *SMALL, "-o", "large.png", "--save-latents", "--upscaler", "x3.safetensors")
    Path("x3.safetensors").unlink()
    _, err = run("decode", "large.safetensors", "-o", "plain.png")
    assert "The picture is not enlarged" in err
    assert pixels("plain.png").shape == (32, 40, 3)
    request = read_picture(Path("plain.png")).request
    assert request is not None
    assert (request.upscaler, request.hashes) == (None, None)
    _, err = run("decode", "large.safetensors", "-o", "other.png", "--upscaler", "x3.safetensors", code=1)
    assert "x3.safetensors" in err


def test_trajectories_stay_as_they_are(run):
    run("generate", "a cat", *SMALL, "-o", "large.png", "--save-trajectory", "--upscaler", "x3.safetensors")
    run("decode", "large.trajectory.safetensors", "-o", "film.webp")
    assert pixels("film.webp").shape == (32, 40, 3)
    found = read_picture(Path("film.webp")).request
    assert found is not None
    assert found.upscaler is None
    run("decode", "large.trajectory.safetensors", "-o", "f.webp", "--upscaler", "x3.safetensors", code=2)


def test_python_gives_the_same(run, tmp_path):
    run("generate", "a cat", *SMALL, "-o", "large.png", "--upscaler", "x3.safetensors")
    (picture,) = StableDiffusion("emoji").generate(
        "a cat", height=32, width=40, steps=2, seed=4, upscaler=tmp_path / "x3.safetensors"
    )
    np.testing.assert_array_equal(np.asarray(picture), pixels("large.png"))


def test_a_run_of_several_and_its_resume(run, tmp_path):
    Path("prompts.txt").write_text("a cat\na dog\na fox\n")
    command = ("generate", "--prompts-file", "prompts.txt", "-o", "out/", "--batch-size", "2", *SMALL)
    out, _ = run(*command, "--json", "--upscaler", "x3.safetensors")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["picture"] * 3
    assert {pixels(event["path"]).shape for event in events} == {(96, 120, 3)}
    Path(events[1]["path"]).unlink()
    out, _ = run(*command, "--json", "--upscaler", "x3.safetensors")
    assert sorted(json.loads(line)["event"] for line in out.splitlines()) == ["found", "found", "picture"]
    Path("x3.safetensors").unlink()
    papers.write(seeded(SRVGGNetCompact, factor=2), tmp_path / "x3.safetensors")
    out, _ = run(*command, "--json", "--upscaler", "x3.safetensors")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["picture"] * 3, "another file of the same name enlarges otherwise"
    assert {pixels(event["path"]).shape for event in events} == {(64, 80, 3)}


def test_sheets_are_of_the_large_pictures(run):
    run(
        "generate",
        "a cat",
        *SMALL,
        "--n-images",
        "2",
        "--n-rows",
        "1",
        "-o",
        "sheet.png",
        "--upscaler",
        "x3.safetensors",
    )
    assert pixels("sheet.png").shape == (96, 240, 3)
    run("grid", "--prompt", "a cat", *SMALL, "--vary", "upscaler=x3.safetensors", "-o", "sweep.png")
    assert pixels("sweep.png").shape[1] >= 120
    webp = ("--n-images", "200", "--n-rows", "1", "-o", "sheet.webp", "--upscaler", "x3.safetensors")
    _, err = run("generate", "a cat", *SMALL, *webp, code=2)
    assert "24000x96" in err


def test_bad_upscalers_are_refused_before_anything_is_drawn(run, tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(b"{}")
    (tmp_path / "old.pth").write_bytes(b"PK\x03\x04")
    for name in ("lora.safetensors", "old.pth", "missing.safetensors", "missing"):
        _, err = run("generate", "a cat", *SMALL, "-o", "cat.png", "--upscaler", name, code=1)
        assert name in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.safetensors", "old.pth", "x3.safetensors"]


def test_what_would_not_fit_is_refused_before_it_is_drawn(run, monkeypatch):
    monkeypatch.setattr(upscaling, "MAX_SIDE", 100)
    _, err = run("generate", "a cat", *SMALL, "-o", "cat.png", "--upscaler", "x3.safetensors", code=2)
    assert "120x96 pixels" in err
    assert not list(Path().glob("*.png"))


def test_info_says_what_an_upscaler_is(run, tmp_path):
    papers.write(seeded(RRDBNet, packed=2), tmp_path / "x2.safetensors")
    out, _ = run("info", "x3.safetensors", "x2.safetensors", "--json")
    compact, packed = map(json.loads, out.splitlines())
    assert (compact["upscaler"], compact["factor"], compact["channels"]) == ("Real-ESRGAN compact", 3, 8)
    assert (packed["upscaler"], packed["factor"], packed["packs"]) == ("ESRGAN (RRDB)", 2, "2x2 pixels")


def test_a_folder_with_one_file(run, tmp_path):
    folder = tmp_path / "up"
    folder.mkdir()
    (tmp_path / "x3.safetensors").rename(folder / "x3.safetensors")
    run("generate", "a cat", *SMALL, "-o", "cat.png", "--upscaler", "up")
    assert pixels("cat.png").shape == (96, 120, 3)
    (folder / "other.safetensors").write_bytes(b"")
    _, err = run("generate", "a cat", *SMALL, "-o", "two.png", "--upscaler", "up", code=1)
    assert "2 .safetensors files" in err


def test_an_upscaler_is_no_model_and_no_vae(run):
    _, err = run("generate", "a cat", "-m", "x3.safetensors", code=1)
    assert "is an upscaler, which the option --upscaler takes" in err
    _, err = run("generate", "a cat", *SMALL, "--vae", "x3.safetensors", "-o", "cat.png", code=1)
    assert "holds no VAE" in err


def test_names_of_other_programs_are_said_and_not_used():
    """A1111 names its upscalers, and no file."""
    text = (
        "a cat\nSteps: 2, Sampler: Euler, Seed: 1, Size: 64x64, Postprocess upscale by: 4, Postprocess upscaler: 4x_X"
    )
    with pytest.warns(MlxdiffWarning, match="Postprocess upscaler"):
        assert parse_parameters(text).upscaler is None
    own = parameters_text(Request("a cat", seed=1, upscaler="up/4x.safetensors"))
    assert parse_parameters(own).upscaler == "up/4x.safetensors"
