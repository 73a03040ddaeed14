"""The prompt shell on a real terminal: pictures, Ctrl-C, pasted blocks, Tab, the ways out."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import WAIT
from PIL import Image
from program import mlxdiff
from terminals import Terminal

from mlxdiff.cli import output
from mlxdiff.cli.app import main
from mlxdiff.metadata import read_picture

SMALL = ("--steps", "2", "--height", "64", "--width", "64")


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)


def test_pictures_commands_and_errors_of_one_session(tmp_path):
    with Terminal(tmp_path, "generate", *SMALL) as shell:
        shell.until("mlxdiff> ")
        said = shell.answer("a red apple")
        (first,) = pictures(tmp_path)
        seed = read_picture(first).request.seed
        assert first.name in said
        assert f"seed {seed}, " in said

        # The same picture as from a process of its own.
        mlxdiff("generate", "a red apple", *SMALL, "--seed", str(seed), "-o", "alone.png", cwd=tmp_path)
        with Image.open(first) as here, Image.open(tmp_path / "alone.png") as alone:
            assert here.tobytes() == alone.tobytes()
        (tmp_path / "alone.png").unlink()

        shell.answer("/again 2")
        seeds = {read_picture(path).request.seed for path in pictures(tmp_path)}
        assert len(seeds) == 3
        assert "seed: 5" in shell.answer("/seed 5")
        shell.answer("a {red|green} cat --steps 3")
        found = read_picture(pictures(tmp_path)[-1]).request
        assert (found.seed, found.steps) == (5, 3)
        assert found.prompt in ("a red cat", "a green cat")
        again = shell.answer("a {red|green} cat --steps 3")
        assert "is there already" in again
        assert len(pictures(tmp_path)) == 4

        for line, words in (
            ("/steps 0", "steps is 0"),
            ("/stepz 4", "Did you mean /steps?"),
            ("/model nobody/nothing", "mlxdiff pull nobody/nothing"),
            ("/image missing.png", "There is no picture missing.png"),
            ("a cat --stepz 3", "Did you mean --steps?"),
            ("a cat --image missing.png", "There is no picture missing.png"),
            ("a cat --lora nowhere", "There is no LoRA"),
            ("__colors__", "There is no folder for __colors__"),
        ):
            said = shell.answer(line)
            assert "error: " in said
            assert words in " ".join(said.split()).replace("  ", " "), said
        assert "steps: 2" in shell.answer("/steps")
        shell.type("\x1b[A")  # the line before
        shell.until("/steps")
        shell.type("\x15/quit\r")
        assert shell.end() == 0
        assert shell.shows_typing()
    history = Path(os.environ["MLXDIFF_HOME"]) / "shell-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert history.read_text().splitlines()[:3] == ["a red apple", "/again 2", "/seed 5"]


def test_ctrl_c_stops_the_picture_and_not_the_shell(tmp_path):
    with Terminal(tmp_path, "generate", "--steps", "1000", "--batch-size", "1", "-o", "out") as shell:
        shell.until("mlxdiff> ")
        shell.type("a castle\r")
        shell.until("Denoising")
        shell.until("/1000")
        assert not shell.shows_typing()
        shell.type("\x03")
        shell.until("Stopping after this step.")
        assert "Stopped." in shell.until("mlxdiff> ")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mlxdiff-journal.jsonl"]
        said = shell.answer("a castle --steps 2")
        assert "out/00000-a-castle-" in said
        shell.type("half a line")
        shell.until("half a line")
        shell.interrupt()
        shell.until("mlxdiff> ")
        shell.interrupt()
        assert "Ctrl-C once more" in shell.until("mlxdiff> ")
        shell.interrupt()
        assert shell.end() == 0
        assert shell.shows_typing()


def test_a_pasted_block_waits_for_enter_and_each_line_is_done(tmp_path):
    block = "a red apple\n\n# a comment\na \x1b]0;owned\x07\x1b[2Jgreen\x9b1m apple\n/steps 1\na pear"
    with Terminal(tmp_path, "generate", *SMALL) as shell:
        shell.until("mlxdiff> ")
        shell.type(f"\x1b[200~{block}\x1b[201~")
        shell.until("a pear")
        assert not pictures(tmp_path)
        shell.type("\r")
        said = shell.until("mlxdiff> ")
        assert "Control characters were left out." in said
        assert "5 lines: each is done by itself" in said
        shell.type("\x04")
        assert shell.end() == 0
    prompts = [read_picture(path).request.prompt for path in pictures(tmp_path)]
    assert prompts == ["a red apple", "a green apple", "a pear"]
    assert b"\x1b]0;" not in shell.received
    assert b"\x1b[2J" not in shell.received
    assert "\x1b" not in (Path(os.environ["MLXDIFF_HOME"]) / "shell-history").read_text()


def test_tab_completes(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "my photo.png")
    with Terminal(tmp_path, "generate", *SMALL) as shell:
        shell.until("mlxdiff> ")
        shell.type("/sampl\tdpmpp_2m_sde_\t\r")
        assert "sampler: dpmpp_2m_sde_heun" in shell.until("mlxdiff> ")
        shell.type("/reset\r")  # with a picture these few steps leave that sampler one noise level
        shell.until("mlxdiff> ")
        shell.type("/image my \t\r")
        assert "image: my photo.png" in shell.until("mlxdiff> ")
        shell.type("/reset\r")
        shell.until("mlxdiff> ")
        shell.type("a cat <lora:pix\t:0.5> --schedu\tsim\t\r")
        shell.until("mlxdiff> ")
        shell.type("/quit\r")
        assert shell.end() == 0
    found = read_picture(pictures(tmp_path)[-1]).request
    assert [(one.ref, one.scale) for one in found.lora] == [("pixel-art", 0.5)]
    assert found.schedule == "simple"


@pytest.mark.parametrize("busy", [True, False], ids=["in a picture", "at the prompt"])
def test_a_signal_to_end_ends_it_and_gives_the_terminal_back(tmp_path, busy):
    with Terminal(tmp_path, "generate", "--steps", "1000") as shell:
        shell.until("mlxdiff> ")
        shell.type("a castle\r" if busy else "a castle")
        shell.until("/1000" if busy else "a castle")
        os.kill(shell.process.pid, signal.SIGTERM)
        assert shell.end() == 143
        assert shell.shows_typing()
    assert not list(tmp_path.glob("*.p*"))


@pytest.mark.parametrize(
    "before", ["", "import sys; sys.modules['readline'] = None"], ids=["redirected", "no readline"]
)
def test_without_editing_lines_are_read_all_the_same(tmp_path, before):
    with (
        open(tmp_path / "paths.txt", "w") as paths,
        Terminal(tmp_path, "generate", *SMALL, before=before, stdout=None if before else paths.fileno()) as shell,
    ):
        shell.until("mlxdiff> ")
        shell.type("a cat\n")
        said = shell.until("mlxdiff> ")
        assert re.search(r"seed \d+, \d", said)
        shell.type("/show\n")
        assert "height" in shell.until("mlxdiff> ")
        shell.type("\x04")
        assert shell.end() == 0
    (picture,) = pictures(tmp_path)
    if not before:
        assert (tmp_path / "paths.txt").read_text() == f"{picture.name}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--n-rows", "2"), "no contact sheets"),
        (("--limit", "2"), "--limit is of a run that ends by itself"),
        (("-o", "-"), "writes pictures to files"),
        (("-m", "nobody/nothing"), "mlxdiff pull nobody/nothing"),
        (("--wildcards", "nowhere"), "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_begin_ends_at_once(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output, "is_typed_to", lambda: True)
    with pytest.raises(SystemExit) as end:
        main(["generate", *arguments])
    assert end.value.code in (1, 2)
    assert words in capsys.readouterr().err


def test_without_a_terminal_there_is_nothing_to_draw(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mlxdiff", "generate"], input="a cat\n", capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "There is nothing to draw." in done.stderr
    assert not done.stdout


SLOW = """
import pathlib, time
import mlxdiff.batch.render as render
def slow(*arguments, denoise=render.denoise, **more):
    for step, event in enumerate(denoise(*arguments, **more)):
        if step == 1:
            pathlib.Path("second step").touch()
            time.sleep(600)
        yield event
render.denoise = slow
"""


def test_a_step_that_takes_long_is_left_at_the_third_ctrl_c(tmp_path):
    with Terminal(tmp_path, "generate", "--steps", "3", before=SLOW) as shell:
        shell.until("mlxdiff> ")
        shell.type("a castle\r")
        shell.until("Denoising")
        end = time.monotonic() + WAIT
        while not (tmp_path / "second step").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        for words in ("Stopping after this step.", "Once more, and mlxdiff ends at once.", "\n"):
            shell.type("\x03")
            shell.until(words)
        assert shell.end() == 130
        assert shell.shows_typing()
    assert not pictures(tmp_path)
