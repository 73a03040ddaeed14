"""Masks at the sizes of feature maps, beside torch and diffusers' IPAdapterMaskProcessor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from skimage import data

from mlxdiff.request.pictures import PictureSource
from mlxdiff.resampling import resample_plane
from mlxdiff.steering.regions import read_region


@pytest.mark.parametrize("size", [(64, 48), (8, 8), (5, 7), (1, 1), (100, 90), (64, 96)])
def test_resampling_is_torchs_bicubic(size):
    region = (np.random.default_rng(0).random((64, 96)) > 0.5).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(region, dtype=torch.float64)[None, None], size=size, mode="bicubic"
    )[0, 0]
    assert np.abs(resample_plane(region, *size, "bicubic") - expected.numpy()).max() < 1e-6


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_masks_are_read_as_diffusers_reads_them(tmp_path, mode):
    picture = Image.fromarray(data.coffee()).convert("L").convert(mode)
    picture.save(tmp_path / "mask.png")
    found = read_region(PictureSource().check("mask", str(tmp_path / "mask.png")), 40, 56)
    opened = Image.open(tmp_path / "mask.png").convert("L")
    expected = IPAdapterMaskProcessor().preprocess(opened, height=40, width=56)[0, 0].numpy()
    assert 0.1 < found.mean() < 0.9
    assert np.array_equal(found, expected)


def test_of_a_mask_with_transparent_parts_the_opaque_part_counts(tmp_path):
    shape = Image.fromarray(data.coffee()).convert("L")
    painted = Image.new("RGBA", shape.size, "black")
    painted.putalpha(shape)
    for name, picture in (("shape.png", shape), ("painted.png", painted)):
        picture.save(tmp_path / name)
    assert np.array_equal(*(read_region(str(tmp_path / name), 40, 56) for name in ("shape.png", "painted.png")))
