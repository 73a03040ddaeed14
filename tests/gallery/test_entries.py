"""What pictures of mlxdiff and of other programs say in a gallery, whole or damaged."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from gallery_folder import A1111, request
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlxdiff.gallery.blocks import Blocks
from mlxdiff.gallery.entries import Entry, read_entry
from mlxdiff.metadata.sheets import sheet_text, sweep_text
from mlxdiff.request import Request

N_MUTATED = 400
GRAPH = json.dumps(
    {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 5,
                "steps": 21,
                "cfg": 8,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "photo_v4.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dark", "clip": ["4", 1]}},
    }
)


def entry(path: Path, texts: dict[str, str]) -> Entry:
    told = PngInfo()
    for name, text in texts.items():
        told.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=told)
    return read_entry(path)


def test_a_graph_of_comfyui(tmp_path):
    found = entry(tmp_path / "a.png", {"prompt": GRAPH})
    assert (found.program, found.exact) == ("comfyui", False)
    settings = dict(found.settings)
    assert settings.items() >= {"prompt": "a cat", "negative_prompt": "dark", "steps": "21", "seed": "5"}.items()
    assert settings.items() >= {"model": "photo_v4", "height": "640", "guidance_scale": "8"}.items()


def test_what_is_lost_of_a_recipe_is_a_note(tmp_path):
    found = entry(tmp_path / "a.png", {"parameters": A1111.replace("Steps: 28", "Steps: 2800")})
    assert "steps" not in dict(found.settings)
    assert any("Steps: 2800" in note for note in found.notes)


def test_own_words_that_cannot_be_used_leave_those_of_a1111(tmp_path):
    found = entry(tmp_path / "a.png", {"mlxdiff": '{"steps": 0}', "parameters": A1111})
    assert found.program == "a1111"
    assert dict(found.settings)["steps"] == "28"
    assert "cannot be used" in found.notes[0]


def test_a_sheet_says_what_it_is(tmp_path):
    sheet = entry(tmp_path / "a.png", sheet_text(["x.png", "y.png"]))
    assert (sheet.program, sheet.settings, sheet.command) == ("mlxdiff", (), ())
    assert sheet.notes == ("This is a contact sheet of 2 pictures. Its pictures: x.png, y.png",)
    sweep = entry(tmp_path / "b.png", sweep_text(request("a cat"), ["steps=1,2"]))
    assert sweep.command[:3] == ("grid", "--vary", "steps=1,2")
    assert dict(sweep.settings)["prompt"] == "a cat"


@pytest.mark.parametrize("seed", range(4))
def test_mutated_texts_are_shown_or_noted_and_end_no_gallery(tmp_path, seed):
    chance = random.Random(seed)
    texts = [request("a (red:1.2) apple", lora=["x,scale=0.5"]).to_json(), A1111, GRAPH]
    texts += [*sweep_text(Request("a cat"), ["steps=1,2"]).values(), *sheet_text(["a.png"]).values()]
    names = ("mlxdiff", "parameters", "prompt", "mlxdiff-sweep", "mlxdiff-sheet", "invokeai_metadata", "workflow")
    blocks = Blocks(tmp_path)
    for _ in range(N_MUTATED // 4):
        told = {chance.choice(names): mutated(chance.choice(texts), chance) for _ in range(2)}
        blocks.add(entry(tmp_path / "x.png", told), (8, 8), "AAAA")
    assert len(json.loads(blocks.take().split(">", 1)[1].rsplit("<", 1)[0])["rows"]) == N_MUTATED // 4


def mutated(text: str, chance: random.Random) -> str:
    letters = list(text)
    for _ in range(chance.randrange(6)):
        at = chance.randrange(len(letters))
        letters[at] = chance.choice([" ", '"', ",", "[", "{", ":", "\u202e", "-", "1e999", "null", "9" * 40, ""])
        if chance.random() < 0.3:
            letters[at:at] = letters[at : at + chance.randrange(1, 20)]
    return "".join(letters)
