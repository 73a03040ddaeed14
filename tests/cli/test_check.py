"""`mlxdiff info --check` as it is typed: what is printed, and how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import checked_folder
import pytest
from killing import falling, naming, start, until_stopped
from program import mlxdiff

from mlxdiff.cli.app import main


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """out/ with two pictures, their latents and a journal."""
    checked_folder.write(tmp_path / "out", ["a.png", "b.png"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["info", "--check", *arguments])
    return (end.value.code, *capsys.readouterr())


@pytest.mark.usefixtures("here")
def test_a_sound_folder_is_one_line(capsys):
    code, out, err = run(["out"], capsys)
    assert (code, err) == (0, "")
    assert out == "Checked 2 pictures and 4 files of latents: all sound and true.\n"


def test_a_line_a_fault(here, capsys):
    data = (here / "out" / "a.png").read_bytes()
    (here / "out" / "a.png").write_bytes(data[:-9])
    (here / "out" / "b.png").unlink()
    code, out, _ = run(["out", "-q"], capsys)
    assert code == 1
    first, second, third, summary = out.splitlines()
    assert first == "damaged     out/a.png: It ends before its last chunk."
    assert second.startswith("content     out/a.png: It is not the file that the journal describes: it has ")
    assert third.startswith("missing     out/b.png: The journal out/mlxdiff-journal.jsonl has it")
    assert summary == "Checked 1 picture and 4 files of latents: 3 faults in 2 files."


def test_json_is_an_object_for_each_picture_fault_and_for_all(here, capsys):
    os.rename(here / "out" / "a.png", here / "out" / "b.png")
    code, out, err = run(["out", "--json"], capsys)
    said = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (1, "")
    pictures = [one for one in said if one["event"] == "picture"]
    assert [(one["path"], one["sound"], one["format"], one["size"]) for one in pictures] == [
        ("out/b.png", False, "PNG", "24x16")
    ]
    faults = [(one["kind"], one["path"]) for one in said if one["event"] == "fault"]
    assert ("swapped", "out/b.png") in faults
    assert ("missing", "out/a.png") in faults
    assert said[-1]["event"] == "summary"
    assert said[-1]["faults"] == {kind: sum(one == kind for one, _ in faults) for kind, _ in faults}


def test_rendering_again(here, capsys):
    """Random pixels are not what the request makes; a real picture is."""
    code, out, _ = run(["out/a.png", "--rerender", "1"], capsys)
    assert code == 1
    assert out.startswith("rerendered  out/a.png: Rendered again it is another picture: ")
    assert out.endswith(" Rendered again 1: 0 equal, 1 different.\n")
    mlxdiff("generate", "a red apple", "--steps", "1", "--seed", "1", "-o", "apple.png", cwd=here)
    code, out, _ = run(["apple.png", "--rerender", "5", "--json"], capsys)
    (one,) = [said for said in map(json.loads, out.splitlines()) if said["event"] == "rerendered"]
    assert code == 0
    assert one["equal"] or one["psnr"] > 60


def test_what_cannot_be_rendered_here_is_said(here, capsys):
    checked_folder.write(here / "far", ["a.png"], model="nobody/nothing")
    code, out, _ = run(["far", "--rerender", "1"], capsys)
    assert code == 0
    skipped, summary = out.splitlines()
    assert skipped.startswith("skipped     far/a.png: It cannot be rendered here. ")
    assert summary.endswith("all sound and true. Rendered again 1: 0 equal, 1 not possible here.")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "--check has nothing to look at."),
        (["nowhere"], 1, "There is no file or folder nowhere."),
        (["empty"], 1, "There are no pictures in empty."),
        (["pipe"], 1, "pipe is a pipe, not a file."),
        (["out", "--samplers"], 2, "--check looks at pictures, and at nothing else."),
        (["out", "--model", "emoji"], 2, "--check looks at pictures, and at nothing else."),
        (["out", "--rerender", "0"], 2, "--rerender is '0'."),
        (["a\0b"], 1, "There is no file or folder"),
    ],
)
def test_wrong_usage(here, capsys, arguments, code, said):
    (here / "empty").mkdir()
    os.mkfifo(here / "pipe")
    found, out, err = run(arguments, capsys)
    assert (found, out) == (code, "")
    assert said in err


@pytest.mark.usefixtures("here")
def test_rerender_alone_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as end:
        main(["info", "out", "--rerender", "1"])
    assert end.value.code == 2
    assert "Add --check." in capsys.readouterr().err


def test_names_do_not_reach_the_terminal_as_they_are(here, capsys):
    (here / "out" / "\x1b[31mred\nerror.png").write_bytes(b"")
    code, out, _ = run(["out"], capsys)
    assert code == 1
    assert out.splitlines()[0] == "damaged     out/red error.png: It is empty."


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed(here):
    """Killed while it renders, the folder is unfinished; after the same command again all is sound."""
    (here / "p.txt").write_text("".join(f"emoji {i}\n" for i in range(12)))
    command = ("generate", "--prompts-file", "p.txt", "-o", "new/", "--batch-size", "1")
    command += ("--steps", "3", "--save-latents", "-q")
    process = start(here, *command, program=falling(naming("*.png"), 3, "stop"))
    until_stopped(process)
    mlxdiff("info", "--check", "new", cwd=here)  # a run at work is no fault
    process.kill()
    process.communicate()
    left = mlxdiff("info", "--check", "new", cwd=here, code=1)
    kinds = {line.split()[0] for line in left.stdout.splitlines()[:-1]}
    assert kinds == {"leftover"}
    mlxdiff("generate", "--prompts-file", "p.txt", "-o", "new/", "--steps", "3", "--save-latents", "-q", cwd=here)
    assert mlxdiff("info", "--check", "new", cwd=here).stdout == (
        "Checked 12 pictures and 12 files of latents: all sound and true.\n"
    )
