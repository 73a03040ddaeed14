"""Which source type a picture is given: from its request, and from what the picture in it says of itself."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mlxdiff import StableDiffusion
from mlxdiff.batch.store import difference
from mlxdiff.cli.app import main
from mlxdiff.containers import xmp
from mlxdiff.images import write_picture
from mlxdiff.metadata import PictureInfo, picture_text, provenance, read_picture
from mlxdiff.request import Request

PIXELS = np.full((16, 16, 3), 90, np.uint8)
GIVEN = {"seed": 1, "height": 16, "width": 16, "steps": 2, "guidance_scale": 2.0, "sampler": "ddim", "model": "emoji"}


def request(**changes) -> Request:
    return Request(prompt="a", **GIVEN, **changes)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A photo, a picture that a model made, and one that says so in a request alone, as mlxdiff 0.1's do."""
    monkeypatch.chdir(tmp_path)
    write_picture("photo.png", PIXELS)
    write_picture("made.png", PIXELS, picture_text(request()))
    old = {name: text for name, text in picture_text(request()).items() if name != xmp.NAME}
    write_picture("old.png", PIXELS, old)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("changes", "term"),
    [
        ({}, xmp.TRAINED),
        ({"image": "photo.png", "strength": 0.5}, xmp.TRAINED),  # no pixel stays as it was
        ({"image": "photo.png", "mask": "photo.png"}, xmp.EDITED),
        ({"image": "photo.png", "expand": "8"}, xmp.EDITED),
        ({"image": "made.png", "mask": "photo.png"}, xmp.TRAINED),
        ({"image": "old.png", "expand": "8"}, xmp.TRAINED),
        ({"image": "gone.png", "expand": "8"}, xmp.EDITED),
        ({"image": PIXELS, "mask": PIXELS}, xmp.EDITED),
    ],
)
def test_the_term_of_a_request(changes, term):
    assert provenance.source_type(request(**changes)) == term
    assert xmp.source_type(picture_text(request(**changes))[xmp.NAME]) == term


@pytest.mark.usefixtures("here")
def test_pictures_in_memory_say_it_too():
    """One that was rendered, and files that were opened with PIL."""
    (picture,) = StableDiffusion("emoji").generate("a red apple", steps=1, seed=0)
    assert provenance.source_type(request(image=picture, expand="8")) == xmp.TRAINED
    for name, term in (("made.png", xmp.TRAINED), ("photo.png", xmp.EDITED)):
        with Image.open(name) as opened:
            assert provenance.source_type(request(image=opened, expand="8")) == term
            opened.save("again.jpg", **({"xmp": opened.info["xmp"]} if "xmp" in opened.info else {}))
        with Image.open("again.jpg") as opened:
            assert provenance.source_type(request(image=opened, mask=PIXELS)) == term


@pytest.mark.usefixtures("here")
def test_what_was_repainted_once_stays_edited():
    """An edited photo that is edited again is no picture of a model's."""
    write_picture("edited.png", PIXELS, picture_text(request(image="photo.png", expand="8")))
    assert provenance.source_type(request(image="edited.png", expand="8")) == xmp.EDITED


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("names", "term"),
    [
        (["photo.png"], None),
        (["made.png", "old.png"], xmp.TRAINED),
        (["made.png", "photo.png"], xmp.MIXED),
        (["photo.png", "gone.png"], None),
    ],
)
def test_the_term_of_a_sheet(names, term):
    assert provenance.of_sheet(names) == term


def test_pictures_from_python_keep_it(tmp_path):
    """Also in files that PIL's own `save` writes."""
    (picture,) = StableDiffusion("emoji").generate("a red apple", steps=1, seed=0)
    for name in ("a.png", "a.jpg", "a.webp"):
        picture.save(tmp_path / name)
        found = read_picture(tmp_path / name)
        assert found.provenance == xmp.TRAINED
        assert found.request is not None


def test_a_picture_without_it_is_the_same_request(here):
    """Resume compares requests, so that what an earlier version wrote is found."""
    old, new = read_picture(here / "old.png"), read_picture(here / "made.png")
    assert (old.provenance, new.provenance) == (None, xmp.TRAINED)
    assert old.request is not None
    assert new.request is not None
    assert difference(old.request, new.request) is None


def test_a_damaged_packet_hides_nothing_else(tmp_path):
    write_picture(tmp_path / "a.png", PIXELS, picture_text(request()))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"trainedAlgorithmicMedia")] ^= 1
    (tmp_path / "a.png").write_bytes(bytes(data))
    found = read_picture(tmp_path / "a.png")
    assert isinstance(found, PictureInfo)
    assert found.request is not None
    assert found.provenance is None


def test_other_pictures_say_it_in_tiff(tmp_path):
    """A format that mlxdiff reads and does not write."""
    Image.fromarray(PIXELS).save(tmp_path / "a.tiff", tiffinfo={700: xmp.packet(xmp.TRAINED, "other").encode()})
    assert read_picture(tmp_path / "a.tiff").provenance == xmp.TRAINED


def test_a_run_that_an_earlier_version_began_goes_on(tmp_path, monkeypatch):
    """Its pictures stay as they are, also without a journal; the ones that are new say where they come from."""
    (tmp_path / "p.txt").write_text("a red apple\na cat\n")
    arguments = ["generate", "--prompts-file", "p.txt", "-o", "out/", "--seed", "3", "--steps", "1", "-q"]
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr(provenance, "text_alone", lambda _: {})
        main_ends([*arguments, "--limit", "1"])
    (first,) = tmp_path.glob("out/*.png")
    before = first.read_bytes()
    main_ends(arguments)
    _, second = sorted(tmp_path.glob("out/*.png"))
    assert first.read_bytes() == before
    assert (read_picture(first).provenance, read_picture(second).provenance) == (None, xmp.TRAINED)
    (tmp_path / "out" / "mlxdiff-journal.jsonl").unlink()
    main_ends(arguments)
    assert first.read_bytes() == before


def main_ends(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
