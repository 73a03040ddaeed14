"""The grammar of A1111's text, beside what the web UI itself makes of it, and in layouts that it does not read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import web_ui
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxdiff.recipes import infotext

WEB_UI = json.loads((Path(__file__).parent / "web_ui.json").read_text("utf-8"))
KNOWN = ("steps", "sampler", "cfg scale", "seed", "size", "model", "model hash", "version")
# Where mlxdiff reads more: two settings alone, lines behind the settings, and JSON that the web UI tears apart.
LENIENT = {"two params only", "extra line after params", "comfy image saver", "sd.cpp 2026 with SDCPP json"}
# What the web UI adds to what it has read.
ADDED = {"Emphasis", "Downcast alphas_cumprod", "Refiner switch by sampling steps", "Hires resize-1", "Hires resize-2"}


def values_of(text: str) -> dict[str, str]:
    found = infotext.split(text, KNOWN)
    assert found is not None
    return dict(found.values.values())


@pytest.mark.parametrize("case", WEB_UI["infotexts"], ids=lambda case: case["name"])
def test_texts_as_the_web_ui_reads_them(case):
    expected = {name: value for name, value in case["parsed"].items() if isinstance(value, str)}
    if "First pass size-1" not in expected and "Hypernet" not in expected:
        ours = web_ui.parse(case["text"].replace("\r\n", "\n"))
        if ours.get("Schedule type") == "Automatic":  # which the web UI drops again, as what holds anyway
            expected["Schedule type"] = "Automatic"
        assert ours == {name: value for name, value in expected.items() if name in ours}
        assert set(expected) - set(ours) <= ADDED
    found = infotext.split(case["text"], KNOWN)
    if case["name"] in LENIENT:
        return
    if found is None:
        assert set(expected) == {"Prompt", "Negative prompt"}
        return
    for name, value in found.values.values():
        if f"{name}-1" in expected or f"{name}-1" in case["parsed"]:
            assert value == f"{case['parsed'][f'{name}-1']}x{case['parsed'][f'{name}-2']}" or name == "Size"
        else:
            assert value == expected[name]
    assert "\n".join(line.strip() for line in found.prompt.split("\n")) == expected["Prompt"].split("<hypernet")[0]
    assert "\n".join(line.strip() for line in found.negative.split("\n")) == expected["Negative prompt"]


@pytest.mark.parametrize(("value", "written"), WEB_UI["infotext_quote"])
def test_quoting(value, written):
    if isinstance(value, str):
        assert infotext.quoted(value) == written


@pytest.mark.parametrize(("written", "value"), WEB_UI["infotext_unquote"])
def test_the_web_uis_reader_beside_its_own_answers(written, value):
    assert web_ui.unquote(written) == value


@pytest.mark.parametrize(
    "text",
    [
        "an apple\nSteps: 20\nSampler: Euler a\nCFG scale: 7\nSeed: 5\nSize: 512x768",
        "an apple\nSteps: 20, Sampler: Euler a,\nCFG scale: 7, Seed: 5,\nSize: 512x768",
        "an apple\nSampler: Euler a, Seed: 5\nCFG scale: 7\nSteps: 20, Size: 512x768",
        "\ufeffan apple\r\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768\r\n",
        "an apple\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768\nTemplate: {a|b}\nSteps: 9",
        "an apple\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768, \n\nNegative Template: Seed: 1",
    ],
    ids=range(6),
)
def test_layouts(text):
    found = infotext.split(text, KNOWN)
    assert found is not None
    assert found.prompt == "an apple"
    assert dict(found.values.values()) == {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7",
        "Seed": "5",
        "Size": "512x768",
    }
    assert found.behind == []


def test_a_prompts_line_that_looks_like_settings_stays_in_the_prompt():
    found = infotext.split("a ladder\nSize: huge, Steps: 20 of them\nSteps: 3, Seed: 5, Size: 64x64", KNOWN)
    assert found is not None
    assert found.prompt == "a ladder\nSize: huge, Steps: 20 of them"
    assert found.pop("steps") == "3"


def test_a_quoted_value_on_several_lines():
    values = values_of('a\nSteps: 3, Hires prompt: "one,\ntwo: three", Seed: 5')
    assert values == {"Steps": "3", "Hires prompt": "one,\ntwo: three", "Seed": "5"}


def test_what_stands_behind_the_settings_is_kept():
    found = infotext.split("a\nSteps: 3, Seed: 5\nmade with love, and so on", KNOWN)
    assert found is not None
    assert found.behind == ["made with love", "and so on"]


@settings(max_examples=300)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from(',:"\\{[ <>\n'), min_size=1, max_size=30))
def test_a_quoted_value_comes_back(value):
    if "\r" not in value:
        line = f"Steps: 1, x y: {infotext.quoted(value)}, Seed: 2"
        assert values_of(f"a\n{line}") == {"Steps": "1", "x y": value, "Seed": "2"}
        if not value.strip().startswith('"') and "\x85" not in value:  # the web UI's own quoting asks for less
            assert web_ui.parse(f"a\n{line}").get("x y", value) == value


@pytest.mark.parametrize(
    "text", ["Steps: 1, a: " + "[" * 10**6, "a\n" * 500_000, "Steps: 1\n" * 100_000, "a: b, " * 10**5]
)
def test_long_texts_take_no_time(text):
    start = time.process_time()
    infotext.split(text, KNOWN)
    assert time.process_time() - start < 1
