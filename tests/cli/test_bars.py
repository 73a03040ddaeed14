"""Progress: what is counted and estimated, how it fits narrow terminals, and the plain lines without one."""

from __future__ import annotations

import io
import time

import pytest
from patience import WAIT
from rich.console import Console

from mlxdiff.cli import bars, output
from mlxdiff.cli.bars import Bars, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(first: float, step: float, decode: float, *, steps: int = 25, n_images: int = 4) -> list[tuple[float, float]]:
    """(estimated, real) seconds left after each step; the first step takes `first` seconds, the others `step`."""
    clock = Clock()
    progress = Progress(clock)
    progress.loading, progress.wanted = False, n_images
    end = first + step * (n_images * steps - 1) + decode * n_images
    seen = []
    for image in range(n_images):
        for i in range(1, steps + 1):
            clock.now += first if (image, i) == (0, 1) else step
            progress.denoised(i, steps, 1)
            if progress.left:
                minutes, seconds = progress.left.removesuffix(" left").split(":")[1:]
                seen.append((60 * int(minutes) + int(seconds), end - clock.now))
        clock.now += decode
        progress.rendered(image)
    return seen


@pytest.mark.parametrize("first", [0.5, 20.0])
def test_the_first_estimate_is_right_although_the_first_step_compiles(first):
    seen = run(first, step=0.5, decode=0.3)
    assert len(seen) > 80
    for estimated, real in seen[:50]:
        assert abs(estimated - real) <= 0.1 * real + 1


def test_nothing_is_estimated_of_nothing():
    progress = Progress(Clock())
    assert (progress.rate, progress.left, progress.text()) == ("", "", "Loading the model")
    progress.loading = False
    assert progress.lines() == [("Images", 0, None, "", "")], "a rerun that finds everything has no steps to show"
    progress.denoised(1, 25, 4)
    assert (progress.rate, progress.left) == ("", "")


def test_pictures_that_are_only_decoded_have_no_steps_and_a_rate():
    clock = Clock()
    progress = Progress(clock)
    progress.loading, progress.wanted = False, 6
    for index in (0, 0, 0, 1):  # of several files, each counted from 0
        clock.now += 2
        progress.rendered(index)
    assert progress.lines() == [("Images", 4, 6, "0.5 images/s", "0:00:04 left")]
    assert progress.text() == "Images 4/6, 0.5 images/s, 0:00:04 left"


def test_what_was_found_is_no_work():
    clock = Clock()
    progress = Progress(clock)
    progress.loading, progress.wanted = False, 10
    progress.finished |= set(range(5))
    for i in range(1, 11):
        clock.now += 1
        progress.denoised(i, 10, 1)
    assert progress.lines()[1][1:3] == (5, 10)
    assert progress.speed == pytest.approx(0.1)
    assert progress.left == "0:00:40 left"
    progress.limit = 3
    assert progress.left == "0:00:20 left", "two more, and the run ends"
    progress.limit = 30
    assert progress.left == "0:00:40 left"


def drawn(width: int, progress: Progress) -> list[str]:
    """The bars' lines on a terminal of this width."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, color_system=None)
    view = bars._Drawn(progress, console, None)
    view.update()
    with console.capture() as captured:
        console.print(view._drawing.get_renderable())
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("width", [30, 40, 60, 61, 80, 200])
def test_bars_fit_and_keep_their_counts(width):
    clock = Clock()
    progress = Progress(clock)
    progress.loading, progress.wanted = False, 1000
    progress.finished |= set(range(99))
    for i in range(1, 21):
        clock.now += 0.25
        progress.denoised(i, 40, 4)
    lines = drawn(width, progress)
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert lines[0].split()[-1] == "20/40"
    assert "99/1000" in lines[1]
    assert ("0.4 images/s" in lines[1]) == (width >= 60)
    if width >= 60:
        assert "0.4 images/s 0:37:" in lines[1]
        assert lines[1].endswith(" left")
    assert bool({"━", "╸"} & set(lines[1])) == (width > 60)


def test_the_steps_stand_above_the_pictures_although_they_come_later():
    progress = Progress(Clock(), loading=False, wanted=3)
    view = bars._Drawn(progress, Console(file=io.StringIO(), force_terminal=True, width=80), None)
    view.update()
    progress.denoised(1, 9, 1)
    view.update()
    assert [task.description for task in view._drawing.tasks] == ["Denoising", "Images"]


def test_without_a_terminal_there_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(bars, "FIRST_LINE", 0.02)
    lines, began = [], time.monotonic()

    def until(line, number):
        while line not in lines or len(lines) < number:
            assert time.monotonic() < began + WAIT
            time.sleep(0.01)
            lines.extend(capsys.readouterr().err.splitlines())

    with Bars() as shown:
        until("Loading the model", 1)
        shown.start(3)
        until("Images 0/3", 5)
    lasted = time.monotonic() - began
    assert lines[0] == "Loading the model"
    assert lines[-1] == "Images 0/3"
    assert lasted > 0.02 * (2 ** len(lines) - 1), "ever more seldom"


@pytest.mark.parametrize("how", ["quiet", "not visible"])
def test_nothing_is_shown_where_nobody_looks(capsys, monkeypatch, how):
    monkeypatch.setattr(bars, "FIRST_LINE", 0.01)
    monkeypatch.setattr(output.verbosity, "quiet", how == "quiet")
    with Bars(visible=how == "quiet") as shown:
        shown.start(3)
        shown.note("words")
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")
