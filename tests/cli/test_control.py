"""`--control` in the real program: a picture a line of a file, each recorded, found again and made again."""

from __future__ import annotations

import json

import pytest
import tiny
import tiny_controls
from diffusers import StableDiffusionPipeline
from PIL import Image
from program import mlxdiff
from skimage import data


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    tiny.write(tiny.sd15, folder / "model")
    unet = StableDiffusionPipeline.from_pretrained(folder / "model").unet
    tiny_controls.write(tiny_controls.controlnet(unet), folder / "edges")
    for name in ("chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).resize((60, 40)).save(folder / f"{name}.png")
    return folder


def test_a_file_of_prompts_with_a_control_picture_a_line(place):
    lines = [
        {"prompt": "a cat", "control": ["edges=chelsea.png,preprocess=canny"]},
        {"prompt": "a cup", "control": [{"ref": "edges", "image": "coffee.png", "scale": 0.5, "end": 0.5}]},
        {"prompt": "a dog"},
    ]
    (place / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = (
        "generate",
        "--model",
        "model",
        "--steps",
        "2",
        "--seed",
        "1",
        "--prompts-file",
        "lines.jsonl",
        "--json",
    )
    events = [json.loads(line) for line in mlxdiff(*arguments, "-o", "out", cwd=place).stdout.splitlines()]
    assert [event["event"] for event in events] == ["picture"] * 3
    said = [event["request"].get("control", [{}])[0] for event in events]
    assert [(one.get("image"), one.get("scale")) for one in said] == [
        ("chelsea.png", 1.0),
        ("coffee.png", 0.5),
        (None, None),
    ]
    assert [set(event["request"].get("hashes", {})) for event in events] == [
        {"edges", "chelsea.png"},
        {"edges", "coffee.png"},
        set(),
    ]
    again = [json.loads(line)["event"] for line in mlxdiff(*arguments, "-o", "out", cwd=place).stdout.splitlines()]
    assert again == ["found"] * 3
    first = place / events[0]["path"]
    mlxdiff("generate", "--from", first, "-o", "again.png", cwd=place)
    assert (place / "again.png").read_bytes() == first.read_bytes()


def test_refusals_are_one_sentence(place):
    def refused(control, code):
        return mlxdiff("generate", "a", "--model", "model", "--control", control, cwd=place, code=code).stderr

    assert "There is no picture none.png." in refused("edges=none.png", 1)
    assert "model is a whole model, no ControlNet or T2I-Adapter." in refused("model=coffee.png", 1)
    assert "control's scale is 99.0." in refused("edges=coffee.png,scale=99", 2)
