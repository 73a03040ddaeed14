"""`mlxdiff grid --html` as a shell runs it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from gallery_folder import N_BROKEN, N_SOUND, fill, picture
from killing import falling, start, until_stopped
from page_logic import Page
from patience import WAIT
from program import mlxdiff


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("pictures") / "autumn")


def test_a_folder_becomes_a_page_beside_its_broken_files_which_are_named(folder):
    done = mlxdiff("grid", ".", "--html", "gallery.html", "--json", cwd=folder, code=1)
    assert json.loads(done.stdout) == {
        "event": "gallery",
        "path": "gallery.html",
        "images": N_SOUND,
        "broken": N_BROKEN,
    }
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error:"] * N_BROKEN
    assert "broken.png" in done.stderr
    assert "text.png" in done.stderr
    page = Page(folder / "gallery.html")
    assert "<title>autumn</title>" in page.text
    assert {row[0] for row in page.rows} >= {"./a-2.png", "./sub/plain.png", "./hostile/0.png"}


def test_folders_patterns_and_files_at_once_and_links_from_elsewhere(folder, tmp_path):
    places = (folder / "sub", folder / "a-*", folder / "b.webp")
    done = mlxdiff("grid", *places, "--html", "pages/all.html", "--title", "All", cwd=tmp_path)
    assert done.stdout == "pages/all.html\n"
    page = Page(tmp_path / "pages" / "all.html")
    linked = [(tmp_path / "pages" / row[0]).resolve() for row in page.rows]
    assert linked == [folder / name for name in ("sub/plain.png", "a-2.png", "a-10.png", "b.webp")]
    assert "<title>All</title>" in page.text


def test_a_page_is_only_overwritten_when_that_is_asked_for(folder, tmp_path):
    first = mlxdiff("grid", folder / "sub", "--html", "g.html", cwd=tmp_path)
    before = (tmp_path / "g.html").read_bytes()
    assert "g.html exists already" in mlxdiff("grid", folder, "--html", "g.html", cwd=tmp_path, code=1).stderr
    assert (tmp_path / "g.html").read_bytes() == before
    picture(folder / "sub" / "new.png", None)
    again = mlxdiff("grid", folder / "sub", "--html", "g.html", "--force", cwd=tmp_path)
    (folder / "sub" / "new.png").unlink()
    assert first.stdout == again.stdout
    assert len(Page(tmp_path / "g.html").rows) == 2


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("--html", "g.html"), "nothing for the page", 2),
        (("a.png", "--html", "g.png"), "without .html in its name", 2),
        (("a.png", "--html", "g.html", "-o", "s.png"), "--output has no place beside --html", 2),
        (("a.png", "--html", "g.html", "--n-rows", "2"), "--n-rows has no place", 2),
        (("a.png", "--html", "g.html", "--gap", "0"), "--gap has no place", 2),
        (("a.png", "--html", "g.html", "--vary", "steps=1,2"), "--vary has no place", 2),
        (("a.png", "--html", "g.html", "--prompt", "x"), "--prompt has no place", 2),
        (("a.png", "--html", "g.html", "--steps", "3"), "--steps has no place", 2),
        (("a.png", "--html", "g.html", "--no-metadata"), "--no-metadata has no place", 2),
        (("a.png", "--html", "g.html", "--save-cells", "c"), "--save-cells has no place", 2),
        (("a.png", "--html", "g.html", "--dry-run"), "--dry-run has no place", 2),
        (("a.png", "--html", "g.html", "--thumbnail-size", "5"), "from 32 to 1024", 2),
        (("a.png", "-o", "s.png", "--title", "x"), "--title is for the page", 2),
        (("a.png", "-o", "s.png", "--thumbnail-size", "64"), "--thumbnail-size is for the page", 2),
        (("nothing.png", "--html", "g.html"), "There is no picture nothing.png", 1),
        (("no*.png", "--html", "g.html"), "No picture's name is like no*.png", 1),
        (("text.png", "--html", "g.html"), "None of the 1 pictures", 1),
        (("a.png", "--html", "text.png/g.html"), "a part of its path is a file", 1),
    ],
)
def test_what_is_wrong_is_said(tmp_path, arguments, words, code):
    picture(tmp_path / "a.png", None)
    (tmp_path / "text.png").write_text("no picture")
    done = mlxdiff("grid", *arguments, cwd=tmp_path, code=code)
    assert words in done.stderr
    assert done.stdout == ""
    assert sorted(os.listdir(tmp_path)) == ["a.png", "text.png"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing_half_written(tmp_path, sent, code):
    folder = tmp_path / "pictures"
    picture(folder / "0.png", None, (512, 512))
    for i in range(1, 1500):
        os.link(folder / "0.png", folder / f"{i}.png")
    in_the_middle = falling(r"^open .*[ /]\d+\.png", 700, "stop")
    run = start(tmp_path, "grid", "pictures", "--html", "g.html", "--progress", "json", program=in_the_middle)
    until_stopped(run)
    assert list(tmp_path.glob(".mlxdiff-*.part"))
    run.send_signal(sent)
    run.send_signal(signal.SIGCONT)
    rest = run.communicate(timeout=WAIT)[1]
    assert run.returncode == code, rest
    assert "Traceback" not in rest
    assert os.listdir(tmp_path) == ["pictures"]
