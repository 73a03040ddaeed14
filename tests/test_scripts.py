"""The scripts of docs/scripts.md run as they stand there, in a folder of their own, with `mlxdiff` in the PATH.

A config file makes pictures small, so that nothing in the scripts has to.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from patience import WAIT
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from server_client import serving

from mlxdiff.metadata import read_picture

PAGE = (Path(__file__).parents[1] / "docs" / "scripts.md").read_text()
SCRIPTS = {
    re.search(r"^# ([\w.-]+)", text, re.MULTILINE)[1].removesuffix(":"): text  # type: ignore[index]
    for text in re.findall(r"^```(?:sh|make)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
}
SMALL = "model = 'emoji'\nsteps = 2\nheight = 32\nwidth = 32\n"
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="there is no bash")


class Shell:
    """A folder in which scripts of the page run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a folder"
        programs = folder / "bin"
        for made in (self.folder, programs, folder / "home"):
            made.mkdir()
        program = programs / "mlxdiff"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlxdiff "$@"\n')
        program.chmod(0o755)
        (folder / "config.toml").write_text(SMALL)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "MLXDIFF_CONFIG": str(folder / "config.toml"),
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.program = program

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.folder / f"{name}.txt").write_text(text)

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        path = self.folder / name
        path.write_text(SCRIPTS[name])
        return subprocess.Popen(
            [str(BASH), str(path), *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(name, *arguments, **environment)
        out, err = process.communicate(timeout=WAIT)
        assert process.returncode == code, out + err
        assert "Traceback" not in err
        return subprocess.CompletedProcess(name, code, out, err)

    def prompts(self, folder: str) -> list[str]:
        """What the pictures of a folder were made with."""
        found = sorted((self.folder / folder).rglob("*.png"))
        return [str(read_picture(path).request.prompt) for path in found]  # type: ignore[union-attr]


@pytest.fixture
def shell(tmp_path) -> Shell:
    return Shell(tmp_path)


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"there is no {', '.join(missing)}")


def test_there_are_ten_and_each_is_run_here():
    assert len(SCRIPTS) == 10
    here = Path(__file__).read_text()
    assert all(f'"{name}"' in here for name in SCRIPTS)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.endswith(".sh")])
def test_bash_reads_them_and_each_begins_alike(name):
    subprocess.run([str(BASH), "-n"], input=SCRIPTS[name], text=True, check=True)
    assert SCRIPTS[name].startswith(f"#!/bin/bash\n# {name}")
    assert re.search(r"^set -e?uo pipefail$", SCRIPTS[name], re.MULTILINE)
    # What bash 3.2 and the BSD tools of a Mac do not have.
    assert not re.search(
        r"\b(mapfile|readarray|declare -A|flock|sed -i|readlink -f|date -d|grep -P)\b|\|&|\$\{\w+,,", SCRIPTS[name]
    )


def test_a_picture_a_day(shell):
    shell.write(themes="a red apple\n\n--a $dog; with \"marks\" & 'more'\n")
    shell.run("daily.sh")
    (picture,) = (shell.folder / "pictures").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\.png", picture.name)
    assert shell.prompts("pictures")[0] in ("a red apple", "--a $dog; with \"marks\" & 'more'")
    before = picture.stat().st_mtime_ns
    assert shell.run("daily.sh").stderr == ""
    assert picture.stat().st_mtime_ns == before


