"""`mlxdiff pull` for parts, as people run it: what it says, keeps, lists, checks and removes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import part_files
import pytest
from public_repositories import LIGHTNING

NAME = "owner/name"
WEIGHTS = "pytorch_lora_weights.safetensors"
LORA = part_files.lora(fill=1)
Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_lora_of_the_hub_is_brought_said_listed_checked_and_removed(server, run):
    commit = server.add(NAME, {WEIGHTS: LORA, "README.md": b"x"})
    planned = json.loads(run("pull", NAME, "--dry-run", "--json").stdout)
    assert (planned["kind"], planned["ready"], [file["path"] for file in planned["files"]]) == (
        "lora",
        False,
        [WEIGHTS],
    )
    done = run("pull", NAME)
    assert f"{NAME} is a LoRA. Use it with: --lora {NAME}\n" in done.stderr
    path = Path(done.stdout.removeprefix("ready ").strip())
    assert path.read_bytes() == LORA
    said = json.loads(run("pull", NAME, "--json", "--quiet").stdout)
    assert (said["kind"], said["use"], said["path"], said["ready"]) == ("lora", f"--lora {NAME}", str(path), True)
    listed = json.loads(run("pull", "--list", "--json").stdout)
    assert (listed["model"], listed["revision"], listed["kind"], listed["complete"]) == (NAME, commit, "lora", True)
    assert listed["parts"] == [{"path": WEIGHTS, "kind": "lora"}]
    path.resolve().write_bytes(bytes(len(LORA)))
    checked = run("pull", NAME, "--verify", "--yes", code=1)
    assert f"{WEIGHTS}: damaged" in checked.stdout
    assert f"mlxdiff pull {NAME}" in checked.stderr
    assert not path.exists()
    run("pull", NAME)
    assert path.read_bytes() == LORA
    run("pull", NAME, "--remove", "--yes")
    assert run("pull", "--list").stdout == ""


def test_of_several_files_one_is_named_and_comes_alone(server, run):
    server.add("ByteDance/SDXL-Lightning", {name: part_files.lora(fill=len(name)) for name in LIGHTNING})
    refused = run("pull", "ByteDance/SDXL-Lightning", code=1)
    assert "sdxl_lightning_4step_lora.safetensors, " in refused.stderr
    reference = "ByteDance/SDXL-Lightning/sdxl_lightning_4step_lora.safetensors"
    done = run("pull", reference)
    assert f"Use it with: --lora {reference}\n" in done.stderr
    assert done.stdout.endswith("sdxl_lightning_4step_lora.safetensors\n")
    assert "names one file" in run("pull", reference, "--remove", "--yes", code=2).stderr


def test_a_part_is_no_model(server, run):
    server.add(NAME, {WEIGHTS: LORA})
    for option in (("--set-default",), ("--quantize", "8")):
        refused = run("pull", NAME, *option, code=2)
        assert f"error: {NAME} is a LoRA, not a model." in refused.stderr
    assert not [path for path in server.paths() if "/resolve/" in path]


def test_a_file_is_kept_found_listed_checked_and_removed(run, tmp_path):
    part_files.write(tmp_path / "style.safetensors", LORA)
    shown = run("pull", "style.safetensors", "--as", "ink", "--dry-run")
    assert shown.stdout.startswith("style.safetensors would be kept as the LoRA ink: ")
    assert not (tmp_path / "state").exists()
    done = run("pull", "./style.safetensors", "--as", "ink")
    path = tmp_path / "state" / "parts" / "lora" / "ink.safetensors"
    assert (done.stdout, path.read_bytes()) == (f"ready {path}\n", LORA)
    assert "ink is kept, a LoRA. Use it with: --lora ink\n" in done.stderr
    again = json.loads(run("pull", "style.safetensors", "--as", "ink", "--json").stdout)
    assert (again["model"], again["kind"], again["use"], again["ready"]) == ("ink", "lora", "--lora ink", True)
    row = run("pull", "--list").stdout.splitlines()[1].split()
    assert (row[:3], row[-1]) == (["ink", "file", "LoRA"], "complete")
    assert run("pull", "ink", "--verify").stdout == "ink (LoRA): sound\n"
    path.write_bytes(LORA[:-1] + b"x")
    damaged = run("pull", "--verify", code=1)
    assert damaged.stdout == "ink (LoRA): damaged\n"
    assert "mlxdiff pull FILE --as ink --force" in damaged.stderr
    assert "--yes" in run("pull", "ink", "--remove", code=2).stderr
    assert path.exists()
    removed = json.loads(run("pull", "ink", "--remove", "--yes", "--json").stdout)
    assert (removed["removed"], removed["bytes"], path.exists()) == (True, len(LORA), False)


def test_what_is_on_this_disk_needs_no_pull(run, tmp_path):
    for name, content in part_files.component("ControlNetModel").items():
        part_files.write(tmp_path / "canny" / name, content)
    done = run("pull", "canny")
    assert done.stdout == "ready canny\n"
    assert "canny is a ControlNet on this disk: nothing to fetch. Use it with: --control canny=IMAGE" in done.stderr
    path = part_files.write(tmp_path / "state" / "parts" / "lora" / "ink.safetensors", LORA)
    said = json.loads(run("pull", "ink", "--json").stdout)
    assert (said["kind"], said["path"], said["use"]) == ("lora", str(path), "--lora ink")
    assert "There is no model 'nosuch'" in run("pull", "nosuch", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("style.pt",), 1, "is a pickle"),
        (("cut.safetensors",), 1, "is not a sound safetensors file"),
        (("style.safetensors", "--as", "../x"), 2, "can name no part"),
        (("style.safetensors", "--kind", "vae"), 2, "is a LoRA, going by its header, not a VAE"),
        (("style.safetensors", "--kind", "song"), 2, "There is no kind 'song'"),
        (("gone.safetensors", "--kind", "lora"), 1, "There is no file gone.safetensors"),
        (("owner/name", "--as", "x"), 2, "--as is for"),
        (("--list", "--as", "x"), 2, "--as does nothing beside --list"),
        (("nosuch", "--remove", "--yes", "--kind", "lora"), 1, "no LoRA 'nosuch' in mlxdiff's store"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_a_sentence(run, tmp_path, arguments, code, words):
    part_files.write(tmp_path / "style.safetensors", LORA)
    part_files.write(tmp_path / "style.pt", b"\x80\x02")
    part_files.write(tmp_path / "cut.safetensors", LORA[:-1])
    done = run("pull", *arguments, code=code)
    assert words in done.stderr
    assert (done.stdout, len(done.stderr.strip().splitlines())) == ("", 1)
    assert not (tmp_path / "state").exists()


def test_what_is_missing_says_what_to_run(run):
    missing = run("generate", "x", "-o", "x.png", "--vae", "stabilityai/sd-vae-ft-mse", code=1)
    assert missing.stderr.splitlines()[-1].endswith("Run: mlxdiff pull stabilityai/sd-vae-ft-mse")
    missing = run("generate", "x", "-o", "x.png", "--embedding", "worm", code=1)
    assert "There is no embedding 'worm' in MLXDIFF_EMBEDDINGS or in mlxdiff's store." in missing.stderr
