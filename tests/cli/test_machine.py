"""What programs read: a picture on standard output, and events on stderr."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlxdiff.cli.app import main
from mlxdiff.metadata import read_picture

SMALL = ("-m", "emoji", "--height", "16", "--width", "16", "--steps", "3")
PROGRAM = (sys.executable, "-m", "mlxdiff")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na fox\n")
    return tmp_path


def run(capfd, *arguments: str) -> tuple[int, list[str], list[str]]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capfd.readouterr()
    return end.value.code, out.splitlines(), err.splitlines()


def test_standard_output_gets_the_picture_that_a_file_would(here):
    done = subprocess.run([*PROGRAM, "generate", "a cat", "--seed", "3", "-o", "-", *SMALL], capture_output=True)
    assert done.returncode == 0
    subprocess.run([*PROGRAM, "generate", "a cat", "--seed", "3", "-o", "a.png", *SMALL, "-q"], check=True)
    assert done.stdout == (here / "a.png").read_bytes()
    assert Image.open(io.BytesIO(done.stdout)).size == (16, 16)
    (here / "b.png").write_bytes(done.stdout)
    assert read_picture(here / "b.png").request.prompt == "a cat"
    assert b"Traceback" not in done.stderr
    assert sorted(os.listdir(here)) == ["a.png", "b.png", "prompts.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a cat", "--n-images", "2"), "2 pictures do not fit into one stream."),
        (("a cat", "--n-rows", "1"), "--n-rows has no place"),
        (("--prompts-file", "prompts.txt"), "--prompts-file has no place"),
        (("a cat", "--json"), "--json has no place"),
        (("a cat", "--save-latents"), "--save-latents has no place"),
        (("a cat", "--dry-run"), "--dry-run has no place"),
    ],
)
def test_standard_output_takes_one_picture_and_nothing_else(here, capfd, arguments, said):
    code, out, err = run(capfd, "generate", *arguments, "-o", "-", *SMALL)
    assert (code, out, len(err)) == (2, [], 1)
    assert said in err[0]
    assert os.listdir(here) == ["prompts.txt"]


def test_a_terminal_gets_no_bytes(here):
    theirs, ours = pty.openpty()
    done = subprocess.run(
        [*PROGRAM, "generate", "a cat", "-o", "-", *SMALL], stdout=ours, stderr=subprocess.PIPE, text=True, cwd=here
    )
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: A picture is bytes, which a terminal does not show. Send them on: -o - >")


def test_a_reader_that_goes_and_a_full_disk(here):
    command = [*PROGRAM, "generate", "a cat", "-o", "-", *SMALL]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=here)
    os.close(writer)
    assert (done.returncode, "Traceback" in done.stderr, "error" in done.stderr) == (0, False, False)
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=here)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: Standard output cannot be written (No space left")


@pytest.mark.usefixtures("here")
def test_progress_is_an_object_a_line_on_stderr(capfd):
    command = ("generate", "--prompts-file", "prompts.txt", "-o", "out/", "--batch-size", "2", *SMALL)
    code, out, err = run(capfd, *command, "--progress", "json", "--json", "--limit", "2")
    events = [json.loads(line) for line in err]
    assert code == 0
    assert [event["event"] for event in events] == ["loading", "started", "step", "step", "step", "done", "note"]
    assert events[1]["images"] == 3
    assert [(event["step"], event["steps"], event["images"]) for event in events[2:5]] == [(i, 3, 3) for i in (1, 2, 3)]
    assert {"rate", "left", "done"} <= set(events[2])
    assert {name: events[5][name] for name in ("rendered", "found", "failed", "left")} == {
        "rendered": 2,
        "found": 0,
        "failed": 0,
        "left": 1,
    }
    assert events[5]["seconds"] > 0
    assert [json.loads(line)["event"] for line in out] == ["picture", "picture", "stopped"]
    picture = json.loads(out[0])
    assert picture["seconds"] > 0
    assert picture["peak_memory"] > 0
    _, _, err = run(capfd, *command, "--progress", "json", "--quiet")
    assert [json.loads(line)["event"] for line in err] == ["loading", "started", "step", "step", "step", "done"]


def test_errors_and_warnings_are_events_too(here, capfd):
    (here / "a.png").write_bytes(b"somebody's")
    code, _, err = run(capfd, "generate", "a cat", "-n", "4", "-o", "a.png", "--progress", "json", *SMALL)
    said = [json.loads(line) for line in err]
    assert (code, [event["event"] for event in said]) == (1, ["warning", "loading", "error"])
    assert "a.png exists already" in said[-1]["text"]
    code, _, err = run(capfd, "generate", "a cat", "-o", "a.png", *SMALL)
    assert err[-1].startswith("error: a.png exists already"), "of this command alone"


def test_no_progress_and_wrong_values(here, capfd):
    code, _, err = run(capfd, "generate", "a cat", "-o", "b.png", "--progress", "none", *SMALL)
    assert (code, err) == (0, [])
    for value, said in (("jsn", "It is one of bar, json, none."), ("none --preview", "A preview stands above bars")):
        code, _, err = run(capfd, "generate", "a cat", "-o", "c.png", "--progress", *value.split(), *SMALL)
        assert (code, said in err[0]) == (2, True)
    assert not (here / "c.png").exists()
