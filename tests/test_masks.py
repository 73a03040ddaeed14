"""Masks and pictures of every size, shape and mode, and what of them is drawn on and put back."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage import data

from mlxdiff import Request, StableDiffusion, images, masks
from mlxdiff.canvas import canvas_of
from mlxdiff.errors import MlxdiffError, MlxdiffWarning, RequestError
from mlxdiff.fitting import fitted
from mlxdiff.remembering import remembered
from mlxdiff.request import Margins
from mlxdiff.request.pictures import ALPHA

BOX = (20, 12, 60, 40)


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion("emoji", dtype="fp32")


def photo(width: int = 96, height: int = 64) -> Image.Image:
    return ImageOps.fit(Image.fromarray(data.chelsea()), (width, height), Image.Resampling.LANCZOS)


def box_mask(width: int = 96, height: int = 64) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, BOX)
    return mask


MASK = np.asarray(box_mask())


def resolved(sd, **settings):
    return sd.resolve(Request("a cat", seed=0, steps=2, **settings))


def canvas(sd, **settings):
    return canvas_of(resolved(sd, **settings), 4)


def as_palette(mask):
    return mask.convert("P")


def as_cmyk(mask):
    return mask.convert("RGB").convert("CMYK")


def as_sixteen_bits(mask):
    return Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)


def as_alpha(mask):
    made = photo().convert("RGBA")
    made.putalpha(mask)
    return made


FORMS = {
    "gray": (lambda mask: mask, "png"),
    "one bit": (lambda mask: mask.convert("1"), "png"),
    "palette": (as_palette, "png"),
    "cmyk": (as_cmyk, "tiff"),
    "16 bits": (as_sixteen_bits, "png"),
    "alpha": (as_alpha, "png"),
    "gray and alpha": (lambda mask: Image.merge("LA", (Image.new("L", mask.size, 9), mask)), "png"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_of_any_mode_from_a_file_and_from_memory(sd, tmp_path, form):
    make, kind = FORMS[form]
    path = tmp_path / f"mask.{kind}"
    make(box_mask()).save(path)
    for given in (str(path), Image.open(path)):
        found = canvas(sd, image=photo(), mask=given)
        assert np.array_equal(np.rint(found.mask * 255), MASK)


def test_a_rotated_mask_is_upright(sd, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise to be seen
    turned = as_cmyk(box_mask().transpose(Image.Transpose.ROTATE_90))
    turned.save(tmp_path / "mask.tiff", exif=exif, compression="tiff_lzw")
    found = canvas(sd, image=photo(), mask=str(tmp_path / "mask.tiff"))
    assert np.array_equal(np.rint(found.mask * 255), MASK)


@pytest.mark.parametrize("make", [lambda m: m > 0, lambda m: m, lambda m: m[..., None], lambda m: m / 255])
def test_a_mask_as_an_array(sd, make):
    found = canvas(sd, image=np.asarray(photo()), mask=make(MASK))
    assert np.array_equal(np.rint(found.mask * 255), MASK)


def test_the_transparent_part_of_a_picture_is_repainted_where_no_mask_is_given(sd, tmp_path):
    hole = photo().convert("RGBA")
    hole.putalpha(ImageOps.invert(box_mask()))
    hole.save(tmp_path / "hole.png")
    for image in (str(tmp_path / "hole.png"), hole):
        with pytest.warns(MlxdiffWarning, match="is transparent, and is repainted; the rest stays"):
            request = resolved(sd, image=image)
        assert (request.mask, request.strength) == ("alpha", 1.0)
        assert np.array_equal(np.rint(canvas_of(request, 4).mask * 255), MASK)
    again = Request.from_json(resolved(sd, image=str(tmp_path / "hole.png"), mask="alpha").to_json())
    assert again.mask == "alpha"
    assert [name for name, _ in again.hashes] == [str(tmp_path / "hole.png")]
    assert resolved(sd, image=hole, compat="a1111").mask is None  # which puts it on white
    with pytest.raises(RequestError, match="has no transparent part: nothing would be repainted"):
        resolved(sd, image=photo(), mask="alpha")


def test_a_mask_of_another_size_is_fitted_and_of_another_shape_said(sd):
    found = canvas(sd, image=photo(), mask=box_mask().resize((192, 128), Image.Resampling.NEAREST))
    assert np.abs(found.mask * 255 - MASK).mean() < 3
    with pytest.warns(MlxdiffWarning, match=r"The mask is 40x40 pixels and the picture 96x64.*stretched over it"):
        canvas(sd, image=photo(), mask=box_mask().resize((40, 40)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask": box_mask()}, "There is a mask but no image"),
        ({"expand": "4,4,4,4"}, "There is a margin to expand but no image"),
        ({"strength": 0.5}, "There is a strength but no image"),
        ({"mask_blur": 4}, "There is mask_blur but no mask"),
        ({"image": photo(), "inpaint_fill": "noise"}, "There is inpaint_fill but no mask"),
        ({"image": photo(), "mask": Image.new("L", (96, 64), 0)}, "black all over: nothing would be repainted"),
        ({"image": photo(), "mask": box_mask(), "inpaint_padding": 8}, "the whole picture is rendered"),
        ({"image": photo(), "image_guidance_scale": 2.0}, "does not edit by instructions"),
        ({"image": photo(), "depth": photo()}, "takes no depth map"),
        ({"expand": "4,4"}, "expand is '4,4'"),
        ({"expand": "0,0,0,0"}, "expand is '0,0,0,0'"),
        ({"expand": "4,4,99999,4"}, "expand is"),
        ({"fit": "tile"}, "no fit 'tile'"),
        ({"inpaint_area": "half"}, "no inpaint_area 'half'"),
        ({"inpaint_fill": "nois"}, "no inpaint_fill 'nois'. Did you mean noise"),
        ({"image": photo(), "mask": "nowhere.png"}, "There is no picture nowhere.png"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_drawn(sd, given, said):
    with pytest.raises(MlxdiffError, match=said):
        resolved(sd, **given)


def test_pictures_in_memory_are_let_go_with_their_requests(sd):
    request = resolved(sd, image=photo(), mask=box_mask())
    clear = resolved(sd, image=Image.merge("RGBA", (*photo().split(), ImageOps.invert(box_mask()))), mask="alpha")
    assert canvas_of(request, 4) is canvas_of(replace(request), 4)
    canvas_of(clear, 4)
    held = [
        weakref.ref(picture) for each in (request, clear) for picture in (each.image, each.mask) if picture != ALPHA
    ]
    del request, clear
    gc.collect()
    assert [picture() for picture in held] == [None, None, None]


def test_large_results_are_kept_as_far_as_their_bytes_go_and_the_last_one_always():
    made = []

    @remembered(3, most_bytes=10, nbytes=len)
    def make(name, length):
        made.append(name)
        return "x" * length

    for name, length in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4), ("d", 50), ("d", 50), ("a", 4)):
        assert make(name, length) == "x" * length
    assert made == ["a", "b", "c", "b", "d", "a"]


def test_a_mask_that_its_blur_wipes_out_is_said(sd):
    dot = Image.new("L", (96, 64), 0)
    dot.putpixel((40, 30), 255)
    for area in ("whole", "masked"):
        request = resolved(sd, image=photo(), mask=dot, mask_blur=8, inpaint_area=area, height=32, width=32)
        with pytest.raises(MlxdiffError, match="A mask_blur of 8 pixels leaves nothing of the mask"):
            canvas_of(request, 4)


def test_margins_that_do_not_fit_into_memory_are_refused_before_they_are_made(sd, monkeypatch):
    monkeypatch.setenv("MLXDIFF_MEMORY", "1")
    with pytest.raises(MlxdiffError, match=r"picture with its margins, 60096x60064 pixels, .*Add fewer pixels"):
        resolved(sd, image=photo(), expand="60000,60000,0,0")


def test_a_white_mask_repaints_all(sd):
    found = canvas(sd, image=photo(), mask=Image.new("L", (96, 64), 255))
    assert found.mask.min() == 1


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (64, 96)),
        ({"height": 64, "width": 64}, (64, 64)),
        ({"height": 64, "width": 64, "fit": "pad"}, (64, 64)),
        ({"inpaint_area": "masked", "height": 32, "width": 32, "inpaint_padding": 5}, (64, 96)),
        ({"expand": "8,4,0,12"}, (80, 104)),
        ({"mask_blur": 3}, (64, 96)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_not_masked_keeps_its_bytes(sd, settings, size):
    request = resolved(sd, image=photo(), mask=box_mask(), **settings)
    found = canvas_of(request, 4)
    made = sd.generate("a cat", image=photo(), mask=box_mask(), seed=0, steps=2, **settings)[0]
    pixels = np.asarray(made)
    assert pixels.shape == (*size, 3) == (*request.finished_size, 3)
    kept = found.alpha == 0
    assert 0 < kept.mean() < 1
    assert np.array_equal(pixels[kept], found.base[kept])
    assert not np.array_equal(pixels[~kept], found.base[~kept])
    if "expand" in settings:
        assert np.array_equal(found.base[4:68, 8:], np.asarray(photo()))
        assert (found.alpha[:4] == 255).all()
    elif size == (64, 96):
        assert np.array_equal(found.base, np.asarray(photo()))


@pytest.mark.parametrize("side", [(95, 61), (97, 66)])
def test_a_picture_of_odd_sides_comes_back_as_large_as_it_was(sd, side):
    image, mask = photo(*side), box_mask(*side)
    made = sd.generate("a cat", image=image, mask=mask, seed=0, steps=1)[0]
    kept = np.asarray(mask) == 0
    assert made.size == side
    assert np.array_equal(np.asarray(made)[kept], np.asarray(image)[kept])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_fits(fit):
    picture = photo(90, 30)
    found = fitted(picture, (40, 40), fit)
    assert found.size == (40, 40)
    if fit == "stretch":
        assert found.tobytes() == picture.resize((40, 40), Image.Resampling.LANCZOS).tobytes()
    elif fit == "crop":
        assert found.tobytes() == ImageOps.fit(picture, (40, 40), Image.Resampling.LANCZOS).tobytes()
    else:
        inner = np.asarray(picture.resize((40, 13), Image.Resampling.LANCZOS))
        pixels = np.asarray(found)
        assert np.array_equal(pixels[14:27], inner)
        assert (pixels[:14] == inner[0]).all()
        assert (np.asarray(fitted(picture.convert("L"), (40, 40), fit, around=0))[27:] == 0).all()


def test_image_to_image_is_fitted_as_asked(sd):
    for fit in ("crop", "pad", "stretch"):
        found = canvas(sd, image=photo(), height=32, width=80, fit=fit)
        expected = np.asarray(fitted(photo(), (32, 80), fit), np.float32) / 255
        assert np.array_equal(found.picture, expected)


def test_the_region_holds_the_mask_and_has_the_ratio_that_is_rendered():
    mask = Image.new("L", (100, 80), 0)
    mask.paste(255, (90, 10, 96, 40))
    left, top, right, bottom = masks.region_of(mask, (32, 64), 4)
    assert left <= 86
    assert (top, right, bottom) == (6, 100, 44)
    assert (right - left) / (bottom - top) == 2
    assert masks.region_of(mask, (64, 8), 200) == (0, 0, 100, 80)


def test_filling_spreads_the_colours_around():
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    picture.paste((0, 0, 0), (20, 20, 44, 44))
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (20, 20, 44, 44))
    found = np.asarray(masks.colour_filled(picture, mask)).astype(int)
    assert np.abs(found - (200, 30, 30)).max() <= 4  # of 200: colours times opacity have 8 bits


def test_cells_as_each_program_reads_them():
    whole = np.zeros((16, 16), np.float32)
    whole[3:9, 5:12] = 1
    assert np.array_equal(masks.nearest_cells(whole, 4), whole[::4, ::4])
    thin = np.zeros((16, 16), np.float32)
    thin[1, 6] = 1
    assert masks.nearest_cells(thin, 4).sum() == 1, "a dot between the corners is still repainted"
    whole[2:6, 1:8] = 1
    linear = torch.nn.functional.interpolate(torch.from_numpy(whole)[None, None], (4, 4), mode="bilinear")[0, 0]
    assert np.allclose(masks.linear_cells(whole, 4), linear)
    assert len(np.unique(linear)) > 2
    small = Image.fromarray(whole.astype(np.uint8) * 255).convert("RGB").resize((4, 4))
    assert np.array_equal(masks.rounded_cells(whole, 4), np.around(np.asarray(small)[:, :, 0] / 255))


def test_margins_are_read_from_every_form():
    for given in ("8,0,4,0", [8, 0, 4, 0], Margins(8, 0, 4, 0)):
        assert Request("a", image="x.png", expand=given).expand == Margins(8, 0, 4, 0)
    assert Request("a", image="x.png", expand=16).expand == Margins(16, 16, 16, 16)
    assert Request.from_json(Request("a", expand="8,0,4,0").to_json()).expand == Margins(8, 0, 4, 0)


def test_pictures_in_memory_keep_their_transparency(tmp_path):
    clear = photo().convert("RGBA")
    clear.putalpha(box_mask())
    clear.save(tmp_path / "clear.png")
    held = Request("a", image=clear).image
    for held_layer, layer in zip(
        images.read_layers(held), images.read_layers(str(tmp_path / "clear.png")), strict=True
    ):
        assert np.array_equal(held_layer, layer)
