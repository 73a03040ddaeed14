"""Folders, patterns and files become pictures in the order that people expect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.errors import InputError
from mlxdiff.gallery import collect
from mlxdiff.gallery.collect import natural


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a-10.png", "a-2.PNG", "b.jpeg", "note.txt", ".c.png", "sub/x.webp", "sub/deep/y.gif", ".git/z.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_has_its_pictures_and_those_below(folder):
    found = ["a-2.PNG", "a-10.png", "b.jpeg", "sub/x.webp", "sub/deep/y.gif"]
    assert names(collect([folder]), folder) == found
    again = collect([folder / "sub" / ".." / "b.jpeg", folder])
    assert [path.name for path in again] == ["b.jpeg", "a-2.PNG", "a-10.png", "x.webp", "y.gif"], "each once"


def test_a_pattern_in_quotes_is_expanded_and_a_file_that_is_called_so_is_not(folder):
    assert names(collect([folder / "a-*"]), folder) == ["a-2.PNG", "a-10.png"]
    assert names(collect([folder / "s*"]), folder) == ["sub/x.webp", "sub/deep/y.gif"]
    (folder / "a-*").write_bytes(b"")
    assert names(collect([folder / "a-*"]), folder) == ["a-*"]


def test_what_is_not_there_is_said(folder):
    with pytest.raises(InputError, match=r"Nothing is called .*q\*"):
        collect([folder / "q*"])
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="There is no picture"):
        collect([folder / "empty"])
    assert collect([folder / "missing.png"]), "who reads it says so"


def test_links_to_folders_are_not_followed(folder):
    (folder / "sub" / "round").symlink_to(folder)
    assert len(collect([folder])) == 5


def test_a_name_that_is_not_utf_8_is_a_name(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    Path(os.fsdecode(name)).write_bytes(b"")
    (found,) = collect([tmp_path])
    assert os.fsencode(found) == name


@given(st.lists(st.text(), max_size=8))
def test_any_names_can_be_sorted(texts):
    by_name = sorted(texts, key=natural)
    texts.reverse()
    assert sorted(texts, key=natural) == by_name


def test_numbers_are_sorted_by_value():
    assert sorted(["x10", "x9", "x010", "x", "X1y2", "x1y10"], key=natural) == [
        "x",
        "X1y2",
        "x1y10",
        "x9",
        "x010",
        "x10",
    ]
