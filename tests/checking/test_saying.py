"""What a picture says of itself: as mlxdiff writes it, and edited by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked_folder import request
from PIL import Image, PngImagePlugin

from mlxdiff import StableDiffusion
from mlxdiff.checking.fault import Fault
from mlxdiff.checking.ledger import Ledger
from mlxdiff.checking.picture import Known, look_at_picture
from mlxdiff.containers import xmp
from mlxdiff.hashing import content_hash
from mlxdiff.images import write_picture
from mlxdiff.metadata import parameters, picture_text
from mlxdiff.metadata.sheets import sheet_text, sweep_text
from mlxdiff.request import Request

BLACK = np.zeros((16, 24, 3), np.uint8)


def faults_of(path: Path, texts: dict[str, str], picture: np.ndarray = BLACK) -> tuple[Fault, ...]:
    write_picture(path, picture, texts, force=True)
    return look_at_picture(path, Known(Ledger())).faults


def kinds_of(*given, **more) -> list[str]:
    return [fault.kind for fault in faults_of(*given, **more)]


@pytest.fixture(params=["a.png", "a.jpg", "a.webp"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def test_what_mlxdiff_writes(path):
    assert kinds_of(path, picture_text(request(3))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": 'a "cat", é: <lora:x:1>\nStep: 3 \ufeff', "negative_prompt": "Steps: 9"},
        {"hires": 1.5, "hires_strength": 0.5, "hires_upscaler": "latent"},
        {"lora": ("style,scale=0.5,text=0.25",), "clip_skip": 2, "sampler": "dpmpp_2m", "schedule": "karras"},
        {"compat": "comfyui", "batch_index": "2/4", "rng": "torch"},
        {"eta": 0.5, "seed": 2**32 - 1, "guidance_rescale": 0.7, "variation_seed": 7, "variation_strength": 0.2},
        {"quantize": 8, "dtype": "fp16", "refiner": "other", "refiner_switch": 0.5, "revision": "abc"},
    ],
)
def test_settings_of_every_kind_agree_with_their_own_text(tmp_path, changes):
    """A request and A1111's text of it; the size is of a picture that such a request gives."""
    made = replace(request(3), **changes)
    picture = np.zeros((24, 36, 3), np.uint8) if made.hires else BLACK
    assert kinds_of(tmp_path / "a.png", picture_text(made), picture) == []


def test_real_pictures(tmp_path):
    """Rendered, with what the model fills in."""
    for i, settings in enumerate(({}, {"hires": 1.5}, {"negative_prompt": "b", "guidance_scale": 7})):
        (picture,) = StableDiffusion("emoji").generate("a red apple", seed=i, steps=1, **settings)
        picture.save(tmp_path / "a.png")
        assert look_at_picture(tmp_path / "a.png", Known(Ledger())).faults == ()


def edited(change) -> dict[str, str]:
    """The texts of a picture of which the JSON was edited, with right checksums, and the other text as it was."""
    texts = picture_text(request(3))
    values = json.loads(texts["mlxdiff"])
    change(values)
    return texts | {"mlxdiff": json.dumps(values, sort_keys=True, separators=(",", ":"))}


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda values: values.update(seed=4), ["parameters"]),
        (lambda values: values.update(prompt="a dog"), ["parameters"]),
        (lambda values: values.update(steps=9), ["parameters"]),
        (lambda values: values.update(negative_prompt="blurry"), ["parameters"]),
        (lambda values: values.update(model="other"), ["parameters"]),
        (lambda values: values.update(width=32), ["parameters", "size"]),
        (lambda values: values.update(steps=-1), ["metadata"]),
        (lambda values: values.update(sampler="best"), ["metadata"]),
        (lambda values: values.update(unknown=1), ["metadata"]),
        (lambda values: values.update(seed=[1, 2]), ["metadata"]),
    ],
)
def test_an_edited_json(path, change, kinds):
    assert kinds_of(path, edited(change)) == kinds


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
        lambda text: text.replace("{", '{"seed":7,', 1),  # the second one counts
        lambda text: text + " ",
        lambda text: text.replace("fp32", "fp\\u0033\\u0032"),
    ],
)
def test_json_that_says_the_same_in_other_words(tmp_path, rewrite):
    texts = picture_text(request(3))
    assert kinds_of(tmp_path / "a.png", texts | {"mlxdiff": rewrite(texts["mlxdiff"])}) == ["metadata"]


@pytest.mark.parametrize("name", ["mlxdiff", "parameters", xmp.NAME])
def test_a_text_that_is_there_twice(tmp_path, name):
    """Pillow takes the last one, mlxdiff the first."""
    texts, other = picture_text(request(3)), picture_text(request(4))
    chunks = PngImagePlugin.PngInfo()
    for text in (texts, {name: other[name]}):
        for each, value in text.items():
            chunks.add_itxt(each, value)
    Image.fromarray(BLACK).save(tmp_path / "a.png", pnginfo=chunks)
    (fault,) = look_at_picture(tmp_path / "a.png", Known(Ledger())).faults
    assert (fault.kind, name in fault.problem) == ("metadata", True)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"seed":' + "9" * 10_000 + "}", "[" * 100_000, '{"a":NaN}'])
