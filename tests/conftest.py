"""What every test shares: all cores, a limit of time, a real BLAS before MLX, no network, a state of its own."""

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

PROCESSES = 4  # at most; each holds models and oracles, up to 2.5 GB
TIMEOUT = 600  # seconds a test, since what waits for ever says nothing


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs on all cores, files that are named in this process, which starts at once; -n decides.

    Set here and not in pyproject.toml, so that tests also run where these plugins are missing or turned off.
    """
    option = config.option
    if config.pluginmanager.hasplugin("timeout") and option.timeout is None:
        option.timeout = TIMEOUT
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not option.usepdb
    is_worker = hasattr(config, "workerinput")
    if whole and not is_worker and config.pluginmanager.hasplugin("xdist") and option.numprocesses is None:
        option.numprocesses, option.dist = min(os.cpu_count() or 1, PROCESSES), "worksteal"


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory, monkeypatch):
    """No test reads or writes the default model, the config or the cache of whoever runs it."""
    monkeypatch.setenv("MLXDIFF_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("MLXDIFF_CONFIG", os.devnull)
    monkeypatch.delenv("MLXDIFF_MODEL", raising=False)
