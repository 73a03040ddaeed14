"""What every test shares: a real BLAS before MLX, no network, and third-party noise kept out of `-W error`."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
from hypothesis import HealthCheck, settings

from mlxdiff import backend

backend.prepare()  # as the first model would, for the tests of layers and kernels

# A slow machine is no failure, and the gate tries the same examples each time; elsewhere they are new ones.
settings.register_profile(
    "mlxdiff", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mlxdiff")


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory, monkeypatch):
    """No test reads or writes the default model, the config or the cache of whoever runs it."""
    monkeypatch.setenv("MLXDIFF_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("MLXDIFF_CONFIG", os.devnull)
    monkeypatch.delenv("MLXDIFF_MODEL", raising=False)
