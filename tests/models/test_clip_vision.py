"""The image encoder beside transformers', and what it is given beside CLIPImageProcessor's pixels."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
import tiny_ip_adapters as tiny
import torch
from PIL import Image
from skimage import data
from transformers import CLIPImageProcessor

from mlxdiff.checkpoint.load import load_component
from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from mlxdiff.request.pictures import PictureSource
from mlxdiff.steering.clip_pixels import clip_pixels

PHOTOS = {"astronaut": data.astronaut, "wide": data.chelsea, "tall": lambda: data.rocket().transpose(1, 0, 2)}


@pytest.mark.parametrize("size", [224, 37])
@pytest.mark.parametrize("photo", list(PHOTOS))
def test_pixels_are_clip_image_processors(photo, size):
    picture = np.ascontiguousarray(PHOTOS[photo]())
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    expected = processor(Image.fromarray(picture), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    found = clip_pixels(PictureSource().check("image", picture), size)
    assert found.shape == (size, size, 3)
    assert np.array_equal(found, expected)


def test_a_picture_smaller_than_the_crop_is_enlarged():
    picture = data.coffee()[:9, :15]
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(Image.fromarray(picture), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    assert np.array_equal(clip_pixels(PictureSource().check("image", picture), 32), expected)


@pytest.mark.parametrize(
    "changes",
    [{}, {"hidden_act": "quick_gelu", "num_hidden_layers": 2}, {"patch_size": 7, "image_size": 30}],
    ids=["H", "L", "uneven"],
)
def test_the_encoder_is_transformers(tmp_path, changes):
    torch.manual_seed(3)
    theirs = tiny.vision(**changes)
    theirs.save_pretrained(tmp_path)
    config = CLIPVisionConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    ours = load_component(CLIPVisionModel(config), tmp_path, dtype=mx.float32)
    pixels = np.stack([clip_pixels(PictureSource().check("i", made()), config.image_size) for made in PHOTOS.values()])
    found = ours(mx.array(pixels))
    expected = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2)), output_hidden_states=True)
    states = expected.hidden_states[-2].numpy()
    assert np.abs(np.array(found.embedding) - expected.image_embeds.numpy()).max() < 1e-5
    assert np.abs(np.array(found.penultimate) - states).max() < 1e-5 * np.abs(states).max()
    assert expected.image_embeds.std(dim=0).mean() > 0.1, "pictures that are all alike would prove nothing"


def test_configs_that_make_no_encoder_are_refused():
    values = tiny.vision_config().to_dict()
    for changes, message in (
        ({"hidden_size": 41}, "not a multiple"),
        ({"patch_size": 64}, "into 0 patches"),
        ({"image_size": 8192, "patch_size": 1}, "patches"),
        ({"num_channels": 4}, "num_channels"),
        ({"model_type": "siglip_vision_model"}, "model_type"),
    ):
        with pytest.raises((CheckpointError, UnsupportedError), match=message):
            CLIPVisionConfig.from_dict(values | changes)
    both = {"model_type": "clip", "projection_dim": 24, "vision_config": {**values, "model_type": "clip_vision_model"}}
    assert CLIPVisionConfig.from_dict(both) == CLIPVisionConfig.from_dict(values)
