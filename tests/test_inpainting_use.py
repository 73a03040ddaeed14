"""Inpainting in use: metadata, prompt files, batches, single files, and what is refused."""

from __future__ import annotations

import json
import warnings

import mlx.core as mx
import numpy as np
import pytest
import tiny
from PIL import Image
from program import mlxdiff
from test_inpainting import box_mask, photo

from mlxdiff import Request, StableDiffusion
from mlxdiff.errors import MlxdiffError, RequestError
from mlxdiff.metadata import request_from_file
from mlxdiff.metadata.parameters import parameters_text
from mlxdiff.recipes import a1111
from mlxdiff.recipes.finish import finished

SETTINGS = {"steps": 2, "seed": 3, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion("emoji", dtype="fp32")


@pytest.fixture
def pictures(tmp_path):
    photo().save(tmp_path / "photo.png")
    box_mask().save(tmp_path / "mask.png")
    return tmp_path


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    made = {}

    def opened(name: str) -> StableDiffusion:
        if name not in made:
            folder = tiny.write(getattr(tiny, name), tmp_path_factory.mktemp(name))
            made[name] = StableDiffusion(str(folder), dtype="fp32")
        return made[name]

    return opened


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("sd15_inpainting", {}, "repaints a part of a picture, and there is no picture.*--image and --mask"),
        ("sd15_inpainting", {"image": photo()}, "nothing says which.*Give --mask"),
        ("sd15_editing", {}, "edits a picture as the prompt says, and there is no picture.*--image"),
        ("sd15_editing", {"image": photo(), "mask": box_mask()}, "takes no mask"),
        ("sd15_editing", {"image": photo(), "strength": 0.5}, "takes no strength.*image_guidance_scale"),
        ("depth", {"image": photo()}, "takes a depth map beside the prompt, and there is none.*--depth"),
    ],
)
def test_a_checkpoint_says_what_to_give_it(checkpoints, name, given, said):
    with pytest.raises(RequestError, match=said):
        checkpoints(name).resolve(Request("a cat", **given))


def test_a_flat_depth_map_is_refused_in_words(checkpoints):
    flat = Image.new("L", (32, 32), 90)
    with pytest.raises(MlxdiffError, match="same depth everywhere"):
        checkpoints("depth").generate("a cat", depth=flat, **SETTINGS)


def test_a_depth_map_of_16_bits_keeps_them(checkpoints, tmp_path):
    levels = (np.arange(1024).reshape(32, 32) + 3000).astype(np.uint16)  # 4 levels of 8 bits
    Image.fromarray(levels).save(tmp_path / "depth.png")
    sd = checkpoints("depth")
    fine = sd.generate("a cat", depth=str(tmp_path / "depth.png"), **SETTINGS)[0]
    same = sd.generate("a cat", depth=np.repeat(levels[..., None] / np.float32(65535), 3, 2), **SETTINGS)[0]
    assert np.asarray(fine).std() > 5
    assert not np.array_equal(np.asarray(fine), np.asarray(same)), "8 bits would make steps of it"


def test_the_picture_of_many_jobs_is_encoded_once(sd, monkeypatch):
    calls = []
    encode = type(sd.networks.vae).encode
    monkeypatch.setattr(type(sd.networks.vae), "encode", lambda vae, x: calls.append(x.shape) or encode(vae, x))
    fresh = StableDiffusion("emoji", dtype="fp32")
    for seed in range(3):
        fresh.generate("a cat", image=photo(), mask=box_mask(), **SETTINGS | {"seed": seed, "n_images": 2})
    assert len(calls) == 1
    fresh.generate("a cat", image=photo().rotate(90), mask=box_mask(), **SETTINGS)
    assert len(calls) == 2


def test_an_image_of_a_batch_is_the_one_that_is_drawn_alone(sd):
    given = {"image": photo(), "mask": box_mask(), "strength": 0.9}
    together = sd.generate("a cat", **given, **SETTINGS | {"n_images": 2})[1]
    alone = sd.generate("a cat", **given, **SETTINGS | {"seed": 4})[0]
    assert np.abs(np.asarray(together).astype(int) - np.asarray(alone)).max() <= 1


