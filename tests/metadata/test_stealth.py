"""NovelAI's metadata in the alpha channel, written here bit by bit as its description says."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from mlxdiff.metadata import request_from_file, stealth

TEXTS = {
    "Description": "a lighthouse",
    "Software": "NovelAI",
    "Source": "Stable Diffusion XL C1E1DE52",
    "Comment": json.dumps({"prompt": "a lighthouse", "steps": 28, "scale": 5.0, "seed": 3, "uc": "fog",
                           "sampler": "k_euler", "width": 64, "height": 32}),
}  # fmt: skip


def hidden(data: bytes, magic: bytes = b"stealth_pngcomp", *, length: int | None = None, size=(64, 32)) -> Image.Image:
    """A picture whose alpha holds the data: from each pixel the lowest bit, down each column."""
    bits = np.unpackbits(np.frombuffer(magic + (len(data) * 8 if length is None else length).to_bytes(4, "big") + data,
                                       np.uint8))  # fmt: skip
    width, height = size
    alpha = np.full(width * height, 254, np.uint8)
    alpha[: len(bits)] |= bits[: width * height]
    picture = np.zeros((height, width, 4), np.uint8)
    picture[..., 3] = alpha.reshape(width, height).T
    return Image.fromarray(picture, "RGBA")


def test_a_picture_of_novelai(tmp_path):
    hidden(gzip.compress(json.dumps(TEXTS).encode())).resize((64, 32), 0).save(tmp_path / "a.png")
    with pytest.warns(match="a model called Stable Diffusion XL"):
        request = request_from_file(tmp_path / "a.png")
    assert (request.prompt, request.negative_prompt, request.steps, request.seed) == ("a lighthouse", "fog", 28, 3)
    assert (request.sampler, request.guidance_scale, request.width, request.height) == ("euler", 5.0, 64, 32)


def test_a1111s_text_hidden_without_gzip(tmp_path):
    hidden(b"a cat\nSteps: 4, Seed: 9, RNG: CPU", b"stealth_pnginfo").save(tmp_path / "a.png")
    assert stealth.read(tmp_path / "a.png", (64, 32)) == {"parameters": "a cat\nSteps: 4, Seed: 9, RNG: CPU"}
    assert request_from_file(tmp_path / "a.png").seed == 9


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (9, 9)),
        Image.new("RGBA", (2, 2)),
        Image.new("RGBA", (90, 90), (0, 0, 0, 255)),
        hidden(b"no gzip"),
        hidden(gzip.compress(b"{}")[:-9]),
        hidden(gzip.compress(b"{}"), length=2**32 - 1),
        hidden(gzip.compress(b"[1]"), length=0),
    ],
)
def test_pictures_that_hide_nothing(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    assert stealth.read(tmp_path / "a.png", picture.size) in ({}, {"parameters": ""})


def test_a_bomb(tmp_path):
    hidden(gzip.compress(b" " * 2**27), size=(1024, 1100)).save(tmp_path / "a.png")
    assert len(stealth.read(tmp_path / "a.png", (1024, 1100))["parameters"]) <= 2**22


def test_large_pictures_are_not_searched(tmp_path):
    assert stealth.read(tmp_path / "none.png", (2**13, 2**12)) == {}
