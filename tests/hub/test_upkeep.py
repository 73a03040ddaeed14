"""The cache as it is kept: what is listed, removed, pruned and verified, and that nothing else is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir
from huggingface_hub.utils import WeakFileLock
from repositories import COMMIT, NAME, cached, repository

from mlxdiff import hub
from mlxdiff.errors import ModelNotFoundError

pytestmark = pytest.mark.usefixtures("cache")
OTHER = "f" * 40


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_models_are_listed_with_size_revision_use_and_completeness(cache):
    assert hub.cached_models() == []
    files = repository()
    one = cached(cache, files)
    cached(cache, files, ref="v1")
    two = cached(cache, {"model_index.json": files["model_index.json"]}, name="another/one", commit=OTHER)
    cached(cache, {"config.json": b"{}"}, name="some/encoder")
    for blob in (one.parents[1] / "blobs").iterdir():
        os.utime(blob, (1e9, 1e9))
    first, second = hub.cached_models()
    assert (first.reference, first.revision, first.path, first.complete) == ("another/one", OTHER, two, False)
    assert (second.reference, second.revision, second.path, second.complete) == (NAME, COMMIT, one, True)
    assert (second.size, second.refs) == (sum(map(len, files.values())), ("main", "v1"))
    assert second.last_used == 1e9


def test_a_model_is_removed_whole_and_nothing_else_is(cache):
    folder = cached(cache, repository())
    cached(cache, repository(), name="another/one", commit=OTHER)
    (folder.parents[1] / "blobs" / f"{OTHER}.incomplete").write_bytes(b"12345")
    others = files_in(cache / "models--another--one")
    removal = hub.removal_of(NAME)
    assert [model.reference for model in removal.models] == [NAME]
    assert removal.size == sum(map(len, repository().values())) + 5
    assert folder.exists()
    hub.remove(removal)
    assert not folder.parents[1].exists()
    assert files_in(cache / "models--another--one") == others
    with pytest.raises(ModelNotFoundError):
        hub.resolve(NAME)


def test_one_revision_is_removed_and_what_others_share_stays(cache):
    cached(cache, repository())
    new = cached(cache, repository(**{"unet/config.json": b'{"new": 1}'}), ref="v2", commit=OTHER)
    removal = hub.removal_of(f"{NAME}@v2")
    assert removal.size == len(b'{"new": 1}')
    hub.remove(removal)
    assert not new.exists()
    assert hub.resolve(NAME).revision == COMMIT
    assert hub.verify(hub.cached_models()[0])
    assert all(file.sound for file in hub.verify(hub.cached_models()[0]))


def test_a_pull_that_finished_no_file_can_be_removed(cache):
    part = cache / "models--owner--name" / "blobs" / f"{OTHER}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"123")
    removal = hub.removal_of(NAME)
    assert (removal.models, removal.size) == ((), 3)
    hub.remove(removal)
    assert not (cache / "models--owner--name").exists()


@pytest.mark.parametrize("reference", ["some/where", f"{NAME}@v9", "emoji", "../x"])
def test_what_is_not_there_cannot_be_removed(cache, reference):
    cached(cache, repository())
    with pytest.raises(ModelNotFoundError):
        hub.removal_of(reference)


def test_what_nothing_points_to_is_pruned(cache):
    old = cached(cache, repository())
    new = cached(cache, repository(**{"unet/config.json": b'{"new": 1}'}), commit=OTHER)  # main moves here
    encoder = cached(cache, {"config.json": b"{}"}, name="some/encoder")
    (encoder.parents[1] / "refs" / "main").unlink()
    part = new.parents[1] / "blobs" / f"{OTHER}.incomplete"
    part.write_bytes(b"123")
    removal = hub.prunable()
    assert [model.path for model in removal.models] == [old]
    assert (removal.unfinished, removal.size) == ((part,), len(repository()["unet/config.json"]) + 3)
    hub.remove(removal)
    assert not old.exists()
    assert not part.exists()
    assert hub.resolve(NAME).revision == OTHER
    assert encoder.is_dir()
    assert hub.prunable().empty


def test_a_download_that_is_going_on_is_not_pruned(cache):
    folder = cached(cache, repository())
    part = folder.parents[1] / "blobs" / f"{OTHER}.incomplete"
    part.write_bytes(b"123")
    lock = cache / ".locks" / "models--owner--name" / f"{OTHER}.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock):
        hub.remove(hub.prunable())
    assert part.exists()


def test_an_empty_cache_has_nothing_to_prune():
    assert hub.prunable().empty


def test_every_file_is_verified_against_its_hash(online):
    online.add(NAME, repository())
    hub.pull(hub.plan(NAME))
    (model,) = hub.cached_models()
    assert {(file.path, file.sound) for file in hub.verify(model)} == {(path, True) for path in repository()}


@pytest.mark.parametrize("path", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json"])
def test_a_damaged_file_is_found_removed_and_brought_anew(online, path):
    online.add(NAME, repository())
    snapshot = hub.pull(hub.plan(NAME))
    blob = (snapshot.path / path).resolve()
    content = bytearray(blob.read_bytes())
    content[3] ^= 1
    blob.write_bytes(content)
    (model,) = hub.cached_models()
    damaged = [file for file in hub.verify(model) if file.sound is False]
    assert [file.path for file in damaged] == [path]
    hub.remove_damaged(model, damaged)
    assert [file.path for file in hub.plan(NAME).files if not file.here] == [path]
    hub.pull(hub.plan(NAME))
    assert (snapshot.path / path).read_bytes() == repository()[path]
    assert all(file.sound for file in hub.verify(model))


def test_a_dangling_link_is_damage_and_a_plain_file_cannot_be_told(cache):
    folder = cached(cache, repository())
    (folder / "vae/config.json").resolve().unlink()
    plain = folder / "unet/config.json"
    plain.unlink()
    plain.write_bytes(b"{}")
    model = hub.CachedModel(NAME, COMMIT, 0, folder, False)
    found = {file.path: file.sound for file in hub.verify(model)}
    assert (found["vae/config.json"], found["unet/config.json"]) == (False, None)


def test_the_library_sees_a_cache_as_it_lays_it_out(online, cache):
    online.add(NAME, repository())
    snapshot = hub.pull(hub.plan(NAME))
    scanned = scan_cache_dir(cache)
    assert not scanned.warnings
    (repo,) = scanned.repos
    (revision,) = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs) == (NAME, snapshot.revision, {"main"})
    blobs = {file.file_name: file.blob_path.name for file in revision.files}
    theirs = Path(hf_hub_download(NAME, "model_index.json", force_download=True))
    assert theirs == snapshot.path / "model_index.json"
    assert theirs.resolve().name == blobs["model_index.json"]