def test_metadata_has_every_setting_and_the_contents(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    said = ["--image", "photo.png", "--mask", "mask.png", "--mask-blur", "2", "--inpaint-fill", "noise"]
    size = ["--steps", "2", "--seed", "3", "--height", "32", "--width", "32"]
    area = ["--inpaint-area", "masked", "--inpaint-padding", "3"]
    mlxdiff("generate", "a cat", *said, *area, *size, "-o", "out.png", cwd=pictures)
    request = request_from_file("out.png")
    assert {name for name, _ in request.hashes} == {"photo.png", "mask.png"}
    assert (request.mask_blur, request.inpaint_fill, request.inpaint_area) == (2, "noise", "masked")
    assert (request.strength, request.inpaint_padding) == (1.0, 3)
    mlxdiff("generate", "--from", "out.png", "-o", "again.png", cwd=pictures)
    assert np.array_equal(pixels("out.png"), pixels("again.png"))
    box_mask(box=(0, 0, 9, 9)).save("mask.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        request_from_file("out.png")
    assert any("mask.png has changed since" in str(each.message) for each in caught)


def test_a_picture_and_a_mask_for_each_line(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    photo().rotate(180).save("other.png")
    lines = [
        {"prompt": "a cat", "image": "photo.png", "mask": "mask.png"},
        {"prompt": "a dog", "image": "other.png", "mask": "mask.png", "strength": 0.9},
        {"prompt": "a fox", "image": "photo.png", "expand": "0,0,16,0", "width": 48},
        {"prompt": "a cow"},
    ]
    (pictures / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    size = ["--steps", "2", "--seed", "3", "--height", "32", "--width", "32"]
    mlxdiff("generate", "--prompts-file", "lines.jsonl", *size, "-o", "out/{index}.png", cwd=pictures)
    kept = np.asarray(box_mask()) == 0
    for index, name in ((0, "photo.png"), (1, "other.png")):
        made = pixels(f"out/{index}.png")
        assert np.array_equal(made[kept], pixels(name)[kept])
    wide = pixels("out/2.png")
    assert np.array_equal(wide[:, :32], np.asarray(photo()))
    assert pixels("out/3.png").shape == (32, 32, 3)


def test_a_contact_sheet_of_pictures_that_are_larger_than_what_is_rendered(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    photo(64).save("large.png")
    box_mask(64).save("large-mask.png")
    said = ["--image", "large.png", "--mask", "large-mask.png", "--inpaint-area", "masked"]
    size = ["--steps", "1", "--seed", "3", "--height", "32", "--width", "32"]
    mlxdiff("generate", "a cat", *said, *size, "--n-rows", "1", "--n-images", "2", "-o", "sheet.png", cwd=pictures)
    assert pixels("sheet.png").shape == (64, 128, 3)


def test_a1111s_words_both_ways():
    request = Request(
        "a cat",
        **{**SETTINGS, "image": "photo.png", "mask": "mask.png", "mask_blur": 6, "inpaint_fill": "blank"},
        inpaint_area="masked",
        inpaint_padding=16,
        strength=0.6,
    )
    text = parameters_text(request)
    for words in (
        "Mask blur: 6",
        "Masked content: latent nothing",
        "Inpaint area: Only masked",
        "Masked area padding: 16",
        "Denoising strength: 0.6",
    ):
        assert words in text
    found = a1111.read(text).settings
    for name in ("mask_blur", "inpaint_fill", "inpaint_area", "inpaint_padding", "strength"):
        assert found[name] == getattr(request, name)
    edited = parameters_text(Request("make it red", image="photo.png", image_guidance_scale=1.2, seed=1))
    assert "Image CFG scale: 1.2" in edited
    assert a1111.read(edited).settings["image_guidance_scale"] == 1.2


def test_a_text_of_a1111_without_its_mask_says_what_is_missing():
    text = "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Denoising strength: 0.75"
    text += ", Mask blur: 4, Masked content: fill, Inpaint area: Only masked, Masked area padding: 48"
    recipe = a1111.read(text)
    request, said = finished(recipe)
    assert (request.mask_blur, request.inpaint_fill, request.inpaint_area) == (None, None, None)
    assert any("made with a mask that its text does not name" in line for line in said)
    request, said = finished(recipe, {"image": "photo.png", "mask": "mask.png"})
    assert (request.mask_blur, request.inpaint_fill, request.inpaint_padding) == (4, "fill", 48)
    assert not said


def test_previews_and_trajectories_show_the_picture_where_it_stays(sd):
    request = sd.resolve(Request("a cat", image=photo(), mask=box_mask(), strength=0.9, **SETTINGS | {"steps": 4}))
    clean = np.array(sd.encode(mx.array(np.asarray(photo(), np.float32)[None] / 255)))
    for step in sd.denoise(request):
        stays = np.asarray(box_mask())[::4, ::4] == 0
        assert np.abs(np.array(step.denoised) - clean)[0][stays].max() < 1  # a draw of the same posterior
