"""Numbers of a setting are recorded in one form, whatever was typed and wherever."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from mlxdiff.batch.prompts import read_entries
from mlxdiff.request import Lora, Request
from mlxdiff.request.controls import Control
from mlxdiff.request.declarations import Number, Numbers, declared
from mlxdiff.request.ip_adapters import IPAdapterSetting
from mlxdiff.request.structured import Structured

NUMBERS = [item for item in declared(Request) if isinstance(item.kind, Number)]
PARTS = [
    (item, part)
    for item in declared(Request)
    if isinstance(item.kind, Structured)
    for part in declared(item.kind.of)
    if part.kind.type is float
]
OTHER = {"guidance_start": 0, "token_merging": 0, "hires": 2}  # where 1 is out of range


def recorded(**settings) -> str:
    return Request(prompt="a", **settings).to_json()


@pytest.mark.parametrize("item", NUMBERS, ids=lambda item: item.name)
def test_a_whole_number_is_recorded_as_a_float_from_every_place(item):
    whole = OTHER.get(item.name, 1)
    wanted = recorded(**{item.name: float(whole)})
    assert f'"{item.name}":{whole}.0' in wanted
    assert recorded(**{item.name: whole}) == wanted
    assert recorded(**{item.name: np.float64(whole)}) == wanted
    assert Request.from_json(f'{{"prompt":"a","{item.name}":{whole}}}').to_json() == wanted
    assert Request(prompt="a").replaced(**{item.name: whole}).to_json() == wanted
    for text in (f"{whole}", f"{whole}.0", f"{whole}e0"):
        assert recorded(**{item.name: item.kind.parse(item.name, text)}) == wanted
        lines = [f'{{"prompt": "a", "{item.name}": {text}}}', f"a --{item.name} {text}"]
        for entry in read_entries(lines, "p", Request()):
            assert entry.request.to_json() == wanted


def test_minus_nothing_is_nothing():
    assert recorded(guidance_rescale=-0.0) == recorded(guidance_rescale=0)
    assert '"scale":0.0' in recorded(lora="x,scale=-0")


@pytest.mark.parametrize(("item", "part"), PARTS, ids=lambda item: item.name)
def test_parts_of_a_setting_are_too(item, part):
    needed = {"ref": "x", "image": "y.png"}
    names = {part.name for part in fields(item.kind.of)} & needed.keys()
    given = {name: needed[name] for name in names}
    low = 0 if part.name == "start" else 1
    wanted = recorded(**{item.name: {**given, part.name: float(low)}})
    assert f'"{part.name}":{low}.0' in wanted
    assert recorded(**{item.name: [{**given, part.name: low}]}) == wanted
    text = "=".join(needed[name] for name in sorted(names, reverse=True))
    assert recorded(**{item.name: f"{text},{part.name}={low}"}) == wanted


def test_values_that_were_made_in_python_are_checked_and_recorded_alike():
    assert recorded(lora=[Lora("x", scale=2)]) == recorded(lora="x,scale=2")
    assert recorded(control=Control("x", "y.png", scale=2)) == recorded(control="x=y.png,scale=2")
    adapter = IPAdapterSetting("x", ("y.png",), scale=1)
    assert recorded(ip_adapter=adapter) == recorded(ip_adapter="x=y.png,scale=1")
    with pytest.raises(ValueError, match="lora's scale is 'much'"):
        Request(lora=Lora("x", scale="much"))  # type: ignore[arg-type]


def test_a_part_that_is_null_has_its_default():
    assert recorded(lora={"ref": "x", "scale": None}) == recorded(lora="x")
    assert recorded(control={"ref": "x", "image": "y.png", "start": None}) == recorded(control="x=y.png")


def test_lists_of_numbers_and_numbers_of_blocks_are_recorded_alike():
    assert recorded(sigmas=[14, 7.0, 0]) == recorded(sigmas="14.0,7,0") == recorded(sigmas=(14.0, 7.0, 0.0))
    for item in declared(Request):
        if isinstance(item.kind, Numbers):
            assert all(isinstance(value, float) for value in json.loads(recorded(**{item.name: [1, 0]}))[item.name])
    blocks = [recorded(lora=[{"ref": "x", "blocks": given}]) for given in ({"IN04": 1}, {"in04": 1.0}, "IN04:1")]
    assert len(set(blocks)) == 1
    scales = [
        recorded(ip_adapter=[{"ref": "x", "image": "y.png", "scale": given}]) for given in ({"mid": 1}, "mid:1.0")
    ]
    assert len(set(scales)) == 1
    ways = [recorded(control=f"x=y.png,preprocess={way}") for way in ("canny:100:200", "Canny:100.0:2e2")]
    assert ways[0] == ways[1] == recorded(control="x=y.png,preprocess=canny:100:200")


def test_strengths_of_blocks_are_shown_without_loss():
    request = Request(lora="x,blocks=IN04:0.12345678;OUT03:0")
    assert request.lora is not None
    shown = Structured(Lora).show(request.lora)
    assert Request(lora=shown).lora == request.lora
