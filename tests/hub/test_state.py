"""The default model: what decides, and what is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs
import pytest

from mlxdiff import hub
from mlxdiff.errors import MlxdiffError, OutputError


@pytest.fixture
def state() -> Path:
    return hub.home() / "state.json"


def test_the_built_in_model_is_the_default():
    assert hub.default_model() == hub.BUILT_IN == "emoji"


def test_the_environment_goes_before_what_is_recorded(monkeypatch):
    hub.set_default_model("owner/name@v1")
    assert hub.default_model() == "owner/name@v1"
    monkeypatch.setenv("MLXDIFF_MODEL", "other/one")
    assert hub.default_model() == "other/one"
    monkeypatch.setenv("MLXDIFF_MODEL", "")
    assert hub.default_model() == "owner/name@v1"


def test_a_folder_is_recorded_whole(tmp_path, monkeypatch):
    (tmp_path / "emoji").mkdir()
    monkeypatch.chdir(tmp_path)
    hub.set_default_model("./emoji")
    monkeypatch.chdir("/")
    assert hub.default_model() == str((tmp_path / "emoji").resolve())
    monkeypatch.chdir(tmp_path)
    hub.set_default_model("emoji")
    assert hub.default_model() == "emoji"


def test_other_state_is_kept(state):
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text('{"other": 1, "default_model": "a/b"}')
    hub.set_default_model("c/d")
    assert json.loads(state.read_text()) == {"other": 1, "default_model": "c/d"}
    assert [path.name for path in state.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"default_model": 7}', b'{"default_model": null}'])
def test_a_damaged_state_says_so(state, content):
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_bytes(content)
    with pytest.raises(MlxdiffError, match=r"state\.json cannot be read\. Delete it"):
        hub.default_model()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLXDIFF_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OutputError):
        hub.set_default_model("a/b")


def test_home_is_the_platforms_place(monkeypatch):
    monkeypatch.delenv("MLXDIFF_HOME")
    assert hub.home() == Path(platformdirs.user_data_dir("mlxdiff"))
    monkeypatch.setenv("MLXDIFF_HOME", "~/here")
    assert hub.home() == Path("~/here").expanduser()
