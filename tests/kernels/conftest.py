"""Each operation of a CPU in both of its forms."""

from __future__ import annotations

import pytest

from mlxdiff.kernels import native


@pytest.fixture(params=["plain", "extension"])
def each_form(request, monkeypatch):
    """The test runs with MLX's own operations, and with the extension where it is there."""
    if request.param == "plain":
        monkeypatch.setattr(native, "serving", lambda *_: None)
    elif native.serving() is None:
        pytest.skip(f"the extension is {native.state()}")


@pytest.fixture
def plain_form(monkeypatch):
    """The test runs with MLX's own operations."""
    monkeypatch.setattr(native, "serving", lambda *_: None)
