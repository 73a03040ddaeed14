"""`--limit`, `--until` and `--dry-run`: a run that stops in time, and one that only says what it would do."""

from __future__ import annotations

import datetime
import json
import os
import re

import pytest
from patience import WAIT

from mlxdiff.batch.pace import Pace
from mlxdiff.cli import deadline
from mlxdiff.cli.app import main
from mlxdiff.cli.bars import clock_text
from mlxdiff.errors import RequestError

SMALL = ("-m", "emoji", "--height", "16", "--width", "16", "--steps", "2")
FIVE = ("generate", "--prompts-file", "prompts.txt", "-o", "out/", *SMALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na fox\na hat\na pie\n")
    return tmp_path


def run(capsys, *arguments: str) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    return end.value.code, out.splitlines(), err


def events(lines: list[str]) -> list[str]:
    return [json.loads(line)["event"] for line in lines]


def test_a_limit_stops_and_the_same_command_goes_on(here, capsys):
    code, out, err = run(capsys, *FIVE, "--limit", "2")
    assert (code, len(out)) == (0, 2)
    assert "Stopped by --limit 2: 3 pictures are left. The same command again goes on." in err
    code, out, _ = run(capsys, *FIVE, "--limit", "2", "--json")
    assert (code, events(out)) == (0, ["found"] * 2 + ["picture"] * 2 + ["stopped"])
    assert json.loads(out[-1]) == {"event": "stopped", "why": "limit", "left": 1}
    code, out, err = run(capsys, *FIVE, "--limit", "2")
    assert (code, len(out)) == (0, 1)
    assert "Stopped" not in err
    assert len(list((here / "out").glob("*.png"))) == 5


def test_a_limit_is_kept_inside_a_batch_and_changes_no_bits(here, capsys):
    command = (*FIVE, "--seed", "3", "--batch-size", "4")
    for limit in (1, 2):
        assert len(run(capsys, *command, "--limit", str(limit))[1]) == limit
    assert len(run(capsys, *command)[1]) == 2
    run(capsys, *command, "-o", "whole/")  # in this process: its number of threads decides last bits
    for path in (here / "whole").glob("*.png"):
        assert path.read_bytes() == (here / "out" / path.name).read_bytes()


def test_drawn_seeds_hidden_cells_and_streams_go_on_too(here, capsys):
    several = ("generate", "a cat", "--n-images", "3", *SMALL)
    assert len(run(capsys, *several, "--limit", "1")[1]) == 1
    assert len(run(capsys, *several)[1]) == 2
    assert len(list(here.glob("a-cat-*.png"))) == 3
    sheet = ("generate", "a cat", "--n-rows", "2", "-o", "sheet.png", *SMALL)
    code, out, err = run(capsys, *sheet, "--limit", "3")
    assert (code, out, (here / "sheet.png").exists()) == (0, [], False)
    assert "1 picture is left" in err
    assert run(capsys, *sheet)[1] == ["sheet.png"]
    assert [path for path in os.listdir(here) if path.startswith(".mlxdiff")] == []


def test_until_is_the_next_time_that_the_clock_shows_it():
    noon = datetime.datetime(2026, 3, 10, 12, 0)
    for text, day, hour in (("13:30", 10, 13), ("12:00", 11, 12), ("07:05", 11, 7), ("7:05", 11, 7)):
        found = datetime.datetime.fromtimestamp(deadline.moment(text, noon))
        assert (found.day, found.hour, f"{found.minute:02d}") == (day, hour, text[-2:])
    assert deadline.clock(deadline.moment("07:05", noon)) == "07:05"
    for text in ("24:00", "12:60", "noon", "12", "-1:00", ""):
        with pytest.raises(RequestError, match="It is a time of day"):
            deadline.moment(text)


def test_a_batch_that_would_end_too_late_is_not_begun(here, capsys, monkeypatch):
    monkeypatch.setenv("MLXDIFF_HOME", str(here / "home"))
    soon = f"{datetime.datetime.now() + datetime.timedelta(hours=2):%H:%M}"
    code, out, err = run(capsys, *FIVE, "--until", soon, "--limit", "1")
    assert (code, len(out)) == (0, 1), err
    path = here / "home" / "pace.json"
    measured = json.loads(path.read_text())
    for kinds in measured.values():
        for one in kinds.values():
            assert 0 < one["seconds"] < WAIT
            one["seconds"] = 4000.0  # of a step: two of them last longer than two hours
    path.write_text(json.dumps(measured))
    code, out, err = run(capsys, *FIVE, "--until", soon, "--json")
    assert (code, events(out)) == (0, ["found", "stopped"])
    assert json.loads(out[-1]) == {"event": "stopped", "why": "until", "left": 4}
    assert f"Stopped by --until {soon}: 4 pictures are left." in err
    path.write_text("{ damaged")
    assert len(run(capsys, *FIVE, "--until", soon)[1]) == 4


def test_a_dry_run_lists_everything_and_writes_nothing(here, capsys):
    before = sorted(os.listdir(here))
    code, out, err = run(capsys, *FIVE, "--seed", "7", "--dry-run")
    assert (code, sorted(os.listdir(here))) == (0, before)
    assert [line.split()[:2] for line in out[1:3]] == [
        ["left", "out/00000-a-cat-7.png"],
        ["left", "out/00001-a-dog-8.png"],
    ]
    assert "How long they take is not known" in err
    room = re.search(r"less than (\d+\.\d) kB of disk; .* are free there", err)
    run(capsys, *FIVE, "--seed", "7", "--limit", "2")
    written = sum(path.stat().st_size for path in (here / "out").glob("*.png"))
    assert written / 2 * 5 < 1000 * float(room[1])
    journal = (here / "out" / "mlxdiff-journal.jsonl").read_bytes()
    code, out, err = run(capsys, *FIVE, "--seed", "7", "--dry-run", "--json")
    rows = [json.loads(line) for line in out]
    assert [(row["event"], row["done"], row["index"], row["seed"]) for row in rows] == [
        ("planned", i < 2, i, 7 + i) for i in range(5)
    ]
    assert [row["path"] for row in rows][4] == "out/00004-a-pie-11.png"
    assert all(row["request"]["steps"] == 2 for row in rows)
    assert [0 < row["seconds"] < WAIT for row in rows[2:]] == [True] * 3
    together = clock_text(sum(row["seconds"] for row in rows[2:]))
    assert f"5 pictures: 2 are done, 3 are left. They take about {together}, " in err
    assert "of memory, as measured on this machine" in err
    assert (here / "out" / "mlxdiff-journal.jsonl").read_bytes() == journal
    assert len(os.listdir(here / "out")) == 3


def test_a_dry_run_of_one_picture(here, capsys):
    command = ("generate", "a cat", "--seed", "7", "-o", "cat.png", *SMALL)
    assert "1 picture, which is left." in run(capsys, *command, "--dry-run")[2]
    assert not (here / "cat.png").exists()
    assert run(capsys, *command)[0] == 0
    assert "1 picture, which is done." in run(capsys, *command, "--dry-run")[2]


def test_a_dry_run_says_that_drawn_seeds_are_examples_until_they_are_known(here, capsys):
    command = ("generate", "a cat", "--n-images", "2", *SMALL)
    assert "these are examples" in run(capsys, *command, "--dry-run")[2]
    made = run(capsys, *command, "--limit", "1")[1]
    hidden = {path.name: path.read_bytes() for path in here.glob(".mlxdiff-*.run")}
    assert len(hidden) == 1
    _, out, err = run(capsys, *command, "--dry-run")
    assert "these are examples" not in err
    assert out[1].split()[:2] == ["done", made[0]]
    assert {path.name: path.read_bytes() for path in here.glob(".mlxdiff-*.run")} == hidden


def test_a_dry_run_of_sheets_and_sweeps(here, capsys):
    sheet = ("generate", "a cat", "--n-rows", "1", "-o", "sheet.png", "--seed", "1", *SMALL)
    _, out, _ = run(capsys, *sheet, "--dry-run", "--json")
    assert [(row["event"], row["path"], row["done"], row["images"]) for row in map(json.loads, out)] == [
        ("planned", "sheet.png", False, 2)
    ]
    run(capsys, *sheet)
    assert run(capsys, *sheet, "--dry-run")[1] == ["done  sheet.png"]
    sweep = ("grid", "-p", "a", "--vary", "steps=1,2", "-o", "s.png", "--seed", "1", "--save-cells", "cells", *SMALL)
    _, out, _ = run(capsys, *sweep, "--dry-run", "--json")
    assert [json.loads(line)["path"] for line in out] == ["cells/00-00-steps-1.png", "cells/00-01-steps-2.png", "s.png"]
    assert not (here / "cells").exists()


def test_what_cannot_be_is_refused(here, capsys):
    (here / "out").mkdir()
    (here / "out" / "00000-a-cat-7.png").write_bytes(b"somebody's")
    code, _, err = run(capsys, *FIVE, "--seed", "7", "--dry-run")
    assert (code, "exists already" in err) == (1, True)
    assert "can only be read once" in run(capsys, "generate", "--prompts-file", "-", "--dry-run")[2]
    assert "--limit does nothing" in run(capsys, "grid", "a.png", "-o", "b.png", "--limit", "2")[2]
    assert run(capsys, *FIVE, "--limit", "0")[0] == 2


def test_a_pace_believes_only_what_can_be():
    good = {"seconds": 2.0, "peak_memory": 5}
    bad = {"seconds": float("nan")}, {"seconds": -1.0}, {"seconds": 1e9}, {"seconds": "2"}, {}, 3, None
    pace = Pace.from_json({"good": good} | {str(i): value for i, value in enumerate(bad)})
    assert pace.to_json() == {"good": good}
    for value in ([], None, "x"):
        assert Pace.from_json(value).to_json() == {}
