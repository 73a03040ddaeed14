"""What is wrong with what a training script is given is one sentence, in every script, before anything is trained."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import training_scripts
from PIL import Image


@pytest.fixture(scope="module")
def scripts():
    with training_scripts.loaded() as modules:
        yield modules


def data_set(folder: Path, *lines: str, sizes=((128, 128), (128, 128))) -> Path:
    """A folder with 0.png, 1.png and these lines of metadata; without lines, sound ones."""
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.new("RGBA", size, (200, 10 * i, 0, 255)).save(folder / f"{i}.png")
    about = {"text": "a disc", "name": "disc", "style": "3d", "group": 4, "tags": [], "words": []}
    sound = [json.dumps({"file_name": f"{i}.png", **about}) for i in range(len(sizes))]
    (folder / "metadata.jsonl").write_text("\n".join(lines or sound) + "\n")
    return folder


def readers(scripts, pictures: Path, tmp_path: Path):
    """Each way in which a script reads a folder of pictures."""
    work = tmp_path / "work"
    return {
        "lora": lambda: scripts["lora"].main(tmp_path / "a.safetensors", [pictures], steps=1),
        "controlnet": lambda: scripts["controlnet"].main(tmp_path / "out", [pictures], steps=1),
        "compose": lambda: scripts["prepare"].compose(pictures, tmp_path / "out", move=False, size=64, seed=0),
        "pixelate": lambda: scripts["prepare"].pixelate(pictures, tmp_path / "out"),
        "edges": lambda: scripts["prepare"].edges(pictures),
        "train_vae": lambda: scripts["train_vae"].main(pictures, work, steps=1),
        "train_unet": lambda: scripts["train_unet"].main(pictures, work, steps=1),
        "train_words": lambda: scripts["train_words"].main(
            pictures, scripts["denoising"].BUILT_IN, tmp_path / "spoken", steps=1
        ),
        "distill": lambda: scripts["distill"].main(pictures, tmp_path / "a.safetensors", steps=1),
        "evaluate": lambda: scripts["evaluate"].main(pictures, count=1, steps=1),
    }


LINES = {
    "is not JSON": ('{"file_name": "0.png", "text": "a disc"', "line 1"),
    "is not an object": ('["0.png", "a disc"]', "line 1"),
    "has no file_name": ('{"text": "a disc", "name": "disc"}', "line 1"),
    "file_name is not text": ('{"file_name": 3, "text": "a disc"}', "line 1"),
    "There is no .*missing.png": ('{"file_name": "missing.png", "text": "a disc"}', "missing.png"),
    "broken.png cannot be read": ('{"file_name": "broken.png", "text": "a disc"}', "broken.png"),
    "cut.png cannot be read": ('{"file_name": "cut.png", "text": "a disc"}', "cut.png"),
}
WAYS = (
    *("lora", "controlnet", "compose", "pixelate", "edges"),
    *("train_vae", "train_unet", "train_words", "distill", "evaluate"),
)


@pytest.mark.parametrize("way", WAYS)
def test_a_line_or_picture_that_cannot_be_used_is_named(scripts, tmp_path, way):
    named = {"name": "disc", "style": "3d", "group": 4, "tags": [], "words": []}
    for i, (problem, (line, place)) in enumerate(LINES.items()):
        if line.startswith('{"file_name": "'):  # sound but for its picture, also for the scripts that need names
            line = line if problem == "is not JSON" else json.dumps({**json.loads(line), **named})
        pictures = data_set(tmp_path / f"{i}", line)
        (pictures / "broken.png").write_text("This is no picture.")
        whole = (pictures / "0.png").read_bytes()
        (pictures / "cut.png").write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(SystemExit, match=problem) as ended:
            readers(scripts, pictures, tmp_path)[way]()
        assert place in str(ended.value)
        assert str(ended.value).endswith(".")


@pytest.mark.parametrize("way", ["lora", "controlnet", "train_vae", "evaluate"])
def test_pictures_of_two_sizes_are_named_with_both(scripts, tmp_path, way):
    pictures = data_set(tmp_path / "pictures", sizes=((128, 128), (128, 128), (64, 96)))
    with pytest.raises(SystemExit, match=r"0\.png is 128x128, and .*2\.png is 64x96\. Resize"):
        readers(scripts, pictures, tmp_path)[way]()


def test_conditioning_images_of_another_size_are_refused(scripts, tmp_path):
    pictures = data_set(tmp_path / "pictures")
    Image.new("L", (64, 64)).save(pictures / "edges.png")
    row = {"file_name": "0.png", "text": "a disc", "conditioning_image": "edges.png"}
    (pictures / "metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(SystemExit, match="are 128x128 and the conditioning images 64x64"):
        readers(scripts, pictures, tmp_path)["controlnet"]()


def test_a_model_that_is_missing_or_damaged_is_named(scripts, tmp_path):
    pictures, nowhere = data_set(tmp_path / "pictures"), tmp_path / "nowhere"
    ways = [
        lambda model: scripts["lora"].main(tmp_path / "a.safetensors", [pictures], model=model, steps=1),
        lambda model: scripts["controlnet"].main(tmp_path / "out", [pictures], model=model, steps=1),
        lambda model: scripts["evaluate"].main(pictures, model, count=1, steps=1),
        lambda model: scripts["train_words"].main(pictures, model, tmp_path / "spoken", steps=1),
        lambda model: scripts["distill"].main(pictures, tmp_path / "a.safetensors", model=model, steps=1),
        lambda model: scripts["train_vae"].main(pictures, tmp_path / "work", steps=1, init=model),
    ]
    for way in ways:
        with pytest.raises(SystemExit, match=r"There is no .*nowhere/(unet|vae)\. Give a folder in the diffusers"):
            way(nowhere)
    damaged = tmp_path / "damaged"
    for name in ("unet", "vae"):
        (damaged / name).mkdir(parents=True)
        (damaged / name / "config.json").write_text("{")
    for way in ways:
        with pytest.raises(SystemExit, match=r"damaged/(unet|vae) cannot be read"):
            way(damaged)
    noise = shutil.copytree(scripts["denoising"].BUILT_IN, tmp_path / "noise")
    config = noise / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("v_prediction", "epsilon"))
    with pytest.raises(SystemExit, match=r"noise predicts epsilon, not v\."):
        scripts["distill"].main(pictures, tmp_path / "a.safetensors", model=noise, steps=1)
    with pytest.raises(SystemExit, match="is the model itself"):
        scripts["train_words"].main(pictures, nowhere, nowhere, steps=1)
    with pytest.raises(SystemExit, match=r"There is no .*nowhere\.safetensors"):
        scripts["evaluate"].main(pictures, count=1, steps=1, adapter=tmp_path / "nowhere.safetensors")


def test_where_nothing_can_be_written_is_said_before_training(scripts, tmp_path):
    pictures = data_set(tmp_path / "pictures")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="file cannot be made"):
        scripts["lora"].main(tmp_path / "file" / "a.safetensors", [pictures], steps=1)
    with pytest.raises(SystemExit, match="is a folder"):
        scripts["lora"].main(tmp_path, [pictures], steps=1)
    with pytest.raises(SystemExit, match="is a folder"):
        scripts["distill"].main(pictures, tmp_path, steps=1)
    with pytest.raises(SystemExit, match="cannot be made"):
        scripts["controlnet"].main(tmp_path / "file", [pictures], steps=1)


def test_a_state_that_is_damaged_is_named(scripts, tmp_path):
    import torch

    path, loop = tmp_path / "unet.pt", scripts["loop"]
    path.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(SystemExit, match=r"unet\.pt cannot be read"):
        loop.resume(path, {}, torch.device("cpu"))
    torch.save({"step": 3}, path)
    with pytest.raises(SystemExit, match="is no state of a training"):
        loop.resume(path, {}, torch.device("cpu"))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_have_the_permissions_of_any_new_file(scripts, tmp_path, mask, mode):
    alone, folder = tmp_path / "a.safetensors", tmp_path / "unet"
    folder.mkdir()
    for path in (alone, folder / "b.safetensors"):
        path.touch(mode=0o600)
    before = os.umask(mask)
    try:
        for path in (alone, folder):
            scripts["permissions"].follow_umask(path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (alone, folder / "b.safetensors")] == [mode, mode]
