"""What counts as done, what may be replaced, and what is somebody's, of every kind of file that may lie in the way."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlxdiff.batch import store as store_module
from mlxdiff.batch.jobs import Job
from mlxdiff.batch.journal import Journal, Run
from mlxdiff.batch.store import Store, difference
from mlxdiff.batch.unfinished import RUN, Unfinished
from mlxdiff.errors import BackendError, OutputError
from mlxdiff.images import encode_picture, write_picture
from mlxdiff.latents import load_latents
from mlxdiff.metadata import picture_text
from mlxdiff.request import Request, Resolved

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
LATENTS = np.zeros((8, 8, 4), np.float32)


def request(**changes) -> Resolved:
    values = {"prompt": "a cat", "seed": 3, "steps": 2, "height": 32, "width": 32, "model": "m", "sampler": "ddim"}
    return Resolved(**values | {"guidance_scale": 2.0, "dtype": "fp32", "prompt_syntax": "a1111"} | changes)


def job(folder: Path, name: str = "a.png", **changes) -> Job:
    return Job(0, request(**changes), folder / name, "the test", "id")


def store(folder: Path, **changes) -> Store:
    journal = Journal(folder)
    journal.begin(Run("r", 3, 1))
    return Store(folder, journal, **changes)


def written(folder: Path, name: str = "a.png", **changes) -> Job:
    """A picture with its line."""
    one = job(folder, name)
    store(folder, **changes).write(one, PIXELS, LATENTS)
    return one


def without_line(folder: Path) -> None:
    (folder / "mlxdiff-journal.jsonl").unlink()


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_what_was_written_is_done_for_everybody(tmp_path):
    one = written(tmp_path)
    assert store(tmp_path).is_done(one)
    assert store(tmp_path).standing(one).done
    assert not store(tmp_path).is_done(replace(one, id="another"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "zeros"])
def test_a_damaged_picture_is_rendered_again(tmp_path, name, damage):
    one = written(tmp_path, name)
    before = one.path.read_bytes()
    if damage == "flipped":
        flip(one.path, len(before) // 2)
    else:
        one.path.write_bytes({"cut": before[: len(before) // 2], "empty": b"", "zeros": bytes(len(before))}[damage])
    found = store(tmp_path)
    standing = found.standing(one)
    assert not standing.done
    assert standing.error is None
    found.write(one, PIXELS, LATENTS)
    assert one.path.read_bytes() == before
    assert store(tmp_path).is_done(one)


@pytest.mark.parametrize("part", range(10))
def test_a_flipped_byte_anywhere_in_a_png_is_damage(tmp_path, part):
    one = written(tmp_path)
    flip(one.path, (len(one.path.read_bytes()) - 1) * part // 9)
    standing = store(tmp_path).standing(one)
    assert not standing.done
    assert standing.error is None


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_picture_without_its_line_says_whose_it_is(tmp_path, damage):
    one = written(tmp_path)
    data = one.path.read_bytes()
    one.path.write_bytes(data[:-20]) if damage == "cut" else flip(one.path, len(data) - 30)
    without_line(tmp_path)
    standing = store(tmp_path).standing(one)
    assert not standing.done
    assert standing.error is None
    assert one.path in standing.replaces


def test_what_somebody_put_in_its_place_stays(tmp_path):
    one = written(tmp_path)
    Image.new("RGB", (40, 40)).save(one.path)
    before = one.path.read_bytes()
    found = store(tmp_path)
    assert "exists already" in str(found.standing(one).error)
    with pytest.raises(OutputError, match="exists already"):
        found.write(one, PIXELS, LATENTS)
    assert one.path.read_bytes() == before
    assert store(tmp_path, force=True).standing(one).error is None


def test_what_appears_after_the_look_stays(tmp_path):
    """Only the file that was seen may be replaced."""
    one = written(tmp_path)
    flip(one.path, 100)
    found = store(tmp_path)
    assert found.standing(one).error is None
    Image.new("RGB", (40, 40)).save(one.path)
    with pytest.raises(OutputError, match="exists already"):
        found.write(one, PIXELS, LATENTS)


def test_a_picture_without_its_line_is_taken_where_it_says_so(tmp_path):
    one = written(tmp_path)
    without_line(tmp_path)
    found = store(tmp_path)
    assert not found.is_done(one)
    standing = found.standing(one)
    assert standing.done
    found.adopt(one, standing)
    assert store(tmp_path).is_done(one)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 5}, "its steps is 5, not 2"),
        ({"seed": 9, "prompt": "a dog"}, "its prompt is 'a dog', not 'a cat', its seed is 9, not 3"),
        ({"negative_prompt": "x"}, "its negative_prompt is 'x', not unset"),
        ({"hashes": {"in.png": "1" * 64}, "image": "in.png"}, "its image is 'in.png', not unset"),
    ],
)
def test_another_picture_is_an_error_that_says_why(tmp_path, changes, words):
    other = request(**changes)
    write_picture(tmp_path / "a.png", PIXELS, picture_text(other))
    for one in (store(tmp_path), Store(tmp_path, shared=False)):
        error = one.standing(job(tmp_path)).error
        assert error is not None
        assert words in str(error)
        assert "exists already" in str(error)


def test_without_a_journal_the_pictures_own_words_count(tmp_path):
    write_picture(tmp_path / "a.png", PIXELS, picture_text(request()))
    assert Store(tmp_path, shared=False).standing(job(tmp_path)).done
    assert not Store(tmp_path, shared=False, force=True).standing(job(tmp_path)).done
    assert "cannot say" in str(Store(tmp_path, shared=False, metadata=False).standing(job(tmp_path)).error)


def test_any_picture_of_the_name_will_do_if_the_user_says_so(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    assert Store(tmp_path, skip_existing=True).standing(job(tmp_path)).done
    assert not Store(tmp_path, skip_existing=True).standing(job(tmp_path, "b.png")).done


def test_a_picture_of_a_file_that_changed_is_replaced(tmp_path):
    hashes = [{"in.png": digit * 64} for digit in "12"]
    old, new = (job(tmp_path, image="in.png", hashes=each) for each in hashes)
    store(tmp_path).write(old, PIXELS, LATENTS)
    assert store(tmp_path).is_done(old)
    found = store(tmp_path)
    assert not found.is_done(new)
    assert found.standing(new).error is None
    found.write(new, 255 - PIXELS, LATENTS)
    assert store(tmp_path).is_done(new)
    assert not store(tmp_path).is_done(old)
    without_line(tmp_path)
    assert "in.png has changed since" in str(Store(tmp_path, shared=False).standing(old).error)


def test_a_changed_file_is_no_reason_to_overwrite_what_somebody_put_there(tmp_path):
    old, new = (job(tmp_path, image="in.png", hashes={"in.png": digit * 64}) for digit in "12")
    store(tmp_path).write(old, PIXELS, LATENTS)
    Image.new("RGB", (40, 40)).save(old.path)
    assert "exists already" in str(store(tmp_path).standing(new).error)


def test_latents_beside_are_part_of_the_job(tmp_path):
    one = written(tmp_path, latents=True)
    beside = tmp_path / "a.safetensors"
    assert load_latents(beside).array.shape == (1, 8, 8, 4)
    assert store(tmp_path, latents=True).is_done(one)
    flip(beside, len(beside.read_bytes()) - 1)
    found = store(tmp_path, latents=True)
    assert not found.is_done(one)
    assert found.standing(one).error is None
    found.write(one, PIXELS, LATENTS)
    assert store(tmp_path, latents=True).is_done(one)
    beside.write_bytes(b"")
    without_line(tmp_path)
    assert store(tmp_path, latents=True).standing(one).error is None
    beside.write_bytes(b"mine")
    assert "exists already" in str(store(tmp_path, latents=True).standing(one).error)


def test_latents_that_are_wanted_later_are_made(tmp_path):
    one = written(tmp_path)
    found = store(tmp_path, latents=True)
    assert not found.is_done(one)
    found.standing(one)
    found.write(one, 255 - PIXELS, LATENTS)  # of another batch, and so other bits: the two belong together
    assert store(tmp_path, latents=True).is_done(one)


def test_a_pipe_or_a_folder_in_the_way_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    assert "exists already" in str(store(tmp_path).standing(job(tmp_path)).error)
    assert "is a folder" in str(store(tmp_path).standing(job(tmp_path, "b.png")).error)
    assert "is a folder" in str(store(tmp_path, force=True).standing(job(tmp_path, "b.png")).error)


def test_a_run_is_known_before_its_first_picture(tmp_path, monkeypatch):
    """Killed between the two, the next process needs the seed."""
    left = Unfinished(tmp_path, "key", RUN)
    left.begin(Run("key", 3, 1))

    def killed(*_, **__):
        assert Journal(tmp_path, left.journal.path.name).runs == {"key": Run("key", 3, 1)}
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, left.journal, shared=False).write(job(tmp_path), PIXELS, LATENTS)
    left.release()
    assert Unfinished(tmp_path, "key", RUN).run == Run("key", 3, 1)


def test_copies_are_the_same_bytes_and_all_have_to_be_there(tmp_path):
    one = replace(job(tmp_path), copies=(tmp_path / "b.png", tmp_path / "c.png"))
    store(tmp_path, latents=True).write(one, PIXELS, LATENTS)
    assert len({(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")}) == 1
    assert store(tmp_path, latents=True).is_done(one)
    (tmp_path / "c.png").unlink()
    assert not store(tmp_path, latents=True).is_done(one)


def test_what_changes_nothing_is_no_difference():
    assert difference(Request.from_json(request().to_json()), request()) is None
    assert difference(replace(request(), cache_interval=1, guidance_start=0.0), request()) is None
    assert difference(request(), request(hashes={"x": "1" * 64})) is None, "pictures of before had no hashes"


@pytest.mark.parametrize("said", ["encoder configuration error", "out of memory error"])
def test_an_encoder_without_memory_is_tried_again_and_then_said(tmp_path, monkeypatch, said):
    """Pillow raises OSError with such texts where zlib, or itself, cannot get its buffers."""
    tries = []

    def save(*_, **__):
        tries.append(1)
        raise OSError(f"{said} when writing image file")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(MemoryError):
        encode_picture("a.png", PIXELS)
    tries.clear()
    at = store(tmp_path)
    error = store_module.attempt(lambda: at.write(job(tmp_path), PIXELS, LATENTS, None), 2, lambda _: None)
    assert isinstance(error, BackendError)
    assert error.problem == "The memory ran out, and what was computed is lost."
    assert len(tries) == 3
    assert not list(tmp_path.glob("*.png"))
