"""Runs that end on an empty battery, and wait for a hot machine; on a machine that says what a test wants."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from mlxdiff.batch.events import Cooling, Policy, Stopped
from mlxdiff.batch.limits import COOLER, Limits
from mlxdiff.cli.app import main
from mlxdiff.computer import power

SMALL = ("-m", "emoji", "--height", "16", "--width", "16", "--steps", "2")
FIVE = ("generate", "--prompts-file", "prompts.txt", "-o", "out/", "--batch-size", "1", *SMALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na fox\na hat\na pie\n")
    return tmp_path


@dataclass
class Machine:
    """Each look at the battery or the heat takes the next of these values, the last again and again."""

    percents: list[float]
    degrees: list[float]
    looks: int = 0

    def battery(self) -> power.Battery:
        return power.Battery(self.percents.pop(0) if len(self.percents) > 1 else self.percents[0], True)

    def temperature(self) -> float:
        self.looks += 1
        return self.degrees.pop(0) if len(self.degrees) > 1 else self.degrees[0]


def run(capsys, *arguments: str) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    return end.value.code, out.splitlines(), err


def with_machine(monkeypatch, machine: Machine) -> list[float]:
    """Runs see this machine from now on; the list collects how long they wait."""
    waited: list[float] = []

    def limits(policy: Policy) -> Limits:
        return Limits(policy, battery=machine.battery, temperature=machine.temperature, sleep=waited.append)

    monkeypatch.setattr("mlxdiff.batch.runner.Limits", limits)
    monkeypatch.setattr("mlxdiff.computer.power.temperature", machine.temperature)
    return waited


def test_a_low_battery_ends_the_run_and_the_same_command_goes_on(here, capsys, monkeypatch):
    with_machine(monkeypatch, Machine([50, 31, 29], [40]))
    code, out, err = run(capsys, *FIVE, "--min-battery", "30")
    assert (code, len(out)) == (0, 2)
    assert "Stopped by --min-battery 30: 3 pictures are left. The same command again goes on." in err
    with_machine(monkeypatch, Machine([80], [40]))
    code, out, _ = run(capsys, *FIVE, "--min-battery", "30", "--json")
    assert (code, [json.loads(line)["event"] for line in out]) == (0, ["found"] * 2 + ["picture"] * 3)
    assert len(list((here / "out").glob("*.png"))) == 5


def test_a_machine_at_the_mains_or_without_a_battery_goes_on():
    for found in (power.Battery(1, False), None):
        limits = Limits(Policy(min_battery=30), battery=lambda found=found: found)
        assert limits.admitted((), ("job",)) == ("job",)  # type: ignore[arg-type]
        assert limits.stopped is None
    limits = Limits(Policy(min_battery=30), battery=lambda: power.Battery(29, True))
    assert limits.admitted((), ("job",)) == ()  # type: ignore[arg-type]
    assert limits.stopped == Stopped("battery")


@pytest.mark.usefixtures("here")
def test_a_hot_machine_cools_down_and_the_run_goes_on(capsys, monkeypatch):
    machine = Machine([90], [60, 91, 88, 86, 84, 60])  # the first look is the check of the option
    waited = with_machine(monkeypatch, machine)
    code, out, err = run(capsys, *FIVE, "--max-temperature", "90")
    assert (code, len(out)) == (0, 5)
    assert err.count("91 °C: cooling down") == 1
    assert len(waited) == 3  # 88 and 86 are not yet COOLER below 90, 84 is
    assert 90 - 84 >= COOLER > 90 - 86


def test_waiting_ends_with_the_run():
    asked = iter([False, False, True])
    limits = Limits(
        Policy(max_temperature=80, stop=lambda: next(asked)), temperature=lambda: 99.0, sleep=lambda _: None
    )
    assert list(limits.cool()) == [Cooling(99.0, 80)]
    assert next(asked, None) is None
    late = Limits(Policy(max_temperature=80, until=0.0), temperature=lambda: 99.0, sleep=lambda _: None)
    assert list(late.cool()) == [Cooling(99.0, 80)]


@pytest.mark.usefixtures("here")
def test_progress_as_json_tells_of_the_heat(capsys, monkeypatch):
    with_machine(monkeypatch, Machine([90], [60, 95, 60]))
    _, _, err = run(capsys, *FIVE, "--max-temperature", "90", "--progress", "json", "--limit", "1")
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {"event": "cooling", "temperature": 95, "limit": 90} in events


def test_a_machine_that_tells_no_temperature_is_said_before_anything_begins(here, capsys, monkeypatch):
    monkeypatch.setattr("mlxdiff.computer.power.temperature", lambda: None)
    code, out, err = run(capsys, *FIVE, "--max-temperature", "90")
    assert (code, out) == (1, [])
    assert "This machine does not tell its temperature." in err
    assert not (here / "out").exists()
