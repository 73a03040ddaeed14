"""What is removed and pruned, and that nothing else goes: other programs' repositories, and what links lead to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir
from huggingface_hub.utils import WeakFileLock
from repositories import COMMIT, NAME, cached, repository

from mlxdiff import hub
from mlxdiff.errors import MlxdiffError, ModelNotFoundError

pytestmark = pytest.mark.usefixtures("cache")
OTHER = "f" * 40
EXTRA = "safety_checker/model.safetensors"


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: contents, and where links lead."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def broken(cache) -> Path:
    """A whole model of which one file is gone that mlxdiff does not need, so that huggingface_hub passes over it."""
    folder = cached(cache, repository(**{EXTRA: b"checker"}))
    (folder / EXTRA).resolve().unlink()
    assert scan_cache_dir(cache).warnings
    return folder


def test_a_model_with_a_broken_link_is_listed_and_used(broken):
    (model,) = hub.cached_models()
    assert (model.reference, model.revision, model.complete) == (NAME, COMMIT, True)
    assert model.size == sum(map(len, repository().values()))
    assert hub.resolve(NAME).path == broken


def test_a_model_with_a_broken_link_is_verified(broken):
    (model,) = hub.cached_models()
    found = {file.path: file for file in hub.verify(model)}
    assert found[EXTRA].sound is None
    assert found[EXTRA].why == "its content is gone"
    assert all(file.sound for path, file in found.items() if path != EXTRA)
    weights = (broken / "unet/diffusion_pytorch_model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    damaged = [file for file in hub.verify(model) if file.sound is False]
    assert [file.path for file in damaged] == ["unet/diffusion_pytorch_model.safetensors"]
    hub.remove_damaged(model, damaged)
    assert not weights.exists()
    assert os.path.lexists(broken / EXTRA)


def test_a_model_with_a_broken_link_is_removed_and_nothing_else_is(broken, cache):
    cached(cache, repository(), name="another/one", commit=OTHER)
    others = tree(cache / "models--another--one")
    removal = hub.removal_of(NAME)
    assert removal.size == sum(map(len, repository().values()))
    hub.remove(removal)
    assert not broken.parents[1].exists()
    assert tree(cache / "models--another--one") == others


def test_one_revision_beside_a_broken_one_is_removed(broken, cache):
    new = cached(cache, repository(**{"unet/config.json": b'{"new": 1}'}), ref="v2", commit=OTHER)
    hub.remove(hub.removal_of(f"{NAME}@v2"))
    assert not new.exists()
    assert hub.resolve(NAME).path == broken
    (model,) = hub.cached_models()
    assert {file.sound for file in hub.verify(model)} == {True, None}


@pytest.mark.parametrize("how", ["broken link", "no snapshot", "sound", "no link to anywhere", "lost branch"])
def test_another_programs_repository_is_left_alone(cache, how):
    folder = cached(cache, {"config.json": b"{}", "model.safetensors": b"weights" * 99}, name="big/language-model")
    storage = folder.parents[1]
    (storage / "blobs" / f"{OTHER}.incomplete").write_bytes(b"123")
    if how == "broken link":
        (folder / "config.json").resolve().unlink()
    elif how == "no link to anywhere":
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to("/nowhere/at/all")
    elif how == "no snapshot":
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    elif how == "lost branch":
        (storage / "refs" / "old").write_text("e" * 40)
    before = tree(storage)
    for reference in ("big/language-model", "big/language-model@main"):
        with pytest.raises(ModelNotFoundError, match="mlxdiff leaves it alone"):
            hub.removal_of(reference)
    assert hub.prunable().empty
    assert hub.cached_models() == []
    assert tree(storage) == before


def test_a_download_that_somebody_continues_stays(cache):
    part = cache / "models--owner--name" / "blobs" / f"{OTHER}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"123")
    removal = hub.removal_of(NAME)
    lock = cache / ".locks" / "models--owner--name" / f"{OTHER}.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock):
        hub.remove(removal)
        assert part.exists()
    (part.parent / "something else").write_bytes(b"x")
    with pytest.raises(ModelNotFoundError, match="leaves it alone"):
        hub.removal_of(NAME)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("is_broken", [True, False])
def test_what_a_link_leads_to_outside_stays(cache, tmp_path, absolute, is_broken):
    victim = tmp_path / ("f" * 40)
    victim.write_bytes(b"precious")
    folder = cached(cache, repository(**{EXTRA: b"checker"}))
    cached(cache, repository(**{EXTRA: b"checker", "unet/config.json": b'{"new": 1}'}), ref="v2", commit=OTHER)
    for path in ("unet/config.json", "mlxdiff.json"):
        link = folder / path
        link.unlink(missing_ok=True)
        link.symlink_to(victim if absolute else os.path.relpath(victim, link.parent))
    if is_broken:
        (folder / EXTRA).resolve().unlink()
    (model,) = [model for model in hub.cached_models() if model.revision == COMMIT]
    outside = {file.path: file for file in hub.verify(model) if "leads out" in file.why}
    assert set(outside) == {"unet/config.json", "mlxdiff.json"}
    assert not any(file.sound for file in outside.values())
    hub.remove_damaged(model, outside.values())
    (folder / "mlxdiff.json").unlink(missing_ok=True)
    (folder / "mlxdiff.json").symlink_to(victim)
    (folder.parents[1] / "refs" / "main").unlink()
    hub.remove(hub.prunable())
    assert not folder.exists()
    assert victim.read_bytes() == b"precious"
    hub.remove(hub.removal_of(NAME))
    assert victim.read_bytes() == b"precious"


def test_contents_that_repositories_share_are_verified_by_the_name_of_their_link(cache):
    """huggingface_hub keeps large files once for all repositories, under another hash than the blob's."""
    folder = cached(cache, repository())
    blob = (folder / "unet/diffusion_pytorch_model.safetensors").resolve()
    shared = cache / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    (model,) = hub.cached_models()
    assert all(file.sound for file in hub.verify(model))
    shared.write_bytes(b"x" * shared.stat().st_size)
    assert [file.path for file in hub.verify(model) if not file.sound] == ["unet/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("reference", ["no/such", f"{NAME}@v9"])
def test_who_removes_is_not_told_to_pull(cache, reference):
    cached(cache, repository())
    with pytest.raises(ModelNotFoundError) as caught:
        hub.removal_of(reference)
    assert caught.value.remedy.endswith("mlxdiff pull --list")


def test_a_name_spelt_wrong_gets_the_nearest_of_the_cache(cache):
    cached(cache, repository(), name="owner/some-model-v2")
    with pytest.raises(ModelNotFoundError, match=r"Did you mean owner/some-model-v2\? .* --list"):
        hub.removal_of("owner/some-modle-v2")


def test_folders_with_names_of_no_repository_are_passed_over(cache):
    for name in ("models--a--b--c", "models--a", "models----", "models--\x1b[2J--x", "models--..--x", "datasets--a--b"):
        (cache / name / "snapshots" / COMMIT).mkdir(parents=True)
        (cache / name / "snapshots" / COMMIT / "model_index.json").write_text("{}")
    (cache / "models--a--file").write_text("")
    assert hub.cached_models() == []
    assert hub.prunable().empty


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do everything")
def test_what_the_system_refuses_is_an_error(cache):
    folder = cached(cache, repository())
    (folder.parents[1] / "snapshots").chmod(0o500)
    with pytest.raises(MlxdiffError):
        hub.remove(hub.removal_of(NAME))
    (folder.parents[1] / "snapshots").chmod(0o700)
