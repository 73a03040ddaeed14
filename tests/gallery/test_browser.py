"""A gallery in a real browser: what is seen, typed and copied there, and that nothing from a picture runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import MISSING, Browser, chromium
from gallery_folder import HOSTILE, N_BROKEN, N_SOUND, fill, picture, request

from mlxdiff.gallery import write_gallery
from mlxdiff.picture_files import picture_files

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]
N_MANY = 1200
NAMES = (
    "' onerror='window.hit=5.png",
    "<script>window.hit=6<",
    "javascript:window.hit=7.png",
    "a\u202eb.png",
    "%41#?.png",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The pictures of gallery_folder.py, and some with names that mean something elsewhere."""
    folder = fill(tmp_path_factory.mktemp("my pictures"))
    for name in NAMES:
        shutil.copy(folder / "a-2.png", folder / (name if name.endswith(".png") else f"{name}.png"))
    shutil.copy(os.fsencode(folder / "a-2.png"), os.fsencode(folder) + b"/\xff\xfe.png")
    write_gallery(list(picture_files(folder)), folder / "gallery.html", title="</title><script>window.hit=8</script>")
    return folder


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with chromium() as browser:
        browser.size(1280, 900)
        browser.ask(
            *("POST", "goog/cdp/execute"),
            cmd="Browser.grantPermissions",
            params={"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
        )
        yield browser


@pytest.fixture
def page(window, folder) -> Browser:
    window.open(Path("/nowhere.html"))
    window.open(folder / "gallery.html")
    window.wait(f"return document.getElementById('status').textContent === '{N_SOUND + len(NAMES) + 1} pictures'")
    return window


def text(browser: Browser, id: str) -> str:
    return browser.run("return document.getElementById(arguments[0]).innerText", id)


def search(browser: Browser, query: str) -> list[str]:
    """The descriptions of the tiles that are then shown."""
    script = """
    document.getElementById('query').value = arguments[0];
    document.getElementById('search').requestSubmit();
    const tiles = [...document.querySelectorAll('.tile')].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet);
    return tiles.map((tile) => tile.ariaLabel);
    """
    return browser.run(script, query)


def clipboard(browser: Browser) -> str:
    return browser.ask("POST", "execute/async", script="navigator.clipboard.readText().then(arguments[0])", args=[])


def test_nothing_from_a_picture_runs_and_every_original_is_found(page):
    assert page.run("return document.querySelectorAll('.tile').length") == N_SOUND + len(NAMES) + 1
    page.wait("return [...document.querySelectorAll('.tile img')].every((i) => i.complete && i.naturalWidth)")
    page.click(".tile")
    for _ in range(N_SOUND + len(NAMES) + 1):
        page.wait("const i = document.getElementById('whole'); return i.complete && i.naturalWidth")
        assert page.run("return document.getElementById('gone').hidden"), text(page, "file")
        page.press("Right")
    assert page.run("return document.getElementById('next').disabled")
    page.press("Escape")
    assert page.run("return window.hit ?? null") is None
    assert page.run("return document.scripts.length") == 3, "the page's own, and its data"
    assert page.console == []
    shown = text(page, "broken")
    assert f"{N_BROKEN} not shown" in shown


def test_what_a_script_would_need_is_refused_by_the_page(page):
    with pytest.raises(AssertionError, match="Trusted"):
        page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit=9\">')")
    script = "const s = document.createElement('a'); s.setAttribute('onclick', 'window.hit=10'); s.click();"
    page.run(f"try {{ {script} }} catch {{ }}")
    fetched = "fetch('https://example.invalid/').then(() => arguments[0]('sent'), () => arguments[0]('refused'))"
    assert page.ask("POST", "execute/async", script=fetched, args=[]) == "refused"
    assert page.run("return window.hit ?? null") is None
    assert any("Content Security Policy" in said for said in page.console)


def test_hostile_texts_are_shown_as_text(page):
    for said in HOSTILE[:3]:
        quoted = said.replace("\\", r"\\").replace('"', r"\"")
        search(page, f'prompt:"{quoted}"')
        page.click(".tile")
        assert text(page, "prompt") == said
        page.press("Escape")
    found = search(page, "exe folder:hostile")
    assert len(found) == 1
    assert not set("\u202e\u2066\x1b\x07\x9b") & set(found[0])


def test_a_search_shows_what_fits_and_says_how_many(page):
    assert search(page, "apple steps>20") == ["a red apple"]
    assert text(page, "status") == f"1 of {N_SOUND + len(NAMES) + 1} pictures"
    assert "query=apple" in page.run("return location.hash")
    assert search(page, "stepps>20") == []
    assert "stepps is no setting" in text(page, "unknown")
    assert page.run("return !document.getElementById('empty').hidden")


def test_filters_write_the_query_and_are_set_by_it(page):
    search(page, "apple")
    page.run("document.querySelector('[data-key=\"sampler=ddim\"]').click()")
    assert page.run("return document.getElementById('query').value") == "apple sampler=ddim"
    assert text(page, "status").startswith("1 of")
    search(page, "sampler=ddim,euler")
    script = "return [...document.querySelectorAll('#facets input:checked')].map((box) => box.dataset.key)"
    assert sorted(page.run(script)) == ["sampler=ddim", "sampler=euler"]


