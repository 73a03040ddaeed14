"""The program as a whole: help, version, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
from PIL import Image
from program import mlxdiff
from safetensors.numpy import load_file, save_file

import mlxdiff as package

FAST = ("--steps", "2", "--seed", "5")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A folder with one picture and its latents."""
    folder = tmp_path_factory.mktemp("rendered")
    mlxdiff("generate", "a red apple", *FAST, "-o", "apple.png", "--save-latents", cwd=folder)
    return folder


def test_help_and_version_import_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['mlxdiff', '--help']\n"
        "from mlxdiff.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'mlx', 'numpy', 'PIL', 'huggingface_hub', 'safetensors', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("pull", "generate", "grid", "decode", "info", "serve"):
        assert command in shown
    assert mlxdiff("--version", cwd=tmp_path).stdout == f"mlxdiff {package.__version__}\n"


def test_a_picture_its_latents_and_nothing_else(rendered):
    assert sorted(path.name for path in rendered.iterdir()) == ["apple.png", "apple.safetensors"]
    with Image.open(rendered / "apple.png") as picture:
        assert picture.size == (128, 128)
        assert np.asarray(picture).std() > 20
    assert load_file(rendered / "apple.safetensors")["latents"].shape == (1, 32, 32, 4)


def test_decode_makes_the_same_picture_from_the_latents(rendered, tmp_path):
    done = mlxdiff("decode", rendered / "apple.safetensors", "-o", "again.png", cwd=tmp_path)
    assert done.stdout == "again.png\n"
    with Image.open(rendered / "apple.png") as first, Image.open(tmp_path / "again.png") as second:
        assert np.array_equal(np.asarray(first), np.asarray(second))


def test_info_says_how_it_was_made(rendered):
    shown = json.loads(mlxdiff("info", "apple.png", "--json", cwd=rendered).stdout)
    assert shown["request"]["prompt"] == "a red apple"
    assert shown["request"]["seed"] == 5
    assert shown["request"]["sampler"] == "ddim"
    assert "Steps: 2" in shown["parameters"]
    latents = json.loads(mlxdiff("info", "apple.safetensors", "--json", cwd=rendered).stdout)
    assert latents["request"] == shown["request"]


def test_info_of_the_machine_names_what_decides(tmp_path):
    shown = json.loads(mlxdiff("info", "--json", cwd=tmp_path).stdout)
    assert {"mlx", "backend", "device", "blas", "dtype", "default model"} <= set(shown)
    assert "emoji" in mlxdiff("info", "emoji", cwd=tmp_path).stdout


