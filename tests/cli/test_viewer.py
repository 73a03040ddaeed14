"""`--open`: which program is given which path, and what is said where there is none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from patience import WAIT

from mlxdiff.cli import viewer
from mlxdiff.cli.app import main

SMALL = ("-m", "emoji", "--height", "16", "--width", "16", "--steps", "1", "--seed", "1")


@pytest.fixture
def desktop(tmp_path, monkeypatch):
    """A desktop whose viewer, under both names, writes down what it is to open; returns a way to read that."""
    monkeypatch.chdir(tmp_path)
    opened, programs = tmp_path / "opened", tmp_path / "programs"
    programs.mkdir()
    for name in ("open", "xdg-open"):
        (programs / name).write_text(
            f'#!/bin/sh\nprintf "%s %s" {name} "$1" > "{opened}.part"\nmv "{opened}.part" "{opened}"\n'
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("DISPLAY", ":7")

    def read() -> list[str]:
        until = time.monotonic() + WAIT
        while not opened.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return opened.read_text().split()

    return read


def run(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("system", "program"), [("darwin", "open"), ("linux", "xdg-open")])
@pytest.mark.parametrize(
    ("arguments", "opened"),
    [
        (("-o", "-a.png"), "-a.png"),
        (("-o", "out/", "--n-images", "2"), "out"),
        (("-o", "s.png", "--n-images", "2", "--n-rows", "1"), "s.png"),
    ],
)
def test_the_result_is_opened_by_its_whole_path(desktop, capsys, monkeypatch, system, program, arguments, opened):
    monkeypatch.setattr(viewer.sys, "platform", system)
    code, err = run(capsys, "generate", "a cat", "--open", *arguments, *SMALL)
    assert code == 0, err
    assert desktop() == [program, str(Path.cwd() / opened)]


def test_where_there_is_none_it_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(viewer.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code, err = run(capsys, "generate", "a cat", "--open", "-o", "a.png", *SMALL)
    assert (code, "There is no viewer to open a.png with" in err) == (0, True)
    assert (tmp_path / "a.png").exists()
    assert "no place beside" in run(capsys, "generate", "a cat", "--open", "-o", "-", *SMALL)[1]
