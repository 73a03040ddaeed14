"""Pictures rendered again: equal, close, another picture, and not possible here."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked_folder import request
from PIL import Image

from mlxdiff import StableDiffusion
from mlxdiff.batch.render import Denoised
from mlxdiff.checking.again import BOUND, Compared, NotRendered, compare, rerender
from mlxdiff.checking.fault import Fault
from mlxdiff.checking.ledger import Ledger
from mlxdiff.checking.picture import Known, Looked, look_at_picture
from mlxdiff.checking.pixels import Pixels
from mlxdiff.checking.sample import Sample
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text, read_picture


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two pictures of the built-in model, one of them in every format."""
    folder = tmp_path_factory.mktemp("made")
    sd = StableDiffusion("emoji")
    for seed in (1, 2):
        (picture,) = sd.generate("a red apple", seed=seed, steps=2)
        picture.save(folder / f"{seed}.png")
    request = read_picture(folder / "1.png").request
    assert request is not None
    for suffix in ("jpg", "webp"):
        write_picture(folder / f"1.{suffix}", np.asarray(Image.open(folder / "1.png")), picture_text(request))
    return folder


def looked_at(*paths: Path) -> list[Looked]:
    return [look_at_picture(path, Known(Ledger())) for path in paths]


def outcome(*paths: Path) -> list[Compared | NotRendered | Fault]:
    return [event for event in rerender(looked_at(*paths)) if isinstance(event, Compared | NotRendered | Fault)]


def test_what_was_rendered_here_is_close_in_every_format(made):
    """Equal where as many threads are free; a last bit of a sum may be another otherwise."""
    found = outcome(*sorted(made.iterdir()))
    assert len(found) == 4
    assert all(isinstance(one, Compared) and one.decibels > 60 and one.fault is None for one in found)


def test_the_bars_see_every_step(made):
    events = list(rerender(looked_at(made / "1.png")))
    assert [event.step for event in events if isinstance(event, Denoised)] == [1, 2]


def edited(made: Path, folder: Path, **changes) -> Path:
    """The first picture, of which the metadata say something else, consistently."""
    found = read_picture(made / "1.png").request
    assert found is not None
    texts = picture_text(type(found).from_dict(found.values() | changes))
    write_picture(folder / "a.png", np.asarray(Image.open(made / "1.png")), texts)
    return folder / "a.png"


@pytest.mark.parametrize("changes", [{"seed": 9}, {"prompt": "a blue house"}, {"sampler": "ddim", "steps": 1}])
def test_metadata_that_lie_consistently(made, tmp_path, changes):
    """What nothing but rendering it again can find."""
    path = edited(made, tmp_path, **changes)
    assert looked_at(path)[0].faults == ()
    (found,) = outcome(path)
    assert isinstance(found, Compared)
    assert found.decibels < BOUND
    assert found.fault is not None
    assert found.fault.kind == "rerendered"


@pytest.mark.parametrize("side", [40, 1])
def test_pixels_that_were_painted_over(made, tmp_path, side):
    """However small the part is: of a few pixels the decibels say nothing."""
    with Image.open(made / "1.png") as picture:
        pixels = np.array(picture)
    pixels[20 : 20 + side, 20 : 20 + side] = 255 - pixels[20 : 20 + side, 20 : 20 + side]
    found = read_picture(made / "1.png").request
    assert found is not None
    write_picture(tmp_path / "a.png", pixels, picture_text(found))
    (one,) = outcome(tmp_path / "a.png")
    assert isinstance(one, Compared)
    assert one.fault is not None
    assert one.largest > 100
    assert (one.decibels > BOUND) == (side == 1)


@pytest.mark.parametrize(
    "changes",
    [{"model": "nobody/nothing"}, {"lora": ["gone.safetensors"]}, {"image": "gone.png", "strength": 0.5}],
)
def test_what_is_not_here_is_no_fault(made, tmp_path, changes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = edited(made, tmp_path, **changes)
    (found,) = outcome(path)
    assert isinstance(found, NotRendered)
    assert any(name in found.why for name in ("nobody", "gone"))


def test_a_file_that_has_changed_is_no_fault_of_the_render(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(made / "2.png", "photo.png")
    path = edited(made, tmp_path, image="photo.png", strength=0.5, hashes={"photo.png": "0" * 64})
    assert outcome(path) == [NotRendered(path, "photo.png has changed since.")]


def test_a_request_that_its_own_model_refuses(made, tmp_path):
    (found,) = outcome(edited(made, tmp_path, width=100, height=129))
    assert isinstance(found, Fault)
    assert found.kind == "rerendered"


def test_one_that_fails_does_not_end_the_others(made, tmp_path):
    path = edited(made, tmp_path, model="nobody/nothing")
    kinds = [type(one) for one in outcome(path, made / "1.png")]
    assert sorted(kind.__name__ for kind in kinds) == ["Compared", "NotRendered"]


def test_decibels_by_hand(tmp_path):
    pixels = np.full((8, 8, 3), 100, np.uint8)
    write_picture(tmp_path / "a.png", pixels)
    assert compare(tmp_path / "a.png", pixels) == Compared(tmp_path / "a.png", math.inf, 0)
    other = pixels.copy()
    other[0, 0, 0] = 103
    found = compare(tmp_path / "a.png", other)
    assert found.largest == 3
    assert found.decibels == pytest.approx(10 * math.log10(255**2 / (9 / 192)))
    assert compare(tmp_path / "a.png", pixels[:4]).decibels == 0


PIXELS = Pixels("PNG", (24, 16), 1)


def sample_of(folder: Path, size: int, names) -> list[str]:
    sample = Sample(size, (folder,))
    for name in names:
        sample.show(Looked(folder / name, pixels=PIXELS, request=request(1)))
    return [looked.path.name for looked in sample.chosen]


def test_the_sample_is_the_same_whatever_the_order_and_the_folder(tmp_path):
    names = [f"{i}.png" for i in range(100)]
    chosen = sample_of(tmp_path, 10, names)
    assert len(chosen) == 10
    assert sample_of(Path("elsewhere"), 10, reversed(names)) == chosen
    assert set(sample_of(tmp_path, 5, names)) < set(chosen)
    assert len(set(sample_of(tmp_path, 10, [*names, "more.png"])) - set(chosen)) <= 1
    assert sample_of(tmp_path, 1000, names) == sorted(names)
    assert sample_of(tmp_path, 0, names) == []


def test_only_what_can_be_rendered_is_sampled(tmp_path):
    sample = Sample(10, (tmp_path,))
    sheet = replace(request(1), prompt=("a", "b"), seed=(1, 2))
    sample.show(Looked(tmp_path / "sheet.png", pixels=PIXELS, request=sheet))
    sample.show(Looked(tmp_path / "photo.png", pixels=PIXELS))
    sample.show(Looked(tmp_path / "damaged.png", request=request(1)))
    sample.show(Looked(tmp_path / "a.safetensors", request=request(1), is_picture=False))
    assert sample.chosen == []
