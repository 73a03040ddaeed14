"""Batteries and heat, read from what Linux and macOS say; anything else they might say is nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.computer import power

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/sys is Linux's")


def folder(system: Path, name: str, /, **files: object) -> Path:
    made = system / name
    made.mkdir(parents=True)
    for file, content in files.items():
        (made / file).write_text(f"{content}\n")
    return made


@pytest.fixture
def alone(monkeypatch):
    """No other program tells anything."""
    monkeypatch.setattr(power.shutil, "which", lambda _: None)


@LINUX
def test_batteries_count_together_and_a_mouse_does_not(tmp_path):
    assert power.battery(tmp_path) is None
    supplies = tmp_path / "power_supply"
    folder(supplies, "AC", type="Mains", online=0)
    folder(supplies, "hid-mouse", type="Battery", scope="Device", capacity=3, status="Discharging")
    assert power.battery(tmp_path) is None
    folder(supplies, "BAT0", type="Battery", capacity=80, status="Charging")
    assert power.battery(tmp_path) == power.Battery(80, False)
    folder(supplies, "BAT1", type="Battery", capacity=20, status="Discharging")
    assert power.battery(tmp_path) == power.Battery(50, True)
    folder(supplies, "BAT2", type="Battery", status="Unknown")  # it says nothing of how full it is
    assert power.battery(tmp_path) == power.Battery(50, True)


@pytest.mark.usefixtures("alone")
def test_the_hottest_sensor_of_a_processor_counts(tmp_path):
    assert power.temperature(tmp_path) is None
    folder(tmp_path / "hwmon", "hwmon0", name="nvme", temp1_input=99000)
    folder(tmp_path / "thermal", "thermal_zone0", type="acpitz", temp=98000)
    assert power.temperature(tmp_path) is None
    folder(tmp_path / "hwmon", "hwmon1", name="k10temp", temp1_input=61500, temp2_input=-40000, temp3_input="")
    assert power.temperature(tmp_path) == 61.5
    folder(tmp_path / "thermal", "thermal_zone1", type="cpu-thermal", temp=72250)
    assert power.temperature(tmp_path) == 72.25
    folder(tmp_path / "thermal", "thermal_zone2", type="x86_pkg_temp", temp=900000)  # 900 degrees: broken
    assert power.temperature(tmp_path) == 72.25


def test_a_gpu_is_asked_through_its_own_program(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "41\\n83\\n[N/A]\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert power.temperature(tmp_path) == 83
    program.write_text("#!/bin/sh\necho 83\nexit 9\n")
    assert power.temperature(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=4653155)\t85%; discharging; 3:12 remaining\n",
            power.Battery(85, True),
        ),
        (
            "Now drawing from 'AC Power'\n -InternalBattery-0 (id=4653155)\t100%; charged; 0:00 remaining\n",
            power.Battery(100, False),
        ),
        ("Now drawing from 'AC Power'\n", None),
        ("", None),
    ],
)
def test_what_macos_prints_is_read(text, found):
    assert power.battery_in(text) == found


@given(content=st.binary(max_size=300))
def test_whatever_a_file_holds_is_a_number_or_nothing(tmp_path_factory, content):
    system = tmp_path_factory.mktemp("sys")
    sensor = folder(system / "hwmon", "hwmon0", name="coretemp")
    (sensor / "temp1_input").write_bytes(content)
    folder(system / "power_supply", "BAT0", type="Battery", status="Discharging")
    (system / "power_supply" / "BAT0" / "capacity").write_bytes(content)
    found = power.battery(system)
    assert found is None or 0 <= found.percent <= 100
    heat = power.temperature(system)
    assert heat is None or 0 < heat < 150
