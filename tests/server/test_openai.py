"""OpenAI's endpoints: the pictures are those of the pipeline, and their bytes those of `mlxdiff generate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image
from program import mlxdiff
from repositories import cached
from server_client import BASE, LIMITS, bytes_of, form, picture, serving

from mlxdiff import StableDiffusion, hub
from mlxdiff.request import Request
from mlxdiff.server.openai import settings

GENERATIONS = "/v1/images/generations"


def test_pictures_have_the_pixels_and_the_metadata_of_the_command_line(server, tmp_path):
    asked = {"prompt": "a red apple", "n": 2, "seed": 7, "steps": 3, "response_format": "b64_json"}
    status, answer = server.post(GENERATIONS, asked)
    assert status == 200, answer
    assert answer["warnings"] == []
    assert answer["size"] == "32x32"
    small = ("-m", "emoji", "--dtype", "fp32", "--height", "32", "--width", "32", "--steps", "3", "--batch-size", "2")
    mlxdiff("generate", "a red apple", "--seed", "7", "--n-images", "2", *small, "-o", "x.png", cwd=tmp_path)
    for seed, data in zip((7, 8), answer["data"], strict=True):
        ours, theirs = picture(data["b64_json"]), Image.open(tmp_path / f"x-{seed}.png")
        # Threads share out sums otherwise than in that process.
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
        assert ours.text == theirs.text


def test_addresses_lead_to_the_pictures_and_nowhere_else(server):
    status, answer = server.post(GENERATIONS, {"prompt": "a cat", "output_format": "webp", "seed": 1})
    assert status == 200
    url = answer["data"][0]["url"]
    start = f"http://127.0.0.1:{server.port}"
    assert url.startswith(f"{start}/v1/images/files/")
    status, data, headers = server.ask("GET", url.removeprefix(start))
    assert (status, headers["Content-Type"]) == (200, "image/webp")
    assert picture(data).format == "WEBP"
    assert server.get(url.removeprefix(start)[:-8])[0] == 404
    assert server.get("/v1/images/files/../../../etc/passwd")[0] == 404


def test_an_edit_repaints_what_the_mask_has_transparent(server):
    before = Image.effect_noise((32, 32), 90).convert("RGB")
    mask = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (8, 8, 24, 24))
    body, kind = form(image=bytes_of(before), mask=bytes_of(mask), prompt="a dog", response_format="b64_json", seed="3")
    status, answer, _ = server.ask("POST", "/v1/images/edits", body, {"Content-Type": kind})
    assert status == 200, answer
    after = picture(answer["data"][0]["b64_json"])
    changed = (np.asarray(after) != np.asarray(before)).any(-1)
    assert changed[10:22, 10:22].any()
    changed[8:24, 8:24] = False
    assert not changed.any()
    (expected,) = StableDiffusion("emoji", dtype="fp32").generate(
        "a dog",
        image=before,
        mask=np.asarray(mask.getchannel("A")) == 0,
        seed=3,
        steps=2,
        height=32,
        width=32,
    )
    assert np.abs(np.asarray(after, int) - np.asarray(expected, int)).max() <= 1


def test_an_edit_without_a_mask_is_image_to_image(server):
    body, kind = form(image=bytes_of(Image.new("RGB", (40, 40), "red")), prompt="a dog", n="2", user="me")
    status, answer, _ = server.ask("POST", "/v1/images/edits", body, {"Content-Type": kind})
    assert (status, len(answer["data"]), answer["warnings"]) == (200, 2, [])


@pytest.mark.parametrize(
    ("asked", "status", "parameter", "words"),
    [
        ({}, 400, "prompt", "prompt is missing"),
        ({"prompt": 3}, 400, "prompt", "no text"),
        ({"prompt": "x", "n": 5}, 400, "n", "from 1 to 4"),
        ({"prompt": "x", "n": True}, 400, "n", "whole number"),
        ({"prompt": "x", "n": 10**29}, 400, "n", "whole number"),
        ({"prompt": "x", "size": "512"}, 400, "size", "512x768"),
        ({"prompt": "x", "size": "99999x99999"}, 400, None, "height is 99999"),
        ({"prompt": "x", "size": "1024x1024"}, 400, None, "At most 65,536 pixels"),
        ({"prompt": "x", "hires": 16}, 400, None, "At most 65,536 pixels"),
        ({"prompt": "x", "steps": 0}, 400, "steps", "1 to 1000"),
        ({"prompt": "x", "steps": "many"}, 400, "steps", "whole number"),
        ({"prompt": "x", "sampler": "nix"}, 400, None, "There is no sampler 'nix'"),
        ({"prompt": "x" * 20_001}, 400, "prompt", "20,000"),
        ({"prompt": "x", "response_format": "file"}, 400, "response_format", "b64_json"),
        ({"prompt": "x", "stream": True}, 400, "stream", "not streamed"),
        ({"prompt": "x", "model": "dall-e-3"}, 404, None, "nothing is downloaded"),
        ({"prompt": "x", "model": ["emoji"]}, 400, "model", "no text"),
        ({"prompt": "x", "lora": "/etc/passwd"}, 400, None, "may be a path"),
        ({"prompt": "x", "lora": [{"ref": "../x.safetensors"}]}, 400, None, "may be a path"),
        ({"prompt": "x", "upscaler": "~/x.safetensors"}, 400, None, "may be a path"),
        ({"prompt": "x", "embedding": "a/b/c.safetensors"}, 404, None, "not in the cache"),
        ({"prompt": "x <lora:/etc/passwd:1>"}, 400, None, "may be a path"),
        ({"prompt": ["a", "b"]}, 400, "prompt", "no text"),
    ],
)
def test_what_is_wrong_is_said_in_openai_s_form(server, asked, status, parameter, words):
    got, answer = server.post(GENERATIONS, asked)
    assert got == status, answer
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert words in answer["error"]["message"]
    assert answer["error"]["param"] == parameter


def test_what_is_not_used_is_named(server):
    asked = {"prompt": "x", "quality": "hd", "background": "auto", "user": "me", "image": "/etc/passwd", "mood": "blue"}
    status, answer = server.post(GENERATIONS, {**asked, "control": "x=/etc/passwd", "vae": "/x", "revision": "main"})
    assert status == 200, answer
    said = " ".join(answer["warnings"])
    for name in ("quality: hd", "image: /etc", "mood: blue", "control: x=", "vae: /x", "revision: main"):
        assert name in said
    assert "background" not in said
    assert "user" not in said


def test_a_lora_by_its_name_is_used_and_one_that_is_not_here_is_named(server):
    plain, with_lora = (
        server.post(GENERATIONS, {"prompt": prompt, "seed": 1, "response_format": "b64_json"})[1]
        for prompt in ("a castle", "a castle <lora:pixel-art:1> <lora:nix:1>")
    )
    assert picture(plain["data"][0]["b64_json"]).tobytes() != picture(with_lora["data"][0]["b64_json"]).tobytes()
    assert "There is no LoRA for <lora:nix:1>" in " ".join(with_lora["warnings"])
    recorded = json.loads(picture(with_lora["data"][0]["b64_json"]).text["mlxdiff"])
    assert [lora["ref"] for lora in recorded["lora"]] == ["pixel-art"]


@pytest.mark.parametrize("name", ["pixel-art", "own.safetensors", "own", "~", "some/folder", "a.ckpt"])
@pytest.mark.parametrize("where", ["lora", "embedding", "upscaler", "hires_upscaler", "tag", "model"])
def test_a_name_means_the_same_whatever_lies_in_the_working_folder(server, name, where, tmp_path, monkeypatch):
    asked = {"prompt": "x", "seed": 1, "response_format": "b64_json", where: name}
    if where == "tag":
        asked = {**asked, "prompt": f"x <lora:{name}:1>"}
    if where == "hires_upscaler":
        asked["hires"] = 1.5
    answers = []
    for folder in (tmp_path / "empty", tmp_path / "full"):
        folder.mkdir()
        if folder.name == "full":
            (folder / "pixel-art").mkdir()
            (folder / "some" / "folder").mkdir(parents=True)
            (folder / "own.safetensors").write_bytes(b"x")
            (folder / "own").write_bytes(b"x")
            (folder / "a.ckpt").write_bytes(b"x")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", str(folder if folder.name == "full" else folder / "none"))
        answers.append(server.post(GENERATIONS, asked))
    for _, answer in answers:
        answer.pop("created", None)
    assert answers[0] == answers[1]
    if name == "pixel-art" and where in ("lora", "tag"):
        assert answers[0][0] == 200


def test_clients_are_told_of_files_by_their_names_alone_and_the_operator_by_their_paths(server, tmp_path, monkeypatch):
    for file in ("bad.safetensors", "a/twin.safetensors", "b/twin.safetensors"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(file.encode() * 50)
    monkeypatch.setenv("MLXDIFF_LORAS", str(tmp_path))
    for name, words in (("bad", "bad.safetensors is not a sound"), ("twin", ": a/twin.safetensors, b/twin.safe")):
        for asked in ({"prompt": "x", "lora": name}, {"prompt": f"x <lora:{name}:1>"}):
            message = server.post(GENERATIONS, asked)[1]["error"]["message"]
            assert words in message
            assert str(tmp_path) not in message
            assert str(tmp_path) in server.said[-1]


def test_no_setting_that_names_a_picture_file_or_a_model_is_taken():
    assert not settings() & {"image", "mask", "depth", "control", "ip_adapter", "refiner", "model", "vae", "hashes"}
    assert settings() > {"steps", "seed", "negative_prompt", "lora", "sampler", "hires", "guidance_scale"}


def test_what_the_operator_gives_holds_unless_it_is_asked_otherwise():
    base = Request(**{**BASE.values(), "negative_prompt": "blue", "steps": 3})
    with serving(base=base, limits=LIMITS) as server:
        for asked, steps in (({}, 3), ({"steps": 1}, 1)):
            _, answer = server.post(GENERATIONS, {"prompt": "x", "response_format": "b64_json", **asked})
            recorded = json.loads(picture(answer["data"][0]["b64_json"]).text["mlxdiff"])
            assert (recorded["negative_prompt"], recorded["steps"]) == ("blue", steps)
        assert server.get("/v1/models")[1]["data"][0]["id"] == "emoji"


def test_another_model_of_the_cache_is_rendered_by_its_name(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    emoji = Path(hub.resolve("emoji").path)
    files = {str(path.relative_to(emoji)): path.read_bytes() for path in emoji.rglob("*") if path.is_file()}
    cached(tmp_path, files, name="stabilityai/sd-turbo")
    assert [model["id"] for model in server.get("/v1/models")[1]["data"]] == ["emoji", "stabilityai/sd-turbo"]
    asked = {"prompt": "a cat", "seed": 4, "response_format": "b64_json"}
    pictures = []
    for model in (None, "stabilityai/sd-turbo", "sd-turbo", "emoji"):
        _, answer = server.post(GENERATIONS, {**asked, "model": model})
        pictures.append(picture(answer["data"][0]["b64_json"]))
    assert len({one.tobytes() for one in pictures}) == 1, "they are copies"
    recorded = [json.loads(one.text["mlxdiff"])["model"] for one in pictures]
    assert recorded == ["emoji", "stabilityai/sd-turbo", "stabilityai/sd-turbo", "emoji"]
    checkpoint = {"override_settings": {"sd_model_checkpoint": "stabilityai/sd-turbo [0123abcd]"}, "prompt": "a cat"}
    info = json.loads(server.post("/sdapi/v1/txt2img", checkpoint)[1]["info"])
    assert info["sd_model_name"] == "stabilityai/sd-turbo"


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "multipart/form-data; boundary=X", 400, "malformed"),
        (b"--X\r\n\r\nx\r\n--X--", "multipart/form-data; boundary=X", 400, "malformed"),
        (b"--X--\r\n", "multipart/form-data", 415, "boundary"),
        (form(prompt="x")[0], form()[1], 400, "image is missing"),
        (form(image=b"", prompt="x")[0], form()[1], 400, "image is empty"),
        (form(image=b"GIF89a", prompt="x")[0], form()[1], 400, "damaged"),
        (form(image=b"hello", prompt="x")[0], form()[1], 400, "not a picture"),
        (
            form(image=bytes_of(Image.new("1", (5000, 5000))), prompt="x")[0],
            form()[1],
            400,
            "At most 16,777,216",
        ),
        (
            form(image=bytes_of(Image.new("L", (9, 9))), mask=bytes_of(Image.new("L", (9, 9))), prompt="x")[0],
            form()[1],
            400,
            "no transparent part",
        ),
        (b"{}", "application/json", 415, "multipart"),
    ],
)
def test_bad_forms(server, body, kind, status, words):
    got, answer, _ = server.ask("POST", "/v1/images/edits", body, {"Content-Type": kind})
    assert got == status, answer
    assert words in answer["error"]["message"]
