"""Pictures to arrays and back, beside diffusers, Pillow and scikit-image's photographs."""

from __future__ import annotations

import io
import struct
import time
import zlib

import mlx.core as mx
import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin
from skimage import data

from mlxdiff import images
from mlxdiff.errors import InputError, NonFiniteError, OutputError, RequestError
from mlxdiff.images import contact_sheet, load_picture, picture_format, stored_texts, to_uint8, write_picture


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return data.astronaut()[:96, 40:168]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# -- to_uint8 -----------------------------------------------------------------------------------------------------


def test_rounds_as_diffusers_does():
    floats = np.random.default_rng(1).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    floats.ravel()[: 2 * 255] = np.arange(2 * 255, dtype=np.float32) / (2 * 255)  # and every tie
    expected = np.stack([np.asarray(picture) for picture in VaeImageProcessor.numpy_to_pil(floats)])
    np.testing.assert_array_equal(to_uint8(floats), expected)
    np.testing.assert_array_equal(to_uint8(mx.array(floats)), expected)


@given(st.integers(0, 255))
def test_every_level_survives(level):
    assert to_uint8(np.full((1, 1, 1, 3), level, np.float32) / 255).max() == level


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_widened_first(dtype):
    floats = mx.linspace(0, 1, 512).reshape(1, 16, 32, 1).astype(dtype)
    np.testing.assert_array_equal(to_uint8(floats), to_uint8(floats.astype(mx.float32)))


def test_what_is_outside_is_clipped():
    assert to_uint8(np.array([-0.5, 1.5], np.float32)).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bad):
    floats = np.zeros((1, 4, 4, 3), np.float32)
    floats[0, 2, 2, 1] = bad
    for value in (floats, mx.array(floats)):
        with pytest.raises(NonFiniteError, match="fp32"):
            to_uint8(value)


# -- load_picture -------------------------------------------------------------------------------------------------


def test_a_png_is_read_exactly(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    loaded = load_picture(tmp_path / "a.png")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, photo.astype(np.float32) / 255)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tiff", "ppm"])
def test_every_format_is_read_as_pillow_reads_it(tmp_path, photo, kind):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(photo).save(path)
    with Image.open(path) as oracle:
        np.testing.assert_array_equal(to_uint8(load_picture(path)), np.asarray(oracle.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(tmp_path, orientation):
    """Pillow's own transposition is the oracle; the corner checks one case by hand."""
    picture = noise(20, 30, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    loaded = to_uint8(load_picture(tmp_path / "a.png"))
    np.testing.assert_array_equal(loaded, expected)
    if orientation == 6:  # to be turned clockwise: the left bottom corner comes to the left top
        assert loaded.shape == (30, 20, 3)
        np.testing.assert_array_equal(loaded[0, 0], picture[-1, 0])


def test_transparency_lies_on_white(tmp_path):
    rgba = noise(16, 16, 4)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] / 255 * alpha + 1 - alpha
    np.testing.assert_allclose(load_picture(tmp_path / "a.png"), expected, atol=1 / 255)


def test_a_palette_with_a_transparent_colour(tmp_path):
    picture = Image.new("P", (4, 2), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (0, 0, 2, 2))
    picture.save(tmp_path / "a.png", transparency=0)
    loaded = to_uint8(load_picture(tmp_path / "a.png"))
    assert loaded[0].tolist() == [[0, 0, 255]] * 2 + [[255, 255, 255]] * 2


def test_gray_with_and_without_alpha_and_black_and_white(tmp_path):
    levels = noise(8, 8)
    Image.fromarray(levels).save(tmp_path / "l.png")
    np.testing.assert_array_equal(to_uint8(load_picture(tmp_path / "l.png")), np.repeat(levels[..., None], 3, 2))
    Image.merge("LA", [Image.fromarray(levels), Image.new("L", (8, 8), 0)]).save(tmp_path / "la.png")
    assert load_picture(tmp_path / "la.png").min() == 1
    Image.fromarray(levels > 128).save(tmp_path / "1.png")
    np.testing.assert_array_equal(load_picture(tmp_path / "1.png")[..., 0], levels > 128)


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.testing.assert_allclose(load_picture(tmp_path / "a.png")[..., 1], levels / 65535, atol=0.5 / 255 + 1e-6)


def test_pixels_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "f.tiff")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "i.tiff")
    for name in ("f.tiff", "i.tiff"):
        with pytest.raises(InputError, match="8 or 16 bits"):
            load_picture(tmp_path / name)


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (40, 200), (200, 40), (8, 8)])
def test_scaled_to_cover_and_cropped_around_the_centre(tmp_path, photo, size):
    Image.fromarray(photo).save(tmp_path / "a.png")
    loaded = load_picture(tmp_path / "a.png", size)
    assert loaded.shape == (*size, 3)
    scale = max(size[0] / photo.shape[0], size[1] / photo.shape[1])
    whole = Image.fromarray(photo).resize(
        (round(photo.shape[1] * scale), round(photo.shape[0] * scale)), Image.Resampling.LANCZOS
    )
    left, top = (whole.width - size[1]) // 2, (whole.height - size[0]) // 2
    cropped = np.asarray(whole.crop((left, top, left + size[1], top + size[0])), np.float32) / 255
    assert np.abs(loaded - cropped).mean() < 0.03  # half a pixel may lie between the two ways to crop


