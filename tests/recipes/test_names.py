"""Samplers and schedules by the names of other programs, and A1111's names for mlxdiff's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.catalogue import SAMPLERS, SCHEDULES
from mlxdiff.recipes import names

WEB_UI = json.loads((Path(__file__).parent / "web_ui.json").read_text("utf-8"))


def ours(sampler: str, schedule: str) -> tuple[str | None, str | None]:
    """mlxdiff's rows of what A1111's web UI calls so."""
    of_sampler = {row.a1111[0]: name for name, row in SAMPLERS.items() if row.a1111}
    of_schedule = {row.a1111[0]: name for name, row in SCHEDULES.items() if row.a1111}
    return of_sampler.get(sampler), of_schedule.get(schedule)


@pytest.mark.parametrize(
    "case", WEB_UI["a1111_sampler_names"], ids=lambda case: f"{case['sampler']},{case['schedule_type']}"
)
def test_the_web_uis_reading_of_its_older_names(case):
    sampler, schedule = ours(*case["convert_automatic_false"])
    if sampler is None or case["sampler"] in ("Unknown", "euler_ancestral"):  # where the web UI takes its default
        return
    found = names.sampler_and_schedule(case["sampler"], case["schedule_type"] or "")
    if case["convert_automatic_false"][1] == "Automatic":
        assert found[0] == sampler
        assert found[1] in (None, case["schedule_type"])
    elif schedule is not None:
        assert found == (sampler, schedule)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
def test_what_is_written_is_read_and_so_is_the_older_form(name, schedule):
    written = names.sampler_name(name), "" if schedule is None else names.schedule_name(schedule)
    assert names.sampler_and_schedule(*written) == (name, schedule)
    for theirs in SAMPLERS[name].a1111[:1] if schedule in ("karras", "exponential") else ():
        assert names.sampler_and_schedule(f"{theirs} {written[1]}") == (name, schedule)


@pytest.mark.parametrize(
    ("written", "planned", "expected"),
    [
        ("k_euler", "", ("euler", None)),
        ("k_euler_ancestral", "native", ("euler_ancestral", None)),
        ("k_dpmpp_2m", "exponential", ("dpmpp_2m", "exponential")),
        ("dpmpp_2m_sde_k", "", ("dpmpp_2m_sde", "karras")),
        ("kdpm_2_a", "", ("dpm2_ancestral", None)),
        ("kdpm_2_k", "", ("dpm2", "karras")),
        ("dpm++2m", "discrete", ("dpmpp_2m", None)),
        ("dpm++2m karras", "", ("dpmpp_2m", "karras")),
        ("euler_a discrete", "", ("euler_ancestral", None)),
        ("euler dream", "", ("euler", "dream")),
        ("ddim_v3", "karras", ("ddim", "karras")),
        ("dpmpp_2m_sde_gpu", "sgm_uniform", ("dpmpp_2m_sde", "sgm_uniform")),
        ("Dream 3", "", ("Dream 3", None)),
        ("Dream 3 Karras", "", ("Dream 3 Karras", "karras")),
        ("", "", ("", None)),
        ("Euler", "Automatic", ("euler", "uniform")),
        ("DDIM", "Automatic", ("ddim", None)),
        ("DPM++ 2M", "Automatic", ("dpmpp_2m", "karras")),
    ],
)
def test_names_of_other_programs(written, planned, expected):
    assert names.sampler_and_schedule(written, planned) == expected


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_text_has_an_answer(sampler, schedule):
    name, planned = names.sampler_and_schedule(sampler, schedule)
    assert isinstance(name, str)
    assert planned is None or isinstance(planned, str)


@pytest.mark.parametrize(
    ("written", "source"), [("CPU", "torch"), ("NV", "philox"), ("GPU", "philox"), ("cuda", "philox"), ("dice", "dice")]
)
def test_sources_of_noise(written, source):
    assert names.noise(written) == source
