"""Sheets say what they are: a sweep how to make it again, a contact sheet what is on it."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxdiff.errors import InputError, RequestError
from mlxdiff.images import write_picture
from mlxdiff.metadata import read_picture, request_from_file
from mlxdiff.metadata.sheets import SHEET, SWEEP, read_sheet, sheet_text, sweep_text
from mlxdiff.request import Request

PIXEL = np.zeros((2, 2, 3), np.uint8)
SWEPT = Request(
    prompt="a cat's hat", negative_prompt="b", prompt_syntax="a1111", seed=7, model="emoji", height=64, width=64
)
VARY = ["steps=5,10", "guidance-scale=1,4"]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_sweep(tmp_path, kind):
    path = tmp_path / f"sheet.{kind}"
    write_picture(path, PIXEL, sweep_text(SWEPT, VARY))
    found = read_picture(path)
    assert found.request is None
    assert found.sheet is not None
    assert (found.sheet.request, found.sheet.vary) == (SWEPT, tuple(VARY))
    assert found.sheet.described == "a sweep of steps=5,10 and guidance-scale=1,4"
    with pytest.raises(InputError, match=r"is a sweep of steps=5,10 and guidance-scale.*Make the sheet again with"):
        request_from_file(path)
    one = request_from_file(path, given={"steps": 5, "guidance_scale": 4.0})
    assert one == Request(prompt="a cat's hat", negative_prompt="b", prompt_syntax="a1111",
                          seed=7, model="emoji", height=64, width=64,
                          steps=5, guidance_scale=4.0)  # fmt: skip


def test_a_sweep_over_an_alias(tmp_path):
    """--vary cfg=1,4 is recorded as it was typed; what is given has the setting's name."""
    write_picture(tmp_path / "sheet.png", PIXEL, sweep_text(SWEPT, ["cfg=1,4", "seed=1,2"]))
    one = request_from_file(tmp_path / "sheet.png", given={"guidance_scale": 4.0, "seed": 2})
    assert one is not None
    assert (one.guidance_scale, one.seed, one.prompt) == (4.0, 2, "a cat's hat")
    with pytest.raises(InputError, match="is a sweep of cfg=1,4 and seed=1,2"):
        request_from_file(tmp_path / "sheet.png", given={"steps": 5})


def test_the_command_of_a_sweep():
    sheet = read_sheet(sweep_text(SWEPT, VARY))
    assert sheet is not None
    assert shlex.split(sheet.command) == [
        "mlxdiff", "grid", "--vary", "steps=5,10", "--vary", "guidance-scale=1,4", "--prompt", "a cat's hat",
        "--negative-prompt", "b", "--prompt-syntax", "a1111",
        "--seed", "7", "--height", "64", "--width", "64", "--model", "emoji",
        "-o", "sheet.png",
    ]  # fmt: skip


def test_a_contact_sheet(tmp_path):
    write_picture(tmp_path / "sheet.png", PIXEL, sheet_text(["a.png", "b.png"]))
    found = read_picture(tmp_path / "sheet.png").sheet
    assert found is not None
    assert found.names == ("a.png", "b.png")
    with pytest.raises(InputError, match=r"is a contact sheet of 2 pictures. Name one of its pictures: a.png, b.png"):
        request_from_file(tmp_path / "sheet.png")


def test_a_sheet_of_earlier_versions(tmp_path):
    described = {"request": json.loads(SWEPT.to_json()), "vary": VARY}
    write_picture(tmp_path / "a.png", PIXEL, {SWEEP: json.dumps(described), "Software": "mlxdiff 0.1"})
    found = read_picture(tmp_path / "a.png").sheet
    assert found is not None
    assert found.vary == tuple(VARY)


def test_other_pictures_are_no_sheet(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").sheet is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["prompt", "steps", "x"]), inner),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["request", "vary", "pictures"]), values), st.sampled_from([SWEEP, SHEET]))
def test_any_text_is_a_sheet_or_an_error(described, name):
    try:
        found = read_sheet({name: json.dumps(described)})
    except RequestError:
        return
    assert found is not None
    assert found.described
    assert found.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"vary":[]}', '{"vary":["a"],"request":{"steps":0}}'])
def test_damage(text):
    with pytest.raises(RequestError, match="cannot be used"):
        read_sheet({SWEEP: text})
