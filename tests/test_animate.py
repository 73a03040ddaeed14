"""Animations, read back with Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageSequence

from mlxdiff.animate import HOLD, frame_paths, write_animation
from mlxdiff.errors import OutputError, RequestError
from mlxdiff.metadata import picture_text, read_picture
from mlxdiff.request import Request


def frames(n: int) -> list[np.ndarray]:
    """A square that moves over a ramp of colours."""
    found = []
    for i in range(n):
        frame = np.zeros((24, 32, 3), np.uint8)
        frame[..., 0] = np.linspace(0, 255, 32)
        frame[4:12, 2 + 4 * i : 10 + 4 * i] = (0, 255 - 20 * i, 200)
        found.append(frame)
    return found


@pytest.mark.parametrize(("name", "tolerance"), [("a.webp", 12), ("A.GIF", 6)])
def test_every_frame_is_there_and_the_last_is_held(tmp_path, name, tolerance):
    wanted = frames(5)
    write_animation(tmp_path / name, iter(wanted), 5, fps=4)
    with Image.open(tmp_path / name) as picture:
        shown, durations = [], []
        for frame in ImageSequence.Iterator(picture):
            shown.append(np.asarray(frame.convert("RGB")).astype(int))
            durations.append(frame.info["duration"])
        assert picture.info["loop"] == 0
    assert durations == [250] * 4 + [HOLD]
    assert np.abs(np.stack(shown) - np.stack(wanted)).mean() < tolerance


def test_one_frame_is_enough(tmp_path):
    write_animation(tmp_path / "a.webp", iter(frames(1)), 1, fps=10)
    write_animation(tmp_path / "a.gif", iter(frames(1)), 1, fps=10)
    for name in ("a.webp", "a.gif"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (32, 24)


def test_webp_says_how_it_was_made(tmp_path):
    request = Request("a 猫", prompt_syntax="plain", seed=3, steps=4)
    write_animation(tmp_path / "a.webp", iter(frames(2)), 2, fps=10, text=picture_text(request))
    assert read_picture(tmp_path / "a.webp").request == request


@pytest.mark.parametrize("fps", [0, -1, 0.01, 60, float("nan"), float("inf")])
def test_rates_that_nothing_shows(tmp_path, fps):
    with pytest.raises(RequestError, match="frames a second"):
        write_animation(tmp_path / "a.gif", iter(frames(2)), 2, fps=fps)
    assert list(tmp_path.iterdir()) == []


def test_other_names_and_files_that_exist(tmp_path):
    with pytest.raises(RequestError, match="no animation"):
        write_animation(tmp_path / "a.png", iter(frames(2)), 2, fps=10)
    (tmp_path / "a.gif").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_animation(tmp_path / "a.gif", iter(frames(2)), 2, fps=10)
    assert (tmp_path / "a.gif").read_text() == "mine"
    write_animation(tmp_path / "a.gif", iter(frames(2)), 2, fps=10, force=True)
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")


def test_what_goes_wrong_with_a_frame_leaves_no_file(tmp_path):
    def broken():
        yield frames(1)[0]
        raise RequestError("No more.", "None.")

    with pytest.raises(RequestError, match="No more"):
        write_animation(tmp_path / "a.webp", broken(), 2, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_frames_sort_by_name(tmp_path):
    assert [path.name for path in frame_paths(tmp_path / "a.b", 2)] == ["a.b-000.png", "a.b-001.png"]
    many = [path.name for path in frame_paths(tmp_path / "a", 1001)]
    assert many == sorted(many)
    assert len(set(many)) == 1001