def test_rows_make_one_sheet_of_twice_as_many(tmp_path):
    done = mlxdiff("generate", "a cat", *FAST, "--n-rows", "2", "-o", "sheet.png", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["path"] == "sheet.png"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (256, 256)


def test_several_pictures_are_named_by_seed_and_do_not_depend_on_each_other(rendered, tmp_path):
    done = mlxdiff(
        "generate", "a red apple", "--steps", "2", "--seed", "4", "--n-images", "3", "-o", "a.png", cwd=tmp_path
    )
    assert done.stdout.split() == ["a-4.png", "a-5.png", "a-6.png"]
    with Image.open(rendered / "apple.png") as alone, Image.open(tmp_path / "a-5.png") as together:
        difference = np.abs(np.asarray(alone, int) - np.asarray(together, int))
    assert difference.max() <= 1


def test_without_a_name_the_prompt_is_the_name(tmp_path):
    done = mlxdiff("generate", "A cat/face: ../x", *FAST, cwd=tmp_path)
    (path,) = done.stdout.split()
    assert "/" not in path
    assert (tmp_path / path).is_file()


def test_metadata_can_be_left_out(tmp_path):
    mlxdiff("generate", "a cat", *FAST, "-o", "bare.png", "--no-metadata", cwd=tmp_path)
    with Image.open(tmp_path / "bare.png") as picture:
        assert not picture.info


def test_grid_puts_pictures_side_by_side(rendered, tmp_path):
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    mlxdiff("grid", rendered / "apple.png", "red.png", "-o", "sheet.png", "--n-rows", "1", cwd=tmp_path)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (256, 128)
        assert sheet.getpixel((200, 60)) == (255, 0, 0)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Checkpoints and files that are wrong in one way each."""
    root = tmp_path_factory.mktemp("broken")

    def copy(name):
        return shutil.copytree(tiny.EMOJI, root / name)

    (root / "empty").mkdir()
    weights = copy("truncated") / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    lies = copy("lies") / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(lies.read_bytes())
    data[:8] = (2**40).to_bytes(8, "little")
    lies.write_bytes(data)
    nan = copy("nan") / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(nan)
    tensors["decoder.conv_out.bias"][:] = np.nan
    save_file(tensors, nan)
    scheduler = copy("scheduler") / "model_index.json"  # which decides the class, as in diffusers
    scheduler.write_text(scheduler.read_text().replace("DDIMScheduler", "FlowMatchEulerDiscreteScheduler"))
    family = copy("family") / "model_index.json"
    family.write_text(family.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    (root / "file").write_text("not a folder")
    return root


WRONG = [
    (("-m", "emojy"), 1, "no model 'emojy'"),
    (("-m", "./nowhere"), 1, "no folder ./nowhere"),
    (("-m", "nobody/nothing"), 1, "mlxdiff pull nobody/nothing"),
    (("-m", "{root}/empty"), 1, "no model_index.json"),
    (("-m", "{root}/truncated"), 1, "diffusion_pytorch_model.safetensors"),
    (("-m", "{root}/lies"), 1, "diffusion_pytorch_model.safetensors"),
    (("-m", "{root}/nan"), 1, "not numbers"),
    (("-m", "{root}/scheduler"), 1, "FlowMatchEulerDiscreteScheduler"),
    (("-m", "{root}/family"), 1, "FluxPipeline"),
    (("-m", "model.ckpt"), 1, "pickle"),
    (("-o", "{root}/file/x.png"), 1, "part of its path is a file"),
    (("--n-rows", "1", "-o", "{root}"), 1, "is a folder"),
    (("-o", "x.bmp"), 2, ".png"),
    (("--sampler", "eular"), 2, "no sampler 'eular'"),
    (("--schedule", "wild"), 2, "no schedule 'wild'"),
    (("--steps", "-1"), 2, "steps is -1"),
    (("--steps", "0"), 2, "steps is 0"),
    (("--height", "130"), 2, "not a multiple of 4"),
    (("--width", "0"), 2, "width is 0"),
    (("--cfg", "nan"), 2, "guidance_scale is nan"),
    (("--seed", "-4"), 2, "seed is -4"),
    (("--dtype", "int8"), 2, "no dtype"),
    (("--quantize", "5"), 2, "quantize is 5"),
    (("--steps", "2", "--image", "missing.png"), 1, "no picture"),
    (("--steps", "2", "--image", "{root}/file"), 1, "not a picture"),
    (("--strength", "0.5"), 2, "no image"),
    (("--n-rows", "3", "--n-images", "2"), 2, "do not fill 3 rows"),
    (("--tile", "65"), 2, "multiple of 4"),
    (("--nonsense",), 2, "No such option"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_bad_input_gets_a_sentence_the_right_code_and_leaves_nothing(broken, tmp_path, arguments, code, words):
    arguments = [part.format(root=broken) for part in arguments]
    output = () if "-o" in arguments else ("-o", "x.png")
    steps = () if "--steps" in arguments else ("--steps", "1")
    done = mlxdiff("generate", "a cat", *steps, *output, *arguments, cwd=tmp_path, code=code)
    assert words in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept_unless_forced(rendered):
    before = (rendered / "apple.png").read_bytes()
    done = mlxdiff("generate", "a dog", *FAST, "-o", "apple.png", cwd=rendered, code=1)
    assert "apple.png exists already" in done.stderr
    assert (rendered / "apple.png").read_bytes() == before


def test_a_traceback_is_for_those_who_ask(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mlxdiff", "-v", "generate", "x", "--steps", "0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "steps is 0" in done.stderr


def test_quiet_leaves_stdout_alone_and_stderr_empty(tmp_path):
    done = mlxdiff("-q", "generate", "a cat", *FAST, "-o", "x.png", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("x.png\n", "")


def test_a_prompt_that_is_cut_is_said(tmp_path):
    done = mlxdiff("generate", "apple " * 100, *FAST, "--prompt-syntax", "plain", "-o", "x.png", cwd=tmp_path)
    assert "warning" in done.stderr
    assert "apple" in done.stderr


def test_a_long_prompt_is_not_cut(tmp_path):
    """The default syntax encodes chunks of 75 tokens."""
    done = mlxdiff("generate", "apple " * 100, *FAST, "-o", "x.png", cwd=tmp_path)
    assert "warning" not in done.stderr


def test_the_model_of_the_environment_is_used(tmp_path):
    done = mlxdiff("generate", "a cat", cwd=tmp_path, code=1, MLXDIFF_MODEL="some/where")
    assert "some/where" in done.stderr


def test_a_vae_beside_the_model_draws_and_is_recorded(rendered, tmp_path):
    """The built-in VAE named explicitly gives the same picture, and the picture says which VAE that was."""
    arguments = ("generate", "a red apple", *FAST, "--vae", str(tiny.EMOJI), "-o", "apple.png", "--save-latents")
    mlxdiff(*arguments, cwd=tmp_path)
    with Image.open(rendered / "apple.png") as first, Image.open(tmp_path / "apple.png") as second:
        assert np.array_equal(np.asarray(first), np.asarray(second))
    assert json.loads(mlxdiff("info", "apple.png", "--json", cwd=tmp_path).stdout)["request"]["vae"] == str(tiny.EMOJI)
    mlxdiff("decode", "apple.safetensors", "-o", "again.png", cwd=tmp_path)
    mlxdiff("decode", "apple.safetensors", "--vae", "missing.safetensors", cwd=tmp_path, code=1)


@pytest.mark.parametrize("option", [("--quantize", "8"), ("--force",), ("--variant", "fp16"), ("--set-default",)])
def test_what_a_cache_verb_would_ignore_is_refused(tmp_path, option):
    done = mlxdiff("pull", "--list", *option, cwd=tmp_path, code=2)
    assert f"{option[0]} does nothing beside --list" in done.stderr
