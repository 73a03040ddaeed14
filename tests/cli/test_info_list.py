"""`mlxdiff info` as a list of pictures: --where, --sort, --limit, and the forms in which it is printed."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import program_pictures
import pytest
from odd_names import ODD
from program import mlxdiff

from mlxdiff.cli.app import main
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.request import Request


def run(arguments, capfdbinary) -> tuple[int, bytes, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capfdbinary.readouterr()
    return end.value.code, out, err.decode()


def write(path, **settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"steps": 20, "seed": 1, "height": 8, "width": 8, **settings}
    write_picture(path, np.zeros((8, 8, 3), np.uint8), picture_text(Request("a cat", **settings)))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """out/ with a.png (seed 3), b.png (seed 1), in/c.png (seed 2, 30 steps)."""
    monkeypatch.chdir(tmp_path)
    for name, seed, steps in (("a", 3, 20), ("b", 1, 20), ("in/c", 2, 30)):
        write(tmp_path / f"out/{name}.png", seed=seed, steps=steps)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_the_forms_of_a_list(capfdbinary):
    code, out, err = run(["info", "out", "--where", "seed < 3"], capfdbinary)
    header, *rows = out.decode().splitlines()
    assert (code, err) == (0, "2 of 3 pictures.\n")
    assert header.split() == ["path", "size", "seed", "steps", "sampler", "guidance_scale", "prompt"]
    assert [row.split()[0] for row in rows] == ["out/b.png", "out/in/c.png"]
    _, out, _ = run(["info", "out", "--where", "seed < 3", "--paths"], capfdbinary)
    assert out == b"out/b.png\nout/in/c.png\n"
    _, out, _ = run(["info", "out", "--where", "seed < 3", "-0"], capfdbinary)
    assert out == b"out/b.png\0out/in/c.png\0"
    _, out, _ = run(["info", "out", "--where", "seed = 2", "--json"], capfdbinary)
    alone = run(["info", "out/in/c.png", "--json"], capfdbinary)[1]
    assert out == alone, "a line of a list is what info says of the file alone"
    code, out, err = run(["info", "out", "--where", "seed > 99", "-q"], capfdbinary)
    assert (code, out, err) == (0, b"", ""), "xargs is given nothing, and nothing is wrong"


@pytest.mark.usefixtures("here")
def test_sorted_and_limited(capfdbinary):
    code, out, err = run(["info", "out", "--sort", "-seed", "--paths"], capfdbinary)
    assert (code, out) == (0, b"out/a.png\nout/in/c.png\nout/b.png\n")
    assert err == "3 of 3 pictures.\n"
    _, out, err = run(["info", "out", "--sort", "seed", "--limit", "2", "--paths"], capfdbinary)
    assert out == b"out/b.png\nout/in/c.png\n"
    assert err == "The first 2 of 3 that match, of 3 pictures.\n"
    _, out, err = run(["info", "out", "--limit", "1", "--paths"], capfdbinary)
    assert (out, err) == (b"out/a.png\n", "The first 1 that match: --limit ended the search.\n")


def test_what_is_no_picture_is_named_and_the_others_are_listed(here, capfdbinary):
    for i in range(25):
        (here / f"out/broken{i:02d}.png").write_bytes(b"GIF89a")
    code, out, err = run(["info", "out", "nosuch.png", "--where", "seed=1", "--paths"], capfdbinary)
    assert (code, out) == (1, b"out/b.png\n")
    assert err.count("error: ") == 21
    assert "error: out/broken00.png is not a picture, or a damaged one." in err
    assert "error: 6 more files cannot be read as pictures." in err


def test_damaged_settings_are_counted(here, capfdbinary):
    write_picture(here / "out/d.png", np.zeros((8, 8, 3), np.uint8), {"mlxdiff": '{"steps": "many"}'})
    code, out, err = run(["info", "out", "--where", "steps is missing", "--paths"], capfdbinary)
    assert (code, out) == (0, b"out/d.png\n")
    assert "warning: Pictures with settings that cannot be read: 1. `mlxdiff info PICTURE` says why.\n" in err
    code, _, err = run(["info", "out/d.png"], capfdbinary)
    assert "What it says about mlxdiff cannot be used." in err


def test_a_folder_of_pictures_alone_is_listed(here, capfdbinary):
    """As with an option that lists all of it; with --json each picture is described as if it were named."""
    assert run(["info", "out"], capfdbinary) == run(["info", "out", "--where", "seed < 99"], capfdbinary)
    code, out, err = run(["info", "out", "--json"], capfdbinary)
    assert (code, err) == (0, "3 of 3 pictures.\n")
    _, paths, _ = run(["info", "out", "--paths"], capfdbinary)
    assert out == b"".join(run(["info", path, "--json"], capfdbinary)[1] for path in paths.decode().splitlines())
    above = run(["info", ".", "--json"], capfdbinary)  # which has no picture of its own
    assert (above[0], above[1].count(b"\n")) == (0, 3)
    (here / "out" / "bad.png").write_bytes(b"\x89PNG")
    code, out, err = run(["info", "out", "--json"], capfdbinary)
    assert (code, out.count(b"\n")) == (1, 3)
    assert "bad.png" in err


def test_a_folder_without_pictures_is_no_model(here, capfdbinary):
    (here / "empty").mkdir()
    code, _, err = run(["info", "empty", "--json"], capfdbinary)
    assert code == 1
    assert "empty is no model" in err
    code, out, err = run(["info", "empty", "out", "--json"], capfdbinary)
    assert (code, out.count(b"\n")) == (1, 3)
    code, _, err = run(["info", ""], capfdbinary)
    assert (code, "name is empty" in err) == (1, True), "not the current folder"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("out", "--where", "stpes > 2"), "there is no name 'stpes'. Did you mean steps?", 2),
        (("out", "--where", ""), "--where is empty.", 2),
        (("out", "--sort", "sede"), "Did you mean seed?", 2),
        (("--where", "seed = 1"), "There are no pictures to list.", 2),
        (("out", "--paths", "--json"), "--json prints more than paths.", 2),
        (("out", "-0", "--json"), "--json prints more than paths.", 2),
        (("--samplers", "--where", "seed = 1"), "--samplers is about no pictures.", 2),
        (("nosuch", "--where", "seed = 1"), "There is no picture nosuch.", 1),
        (("nosuch*.png", "--where", "seed = 1"), "No picture's name is like nosuch*.png.", 1),
    ],
)
def test_wrong_usage(arguments, said, code, capfdbinary):
    found, out, err = run(["info", *arguments], capfdbinary)
    assert (found, out) == (code, b"")
    assert said in err


def test_pictures_of_every_program_are_listed_without_their_remarks(tmp_path, capfdbinary):
    program_pictures.write_all(tmp_path)
    code, out, err = run(["info", str(tmp_path), "--where", "steps = 20", "--json"], capfdbinary)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "11 of 11 pictures.\n")
    assert {line.get("request", line.get("settings"))["prompt"].split()[1] for line in lines} == {"cat"}
    loras = [line["settings"]["lora"] for line in lines if "lora" in line.get("settings", {})]
    assert len(loras) == 4
    assert {lora[0]["ref"] for lora in loras} == {"ink"}
    code, out, _ = run(["info", str(tmp_path / "fooocus.png")], capfdbinary)
    assert (code, "ink,scale=0.5" in out.decode()) == (0, True)


def test_odd_names_reach_other_programs_as_they_are(tmp_path):
    for name in ODD:
        write(tmp_path / "plain.png")
        os.rename(tmp_path / "plain.png", os.path.join(os.fsencode(tmp_path), os.fsencode(name)))
    listed = mlxdiff_bytes("info", ".", "-0", cwd=tmp_path).split(b"\0")
    assert sorted(listed) == sorted([b"", *map(os.fsencode, ODD)])
    again = mlxdiff_bytes("info", "-", "--where", "seed = 1", "-0", cwd=tmp_path, given=b"\0".join(listed))
    assert again.split(b"\0") == listed
    shown = mlxdiff("info", ".", "--where", "seed = 1", cwd=tmp_path).stdout
    assert len(shown.splitlines()) == len(ODD) + 1
    assert not set("\x1b\u202e") & set(shown)
    lines = mlxdiff("info", ".", "--where", "seed = 1", "--json", cwd=tmp_path).stdout.splitlines()
    assert sorted(json.loads(line)["file"] for line in lines) == sorted(ODD)


def mlxdiff_bytes(*arguments, cwd, given=b"") -> bytes:
    import sys

    command = [sys.executable, "-m", "mlxdiff", *arguments]
    return subprocess.run(command, cwd=cwd, input=given, capture_output=True, check=True).stdout


def test_a_reader_that_goes_away_ends_quietly(here):
    for i in range(300):
        write(here / f"out/{i:03d}.png")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{os.sys.executable} -m mlxdiff info out --paths | head -1"],
        cwd=here, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "out/000.png\n"
    assert "rror" not in done.stderr