def test_the_keyboard_alone_is_enough(page):
    search(page, "apple")
    page.press("Escape")
    page.press("/")
    assert page.run("return document.activeElement.id") == "query"
    page.press("Enter")
    assert page.run("return document.activeElement.id") == "tiles"
    page.press("Home", "Right")
    active = "return document.getElementById(document.getElementById('tiles').getAttribute('aria-activedescendant'))"
    assert page.run(f"{active}.ariaPosInSet") == "2"
    page.press("Space", "Shift+Right")
    assert text(page, "selected") == "2 selected"
    page.press("Enter")
    assert page.run("return document.getElementById('details').open")
    assert text(page, "place").startswith("3 of")
    page.press("Left")
    assert text(page, "place").startswith("2 of")
    page.press("x", "Escape")
    page.wait(f"{active}?.ariaPosInSet === '2'")
    assert text(page, "selected") == "1 selected"
    page.press("Escape")
    assert page.run("return document.getElementById('selection').hidden")


def test_what_is_copied(page, folder):
    search(page, "apple lora=pixel-art")
    page.click(".tile")
    page.press("c")
    page.wait("return document.getElementById('toast').textContent === 'Copied.'")
    command = clipboard(page)
    assert command.startswith("mlxdiff generate 'a green apple' ")
    assert "--lora ink --lora pixel-art,scale=0.3" in command
    page.press("Escape")
    search(page, "steps=10,30")
    page.press("Control+a")
    page.click("#selection [data-copy=files]")
    page.wait("return document.getElementById('toast').textContent.includes('pictures')")
    copied = clipboard(page)
    assert f"'{folder}/a-10.png'" in copied
    assert "\n" not in copied
    page.click("#selection [data-copy=from]")
    page.wait("return document.getElementById('toast').textContent.includes('pictures')")
    assert all(line.startswith("mlxdiff generate --from ") for line in clipboard(page).splitlines())


def test_a_picture_that_is_gone_is_said_and_its_thumbnail_shown(page, folder):
    (folder / "web-ui.png").rename(folder / "moved.png")
    try:
        search(page, "owl")
        page.click(".tile")
        page.wait("return !document.getElementById('gone').hidden")
        assert "web-ui.png" in text(page, "gone")
        page.wait("return document.getElementById('whole').naturalWidth")
        assert "Mood: calm" in text(page, "notes")
        assert text(page, "place") == "1 of 1"
        page.press("Escape")
    finally:
        (folder / "moved.png").rename(folder / "web-ui.png")


def test_of_many_pictures_few_are_elements_and_the_last_is_a_key_away(window, tmp_path):
    picture(tmp_path / "0000.png", request("number"))
    for i in range(1, N_MANY):
        os.link(tmp_path / "0000.png", tmp_path / f"{i:04}.png")
    write_gallery(list(picture_files(tmp_path)), tmp_path / "g.html", title="many")
    window.open(tmp_path / "g.html")
    window.wait(f"return document.getElementById('status').textContent.startsWith('{N_MANY:,} pictures')")
    assert window.run("return document.querySelectorAll('.tile').length") < 100
    window.run("document.getElementById('tiles').focus()")
    window.press("End", "Enter")
    window.wait("return document.getElementById('details').open")
    assert text(window, "place") == f"{N_MANY:,} of {N_MANY:,}"
    window.press("Escape")
    assert window.run("return document.querySelectorAll('.tile').length") < 100
    assert window.run("return document.querySelector('.tile.active').ariaPosInSet") == str(N_MANY)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(page, theme):
    page.size(400, 800)
    try:
        page.run(
            "const t = document.getElementById('theme'); t.value = arguments[0]; t.dispatchEvent(new Event('change'))",
            theme,
        )
        background = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (int(background.split("(")[1].split(",")[0]) > 128) == (theme == "light")
        wide = "return document.documentElement.scrollWidth <= innerWidth"
        assert page.run(wide)
        page.run(
            "const f = document.getElementById('facets'); if (!f.hidden) document.getElementById('filters').click()"
        )
        page.click(".tile")
        assert page.run(wide)
        page.press("Escape")
    finally:
        page.size(1280, 900)


def test_a_file_that_was_cut_off_says_so(window, folder, tmp_path):
    whole = (folder / "gallery.html").read_text()
    (tmp_path / "cut.html").write_text(whole[: whole.rindex('<script type="application/json" id="end"')])
    window.open(tmp_path / "cut.html")
    window.wait("return document.getElementById('broken').textContent.includes('cut off')")


def test_the_address_leads_back_to_a_query_and_an_open_picture(page):
    search(page, "apple steps>20")
    page.run("document.getElementById('sort').value = 'steps'")
    page.click(".tile")
    page.wait("return location.hash.includes('picture=')")
    page.ask("POST", "refresh")
    page.wait("return document.getElementById('details').open")
    assert page.run("return document.getElementById('query').value") == "apple steps>20"
    assert text(page, "prompt") == "a red apple"
    assert page.run("return document.getElementById('sort').value") == "steps"
    page.press("Escape")
    page.wait("return !location.hash.includes('picture=')")


def test_selected_pictures_are_compared_by_what_differs(page):
    search(page, '"a red apple" name=a-2.png,a-10.png')
    page.press("Escape")
    page.run("document.getElementById('tiles').focus()")
    page.press("Control+a")
    page.click("#together")
    assert page.run("return document.querySelectorAll('#figures figure').length") == 2
    fields = "return [...document.querySelectorAll('#figures figure:first-child dt')].map((term) => term.textContent)"
    assert page.run(fields) == ["lora", "steps", "guidance scale", "seed"]
    page.wait("return [...document.querySelectorAll('#figures img')].every((i) => i.complete && i.naturalWidth)")
    page.click("#figures button")
    page.wait("return !document.getElementById('compare').open")
    assert text(page, "selected") == "1 selected"
