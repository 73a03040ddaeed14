"""The files that a command names: files, folders, patterns in quotes, lists of paths."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest

from mlxdiff.culling import places
from mlxdiff.errors import InputError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "out/c.png", "out/in/d.png", "out/e.txt", "[x].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def named(*words: str) -> list[tuple[str, str]]:
    return [(str(place.path), str(place.below)) for place in places(words)]


@pytest.mark.usefixtures("here")
def test_files_folders_and_patterns():
    assert named("b.png", "out/c.png") == [("b.png", "b.png"), ("out/c.png", "c.png")]
    assert named("out") == named("out/") == [("out/c.png", "c.png"), ("out/in/d.png", "in/d.png")]
    assert named("*.png") == [("[x].png", "[x].png"), ("a.png", "a.png"), ("b.png", "b.png")]
    assert named("out/*") == [("out/c.png", "c.png"), ("out/in/d.png", "d.png")], "as if the shell had named them"
    assert named("out/*.txt") == [("out/e.txt", "e.txt")]
    assert named("out/**/*.png") == [("out/c.png", "c.png"), ("out/in/d.png", "d.png")]
    assert named("[x].png") == [("[x].png", "[x].png")], "a file of that name is meant"
    assert named("nosuch.png") == [("nosuch.png", "nosuch.png")], "who reads it says so"


@pytest.mark.usefixtures("here")
def test_a_file_that_is_named_twice_comes_once():
    assert [path for path, _ in named("a.png", "./a.png", os.path.abspath("a.png"), "*.png")] == [
        "a.png",
        "[x].png",
        "b.png",
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("word", ["nosuch*.png", "out/*.jpg", "*/nosuch/**"])
def test_a_pattern_without_pictures(word):
    with pytest.raises(InputError, match="No picture's name is like"):
        named(word)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a.png\nout\n", ["a.png", "out/c.png", "out/in/d.png"]),
        (b"a.png\r\nb.png", ["a.png", "b.png"]),
        (b"a.png\0b\nc.png\0", ["a.png", "b\nc.png"]),
        (b"\xff.png\n\n", ["\udcff.png"]),
        (b"[ab].png\n", ["[ab].png"]),
        (b"", []),
    ],
)
def test_a_list_on_standard_input(monkeypatch, data, expected):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert [path for path, _ in named("-")] == expected


def test_a_list_without_an_end(monkeypatch):
    monkeypatch.setattr("mlxdiff.culling.named.MAX_LIST", 100)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"y\n" * 51)))
    with pytest.raises(InputError, match="more than 100 bytes"):
        named("-")
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="no standard input"):
        named("-")
