"""Lines typed one after another: where their pictures go, and what a run leaves that is closed in its middle."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mlxdiff.batch.events import Written
from mlxdiff.batch.models import Models
from mlxdiff.batch.naming import next_index, parse_output
from mlxdiff.batch.options import RunOptions
from mlxdiff.batch.prompts import changed, typed_entries
from mlxdiff.batch.render import Denoised
from mlxdiff.batch.runner import run
from mlxdiff.batch.typed import TypedLines
from mlxdiff.errors import RequestError
from mlxdiff.request import Request

BASE = Request(model="emoji", steps=3, height=32, width=32, seed=5)
ONE = RunOptions(batch_size=1)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("output", "names", "index"),
    [
        ("out/", ["00000-a-1.png", "00007-b-2.png", "00003.png", "x-00099.png", "mlxdiff-journal.jsonl"], 8),
        ("out/", [], 0),
        ("out/{index}.png", ["3.png", "12.png", "a13.png", "14.jpg"], 13),
        ("out/{index:03d}-{prompt}.png", ["003-a.png", "1000-b.png", "02.png"], 1001),
        ("out/{prompt}-{index}", ["a-1-4.png"], 5),
        ("out/{prompt}.png", ["00005-a.png"], 0),
        ("out/{index}-{index}.png", ["5-5.png"], 0),
        ("out/{model}/{index}.png", ["5.png"], 0),
        ("out/{index}.png", [f"{'9' * 100}.png"], int("9" * 30) + 1),
    ],
)
def test_pictures_are_numbered_on_from_those_that_are_there(output, names, index):
    Path("out").mkdir()
    for name in names:
        Path("out", name).touch()
    assert next_index(parse_output(output, several=True)) == index


def test_the_entries_of_a_line_are_those_of_a_prompt_files():
    (entry,) = typed_entries('a cat --steps 20 --cfg_scale 6 --sampler "DPM++ 2M Karras"', BASE)
    assert entry.request == replace(
        BASE, prompt="a cat", steps=20, guidance_scale=6.0, sampler="dpmpp_2m", schedule="karras"
    )
    assert typed_entries("# a comment", BASE) == typed_entries("", BASE) == []
    with pytest.raises(RequestError, match="The line: there is no option --stepz"):
        typed_entries("a cat --stepz 20", BASE)


def test_other_values_take_what_belongs_to_the_old_ones_along():
    base = replace(BASE, model="owner/name", revision="old", sampler="euler", schedule="simple")
    assert changed(base, {"model": "other/name"}).revision is None
    assert changed(base, {"model": "other/name", "revision": "new"}).revision == "new"
    assert changed(base, {"steps": 4}) == replace(base, steps=4)
    assert changed(base, {"sampler": "Euler a"}).schedule == "simple"
    assert changed(base, {"sampler": "Euler a Karras"}).schedule == "karras"
    with pytest.raises(RequestError):  # which says two schedules
        changed(base, {"sampler": "DPM++ 2M Karras", "schedule": "beta"})


def test_a_run_that_is_closed_in_its_middle_gives_its_claims_back(models, folder):
    """The same process goes on, and would wait for itself."""
    lines = TypedLines("out/")
    for _ in range(2):
        work = lines.work(models, typed_entries("a cat", BASE), ONE)
        with closing(run(models, work.batches, work.store)) as events:
            assert isinstance(next(events), Denoised)
        work.close(complete=True)
        assert [path.name for path in (folder / "out").iterdir()] == ["mlxdiff-journal.jsonl"]
    work = lines.work(models, typed_entries("a cat", BASE), ONE)
    events = [event for event in run(models, work.batches, work.store) if isinstance(event, Written)]
    assert [(event.found, event.job.path.name) for event in events] == [(False, "00000-a-cat-5.png")]
    work.close(complete=True)
    again = lines.work(models, typed_entries("a cat", BASE), ONE)
    assert again.needs is None
    assert lines.work(models, typed_entries("a dog", BASE), ONE).jobs[0].path.name == "00001-a-dog-5.png"
