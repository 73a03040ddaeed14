"""Addresses of the hub from pull to a model on this disk: repositories, revisions, single files."""

from __future__ import annotations

import pytest
from huggingface_hub import constants
from repositories import COMMIT, NAME, cached, repository

from mlxdiff import hub
from mlxdiff.errors import ModelNotFoundError, UnsupportedError

HUB = "https://huggingface.co"
FILE = "v1-5 pruned.safetensors"
CONTENT = b"weights" * 1000


def test_an_address_is_pulled_and_used_as_the_name_would_be(online):
    commit = online.add(NAME, repository())
    plan = hub.plan(f"{HUB}/{NAME}")
    assert (plan.repository, plan.reference, plan.commit) == (NAME, NAME, commit)
    snapshot = hub.pull(plan)
    assert hub.resolve(f"{HUB}/{NAME}") == hub.resolve(NAME) == snapshot
    assert hub.resolve(f"{HUB}/{NAME}/tree/{commit}/unet") == snapshot
    assert hub.find_models(f"{HUB}/{NAME}/tree/main") == hub.cached_models()
    assert not hub.is_local(f"{HUB}/{NAME}")


def test_the_revision_of_an_address_is_taken(online):
    old = online.add(NAME, repository(), revision="refs/pr/3")
    online.add(NAME, repository(**{"mlxdiff.json": b"{}"}))
    plan = hub.plan(f"{HUB}/{NAME}/tree/refs%2Fpr%2F3")
    assert (plan.commit, plan.reference) == (old, f"{NAME}@refs/pr/3")
    assert hub.pull(plan) == hub.resolve(f"{HUB}/{NAME}/tree/refs/pr/3")


@pytest.mark.parametrize("whole", [True, False])
def test_an_address_of_a_single_file_brings_that_alone(online, whole, monkeypatch):
    commit = online.add(NAME, {FILE: CONTENT, "other.safetensors": b"x"} | (repository() if whole else {}))
    address = f"{HUB}/{NAME}/blob/main/v1-5%20pruned.safetensors"
    plan = hub.plan(address)
    assert [file.path for file in plan.files] == [FILE]
    assert plan.reference == address
    snapshot = hub.pull(plan)
    assert snapshot.path.read_bytes() == CONTENT
    # The reference names the commit, so that a picture's record finds the same file again.
    assert snapshot.reference == f"{HUB}/{NAME}/blob/{commit}/v1-5%20pruned.safetensors"
    assert snapshot == hub.resolve(address) == hub.resolve(snapshot.reference)
    online.requests.clear()
    assert hub.pull(hub.plan(snapshot.reference)) == snapshot
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.pull(hub.plan(address)) == snapshot
    assert not online.requests


def test_an_address_of_a_part_means_the_model(online):
    online.add(NAME, repository())
    plan = hub.plan(f"{HUB}/{NAME}/blob/main/unet/diffusion_pytorch_model.safetensors")
    assert plan.single is None
    assert hub.pull(plan) == hub.resolve(NAME)
    assert hub.plan(f"{HUB}/{NAME}/blob/main/README.md").missing == 0


def test_a_file_that_is_not_there_is_said(online):
    online.add(NAME, repository())
    with pytest.raises(ModelNotFoundError, match=r"owner/name has no file 'other\.safetensors'\."):
        hub.plan(f"{HUB}/{NAME}/blob/main/other.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"is not in the cache\. Run: mlxdiff pull https://"):
        hub.resolve(f"{HUB}/{NAME}/blob/main/other.safetensors")


@pytest.mark.parametrize("call", [hub.plan, hub.resolve])
def test_an_address_of_a_pickle_is_refused(online, call):
    with pytest.raises(UnsupportedError, match="is a pickle"):
        call(f"{HUB}/{NAME}/blob/main/v1-5.ckpt")
    assert not online.requests


def test_a_default_that_was_removed_is_named_as_such(cache, monkeypatch):
    cached(cache, repository())
    hub.set_default_model(f"{HUB}/{NAME}")
    assert hub.default_model() == NAME
    assert hub.resolve(hub.default_model()).revision == COMMIT
    hub.remove(hub.removal_of(NAME))
    with pytest.raises(ModelNotFoundError) as caught:
        hub.resolve(hub.default_model())
    assert caught.value.problem.startswith(f"This is the default model: {NAME} is not in the cache")
    assert caught.value.remedy == (
        f"Run: mlxdiff pull {NAME}; for another default run: mlxdiff pull MODEL --set-default"
    )
    monkeypatch.setenv("MLXDIFF_MODEL", "./no/such/folder")
    with pytest.raises(ModelNotFoundError, match="This is the default model: There is no folder"):
        hub.resolve(hub.default_model())


def test_a_file_as_a_default_is_recorded_whole(tmp_path, monkeypatch):
    (tmp_path / "sd.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    hub.set_default_model("sd.safetensors")
    assert hub.default_model() == str(tmp_path / "sd.safetensors")
