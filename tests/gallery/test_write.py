"""What a gallery's file holds: every sound picture with what it says, and nothing that breaks out of its place."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from gallery_folder import A1111, HOSTILE, N_BROKEN, N_SOUND, fill, picture, request
from page_logic import Page
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlxdiff.errors import InputError, OutputError
from mlxdiff.gallery import Added, Broken, blocks, thumbnails, write_gallery
from mlxdiff.gallery.blocks import settings as declared_settings
from mlxdiff.metadata import read_picture
from mlxdiff.picture_files import picture_files
from mlxdiff.request import Request


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def page(folder) -> Page:
    counts = write_gallery(list(picture_files(folder)), folder / "gallery.html", title="<b>&\u202e'\"")
    assert counts == (N_SOUND, N_BROKEN)
    return Page(folder / "gallery.html")


def said(page: Page, file: str) -> dict[str, Any]:
    """A row by what stands where, with its texts."""
    strings = [text for block in page.blocks for text in block["strings"]]
    names = [item.name for item in declared_settings()]
    for row in page.rows:
        if row[0] == file:
            pairs = zip(row[7][::2], row[7][1::2], strict=True)
            return {
                "size": (row[3], row[4]),
                "program": strings[row[5]],
                "exact": row[6],
                "settings": [(names[field], strings[place]) for field, place in pairs],
                "notes": [strings[place] for place in row[8]],
                "written": strings[row[10]],
                "thumbnail": row[11],
            }
    raise AssertionError(file)


def test_the_page_is_one_file_that_loads_nothing_and_may_do_nothing_else(page):
    tags = [tag for tag, _ in page.tags]
    assert not {"link", "iframe", "object", "embed", "base"} & set(tags)
    assert tags.count("style") == 1
    assert len(page.scripts) == 1
    attributes = [(tag, name, value) for tag, held in page.tags for name, value in held.items()]
    assert not [each for each in attributes if each[1] in ("src", "href", "style") or each[1].startswith("on")]
    policy = next(held["content"] for _, held in page.tags if held.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http:" not in policy
    assert not re.search(r"https?://", page.text.replace("http-equiv", ""))


def test_texts_from_outside_are_data_in_ascii_without_brackets(page):
    assert page.text.isascii()
    opened = [line for line in page.text.splitlines() if line.startswith(blocks.OPENING)]
    assert len(opened) == 1
    inside = opened[0][len(blocks.OPENING) : -len(blocks.CLOSING)]
    assert not set("<>") & set(inside)
    assert "<title>&lt;b&gt;&amp;&#x27;&quot;</title>" in page.text
    for i, text in enumerate(HOSTILE):
        settings = dict(said(page, f"./hostile/{i}.png")["settings"])
        assert settings["prompt"] == settings["model"] == text


def test_rows_say_what_the_pictures_say(page, folder):
    strings = {name: said(page, f"./{name}") for name in ("a-2.png", "a-10.png", "b.webp", "c.jpg")}
    for name, found in strings.items():
        made = read_picture(folder / name).request
        assert made is not None
        assert found["program"] == "mlxdiff"
        assert found["exact"] == 1
        again: dict[str, Any] = {}
        kinds = {item.name: item.kind for item in declared_settings()}
        for setting, text in found["settings"]:
            value = kinds[setting].parse(setting, text)
            again[setting] = (*again.get(setting, ()), *value) if kinds[setting].many else value
        assert Request(**again) == made
    web_ui = said(page, "./web-ui.png")
    assert web_ui["program"] == "a1111"
    assert web_ui["exact"] == 0
    settings = dict(web_ui["settings"])
    assert (
        settings.items() >= {"steps": "28", "sampler": "dpmpp_2m", "model": "photo_v4", "lora": "ink,scale=0.6"}.items()
    )
    assert [note for note in web_ui["notes"] if "Mood: calm" in note]
    assert web_ui["written"] == A1111
    plain = said(page, "./sub/plain.png")
    assert plain | {"thumbnail": ""} == {
        "size": (32, 8),
        "program": "",
        "exact": 0,
        "settings": [],
        "notes": [],
        "written": "",
        "thumbnail": "",
    }


def test_thumbnails_are_upright_on_white_and_never_enlarged(page):
    def image(name: str) -> Image.Image:
        with Image.open(io.BytesIO(base64.b64decode(said(page, name)["thumbnail"]))) as opened:
            assert opened.format == "WEBP"
            return opened.convert("RGB")

    assert image("./c.jpg").size == (16, 24)
    assert (image("./turned.jpg").size, said(page, "./turned.jpg")["size"]) == ((16, 32), (16, 32))
    assert image("./clear.png").getpixel((8, 8)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "x.png"), ("RGB", "x.jpg"), ("L", "x.png"), ("P", "x.gif"), ("I;16", "x.png"), ("1", "x.bmp")],
)
def test_every_sort_of_picture_is_reduced(tmp_path, mode, name):
    Image.new(mode, (600, 300)).save(tmp_path / name)
    made = thumbnails.thumbnail(tmp_path / name, 100)
    assert (made.width, made.height) == (600, 300)
    with Image.open(io.BytesIO(made.data)) as small:
        assert small.size == (100, 50)


def test_what_is_broken_is_told_and_named(folder, tmp_path):
    events: list[Added | Broken] = []
    write_gallery(list(picture_files(folder)), tmp_path / "g.html", title="", tell=events.append)
    broken = [event.path.name for event in events if isinstance(event, Broken)]
    assert broken == ["broken.png", "text.png"]
    assert len(events) == N_SOUND + N_BROKEN
    end = Page(tmp_path / "g.html").data["end"]
    assert end["pictures"] == N_SOUND
    assert [name for name, _ in end["broken"]] == broken


def test_metadata_that_cannot_be_used_is_a_note(tmp_path):
    for name, text in (("a", "{broken"), ("b", json.dumps({"steps": 10**9})), ("c", "[" * 100_000)):
        told = PngInfo()
        told.add_itxt("mlxdiff", text)
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png", pnginfo=told)
    assert write_gallery(list(picture_files(tmp_path)), tmp_path / "g.html", title="") == (3, 0)
    page = Page(tmp_path / "g.html")
    for name in "abc":
        found = said(page, f"./{name}.png")
        assert found["settings"] == []
        assert found["notes"]


def test_nothing_is_overwritten_and_nothing_half_written(folder, tmp_path):
    target = tmp_path / "g.html"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_gallery(list(picture_files(folder)), target, title="")

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gallery(list(picture_files(folder)), target, title="", force=True, tell=stop)
    with pytest.raises(InputError, match="None of the 2 pictures"):
        write_gallery([folder / "broken.png", folder / "text.png"], target, title="", force=True)
    assert target.read_text() == "mine"
    assert os.listdir(tmp_path) == ["g.html"]


def test_a_second_time_only_what_is_new_is_decoded(tmp_path, monkeypatch):
    for i in range(5):
        picture(tmp_path / f"{i}.png", request(f"apple {i}"), shade=i)
    target = tmp_path / "g.html"
    write_gallery(list(picture_files(tmp_path)), target, title="")
    before = Page(target).rows
    decoded: list[str] = []
    real = thumbnails.thumbnail

    def counted(path: Path, size: int) -> thumbnails.Thumbnail:
        decoded.append(path.name)
        return real(path, size)

    monkeypatch.setattr(thumbnails, "thumbnail", counted)
    write_gallery(list(picture_files(tmp_path)), target, title="", force=True)
    assert decoded == []
    assert Page(target).rows == before
    picture(tmp_path / "5.png", None)
    (tmp_path / "0.png").unlink()
    picture(tmp_path / "0.png", None, shade=200)
    os.utime(tmp_path / "1.png", (1, 1))
    write_gallery(list(picture_files(tmp_path)), target, title="", force=True)
    assert sorted(decoded) == ["0.png", "1.png", "5.png"]
    decoded.clear()
    write_gallery(list(picture_files(tmp_path)), target, title="", force=True, size=64)
    assert len(decoded) == 6, "thumbnails of another size are made anew"


@pytest.mark.parametrize("damage", ['"rows":', '"thumb', "AAAA", "[[", blocks.OPENING, "UklGR"])
def test_an_earlier_page_that_is_damaged_or_hostile_is_no_harm(tmp_path, damage):
    picture(tmp_path / "a.png", request("apple"))
    target = tmp_path / "g.html"
    write_gallery(list(picture_files(tmp_path)), target, title="")
    rows = Page(target).rows
    target.write_text(target.read_text().replace(damage, "\"<script>'", 1))
    write_gallery(list(picture_files(tmp_path)), target, title="", force=True)
    assert Page(target).rows == rows


def test_what_is_too_long_is_cut_and_gives_no_command(tmp_path):
    picture(tmp_path / "long.png", request("x" * 100_000))
    several = {"prompt": [f"cat {i}" for i in range(2000)], "seed": list(range(2000))}
    picture(tmp_path / "many.png", Request.from_dict({**several, "model": "emoji"}))
    assert write_gallery(list(picture_files(tmp_path)), tmp_path / "g.html", title="") == (2, 0)
    page = Page(tmp_path / "g.html")
    for name in ("long", "many"):
        found = said(page, f"./{name}.png")
        assert found["exact"] == 0
        assert len(found["settings"]) <= 1000
        assert max(len(text) for _, text in found["settings"]) < 21_000
