"""Control pictures beside OpenCV's and Pillow's, of real photos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter
from skimage import data

from mlxdiff import preprocess
from mlxdiff.request.controls import PREPROCESSING, parse_preprocessing


@pytest.mark.parametrize("thresholds", [(100, 200), (50, 100), (20, 300), (10, 20), (30.7, 60.2), (200, 100)])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_edges_are_opencvs_in_every_pixel(name, thresholds):
    picture = getattr(data, name)()
    expected = cv2.Canny(picture, *thresholds)
    assert (preprocess.canny(picture, *thresholds) == expected[..., None]).all()
    assert 0.02 < (expected > 0).mean() < 0.5


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_edges_of_any_small_picture_are_opencvs(picture):
    assert (preprocess.canny(picture, 60, 120) == cv2.Canny(picture, 60, 120)[..., None]).all()


def test_the_other_methods():
    picture = data.chelsea()
    assert (preprocess.apply(("invert", ()), picture) == 255 - picture).all()
    assert preprocess.apply(("none", ()), picture) is picture
    blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(3))
    assert (preprocess.apply(("blur", (3.0,)), picture) == np.asarray(blurred)).all()
    coarse = preprocess.apply(("resize", (4.0,)), picture)
    small = Image.fromarray(picture).resize((113, 75), Image.Resampling.BOX)
    assert (coarse == np.asarray(small.resize((451, 300), Image.Resampling.BICUBIC))).all()


def test_every_method_that_may_be_asked_for_is_there_and_takes_its_numbers():
    assert preprocess.METHODS.keys() == PREPROCESSING.keys()
    picture = data.chelsea()[:40, :50]
    for name, ranges in PREPROCESSING.items():
        for bound in (0, 1):
            words = ":".join([name, *(f"{both[bound]:g}" for both in ranges)])
            made = preprocess.apply(parse_preprocessing("preprocess", words), picture)
            assert made.shape == picture.shape
            assert made.dtype == np.uint8
