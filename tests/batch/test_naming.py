"""Names of pictures: a file, a folder or a template, safe whatever the prompt says, and never two on one file."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxdiff.batch.naming import FIELDS, MAX_NAME, below, check_clashes, parse_output, picture_path, safe
from mlxdiff.errors import RequestError
from mlxdiff.request import Request

APPLE = Request(
    prompt="A red apple",
    seed=7,
    steps=25,
    guidance_scale=4.0,
    height=64,
    width=128,
    sampler="euler",
    model="owner/stable-diffusion-v1.5.safetensors",
)


def name(output, request=APPLE, index=3, *, several=False) -> str:
    return picture_path(parse_output(output, several=several), request, index).as_posix()


@pytest.mark.parametrize(
    ("output", "one", "many"),
    [
        (None, "a-red-apple-7.png", "00003-a-red-apple-7.png"),
        ("apple.png", "apple.png", "apple-7.png"),
        ("some/apple.x.jpg", "some/apple.x.jpg", "some/apple.x-7.jpg"),
        ("/abs/apple.webp", "/abs/apple.webp", "/abs/apple-7.webp"),
        ("new/", "new/00003-a-red-apple-7.png", "new/00003-a-red-apple-7.png"),
        ("..", "../00003-a-red-apple-7.png", "../00003-a-red-apple-7.png"),
        ("{seed}", "7.png", "7.png"),
        ("{index:05d}.jpg", "00003.jpg", "00003.jpg"),
        ("out/{index:05d}", "out/00003.png", "out/00003.png"),
        ("../{model}/{seed:04d}-{prompt}.webp", "../stable-diffusion-v1.5/0007-a-red-apple.webp", None),
        ("{model}/", "stable-diffusion-v1.5/00003-a-red-apple-7.png", None),
        (
            "{sampler}-{steps}-{guidance_scale}-{guidance_scale:.2f}-{width}x{height}",
            "euler-25-4-4.00-128x64.png",
            None,
        ),
        ("{prompt:.5}{index}", "a-red3.png", None),
        ("{prompt:_<14.5}!{index:_>4}", "a-red_________!___3.png", None),
        ("{{x}}.png", "{x}.png", "{x}-7.png"),
        ("{{{seed}}}.png", "{7}.png", None),
        ("a{{/{seed}", "a{/7.png", None),
        ("{seed}.png/x", "7.png/x.png", None),
        ("v{seed}.PNG", "v7.PNG", None),
    ],
)
def test_what_an_output_means(output, one, many):
    assert name(output) == one
    assert name(output, several=True) == (one if many is None else many)


def test_a_folder_is_one_that_exists_or_a_name_without_a_format_for_several(tmp_path):
    assert name(tmp_path) == name(str(tmp_path)) == f"{tmp_path.as_posix()}/00003-a-red-apple-7.png"
    (tmp_path / "dotted.png").mkdir()
    assert name(tmp_path / "dotted.png").endswith("dotted.png/00003-a-red-apple-7.png")
    (tmp_path / "{x}").mkdir()
    assert name(f"{tmp_path}/{{{{x}}}}") == f"{tmp_path.as_posix()}/{{x}}/00003-a-red-apple-7.png"
    assert name("new", several=True) == "new/00003-a-red-apple-7.png"
    with pytest.raises(RequestError, match="without a format"):
        name("new")


def test_names_in_a_folder_sort_as_they_were_asked_for():
    names = [name("out/", Request(prompt=p, seed=s), i) for i, (p, s) in enumerate([("z", 9), ("a", 10), ("m", 1)])]
    assert names == sorted(names)


def test_a_path_is_on_the_same_file_for_the_same_request():
    assert name("out/") == name("out/")
    unset = Request(prompt="x", seed=0)
    assert name("{steps}-{sampler}-{model}-{seed}", unset) == "none-none-model-0.png"
    assert name("{seed}-{prompt}", Request(prompt=("x",), seed=(5,))) == "5-x.png"


@pytest.mark.parametrize(
    "output",
    [
        "{prompt.__class__}",
        "{prompt[0]}",
        "{0}",
        "{}",
        "{Seed}",
        "{ seed}",
        "{seed!r}",
        "{prompt!s}",
        "{unknown:05d}",
        "{request.model}",
    ],
)
def test_only_the_fields_that_there_are(output):
    with pytest.raises(RequestError) as caught:
        parse_output(output)
    assert all(f"{{{field}}}" in caught.value.remedy for field in FIELDS)


@pytest.mark.parametrize("output", ["{", "}", "a{seed", "a}b", "{seed}}", "{{{", "{seed:", "{seed!}"])
def test_braces_that_do_not_match(output):
    with pytest.raises(RequestError, match=r"no template|which there is not"):
        parse_output(output)


@pytest.mark.parametrize(
    "output",
    [
        "{seed:{steps}}",
        "{index:999999999d}",
        "{index:100}",
        "{guidance_scale:.999999999f}",
        "{prompt:999999999}",
        "{prompt:05d}",
        "{prompt:=9}",
        "{index:c}",  # 47 is a slash
        "{index:n}",
        "{index:/>5}",
        "{index:.2d}",
        "{guidance_scale:d}",
        "{index:hello}",
    ],
)
def test_format_specs_that_cannot_be_used(output):
    with pytest.raises(RequestError, match="cannot be used"):
        parse_output(output)


@pytest.mark.parametrize("output", ["a.gif", "{seed}.gif", "{seed}.5", "a.png.txt", "", "a\0b.png"])
def test_other_outputs_that_cannot_be_written(output):
    with pytest.raises(RequestError):
        parse_output(output)


def test_a_name_that_is_too_long():
    assert name("{prompt:.50}" + "x" * (MAX_NAME - 15))
    with pytest.raises(RequestError, match="bytes long"):
        name("{prompt}" * 4, Request(prompt="x" * 500, seed=0))
    with pytest.raises(RequestError, match="bytes long"):
        name("é" * 126 + ".png")


# -- what comes from prompts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a red apple", "a-red-apple"),
        ("A  Red,\tApple!", "A-Red-Apple"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "picture"),
        ("", "picture"),
        (" . ", "picture"),
        ("/", "picture"),
        ("C:\\Windows\\x", "C-Windows-x"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("v1.5", "v1.5"),
        ("a. .b", "a-b"),
        ("end.", "end"),
        ("CON", "CON_"),
        ("nul", "nul_"),
        ("com1.txt", "com1_.txt"),
        ("COM¹", "COM¹_"),
        ("console", "console"),
        ("snake_case", "snake_case"),
        ('<b>"x"|?*', "b-x"),
        ("a\x00b\x1b[31mc\nd", "a-b-31mc-d"),
        ("abc\u202egpj.exe", "abc-gpj.exe"),
        ("\ud800half", "half"),
        ("e\u0301te\u0301", "été"),
        ("Ελλάδα", "Ελλάδα"),
        ("红苹果，水彩", "红苹果-水彩"),
        ("हिन्दी सेब", "हिन्दी-सेब"),
        ("แอปเปิ้ล", "แอปเปิ้ล"),
        ("نمی‌خواهم", "نمی‌خواهم"),
        ("👨‍👩‍👧 ❤️", "👨‍👩‍👧-❤️"),
        ("one／two", "one-two"),
    ],
)
def test_safe(text, made):
    assert safe(text) == made


SHARP = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\.\.|\s')
DEVICES = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³"}
odd_text = st.text(st.characters() | st.sampled_from("./\\ -_:cCoOnN1\u0301\u200d\u202e\x1b🧑日")) | st.builds(
    lambda device, tail: device + tail, st.sampled_from(sorted(DEVICES)), st.text("./ -xx\u0301\u200d", max_size=100)
)


@settings(max_examples=500)
@given(odd_text, st.sampled_from([8, 9, 20, 80]))
def test_safe_is_safe_for_every_text(text, limit):
    made = safe(text, limit)
    assert 0 < len(made.encode()) <= limit
    assert not SHARP.search(made)
    assert made.strip("-. ") == made
    assert made.split(".")[0].upper() not in DEVICES
    assert unicodedata.normalize("NFC", made) == made
    assert safe(made, limit) == made


def test_a_long_text_is_cut_between_letters():
    assert safe("日" * 100) == "日" * 26
    assert safe("x" * 79 + "e\u0323\u0301z") == "x" * 79  # one letter with two accents, in two characters
    assert safe("a" * 77 + "👨‍👩‍👧") == "a" * 77


@given(
    odd_text,
    odd_text,
    st.sampled_from(["{prompt}", "{prompt:.3}", "{model}/{prompt}", "x{prompt}"]),
)
def test_no_prompt_and_no_model_leads_out_of_the_folder(prompt, model, template):
    path = picture_path(parse_output(f"out/{template}.png"), Request(prompt=prompt, model=model, seed=1), 0)
    assert len(path.parts) == 2 + template.count("/")
    assert path.parts[0] == "out"
    assert path.suffix == ".png"
    for part in path.parts:
        assert not SHARP.search(part)
        assert part.split(".")[0].upper() not in DEVICES
        assert len(os.fsencode(part)) <= 255


def test_a_device_of_windows_is_not_put_together_from_fields():
    assert name("COM{index}.png") == "COM3_.png"
    assert name("{prompt:.3}", Request(prompt="console", seed=1)) == "con_.png"


# -- a job's own output -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "one", "many"),
    [
        ("a.png", "out/a.png", "out/a-7.png"),
        ("sub/deep/a.jpg", "out/sub/deep/a.jpg", "out/sub/deep/a-7.jpg"),
        ("sub\\a.png", "out/sub/a.png", "out/sub/a-7.png"),
        ("./x/../a.png", "out/a.png", "out/a-7.png"),
        ("cats/{seed:03d}", "out/cats/007.png", "out/cats/007.png"),
        ("cats/", "out/cats/00003-a-red-apple-7.png", "out/cats/00003-a-red-apple-7.png"),
        (".", "out/00003-a-red-apple-7.png", "out/00003-a-red-apple-7.png"),
        ("a{{b}}.png", "out/a{b}.png", "out/a{b}-7.png"),
    ],
)
@pytest.mark.parametrize("pattern", ["out/", "out/all.png", "out/{index}.png"])
def test_an_output_of_its_own_lies_below_the_folder(pattern, output, one, many):
    pattern = parse_output(pattern)
    assert picture_path(below(pattern, output), APPLE, 3).as_posix() == one
    assert picture_path(below(pattern, output, several=True), APPLE, 3).as_posix() == many


@pytest.mark.parametrize(
    "output",
    [
        "/etc/a.png",
        "../a.png",
        "x/../../a.png",
        "x\\..\\..\\a.png",
        "C:\\a.png",
        "C:a.png",
        "\\\\host\\share\\a.png",
        "",
        " ",
        "a\nb.png",
        "a\0.png",
        "\ud800.png",
        "a",
        "a.gif",
        "{x}.png",
        "{seed.real}",
    ],
)
def test_outputs_of_its_own_that_are_refused(output):
    with pytest.raises(RequestError):
        below(parse_output("out/"), output)


@given(st.lists(st.sampled_from(["..", ".", "a", "", "{seed}", "C:", "b.png"]), max_size=6), st.sampled_from("/\\"))
def test_no_output_of_its_own_leaves_the_folder(parts, separator):
    try:
        path = picture_path(below(parse_output("/base/out/"), separator.join(parts)), APPLE, 0)
    except RequestError:
        return
    assert Path(os.path.normpath(path)).is_relative_to("/base/out")


# -- clashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("out/a.png", "out/a.png"),
        ("out/a.png", "out/A.PNG"),
        ("out/a.png", "out/./x/../a.png"),
        ("out/straße.png", "out/STRASSE.png"),
        ("out/\u00e9.png", "out/e\u0301.png"),
        ("out/a.png", "out/A.png/b.png"),
        ("out/a.png/b.png", "out/a.png"),
    ],
)
def test_two_jobs_that_meet_are_both_named(first, second):
    pairs = [(Path("out/0.png"), "p, line 1"), (Path(first), "p, line 2"), (Path(second), "p, line 9")]
    with pytest.raises(RequestError, match="p, line 2 and p, line 9 would both be written to"):
        check_clashes(pairs)
    check_clashes(pairs[:2])


def test_two_pictures_of_one_job_that_meet():
    with pytest.raises(RequestError, match=re.escape("Two pictures of p, line 2 would both")):
        check_clashes([(Path("a.png"), "p, line 2"), (Path("a.png"), "p, line 2")])


def test_paths_that_differ_do_not_clash():
    check_clashes(
        [(Path(text), text) for text in ("a.png", "b.png", "a.jpg", "a/a.png", "a/b/a.png", "/a.png", "../a.png")]
    )
