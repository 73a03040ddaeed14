"""A hub on this machine and an empty cache, with the real huggingface_hub between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import constants


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer(page_size=4) as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache. huggingface_hub reads its environment once, so its constants are set as that would set them."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("MLXDIFF_HOME", str(tmp_path / "state"))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def online(server, cache, monkeypatch) -> HubServer:
    """The hub is `server` and the cache is empty."""
    assert not cache.exists()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("mlxdiff.hub.retry.PAUSE", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return server
