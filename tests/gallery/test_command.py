"""The command line that the page copies renders the same bytes again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from page_logic import MISSING, evaluate
from patience import WAIT
from program import mlxdiff

from mlxdiff.gallery import write_gallery
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text, read_picture
from mlxdiff.metadata.sheets import sweep_text
from mlxdiff.picture_files import picture_files
from mlxdiff.request import Request
from mlxdiff.request.option_texts import is_one_command, option_texts

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(MISSING is not None or BASH is None, reason=MISSING or "needs bash")
TINY = ("--height", "32", "--width", "32")
RUNS = (
    (
        'it\'s a "red" apple, $HOME `x`',
        "--seed",
        str(2**64 - 1),
        "--lora",
        "pixel-art,scale=0.5",
        "-n",
        "-dark",
        "--steps",
        "2",
    ),
    ("-a dog\nand a cat 🐈\x01", "--sampler", "dpmpp_2m", "--schedule", "karras", "--cfg", "0.1", "--steps", "2"),
    ("a (red:1.3) guitar {x|y}", "--seed", "3", "--sigmas", "14,3.5,0", "--clip-skip", "2"),
    ("a rocket", "--seed", "7", "--hires", "2", "--hires-steps", "1", "--hires-prompt", "", "--steps", "1"),
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """The pictures of RUNS, and a gallery of them."""
    folder = tmp_path_factory.mktemp("my pictures")
    for i, (prompt, *settings) in enumerate(RUNS):
        mlxdiff("generate", *settings, *TINY, "-o", f"{i}.png", "--", prompt, cwd=folder)
    mlxdiff("grid", ".", "--html", "gallery.html", cwd=folder)
    return folder


def in_bash(line: str, folder: Path) -> None:
    shim = f'mlxdiff() {{ "{sys.executable}" -m mlxdiff "$@"; }}\n'
    assert BASH is not None
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run([BASH, "-c", shim + line], cwd=folder, env=environment, capture_output=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("index", range(len(RUNS)))
def test_the_command_renders_the_same_bytes(rendered, tmp_path, index):
    (line,) = evaluate("[store.command(store.pictures[index], location)]", rendered / "gallery.html", index=index)
    in_bash(f"{line} -o again.png" if " -- " not in line else line.replace(" -- ", " -o again.png -- "), tmp_path)
    assert (tmp_path / "again.png").read_bytes() == (rendered / f"{index}.png").read_bytes()


def test_the_command_of_a_sweep_is_its_own(tmp_path):
    vary = ["steps=1,2", 'prompt=cat,"dog, it\'s"']
    request = Request("a cat", seed=1, height=32, width=32, model="emoji", sigmas=(3.0, 0.0))
    write_picture(tmp_path / "s.png", np.zeros((8, 8, 3), np.uint8), sweep_text(request, vary))
    write_gallery(list(picture_files(tmp_path)), tmp_path / "g.html", title="")
    line, from_line = evaluate(
        "[store.command(store.pictures[0], location), store.from(store.pictures[0], location)]", tmp_path / "g.html"
    )
    sheet = read_picture(tmp_path / "s.png").sheet
    assert sheet is not None
    assert line == sheet.command
    assert "--sigmas 3,0" in line
    assert from_line == "", "a sheet has no settings of its own to render with"


def test_what_options_cannot_say_is_rendered_from_the_file(tmp_path):
    several = Request.from_dict({"prompt": ["a cat", "a dog"], "seed": [1, 5], "model": "emoji"})
    write_picture(tmp_path / "two.png", np.zeros((8, 8, 3), np.uint8), picture_text(several))
    assert not is_one_command(several)
    write_gallery(list(picture_files(tmp_path)), tmp_path / "g.html", title="")
    command, said = evaluate(
        "[store.command(store.pictures[0], location), store.settings(store.pictures[0]).map(([f, t]) => [f.name, t])]",
        tmp_path / "g.html",
    )
    assert command == "mlxdiff generate --from '/home/me/my pictures/two.png'"
    assert [pair for pair in said if pair[0] in ("prompt", "seed")] == [
        *(["prompt", "a cat"], ["prompt", "a dog"]),
        *(["seed", "1"], ["seed", "5"]),
    ]


def test_every_setting_is_said_as_its_option_takes_it():
    request = Request(
        "a cat",
        seed=5,
        lora=("a,b.safetensors,scale=0.5", "c"),
        control=("canny=edges.png,end=0.5",),
        sigmas=(14.6, 7.0, 0.0),
        expand="1,2,3,4",
        image="x.png",
        hires_size="512x768",
        guidance_scale=7.25,
    )
    assert is_one_command(request)
    texts: dict[str, list[str]] = {}
    for item, text in option_texts(request):
        texts.setdefault(item.option, []).append(text)
    assert texts["--lora"] == ["a,b.safetensors,scale=0.5", "c"]
    assert texts["--sigmas"] == ["14.6,7,0"]
    assert texts["--hires-size"] == ["512x768"]
    assert "--n-images" not in texts
    assert "--hashes" not in texts
