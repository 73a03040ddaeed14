"""Dynamic prompts: the grammar against the extension's own package, what is drawn, and what is refused."""

from __future__ import annotations

import os
import time
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wildcard_folders import all_of, written

from mlxdiff.batch.templates import first_mark, is_template, parse
from mlxdiff.batch.wildcard_files import WildcardFiles
from mlxdiff.batch.wildcards import Wildcards
from mlxdiff.errors import InputError, MlxdiffError, RequestError
from mlxdiff.request import Request

FILES = {
    "colors.txt": "# common\nred\n\ngreen\nblue\nred\n",
    "colors-warm.txt": "orange\n",
    "clothes/hats.txt": "a {straw|felt} hat\na __colors__ cap\n",
    "clothes/shoes.txt": "boots\n",
}
# Each with what dynamicprompts 0.31.0 makes of it, all combinations; sorted, with spaces at the ends taken off.
COMBINATIONS = {
    "a {red|green} b": ["a green b", "a red b"],
    "a { red | green } b": ["a green  b", "a red  b"],
    "{2$$a|b|c}": ["a,b", "a,c", "b,a", "b,c", "c,a", "c,b"],
    "{1-2$$ and $$a|b|c}": ["a", "a and b", "a and c", "b", "b and a", "b and c", "c", "c and a", "c and b"],
    "{0-1$$a|b}": ["", "a", "b"],
    "{-2$$a|b}": ["a", "a,b", "b", "b,a"],
    "{2-$$a|b}": ["a,b", "b,a"],
    "{5$$a|b}": ["a,b", "b,a"],
    "{3::a|b}": ["a", "b"],
    "{.5::a|0.5::b}": ["a", "b"],
    "{a}": ["a"],
    "{|a}": ["", "a"],
    "{a||b}": ["", "a", "b"],
    "{{a|b}|c}": ["a", "b", "c"],
    "{2$$-$$ a | b }": ["a -b", "b -a"],
    "{a{1|2}|b} x {3|4}": ["a1 x 3", "a1 x 4", "a2 x 3", "a2 x 4", "b x 3", "b x 4"],
    "[x|{a|b}]": ["[x|a]", "[x|b]"],
    "{2$$ $$a|{c|d}}": ["a c", "a d", "c a", "d a"],
    "{2$$|$$a|b}": ["a|b", "b|a"],
    "{~a|b}": ["a", "b"],
    "a } b": ["a } b"],
    "__colors__ x": ["blue x", "green x", "red x"],
    "{2$$/$$__colors__}": ["blue/green", "blue/red", "green/blue", "green/red", "red/blue", "red/green"],
    "__colors*__": ["blue", "green", "orange", "red"],
    "__shoes__": ["boots"],
    "{__shoes__|bare}": ["bare", "boots"],
    "__clothes/*__": ["a blue cap", "a felt hat", "a green cap", "a red cap", "a straw hat", "boots"],
    "__~colors__": ["blue", "green", "red"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("wildcards"), FILES)


def drawing(folder: Path | None) -> Wildcards:
    return Wildcards(WildcardFiles(folder))


@pytest.mark.parametrize("text", COMBINATIONS)
def test_the_combinations_are_those_of_dynamic_prompts(text, folder):
    wanted = COMBINATIONS[text]
    assert sorted(all_of(text, folder)) == [one for one in wanted if one]
    assert Wildcards(WildcardFiles(folder)).count(text) >= len(wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of pyparsing
@pytest.mark.parametrize("text", COMBINATIONS)
def test_the_package_says_the_same(text, folder):
    generators = pytest.importorskip("dynamicprompts.generators")
    manager = pytest.importorskip("dynamicprompts.wildcards").WildcardManager(folder)
    found = generators.CombinatorialPromptGenerator(manager).generate(text, 1000)
    assert sorted({str(one).strip() for one in found}) == COMBINATIONS[text]


@pytest.mark.parametrize("text", COMBINATIONS)
def test_what_is_drawn_is_a_combination_and_the_same_again(text, folder):
    drawn = [drawing(folder).draw(text, str(seed)) for seed in range(40)]
    assert set(drawn) <= set(COMBINATIONS[text])
    assert len(set(drawn)) >= min(2, len(COMBINATIONS[text]))
    assert [drawing(folder).draw(text, str(seed)) for seed in range(40)] == drawn


def test_weights_of_options_and_of_lines(tmp_path):
    wildcards = drawing(written(tmp_path, {"w.txt": "3::red\nblue\n0::never\n"}))
    for text in ("{3::red|blue|0::never}", "__w__"):
        counts = Counter(wildcards.draw(text, str(seed)) for seed in range(4000))
        assert set(counts) == {"red", "blue"}
        assert 0.72 < counts["red"] / 4000 < 0.78  # 3 of 4, within 4 standard deviations
    firsts = Counter(wildcards.draw("{2$$ $$3::red|blue|green}", str(seed)).split()[0] for seed in range(4000))
    assert 0.57 < firsts["red"] / 4000 < 0.63  # 3 of 5
    assert {wildcards.draw("{1-3$$ $$a|b|c}", str(seed)).count(" ") for seed in range(60)} == {0, 1, 2}


def test_comments_and_blank_lines_of_a_file_are_no_options(tmp_path):
    folder = written(tmp_path, {"c.txt": b"\xef\xbb\xbf# all\r\n\r\n  red # of roses\r\n#ff0000\r\ncolor#3\n"})
    assert all_of("__c__", folder) == ["red", "color#3"]


def test_ranges_have_the_decimals_that_are_written():
    drawn = {drawing(None).draw("(cat:{0.8-1.2})", str(seed)) for seed in range(200)}
    assert drawn == {"(cat:0.8)", "(cat:0.9)", "(cat:1.0)", "(cat:1.1)", "(cat:1.2)"}
    assert all_of("{8-11} of {-1--0.5}", None)[:2] == ["8 of -1.0", "8 of -0.9"]
    assert len(all_of("{0.25-0.5}", None)) == 26
    assert all_of("{3-1}", None) == ["1", "2", "3"]


@pytest.mark.parametrize(
    "text", ["a cat", "(a:1.2) [b|c]", "snake_case and a__b", "____", "a { b", "} {", "{}", "50% of #fff // x", "a\\b"]
)
def test_text_without_a_choice_stays_as_it_is(text):
    assert drawing(None).draw(text, "7") == text
    assert first_mark(text) is None


def test_a_backslash_makes_braces_text():
    assert drawing(None).draw(r"\{a|b\} {c\|d} \(e\)", "1") == r"{a|b} c|d \(e\)"


def test_what_would_be_expanded_is_named():
    assert first_mark("a {red|green} b") == "{red|green}"
    assert first_mark("a __colors__") == "__colors__"
    assert is_template("{a}")
    assert first_mark("{a}") is None


def test_prompt_and_negative_prompt_are_drawn_apart():
    wildcards = drawing(None)
    pairs = set()
    for seed in range(30):
        found = wildcards.drawn(Request("{a|b}", negative_prompt="{a|b}", seed=seed))
        pairs.add((found.prompt, found.negative_prompt))
    assert len(pairs) == 4


def test_prompts_of_the_second_pass_are_drawn_and_not_combined():
    request = Request("a", seed=3, hires=2, hires_prompt="{x|y}")
    wildcards = drawing(None)
    assert wildcards.concern(request)
    assert {wildcards.drawn(request.single(0)).hires_prompt, "x", "y"} == {"x", "y"}
    with pytest.raises(RequestError, match="hires_prompt has braces"):
        wildcards.combinations(request)


def test_images_that_share_a_seed_are_drawn_apart():
    request = Request("{1-1000000}", seed=3, n_images=4, compat="comfyui")
    found = drawing(None).drawn_all(request)
    assert found.seeds == (3, 3, 3, 3)
    assert found.batch_places == request.batch_places
    assert len(set(found.prompt)) == 4
    assert found.prompt[2] == drawing(None).drawn(request.single(2)).prompt


def test_what_a_picture_records_is_not_drawn_again():
    recorded = Request("{a|b}", negative_prompt="{c|d}", seed=1)
    wildcards = drawing(None).without(recorded, ["prompt"])
    for seed in range(9):
        found = wildcards.drawn(Request("{a|b}", negative_prompt="{c|d}", seed=seed))
        assert found.prompt in ("a", "b")
        assert found.negative_prompt == "{c|d}"
    every = Wildcards(WildcardFiles(None), every=True).without(recorded, ["prompt"])
    (found,) = every.combinations(recorded)
    assert (found.prompt, found.negative_prompt) == (("a", "b"), "{c|d}")


def test_combinations_count_their_seeds():
    wildcards = Wildcards(WildcardFiles(None), every=True)
    first, second = wildcards.combinations(Request("{a|b|a}", negative_prompt="{x|y}", n_images=2, seed=5))
    assert (first.prompt, first.negative_prompt, first.seeds) == (("a", "b"), "x", (5, 6, 7, 8))
    assert (second.prompt, second.negative_prompt, second.seeds) == (("a", "b"), "y", (9, 10, 11, 12))


BAD = {
    "__colrs__": "Did you mean __colors__?",
    "{a|__nothing/like/it__}": "There is no wildcard __nothing/like/it__ in ",
    "__../colors__": "leads out of the folder",
    "__../../etc/passwd__": "leads out of the folder",
    "__/etc/passwd__": "leads out of the folder",
    "__..\\colors__": "leads out of the folder",
    "__c:/colors__": "leads out of the folder",
    "${x=a} b": "Variables",
    "%{a$$b}": "Wrappers",
    "{@a|b}": "takes its options in turn",
    "{!a|b}": "takes its options in turn",
    "__@colors__": "takes its options in turn",
    "__colors(x=1)__": "Wildcards with values",
    "{0::a|0::b}": "all weights",
    "{" * 51 + "a" + "}" * 51: "nested more than 50 deep",
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_drawn_is_said(text, folder):
    with pytest.raises(RequestError) as caught:
        drawing(folder).draw(text, "1")
    assert BAD[text] in str(caught.value)
    assert caught.value.remedy.endswith((".", "?"))


BAD_FILES = {
    "itself": ({"a.txt": "x\n__a__\n"}, "names itself (a > a)"),
    "a circle": ({"a.txt": "__b__\n", "b.txt": "__c__\n", "c.txt": "{x|__a__}\n"}, "names itself (a > b > c > a)"),
    "one missing in another": ({"a.txt": "x\n__b__\n"}, "There is no wildcard __b__"),
    "empty": ({"a.txt": "# nothing\n\n"}, "has no lines"),
    "binary": ({"a.txt": b"\x89PNG\r\n\x1a\n\x00"}, "a.txt, line 1, is not UTF-8"),
    "zeros": ({"a.txt": b"good\na\0b\n"}, "a.txt, line 2, has the character U+0000"),
    "an escape": ({"a.txt": "good\n\x1b[31mred\n"}, "a.txt, line 2, has the character U+001B"),
    "a chain": ({f"a{i or ''}.txt": f"__a{i + 1}__" for i in range(200)}, "name each other in a chain"),
    "latin": ({"a.txt": b"good\ncaf\xe9\n"}, "a.txt, line 2, is not UTF-8"),
    "a long line": ({"a.txt": "x" * 20_000}, "a.txt, line 1, is longer than"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(name, tmp_path):
    files, said = BAD_FILES[name]
    for seed in ("1", "2"):  # whatever would be drawn
        with pytest.raises(MlxdiffError) as caught:
            drawing(written(tmp_path, files)).draw("__a__", seed)
        assert said in str(caught.value)


def test_accents_in_names_are_one_letter_or_two(tmp_path):
    folder = written(tmp_path, {unicodedata.normalize("NFD", "café.txt"): "red\n"})
    for form in ("NFC", "NFD"):
        assert drawing(folder).draw(unicodedata.normalize(form, "__café__"), "1") == "red"


def test_links_inside_the_folder_are_followed_and_no_others(tmp_path):
    folder = written(tmp_path / "lists", {"real.txt": "red\n"})
    written(tmp_path, {"secret.txt": "secret\n"})
    (folder / "inside.txt").symlink_to(folder / "real.txt")
    (folder / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "above").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.txt")
    wildcards = drawing(folder)
    assert wildcards.draw("__inside__", "1") == "red"
    for name, said in (("outside", "leads out"), ("pipe", "no regular file"), ("above/secret", "There is no wildcard")):
        with pytest.raises(RequestError, match=said):
            wildcards.draw(f"__{name}__", "1")
    assert wildcards.count("__**__") == 1  # equal lines count once


@pytest.mark.parametrize("name", ["missing", "file.txt"])
def test_a_folder_that_is_none(tmp_path, name):
    written(tmp_path, {"file.txt": "a\n"})
    with pytest.raises(InputError, match="The folder of wildcards"):
        WildcardFiles(tmp_path / name)


def test_without_a_folder_there_are_no_wildcards():
    with pytest.raises(RequestError, match="There is no folder for __colors__"):
        drawing(None).draw("__colors__", "1")


def test_large_files_and_many_combinations_are_quick(tmp_path):
    big = "\n".join(f"a word and a few more of line {i}" for i in range(300_000))
    chain = {f"d{i}.txt": f"__d{i + 1}____d{i + 1}__\n" for i in range(40)} | {"d40.txt": "x\n"}
    folder = written(tmp_path, {"big.txt": big, **chain})
    start = time.process_time()
    wildcards = Wildcards(WildcardFiles(folder))
    assert len({wildcards.draw("__big__", str(seed)) for seed in range(50)}) == 50
    assert len(wildcards.draw("{3$$; $$__big__}", "1").split("; ")) == 3
    every = Wildcards(WildcardFiles(folder), every=True)
    for text, count in (
        ("{1-500} {1-500} {1-500} {1-8}", "1,000,000,000"),
        ("__big__", "300,000"),
        ("__big__ __big__ __big__", "over 10^15"),
        ("{1-4$$" + "|".join("abcdefghijklmnopqrstuvwxyz") + "}", "375,076"),
        ("{2$$__big__}", "89,999,700,000"),
    ):
        with pytest.raises(RequestError) as caught:
            every.combinations(Request(text, seed=1))
        assert f"has at least {count} combinations" in caught.value.problem
    with pytest.raises(RequestError, match="draws"):
        wildcards.draw("__d0__", "1")
    with pytest.raises(RequestError, match="no wildcard"):
        wildcards.draw("__a" * 20_000, "1")
    for text in ("{" * 60_000, "{a|" * 20_000, "$$" * 30_000):
        assert wildcards.draw(text, "1") == text
    assert every.count("__d20__") == 1
    assert time.process_time() - start < 10  # some 1 s on an idle core


@given(st.text(alphabet="{}|_$:-~#a1. \\,*/", max_size=60))
def test_any_text_is_drawn_or_refused(text):
    drawn: list[str] = []
    with suppress(RequestError):
        drawn.append(drawing(None).draw(text, "1"))
        assert drawing(None).count(text) >= 1
    if not is_template(text):
        assert drawn == [text]


def test_parts_of_a_text():
    assert parse("a") == ("a",)
    assert parse("") == ()
