"""The shell's history: private, appended by several shells at once, cut when it is long, and never in the way."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import shell_history_worker

from mlxdiff.cli.shell import history as module
from mlxdiff.cli.shell.history import KEPT, History


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "home" / "shell-history"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_lines_are_there_for_the_next_shell_and_for_nobody_else(path):
    first = History(path)
    assert first.read() == []
    assert [first.add(line) for line in ("a cat", "a cat", " secret", "", "/steps 3", "ä 😀")] == [
        *(True, False, False, False, True, True)
    ]
    assert first.problem is None
    assert History(path).read() == ["a cat", "/steps 3", "ä 😀"]
    assert mode(path) == 0o600
    path.chmod(0o644)
    second = History(path)
    second.read()
    assert not second.add("ä 😀"), "the last line of the shell before"
    second.add("a dog")
    assert mode(path) == 0o600


def test_shells_at_the_same_time_lose_nothing_of_each_other(path, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 10_000)
    context = multiprocessing.get_context("spawn")
    shells = [context.Process(target=shell_history_worker.add_many, args=(path, name)) for name in "abc"]
    for shell in shells:
        shell.start()
    for shell in shells:
        shell.join()
        assert shell.exitcode == 0
    lines = History(path).read()
    for name in "abc":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {i}" for i in range(200)]


def test_a_long_file_is_cut_and_a_shell_that_was_open_goes_on(path):
    open_one = History(path)
    open_one.read()
    open_one.add("first")
    with path.open("a") as file:
        file.writelines(f"line {i}\n" for i in range(3 * KEPT))
    assert History(path).read()[-1] == f"line {3 * KEPT - 1}"
    assert len(path.read_text().splitlines()) == KEPT // 2
    assert mode(path) == 0o600
    open_one.add("last")
    assert History(path).read()[-1] == "last"
    assert os.listdir(path.parent) == [path.name]


def test_whatever_the_file_holds_is_printable(path):
    path.parent.mkdir()
    path.write_bytes(b"a \x1b[31mred\x1b]0;x\x07 cat\n\xff\xfe\n\0\n" + b"x" * 2**21 + b"\nlast\n")
    lines = History(path).read()
    assert lines[-1] == "last"
    path.write_bytes(b"a \x1b[31mred\x1b]0;x\x07 cat\n\xff\n\0\n\x9b\n")
    assert History(path).read() == ["a red cat", "\ufffd", "\ufffd"]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "below a file"])
def test_a_file_that_cannot_be_used_is_said_and_nothing_waits(path, kind):
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(path.parent / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.parent.rmdir()
        path.parent.write_text("")
    history = History(path)
    assert history.read() == []
    assert history.add("a cat"), "it is still remembered in this shell"
    assert history.problem is not None
    assert str(path) in str(history.problem)
    assert not (path.parent / "elsewhere").exists()
