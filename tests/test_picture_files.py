"""Which pictures a folder holds, in what order, and what is left out."""

from __future__ import annotations

import glob
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.errors import InputError, MlxdiffWarning
from mlxdiff.picture_files import natural, paths_like, picture_files


def paths(folder) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in picture_files(folder)]


def test_pictures_by_name_and_then_those_of_the_folders_below(tmp_path):
    above = ["a.PNG", "b.png", "c.jpg", "d.jpeg", "e.webp", "f-2.bmp", "f-10.gif"]
    below = ["a/y.png", "a/x/w.png", "b/z.png"]
    for name in (*reversed(above), *below, "a.txt", "n.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(tmp_path) == [*above, *below]


def test_hidden_files_and_links_to_folders_and_pipes_are_left_out(tmp_path):
    (tmp_path / ".mlxdiff-1.cells").mkdir()
    for name in (".mlxdiff-1.cells/00000.png", ".a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "c.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "d.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert paths(tmp_path) == ["b.png", "c.png"]


def test_a_link_that_leads_to_itself_hides_no_other_picture(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    (tmp_path / "b.png").touch()
    assert paths(tmp_path) == ["a.png", "b.png"], "whoever reads a.png says what is wrong with it"


PATTERNS = (
    "* *.png **/*.png ** in/** in/**/*.png */**/b* **/deep/**/*.png **/**/a.png **/ [i]n/** **/[[]x[]]/* ./**/*.png"
)
PATTERNS += " **/.hid/* nothing/**/* in/../**/a.png"


@pytest.mark.parametrize("pattern", PATTERNS.split())
def test_patterns_mean_what_glob_makes_of_them(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "in/a.png", "in/deep/b.png", "in/deep/deep/c.png", "in/[x]/d.png", ".hid/e.png", "in/.f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for text in (pattern, f"{tmp_path}/{pattern}"):
        expected = {os.path.normpath(path) for path in glob.glob(text, recursive=True)}
        if text.endswith("**"):
            expected = {path for path in expected if os.path.isfile(path)}
        assert {os.path.normpath(path) for path in paths_like(text)} == expected


def test_a_pattern_goes_round_in_no_circle(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "a.png").touch()
    assert paths_like(f"{tmp_path}/**") == {f"{tmp_path}/a.png"}
    assert len(paths_like(f"{tmp_path}/**/*.png")) == 1


def test_a_deep_folder(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "a.png").touch()
    assert len(paths(tmp_path)) == 1


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read"):
        list(picture_files(tmp_path / "nosuch"))
    for name in ("a/a.png", "b/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.warns(MlxdiffWarning, match="Its pictures are left out"):
        assert paths(tmp_path) == ["b/b.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root enters every folder")
def test_a_folder_that_can_be_listed_and_not_entered(tmp_path):
    (tmp_path / "a.png").touch()
    tmp_path.chmod(0o400)
    try:
        assert paths(tmp_path) == ["a.png"], "who reads it says what is wrong"
    finally:
        tmp_path.chmod(0o700)


def test_a_name_that_is_not_utf_8_is_a_name(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(name, "wb"):
        pass
    (found,) = picture_files(tmp_path)
    assert os.fsencode(found) == name


@given(st.lists(st.text(), max_size=8))
def test_any_names_can_be_sorted(texts):
    by_name = sorted(texts, key=natural)
    texts.reverse()
    assert sorted(texts, key=natural) == by_name


def test_numbers_are_sorted_by_value():
    names = ["x10", "x9", "x010", "x", "X1y2", "x1y10"]
    assert sorted(names, key=natural) == ["x", "X1y2", "x1y10", "x9", "x010", "x10"]
