"""The trainers run, and what they write is what it says: a few steps on a few pictures of the built-in model's kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import training_scripts
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors import safe_open


@pytest.fixture(scope="module")
def trainers():
    with training_scripts.loaded() as modules:
        yield modules


@pytest.fixture(scope="module")
def cut_out(tmp_path_factory):
    """Six transparent pictures: discs of six colors."""
    folder = tmp_path_factory.mktemp("cut-out")
    lines = []
    for i, color in enumerate(("red", "lime", "blue", "yellow", "black", "purple")):
        picture = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill=color)
        picture.save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"a {color} disc"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_prepared_pictures_are_what_their_captions_say(trainers, cut_out, tmp_path):
    prepare = trainers["prepare"]
    prepare.compose(cut_out, tmp_path / "pictures", move=False, size=128, seed=4)
    rows = [json.loads(line) for line in (tmp_path / "pictures" / "metadata.jsonl").read_text().splitlines()]
    named = [row for row in rows if row["text"].endswith(" background")]
    assert 0 < len(named) < len(rows)
    for row in rows:
        corner = Image.open(tmp_path / "pictures" / row["file_name"]).getpixel((0, 0))
        color = row["text"].split()[-2] if row in named else "white"
        assert corner == prepare.GROUNDS[color]

    prepare.pixelate(tmp_path / "pictures", tmp_path / "pixels", cells=16, colors=12, trigger="pixel art")
    for row in map(json.loads, (tmp_path / "pixels" / "metadata.jsonl").read_text().splitlines()):
        assert row["text"].endswith(", pixel art")
        cells = np.asarray(Image.open(tmp_path / "pixels" / row["file_name"])).reshape(16, 8, 16, 8, 3)
        assert (cells == cells[:, :1, :, :1]).all()
        assert len(np.unique(cells[:, 0, :, 0].reshape(-1, 3), axis=0)) <= 12


def test_pictures_of_one_name_in_two_folders_stay_two(trainers, tmp_path):
    lines = []
    for style, color in (("3d", "red"), ("flat", "blue")):
        (tmp_path / "cut-out" / style).mkdir(parents=True)
        Image.new("RGBA", (64, 64), color).save(tmp_path / "cut-out" / style / "disc.png")
        lines.append(json.dumps({"file_name": f"{style}/disc.png", "text": f"a {color} disc"}))
    (tmp_path / "cut-out" / "metadata.jsonl").write_text("\n".join(lines))
    trainers["prepare"].compose(tmp_path / "cut-out", tmp_path / "pictures", move=False, size=64, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "pictures" / "metadata.jsonl").read_text().splitlines()]
    drawn = [Image.open(tmp_path / "pictures" / row["file_name"]).getpixel((32, 32)) for row in rows]
    assert drawn == [(255, 0, 0), (0, 0, 255)]


def test_a_lora_changes_the_model_in_the_layers_it_names(trainers, cut_out, tmp_path):
    prepare, lora = trainers["prepare"], trainers["lora"]
    prepare.compose(cut_out, tmp_path / "pictures", move=False, size=128, seed=0)
    sizes = {"rank": 2, "steps": 3, "batch_size": 2, "learning_rate": 2e-3, "seed": 0}
    path = tmp_path / "style.safetensors"
    lora.main(path, [tmp_path / "pictures"], model=trainers["denoising"].BUILT_IN, trigger="disc", **sizes)
    with safe_open(path, "np") as file:
        assert file.metadata()["modelspec.trigger_phrase"] == "disc"
        shapes = {key: file.get_tensor(key).shape for key in file.keys()}  # noqa: SIM118
    ups = [key for key in shapes if key.endswith("lora_up.weight")]
    assert {key.split("_")[1] for key in ups} == {"unet", "te"}
    assert any(len(shapes[key]) == 4 for key in ups)
    assert all(shapes[key.replace("lora_up.weight", "lora_down.weight")][0] == 2 for key in ups)

    pipe = StableDiffusionPipeline.from_pretrained(
        trainers["denoising"].BUILT_IN, safety_checker=None, dtype=torch.float32
    )
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    pipe.load_lora_weights(path)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    changed = sum(not torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert changed == sum("_unet_" in key for key in ups)


def test_a_controlnet_starts_as_the_model_and_learns(trainers, cut_out, tmp_path):
    prepare, controlnet = trainers["prepare"], trainers["controlnet"]
    prepare.compose(cut_out, tmp_path / "moved", move=True, size=128, seed=1)
    built_in = trainers["denoising"].BUILT_IN
    with pytest.raises(SystemExit, match="conditioning_image"):
        controlnet.main(tmp_path / "out", [tmp_path / "moved"], model=built_in, steps=1)
    prepare.edges(tmp_path / "moved")
    drawn = np.asarray(Image.open(tmp_path / "moved" / "edges" / "0.png").convert("L"))
    assert set(np.unique(drawn)) == {0, 255}

    unet = UNet2DConditionModel.from_pretrained(built_in / "unet", dtype=torch.float32)
    fresh = controlnet.small_control(unet, 4)
    assert torch.equal(fresh.conv_in.weight, unet.conv_in.weight)
    assert not fresh.controlnet_mid_block.weight.any()

    sizes = {"steps": 2, "batch_size": 2, "learning_rate": 3e-4, "untold": 0.5, "seed": 0}
    controlnet.main(tmp_path / "out", [tmp_path / "moved"], model=built_in, **sizes)
    written = ControlNetModel.from_pretrained(tmp_path / "out")
    assert written.controlnet_mid_block.weight.any()
    assert (tmp_path / "out" / "diffusion_pytorch_model.safetensors").stat().st_size < 8e6


def test_a_folder_without_captions_is_said(trainers, tmp_path):
    with pytest.raises(SystemExit, match="There is no"):
        trainers["lora"].main(tmp_path / "x.safetensors", [tmp_path], model=trainers["denoising"].BUILT_IN)
    assert not (tmp_path / "x.safetensors").exists()
