from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter

import pytest
import recipe_numbers
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.catalogue import (
    SAMPLERS,
    SCHEDULES,
    find_sampler,
    find_schedule,
    find_scheduler_class,
    split_sampler,
)
from mlxdiff.catalogue.find import key_of
from mlxdiff.errors import RequestError

NAMES = [(name, row) for row in SAMPLERS.values() for name in row.names]


@pytest.mark.parametrize(("name", "row"), NAMES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_name_finds_its_row_in_any_case_and_with_any_blanks(name, row):
    for text in (name, name.upper(), name.lower(), f"  {name} ", name.replace(" ", "_"), name.replace("_", "-")):
        assert find_sampler(text) is row


@pytest.mark.parametrize("table", [SAMPLERS, SCHEDULES], ids=["samplers", "schedules"])
def test_no_two_rows_share_a_name(table):
    owners = Counter(key for row in table.values() for key in {key_of(name) for name in row.names})
    assert [key for key, count in owners.items() if count > 1] == []


def test_every_schedules_name_finds_it():
    for row in SCHEDULES.values():
        for name in row.names:
            assert find_schedule(name.swapcase()) is row


@pytest.mark.parametrize(
    ("text", "sampler", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M", "dpmpp_2m", None),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("DPM2 a Karras", "dpm2_ancestral", "karras"),
        ("Euler a", "euler_ancestral", None),
        ("euler_a", None, None),
        ("DPM++ 2M SGMUniform", "dpmpp_2m", "sgm"),
        ("Heun", "heun", None),
        ("k_dpm_2_a", "dpm2_ancestral", None),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", None),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde", None),
    ],
)
def test_a1111s_older_names_say_both(text, sampler, schedule):
    if sampler is None:
        assert find_sampler("k_" + text).name == "euler_ancestral"
        return
    row, levels = split_sampler(text)
    assert row.name == sampler
    if schedule == "sgm":
        assert levels is find_schedule("SGM Uniform")
    else:
        assert levels is (None if schedule is None else SCHEDULES[schedule])


@pytest.mark.parametrize(
    ("text", "near"),
    [("eular", "euler"), ("dpmpp2", "dpmpp_2m"), ("DPM++ 2N", "dpmpp_2m"), ("dimm", "ddim"), ("karass", "karras")],
)
def test_an_unknown_name_is_told_the_nearest(text, near):
    find = find_schedule if near in SCHEDULES else find_sampler
    with pytest.raises(RequestError, match="There is no") as caught:
        find(text)
    assert f"Did you mean {near}?" in caught.value.remedy


@given(st.text(max_size=80))
def test_any_text_finds_a_row_or_is_refused(text):
    for find in (find_sampler, find_schedule, split_sampler):
        with contextlib.suppress(RequestError):
            assert find(text)


@pytest.mark.parametrize("text", ["", "  ", "x" * 10_000_000, "euler" + " " * 10_000_000, None, 3])
def test_nonsense_is_refused_quickly(text):
    began = time.process_time()
    for find in (find_sampler, find_schedule):
        with pytest.raises(RequestError):
            find(text)
    assert time.process_time() - began < 1


def test_a_scheduler_class_is_its_sampler_or_near_one_or_unknown():
    assert find_scheduler_class("EulerDiscreteScheduler", {}) == (SAMPLERS["euler"], True)
    dpm = "DPMSolverMultistepScheduler"
    assert find_scheduler_class(dpm, {}) == (SAMPLERS["dpmpp_2m"], True)
    assert find_scheduler_class(dpm, {"algorithm_type": "sde-dpmsolver++"}) == (SAMPLERS["dpmpp_2m_sde"], True)
    assert find_scheduler_class(dpm, {"algorithm_type": "dpmsolver"}) == (SAMPLERS["dpmpp_2m"], False)
    assert find_scheduler_class("EDMEulerScheduler", {}) == (None, False)


def test_the_tables_are_read_without_mlx():
    program = "import mlxdiff.catalogue, sys; print([m for m in sys.modules if m.split('.')[0] in ('mlx', 'numpy')])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_row_has_its_function_and_what_it_takes():
    import inspect

    from mlxdiff.diffusion.schedule import Schedule

    for row in SAMPLERS.values():
        parameters = set(inspect.signature(row.run).parameters)
        options = {option.name for option in row.options} | set(row.reading.options.values())
        noise = set() if row.noise == "none" else {"noise"}
        assert parameters == {"denoise", "latents", "sigmas"} | noise | set(row.takes) | options, row.name
        assert all(hasattr(Schedule, name) or name in Schedule.__dataclass_fields__ for name in row.takes)
        for option in row.options:
            assert option.check(option.default) == option.default
            if row.name != "dpmpp_2m_sde_heun":  # the function of another row with another default
                assert inspect.signature(row.run).parameters[option.name].default == option.default
        assert row.automatic is None or row.automatic in SCHEDULES
        assert row.cfg_pp is None or SAMPLERS[row.cfg_pp].unconditional


@pytest.mark.parametrize("name", recipe_numbers.samplers())
def test_a1111s_names_are_known(name):
    for spelling in (name, *recipe_numbers.samplers()[name]):
        assert name in find_sampler(spelling).a1111