def test_what_is_no_request(tmp_path, text):
    assert kinds_of(tmp_path / "a.png", picture_text(request(3)) | {"mlxdiff": text}) == ["metadata"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("Seed: 3", "Seed: 4"), ("a cat 3", "a dog"), ("Steps: 2", "Steps: 50"), ("Size: 24x16", "Size: 32x16")],
)
def test_an_edited_parameters_text(path, old, new):
    texts = picture_text(request(3))
    assert old in texts["parameters"]
    (fault,) = faults_of(path, texts | {"parameters": texts["parameters"].replace(old, new)})
    assert fault.kind == "parameters"
    assert new.rpartition(" ")[2].partition("x")[0] in fault.problem


def test_a_parameters_text_that_was_cut(tmp_path):
    texts = picture_text(request(3))
    assert kinds_of(tmp_path / "a.png", texts | {"parameters": "a cat 3"}) == ["parameters"]
    without = texts["parameters"].replace("Seed: 3, ", "")
    assert kinds_of(tmp_path / "a.png", texts | {"parameters": without}) == ["parameters"]
    more = texts["parameters"].replace("Seed: 3, ", "Seed: 3, Clip skip: 2, ")
    assert kinds_of(tmp_path / "a.png", texts | {"parameters": more}) == ["parameters"]


def test_the_text_of_another_version_may_say_less(tmp_path, monkeypatch):
    texts = picture_text(request(3, guidance_rescale=0.5))
    monkeypatch.setattr(parameters, "__version__", "0.0.9")
    older = parameters.parameters_text(request(3))
    assert "Version: mlxdiff 0.0.9" in older
    assert kinds_of(tmp_path / "a.png", texts | {"parameters": older}) == []
    assert kinds_of(tmp_path / "a.png", texts | {"parameters": older.replace("Seed: 3", "Seed: 5")}) == ["parameters"]


def test_the_size(tmp_path):
    """One pixel more, the other way round, enlarged by an upscaler, and enlarged without one."""
    texts = picture_text(request(3))
    assert kinds_of(tmp_path / "a.png", texts, np.zeros((17, 24, 3), np.uint8)) == ["size"]
    assert kinds_of(tmp_path / "a.png", texts, np.zeros((24, 16, 3), np.uint8)) == ["size"]
    large = np.zeros((64, 96, 3), np.uint8)
    assert kinds_of(tmp_path / "a.png", texts, large) == ["size"]
    assert kinds_of(tmp_path / "a.png", picture_text(request(3, upscaler="big")), large) == []


def test_sheets(tmp_path):
    one = Request("a cat", n_images=4, seed=1, width=24, height=16, model="emoji")
    assert kinds_of(tmp_path / "a.png", picture_text(one), np.zeros((32, 48, 3), np.uint8)) == []
    assert kinds_of(tmp_path / "a.png", picture_text(one), np.zeros((32, 24, 3), np.uint8)) == ["size"]
    assert kinds_of(tmp_path / "a.png", sheet_text(["a.png"])) == []
    assert kinds_of(tmp_path / "a.png", sweep_text(request(1), ["steps=1,2"])) == []
    assert kinds_of(tmp_path / "a.png", {"mlxdiff-sheet": "{"}) == ["metadata"]


def test_a_file_that_it_was_made_from_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_picture("photo.png", BLACK)
    made = request(3, image="photo.png", strength=0.5, hashes={"photo.png": content_hash(Path("photo.png"))})
    assert kinds_of(tmp_path / "a.png", picture_text(made)) == []
    write_picture("photo.png", BLACK + 1, force=True)
    (fault,) = faults_of(tmp_path / "a.png", picture_text(made))
    assert fault.kind == "input"
    assert "photo.png" in fault.problem
    Path("photo.png").unlink()
    assert kinds_of(tmp_path / "a.png", picture_text(made)) == []  # not at hand


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/kmsg", "pipe", "."])
def test_hostile_names_of_files_are_not_read(tmp_path, monkeypatch, name):
    import os

    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    made = request(3, image=name, strength=0.5, hashes={name: "0" * 64})
    assert set(kinds_of(tmp_path / "a.png", picture_text(made))) <= {"input"}


def test_a_provenance_that_denies_the_model(path):
    texts = picture_text(request(3))
    denied = texts[xmp.NAME].replace("trainedAlgorithmicMedia", "digitalCapture")
    assert kinds_of(path, texts | {xmp.NAME: denied}) == ["provenance"]
    del texts[xmp.NAME]
    assert kinds_of(path, texts) == []  # as mlxdiff 0.1 wrote them


def test_pictures_of_others(tmp_path):
    """Nothing that A1111 writes is held against it."""
    text = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"
    assert kinds_of(tmp_path / "a.png", {"parameters": text}) == []