def test_resizing_is_lanczos(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    expected = Image.fromarray(photo).resize((64, 48), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(to_uint8(load_picture(tmp_path / "a.png", (48, 64))), np.asarray(expected))


# -- what is no picture -------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_errors_say_what_is_wrong(tmp_path, photo):
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "PNG")
    whole = stream.getvalue()
    cases = {
        "empty.png": (b"", "not a picture"),
        "text.png": (b"hello", "not a picture"),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        "cut.png": (whole[: len(whole) // 2], "damaged"),
        "bomb.png": (png_header(100_000, 100_000), "too many pixels"),
        "head.png": (whole[:20], "not a picture|damaged"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            load_picture(tmp_path / name)
        assert name in caught.value.problem
    with pytest.raises(InputError, match="There is no picture"):
        load_picture(tmp_path / "missing.png")
    with pytest.raises(InputError, match="is a folder"):
        load_picture(tmp_path)


@settings(deadline=None)
@given(st.data())
def test_damage_anywhere_is_an_input_error_or_a_picture(tmp_path_factory, data):
    """Whatever byte is changed or cut, nothing but InputError comes out."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]))
    stream = io.BytesIO()
    Image.fromarray(noise(6, 5, 3)).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        picture = load_picture(path)
    except InputError:
        return
    assert picture.shape[2] == 3
    assert np.isfinite(picture).all()


def test_an_error_of_our_own_passes_through(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="mine"), images.open_picture(tmp_path / "a.png"):
        raise RequestError("mine.", "Yours.")


# -- contact_sheet ------------------------------------------------------------------------------------------------


def colours(n: int, height: int = 4, width: int = 6) -> list[np.ndarray]:
    return [np.full((height, width, 3), i + 1, np.uint8) for i in range(n)]


def test_a_full_sheet_is_a_reshape():
    pictures = noise(6, 4, 5, 3)
    sheet = contact_sheet(list(pictures), 2)
    expected = pictures.reshape(2, 3, 4, 5, 3).transpose(0, 2, 1, 3, 4).reshape(8, 15, 3)
    np.testing.assert_array_equal(sheet, expected)


@given(st.integers(1, 12), st.data())
def test_rows_are_as_equal_as_possible(n, data):
    rows = data.draw(st.integers(1, n))
    sheet = contact_sheet(colours(n, 1, 1), rows, background=(0, 0, 0))[..., 0]
    lengths = (sheet > 0).sum(axis=1)
    assert len(lengths) == rows
    assert lengths.max() - lengths.min() <= 1
    assert list(lengths) == sorted(lengths, reverse=True)
    assert sheet[sheet > 0].tolist() == list(range(1, n + 1))


def test_gap_and_background():
    sheet = contact_sheet(colours(3), 2, gap=2, background=(9, 8, 7))
    assert sheet.shape == (2 * 4 + 2, 2 * 6 + 2, 3)
    assert (sheet[4:6] == (9, 8, 7)).all()
    assert (sheet[:, 6:8] == (9, 8, 7)).all()
    assert (sheet[6:, 8:] == (9, 8, 7)).all()  # the cell that is left over
    assert (sheet[:4, 8:] == 2).all()


def test_different_sizes_are_centred_in_equal_cells():
    small, large = np.zeros((2, 2, 3), np.uint8), np.full((4, 6, 3), 5, np.uint8)
    sheet = contact_sheet([small, large], 1)
    assert sheet.shape == (4, 12, 3)
    assert (sheet[1:3, 2:4] == 0).all()
    assert (sheet[:, :6] == 255).sum() == (4 * 6 - 2 * 2) * 3
    assert (sheet[:, 6:] == 5).all()


@pytest.mark.parametrize(("n", "rows"), [(3, 4), (3, 0), (0, 1), (3, -1)])
def test_rows_that_cannot_be_filled(n, rows):
    with pytest.raises(RequestError, match="rows"):
        contact_sheet(colours(n), rows)


def test_a_negative_gap():
    with pytest.raises(RequestError, match="gap"):
        contact_sheet(colours(2), 1, gap=-1)


# -- write_picture ------------------------------------------------------------------------------------------------

TEXT = {"mlxdiff": '{"prompt":"\\u732b"}', "parameters": "猫, café 🍎\nSteps: 25, Seed: 7", "Software": "mlxdiff 0"}


def test_a_png_holds_the_picture_and_every_text_for_pillow_to_see(tmp_path, photo):
    write_picture(tmp_path / "a.png", photo, TEXT)
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), photo)
        assert picture.text == TEXT
    content = (tmp_path / "a.png").read_bytes()
    for name, value in TEXT.items():  # exifr, by which Civitai reads, knows tEXt alone
        latin = name != "mlxdiff" and all(ord(letter) < 256 for letter in value)
        assert (b"tEXt" if latin else b"iTXt") + name.encode() + b"\0" in content


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")])
def test_lossy_formats_are_close_and_keep_the_texts(tmp_path, photo, name, kind):
    write_picture(tmp_path / name, photo, TEXT)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind
        assert np.abs(np.asarray(picture, np.float32) - photo).mean() < 4
        assert stored_texts(picture) == TEXT
        comment = picture.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + TEXT["parameters"].encode("utf-16-be")  # where A1111 has it


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_no_text_leaves_no_trace(tmp_path, photo, kind):
    write_picture(tmp_path / f"a.{kind}", photo, None)
    with Image.open(tmp_path / f"a.{kind}") as picture:
        assert stored_texts(picture) == {}
    assert b"mlxdiff" not in (tmp_path / f"a.{kind}").read_bytes()


def test_what_is_in_the_way_stays_unless_forced(tmp_path, photo):
    write_picture(tmp_path / "deep" / "a.png", photo)
    with pytest.raises(OutputError, match="exists already"):
        write_picture(tmp_path / "deep" / "a.png", 255 - photo)
    np.testing.assert_array_equal(to_uint8(load_picture(tmp_path / "deep" / "a.png")), photo)
    write_picture(tmp_path / "deep" / "a.png", 255 - photo, force=True)
    np.testing.assert_array_equal(to_uint8(load_picture(tmp_path / "deep" / "a.png")), 255 - photo)


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.tiff", "png", ".png"])
def test_unknown_formats(tmp_path, photo, name):
    with pytest.raises(RequestError, match=r"\.png, \.jpg"):
        picture_format(name)
    with pytest.raises(RequestError, match=r"\.png, \.jpg"):
        write_picture(tmp_path / name, photo)
    assert list(tmp_path.iterdir()) == []


def test_more_text_than_a_jpeg_can_hold(tmp_path, photo):
    with pytest.raises(OutputError, match="--no-metadata"):
        write_picture(tmp_path / "a.jpg", photo, TEXT | {"parameters": "long " * 10_000})
    assert list(tmp_path.iterdir()) == []
    write_picture(tmp_path / "a.png", photo, TEXT | {"parameters": "long " * 10_000})


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@settings(deadline=None)
@given(prompt=st.text(st.characters(), max_size=30))
def test_any_prompt_can_be_written_and_only_what_no_file_can_hold_is_lost(tmp_path_factory, kind, prompt):
    path = tmp_path_factory.getbasetemp() / f"prompt.{kind}"
    text = f"{prompt}|\nSteps: 1"
    write_picture(path, np.zeros((1, 1, 3), np.uint8), {"parameters": text}, force=True)
    with Image.open(path) as picture:
        found = stored_texts(picture)["parameters"]
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    assert found in (paired, paired.removeprefix("\ufeff"))  # in a UserComment that is a byte-order mark
    if prompt.isprintable() and not text.startswith("\ufeff"):  # which surrogates and NUL are not
        assert found == text


@pytest.mark.parametrize(
    "comment",
    [b"UNICODE\0" + "red, Steps: 3".encode("utf-16-le"), b"ASCII\0\0\0red, Steps: 3", bytes(8) + b"red, Steps: 3\0"],
)
def test_other_ways_to_write_a_user_comment(tmp_path, comment):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert stored_texts(picture)["parameters"] == "red, Steps: 3"


# -- pictures that say how they were made -----------------------------------------------------------------------------


def saved(kind: str, **options) -> dict[str, str]:
    made = images.with_texts(noise(9, 7, 3), TEXT)
    stream = io.BytesIO()
    made.save(stream, format=kind, **options)
    with Image.open(stream) as picture:
        assert picture.size == (7, 9)
        return stored_texts(picture)


def test_a_picture_keeps_its_texts_in_files_and_streams(tmp_path):
    made = images.with_texts(noise(9, 7, 3), TEXT)
    assert {name: made.info[name] for name in TEXT} == TEXT
    for name in ("a.png", "a.jpg", "a.JPEG", "a.webp"):
        made.save(tmp_path / name)
        made.save(str(tmp_path / f"str-{name}"))
        with (tmp_path / f"open-{name}").open("wb") as stream:
            made.save(stream)
        for path in (tmp_path / name, tmp_path / f"str-{name}", tmp_path / f"open-{name}"):
            with Image.open(path) as picture:
                assert stored_texts(picture) == TEXT
    for kind in ("PNG", "png", "JPEG", "jpeg", "WEBP", "webp"):
        assert saved(kind) == TEXT
    made.save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.bmp")), noise(9, 7, 3))


def test_texts_of_the_callers_own_choice():
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("mine", "x")
    assert saved("PNG", pnginfo=chunks) == {"mine": "x"}
    assert saved("JPEG", exif=b"") == {}


def test_a_prompt_that_a_jpeg_cannot_keep_is_an_error_in_words(tmp_path):
    made = images.with_texts(noise(9, 7, 3), TEXT | {"parameters": "long " * 10_000})
    with pytest.raises(OutputError, match="longer than a JPEG file can keep"):
        made.save(tmp_path / "a.jpg")
    with pytest.raises(OutputError, match="longer than a JPEG file can keep"):
        made.save(io.BytesIO(), "jpeg")


def test_texts_that_no_file_can_hold_are_mended():
    made = images.with_texts(noise(1, 1, 3), {"parameters": "a\ud83d\0b"})
    made.info["mine"] = "c\udc00"
    for kind in ("PNG", "JPEG", "WEBP"):
        made.save(io.BytesIO(), kind)
    assert made.info["parameters"] == "a\ufffdb"


# -- what does not fit ------------------------------------------------------------------------------------------------


def test_gray_of_16_bits_with_a_transparent_level(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    levels = [1000, 40_000, 65_535, 0]
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 1000))
        + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">4H", *levels)))
        + chunk(b"IEND", b"")
    )
    expected = [255, round(40_000 / 257), 255, 0]  # on white where it is transparent
    assert to_uint8(load_picture(tmp_path / "a.png"))[0, :, 0].tolist() == expected


def test_a_picture_that_does_not_fit_into_memory_is_refused_undecoded(tmp_path, monkeypatch):
    Image.new("1", (13_300, 13_300)).save(tmp_path / "a.png")
    monkeypatch.setenv("MLXDIFF_MEMORY", "2")
    start = time.process_time()
    with pytest.raises(InputError, match=r"13300x13300 pixels, needs 4.2 GB of memory, and 1.6 GB may be used"):
        load_picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"needs 2.1 GB of memory"):
        load_picture(tmp_path / "a.png", (64, 64))
    assert time.process_time() - start < 1


def test_a_sheet_that_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setenv("MLXDIFF_MEMORY", "1")
    wide, high = np.zeros((1, 20_000, 3), np.uint8), np.zeros((20_000, 1, 3), np.uint8)
    with pytest.raises(RequestError, match=r"The sheet, 40000x20000 pixels, needs 7.2 GB of memory"):
        contact_sheet([wide, high], 1)


def test_a_sheet_that_does_not_fit_asks_for_no_picture(monkeypatch):
    monkeypatch.setattr(images.budget, "fits", lambda _: False)
    monkeypatch.setattr(images.budget, "lack", lambda _: "needs too much")

    def pictures():
        raise AssertionError("asked for")
        yield

    with pytest.raises(RequestError, match="needs too much"):
        images.sheet_of([(2000, 2000)] * 4000, pictures(), 60)


def test_a_picture_in_memory_is_decoded_without_touching_the_warnings_of_other_threads(monkeypatch):
    monkeypatch.setattr("warnings.catch_warnings", None)
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, "PNG")
    assert images.decoded_picture(stream.getvalue(), "It", most=6).getpixel((2, 1)) == (255, 0, 0)
    with pytest.raises(InputError, match="It has 3x2 pixels"):
        images.decoded_picture(stream.getvalue(), "It", most=5)