@needs("make")
def test_make_renders_what_is_out_of_date(shell):
    (shell.folder / "Makefile").write_text(SCRIPTS["Makefile"])
    (shell.folder / "prompts").mkdir()
    for name in ("apple", "pear"):
        (shell.folder / "prompts" / f"{name}.txt").write_text(f'a "{name}", $5\n')

    def make(*goals: str) -> str:
        command = ["make", *goals]
        done = subprocess.run(command, cwd=shell.folder, env=shell.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    make()
    assert shell.prompts("pictures") == ['a "apple", $5', 'a "pear", $5']
    assert read_picture(shell.folder / "sheet.png").size[0] >= 64
    assert "mlxdiff" not in make("sheet.png")
    later = time.time() + 5
    os.utime(shell.folder / "prompts" / "pear.txt", (later, later))
    assert make("-n").count("mlxdiff generate") == 1


def test_processes_share_a_list(shell):
    shell.write(prompts="".join(f"a cat {i}\n" for i in range(4)))
    said = shell.run("gpus.sh", "2").stdout.split()
    assert len(said) == len(set(said)) == 4
    assert shell.prompts("out") == [f"a cat {i}" for i in range(4)]


@needs("jq")
def test_old_pictures_again(shell):
    (shell.folder / "old ones").mkdir()
    for name, text in (
        ("one", "a red apple\nSteps: 2, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 32x32"),
        ("two", ""),
    ):
        info = PngInfo()
        if text:
            info.add_text("parameters", text)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(shell.folder / "old ones" / f"{name}.png", pnginfo=info)
    mlx = [str(shell.program), "generate", "a pear", "--seed", "9", "-o", "old ones/our own.png"]
    subprocess.run(mlx, cwd=shell.folder, env=shell.environment, check=True, capture_output=True)
    shell.run("larger.sh", "old ones/")
    assert shell.prompts("old ones-larger") == ["a red apple", "a pear"]
    assert read_picture(shell.folder / "old ones-larger" / "our own.png").size == (64, 64)
    table = (shell.folder / "old ones-larger.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in sorted(table)] == ["5", "9"]


def test_watching_a_folder(shell):
    for folder in ("inbox", "work"):
        (shell.folder / folder).mkdir()
    (shell.folder / "inbox" / "two words.txt").write_text("a red apple\n")
    (shell.folder / "inbox" / "bad.txt").write_text("a cat --nothing 3\n")
    (shell.folder / "work" / "left.txt").write_text("a pear\n")
    process = shell.start("watch.sh")
    try:
        end = time.monotonic() + WAIT
        while not (
            (shell.folder / "failed" / "bad.txt").exists()
            and (shell.folder / "finished" / "two words" / "two words.txt").exists()
        ):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        (shell.folder / "inbox" / "stop").touch()
        assert process.wait(timeout=WAIT) == 0
    finally:
        process.kill()
        _, said = process.communicate()
    assert "no option --nothing" in said
    assert shell.prompts("finished") == ["a pear", "a red apple"]
    assert not list((shell.folder / "work").iterdir())


def test_a1111_s_log(shell):
    # As modules/ui_common.py of the web UI 1.6 writes it.
    (shell.folder / "log.csv").write_bytes(
        b"prompt,seed,width,height,sampler,cfgs,steps,filename,negative_prompt\r\n"
        b'"a red, (shiny:1.2) apple",5,32,32,Euler a,7.0,2,00000-5.png,blurry\r\n'
        b'"a ""cfgs"" pear",6,32,48,DPM++ 2M Karras,6.5,3,00001-6.png,\r\n'
    )
    shell.run("from-a1111.sh", "log.csv", "out again")
    first, second = (read_picture(path).request for path in sorted((shell.folder / "out again").glob("*.png")))
    assert first is not None
    assert second is not None
    assert (first.prompt, first.seed, first.negative_prompt, first.compat) == (
        "a red, (shiny:1.2) apple",
        5,
        "blurry",
        "a1111",
    )
    assert (second.prompt, second.sampler, second.schedule, second.height) == (
        'a "cfgs" pear',
        "dpmpp_2m",
        "karras",
        48,
    )
    assert "Done before, or by another process: 2" in shell.run("from-a1111.sh", "log.csv", "out again").stderr


@pytest.fixture
def hook() -> Iterator[tuple[str, list[str]]]:
    """An address, and the texts that were sent there."""
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            told.append(parse_qs(body)["text"][0])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", told
    server.shutdown()
    server.server_close()
    thread.join()


@needs("curl")
def test_every_night(shell, hook):
    address, told = hook
    shell.write(prompts="a cat\na dog\n")
    shell.run("nightly.sh", HOOK=address)
    assert shell.prompts("out") == ["a cat", "a dog"]
    assert "2 new pictures, exit code 0" in told[0]
    assert not (shell.folder / "nightly.lock").exists()
    shell.write(prompts="a cat --steps nothing\n")
    assert "The hook failed." in shell.run("nightly.sh", HOOK="http://127.0.0.1:1/", code=2).stderr
    assert "0 new pictures, exit code 2" in (shell.folder / "nights.txt").read_text()
    (shell.folder / "nightly.lock").mkdir()
    assert "has not ended" in shell.run("nightly.sh", code=1).stderr
    assert (shell.folder / "nightly.lock").exists(), "it is the other one's"


def test_a_sweep_of_each_prompt(shell):
    shell.write(prompts='# mine\na cat, "cute"\n\na dog\'s $HOME')
    said = shell.run("sweeps.sh").stdout.split()
    assert said == ["sheets/001.png", "sheets/002.png"]
    assert read_picture(shell.folder / "sheets" / "001.png").size[0] > 3 * 32
    again = shell.run("sweeps.sh")
    assert again.stdout == ""
    assert again.stderr.count("Done before") == 2


def test_finishing_whatever_happens(shell):
    shell.write(prompts="a cat\na dog\na fox\n")
    whole = shell.program.read_text()
    # The first time it is killed when one picture is done.
    shell.program.write_text(
        f'#!/bin/sh\nif mkdir "{shell.folder}/killed" 2>/dev/null; then\n'
        f'  "{sys.executable}" -m mlxdiff "$@" --limit 1 --batch-size 1\n  kill -9 $$\nfi\n' + whole.partition("\n")[2]
    )
    command = (
        "mlxdiff",
        "generate",
        "--prompts-file",
        "prompts.txt",
        "--seed",
        "7",
        "--output",
        "out",
        "--batch-size",
        "1",
    )
    done = shell.run("finish.sh", *command)
    assert "Try 1 ended with exit code 137." in done.stderr
    assert "Done before, or by another process: 1" in done.stderr
    assert shell.prompts("out") == ["a cat", "a dog", "a fox"]
    shell.run("finish.sh", "mlxdiff", "generate", code=2)
    assert "Try 1" not in shell.run("finish.sh", "sh", "-c", "exit 130", code=130).stderr


@needs("curl", "jq", "base64")
def test_asking_a_server(shell):
    token = "not-to-be-guessed"
    with serving(token=token) as server:
        asked = {"MLXDIFF_SERVER": f"http://127.0.0.1:{server.port}"}
        shell.run("ask.sh", 'a "red" apple; $HOME', "an apple.png", MLXDIFF_TOKEN=token, **asked)
        assert shell.prompts(".") == ['a "red" apple; $HOME']
        assert "401" in shell.run("ask.sh", "a cat", "cat.png", code=22, **asked).stderr
    assert not (shell.folder / "cat.png").exists()
    assert not list(shell.folder.glob("*.part"))
