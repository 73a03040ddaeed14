"""Wrong usage: one line that says what is wrong and what was meant, exit code 2, and nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlxdiff.cli.app import main
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.request import Request

WRONG = [
    (("generate", "a", "red", "apple"), "words after the prompt: red apple", 'mlxdiff generate "a red apple"'),
    (("generate", 'say "hi"', "you"), "words after the prompt: you", """mlxdiff generate 'say "hi" you'"""),
    (("generate", "cat", "-q", "4"), "-q is --quiet", "Write --quantize 4."),
    (("generate", "-cat in a hat"), "No such option: -c", 'mlxdiff generate -- "-cat in a hat"'),
    (("generate", "--- a line"), "No such option", 'mlxdiff generate -- "--- a line"'),
    (("generate", "cat", "--zebra", "x"), "No such option: --zebra", "See `mlxdiff generate --help`."),
    (("generate", "cat", "--stpes", "3"), "No such option: --stpes", "Did you mean --steps?"),
    (("generate", "cat", "--hieght=3"), "No such option: --hieght", "Did you mean --height?"),
    (
        ("generate", "cat", "--guidance", "3"),
        "No such option: --guidance",
        "Did you mean --guidance-scale, --guidance-start or --guidance-end?",
    ),
    (("decode", "x", "--sampler", "euler"), "No such option: --sampler", "See `mlxdiff decode --help`."),
    (("generate", "cat", "--steps"), "--steps has no value", "See `mlxdiff generate --help`."),
    (("generate", "cat", "--steps", "many"), "steps is 'many'", "whole number from 1 to 1000"),
    (("generate", "cat", "--cfg=nan"), "guidance_scale is nan", "number from 0"),
    (("generate", "cat", "--n-rows", "x"), "--n-rows is 'x'", "It is a whole number of at least 1."),
    (("generate", "cat", "--n-rows=0"), "--n-rows is '0'", "It is a whole number of at least 1."),
    (("decode", "x", "--fps", "fast"), "--fps is 'fast'", "It is a number."),
    (("generate", "cat", "--force=yes"), "--force", "does not take a value"),
    (("generate", "cat", "--sampler", "eular"), "no sampler 'eular'", "Did you mean euler?"),
    (("generate", "cat", "--dtype", "fp8"), "no dtype 'fp8'", "fp16, bf16, fp32"),
    (("generate", "cat", "--sigmas", "9,x"), "sigmas[1] is 'x'", "It is a number"),
    (("generate",), "nothing to draw", "Give a prompt"),
    (("decode",), "LATENTS... is missing", "See `mlxdiff decode --help`."),
    (("decode", "x", "--revision", "main"), "no --model", "Name the model too."),
    (("infos",), "There is no command 'infos'", "Did you mean info?"),
    (("a red cat",), "There is no command 'a red cat'", 'mlxdiff generate "a red cat"'),
    (("paint",), "There is no command 'paint'", "pull, generate, grid, decode, info"),
    (("--nonsense",), "No such option: --nonsense", "See `mlxdiff --help`."),
    (("info", "x", "--settings"), "--settings lists the same", "Give it alone."),
    (("info", "--samplers", "--settings"), "lists the same", "Give it alone."),
    (("grid", "a.png", "-o", "b.png", "--save-latents"), "--save-latents does nothing", "give --prompt"),
    (("grid", "a.png", "-o", "b.png", "--preview", "-f"), "--preview does nothing", "give --prompt"),
    (("grid", "a.png", "-o", "b.png", "--steps", "3"), "have no steps to choose", "give --prompt"),
]


def run(arguments, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return (end.value.code, *capsys.readouterr())


@pytest.mark.parametrize(("arguments", "problem", "remedy"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_one_line_says_what_is_wrong_and_what_was_meant(capsys, tmp_path, monkeypatch, arguments, problem, remedy):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert problem in err
    assert remedy in err
    assert not list(tmp_path.iterdir())


def test_no_arguments_show_the_help(capsys):
    code, out, err = run([], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: mlxdiff [OPTIONS] COMMAND")


@pytest.mark.parametrize("command", [(), ("grid",)])
def test_help_is_also_a_command(capsys, command):
    code, out, err = run(["help", *command], capsys)
    assert (code, err) == (0, "")
    assert (code, out, err) == run([*command, "--help"], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "cat", "-n", "4"), "The negative prompt is '4'. For 4 pictures give --n-images 4."),
        (("grid", "-p", "cat", "-n", "4", "--vary", "steps=1", "-o", "x.png"), "The negative prompt is '4'."),
        (("generate", "https://huggingface.co/acme/model"), "The prompt is the address of a model."),
    ],
)
def test_what_is_seldom_meant_is_warned_of(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused = ("--guidance-start", "0.9", "--guidance-end", "0.5")  # later than the warning, sooner than a model
    _, _, err = run([*arguments, *refused], capsys)
    assert f"warning: {words}" in err
    _, _, err = run(["generate", "cat", "-n", "4 legs", *refused], capsys)
    assert "warning" not in err


@pytest.fixture
def special(tmp_path):
    """A folder with a pipe, a socket, a link to a device, and a picture."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        yield tmp_path


@pytest.mark.parametrize("name", ["pipe", "device", "socket"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "cat", "--image", "{}"),
        ("generate", "--from", "{}"),
        ("generate", "cat", "--vae", "{}"),
        ("grid", "a.png", "{}", "-o", "sheet.png"),
        ("grid", "-p", "cat", "--vary", "steps=1", "--image", "{}", "-o", "sheet.png"),
        ("info", "{}"),
        ("decode", "{}"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_what_is_no_file_is_refused_at_once(special, capsys, monkeypatch, name, arguments):
    monkeypatch.chdir(special)
    code, out, err = run([part.format(name) for part in arguments], capsys)
    assert (code, out) == (1, "")
    assert f"error: {name} is a {name}, not a file. Give a regular file.\n" in err


def test_a_file_that_has_changed_since_is_noticed(tmp_path, capsys, monkeypatch):
    hashing = pytest.importorskip("mlxdiff.hashing")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("start.png")
    recorded = {"start.png": hashing.content_hash(Path("start.png"))}
    request = Request(prompt="x", image="start.png", steps=2, seed=1, model="emoji", hashes=recorded)
    write_picture(Path("made.png"), np.zeros((8, 8, 3), np.uint8), picture_text(request))
    refused = ("--guidance-start", "0.9", "--guidance-end", "0.5")
    assert "changed" not in run(["generate", "--from", "made.png", *refused], capsys)[2]
    Image.new("RGB", (64, 64), "blue").save("start.png")
    assert (
        "start.png has changed since made.png was made" in run(["generate", "--from", "made.png", *refused], capsys)[2]
    )
    given = ("--image", "start.png", *refused)
    assert "changed" not in run(["generate", "--from", "made.png", *given], capsys)[2]
