"""The bell at the end: after long runs or as asked, only where there is a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from mlxdiff.cli import bell
from mlxdiff.cli.output import verbosity


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seen(monkeypatch, stream: io.StringIO, asked: bool | None, seconds: float) -> str:
    """What is written on this stderr; pytest has its own between a fixture and a test."""
    monkeypatch.setattr(sys, "stderr", stream)
    bell.ring(asked, seconds)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _plain(monkeypatch) -> None:
    monkeypatch.setattr(verbosity, "quiet", False)
    monkeypatch.setattr(verbosity, "events", False)


@pytest.mark.parametrize(
    ("asked", "seconds", "rings"),
    [(None, 61, True), (None, 59, False), (True, 0, True), (False, 1000, False)],
)
def test_it_rings_after_a_long_run_or_as_asked(monkeypatch, asked, seconds, rings):
    assert seen(monkeypatch, Terminal(), asked, seconds) == ("\a" if rings else "")


def test_quiet_runs_ring_only_when_asked(monkeypatch):
    monkeypatch.setattr(verbosity, "quiet", True)
    assert seen(monkeypatch, Terminal(), None, 1000) == ""
    assert seen(monkeypatch, Terminal(), True, 0) == "\a"


def test_no_bell_is_written_into_a_file_or_between_events(monkeypatch):
    assert seen(monkeypatch, io.StringIO(), True, 1000) == ""
    monkeypatch.setattr(verbosity, "events", True)
    assert seen(monkeypatch, Terminal(), True, 1000) == ""


def test_without_a_stderr_there_is_no_bell_and_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    bell.ring(True, 1000)
    monkeypatch.undo()
    assert sys.stderr is not None
