"""What is typed into the search field finds what it should, and a filter's click writes what is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from gallery_folder import fill
from page_logic import MISSING, evaluate

from mlxdiff.gallery import write_gallery
from mlxdiff.picture_files import picture_files

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = fill(tmp_path_factory.mktemp("pictures"))
    write_gallery(list(picture_files(folder)), folder / "gallery.html", title="test")
    return folder / "gallery.html"


APPLES = {"a-2.png", "a-10.png", "b.webp"}
HOSTILE = {f"{i}.png" for i in range(6)}
TOLD = APPLES | HOSTILE | {"c.jpg", "web-ui.png"}
SILENT = {"plain.png", "clear.png", "turned.jpg"}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", TOLD | SILENT),
        ("   ", TOLD | SILENT),
        ("apple", APPLES),
        ("APPLE red", {"a-2.png", "a-10.png"}),
        ('"red apple"', {"a-2.png", "a-10.png"}),
        ('"apple red"', set()),
        ("apple -green", {"a-2.png", "a-10.png"}),
        ('-"red apple" apple', {"b.webp"}),
        ("a-10", {"a-10.png"}),
        ("steps>20", {"a-10.png", "web-ui.png"}),
        ("steps > 20", {"a-10.png", "web-ui.png"}),
        ("steps>=20 steps<30", {"b.webp", "c.jpg", "web-ui.png"} | HOSTILE),
        ("steps >= 20 and steps < 30 and apple", {"b.webp"}),
        ("steps=10,30", {"a-2.png", "a-10.png"}),
        ("steps==10.0", {"a-2.png"}),
        ("steps!=20", {"a-2.png", "a-10.png", "web-ui.png"}),
        ("-steps=20", {"a-2.png", "a-10.png", "web-ui.png"} | SILENT),
        ("cfg>7", {"a-10.png"}),
        ("guidance-scale=7.5", {"a-10.png"}),
        ("guidance_scale = 7.50", {"a-10.png"}),
        ("seed=18446744073709551615", {"a-10.png"}),
        ("sampler=DDIM", {"b.webp"}),
        ('sampler="ddim",euler apple', APPLES),
        ("lora=ink", {"a-2.png", "b.webp", "web-ui.png"}),
        ("lora:pixel", {"b.webp"}),
        ("lora.scale<0.5", {"b.webp"}),
        ("lora.scale=1", {"b.webp"}),
        ("lora:*", {"a-2.png", "b.webp", "web-ui.png"}),
        ('lora="" -hostile apple', {"a-10.png"}),
        ("neg:blurry", {"c.jpg", "web-ui.png"}),
        ("clip_skip=1", TOLD - {"c.jpg"}),
        ("clip_skip>1", {"c.jpg"}),
        ("folder:hostile", HOSTILE),
        ("program=a1111", {"web-ui.png"}),
        ("program!=mlxdiff", {"web-ui.png"}),
        ('program=""', SILENT),
        ("size=16x24", {"web-ui.png", "c.jpg"}),
        ("picture_width=8 picture_height=32", set()),
        ("picture_width=32 picture_height=8", {"plain.png"}),
        ("pixels>512", set()),
        ("pixels=512", {"turned.jpg"}),
        ("date>=1971", TOLD | SILENT),
        ("date<1971-01-01", set()),
        ("model:photo", {"web-ui.png"}),
        ("</script>", {"0.png"}),
        ("${1}", {"2.png"}),
        ("nosuch=apple", set()),
        ("nosuch:thing", set()),
        ("javascript:window", {"4.png"}),
        ('"', TOLD | SILENT),
        ("steps>", set()),
        ("steps>x", set()),
    ],
)
def test_a_query_finds(page, query, names):
    assert set(evaluate("find(query).map((each) => each.file)", page, query=query)) == names


def test_pictures_are_in_the_order_of_their_names_and_numbers(page):
    found = evaluate("store.pictures.map((each) => `${each.folder}/${each.file}`)", page)
    assert found[:4] == ["./a-2.png", "./a-10.png", "./b.webp", "./c.jpg"]
    assert found[4:7] == ["./clear.png", "./turned.jpg", "./web-ui.png"]


@pytest.mark.parametrize("name", ["nosuch", "stepps", "st"])
def test_a_name_that_is_no_field_is_said(page, name):
    assert evaluate("parseQuery(query, store).unknown", page, query=f"apple {name}>3") == [name]


@pytest.mark.parametrize("value", ["euler", "a, b", 'say "x"', "back\\slash", "", "</script>", "two words"])
def test_a_filter_is_added_and_taken_out_again(page, value):
    made, found, back = evaluate(
        """[toggled("red apple", store, store.field("model"), value),
            parseQuery(toggled("red apple", store, store.field("model"), value), store).terms.at(-1).values,
            toggled(toggled("red apple", store, store.field("model"), value), store, store.field("model"), value)]""",
        page,
        value=value,
    )
    assert made.startswith("red apple model=")
    assert found == [value]
    assert back == "red apple"


def test_two_values_of_a_field_are_alternatives(page):
    query = evaluate(
        """[["sampler", "ddim"], ["steps", "20"], ["sampler", "two words"], ["sampler", "DDIM"]].reduce(
            (text, [name, value]) => toggled(text, store, store.field(name), value), "apple")""",
        page,
    )
    assert query == 'apple sampler="two words" steps=20'


def test_what_is_counted_is_what_a_filter_finds(page):
    """Every value of every field that is listed: the count beside it, and the pictures that its filter finds."""
    pairs = evaluate(
        """[...store.survey(store.pictures)].flatMap(([field, counts]) => [...counts].map(([value, count]) =>
            [`${field.name}=${value}`, count, find(equalTerm(field, [value])).length]))""",
        page,
    )
    assert len(pairs) > 100
    assert [pair for pair in pairs if pair[1] != pair[2]] == []


def test_sorting_puts_numbers_in_order_and_what_is_missing_last(page):
    def by(name: str, descending: bool) -> list[str]:
        call = "store.sorted(store.pictures, store.field(name), descending).map((each) => each.file)"
        return evaluate(call, page, name=name, descending=descending)

    up, down = by("steps", False), by("steps", True)
    assert up[0] == down[10] == "a-2.png"
    assert up[10] == down[0] == "a-10.png"
    assert set(up[11:]) == set(down[11:]) == SILENT
    assert by("name", False)[:6] == [f"{i}.png" for i in range(6)]
    by_seed = by("seed", True)
    assert by_seed[0] == "a-10.png"
    assert by_seed[1] == "web-ui.png"
