"""Schedules against the numbers that A1111, Forge and ComfyUI gave themselves (recipes.json)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from oracle_schedulers import SD1, ZERO_SNR

from mlxdiff.catalogue import SAMPLERS, SCHEDULES, find_sampler, find_schedule, split_sampler
from mlxdiff.diffusion.programs import PROGRAMS, program_schedule
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule
from mlxdiff.diffusion.space import Training, training_sigmas
from mlxdiff.errors import RequestError

RECIPES = json.loads((Path(__file__).parent / "recipes.json").read_text())
A1111, COMFY = RECIPES["sigmas"]["a1111"], RECIPES["sigmas"]["comfy"]
TABLE = training_sigmas(Training())


def config(sampler: str = "euler", source=SD1) -> SchedulerConfig:
    return SchedulerConfig.from_dict(source, find_sampler(sampler).name)


def sigmas_of(program: str, schedule: str, steps: int, sampler: str = "euler", source=SD1) -> list[float]:
    return list(program_schedule(program, config(sampler, source), steps, schedule).sigmas)


def cases(tables):
    return [(name, int(steps), values) for name, by_steps in tables.items() for steps, values in by_steps.items()]


@pytest.mark.parametrize(("name", "steps", "values"), cases(A1111["a1111"]), ids=str)
def test_a1111s_schedules(name, steps, values):
    asked = None if name == "automatic" else name
    assert list(program_schedule("a1111", config(), steps, asked).sigmas) == pytest.approx(values, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize(("name", "steps", "values"), cases(A1111["a1111_sdxl"]), ids=str)
def test_a1111s_schedules_with_sdxl(name, steps, values):
    row = find_schedule(name)
    assert sigmas_of("a1111", row.sdxl, steps) == pytest.approx(values, rel=2e-5)


ZEROED = cases({k: v for k, v in A1111["a1111_zero_terminal_snr"].items() if k != "sigmas_at"})


@pytest.mark.parametrize(("name", "steps", "values"), ZEROED, ids=str)
def test_a1111s_schedules_with_zero_terminal_snr(name, steps, values):
    asked = None if name == "automatic" else name
    ours = program_schedule("a1111", config(source=ZERO_SNR), steps, asked).sigmas
    assert list(ours) == pytest.approx(values, rel=1e-4)


def test_forges_turbo():
    for steps, values in A1111["forge"]["turbo"].items():
        assert sigmas_of("a1111", "turbo", int(steps)) == pytest.approx(values, rel=2e-5)


@pytest.mark.parametrize(("name", "steps", "values"), cases(COMFY["comfy"]), ids=str)
def test_comfyuis_schedules(name, steps, values):
    if "nan" in values:
        pytest.skip("ComfyUI gives NaN")
    assert sigmas_of("comfyui", name, steps) == pytest.approx(values, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_comfyuis_align_your_steps(family):
    row = find_schedule("AlignYourStepsScheduler")
    name = row.sdxl if family == "SDXL" else row.name
    for steps, values in COMFY["comfy_ays_node"][family].items():
        assert sigmas_of("comfyui", name, int(steps)) == pytest.approx(values, rel=2e-5)


def test_timesteps_keep_their_fraction_in_a1111_and_are_the_nearest_in_comfyui():
    fraction = program_schedule("a1111", config(), 4, "karras").space
    nearest = program_schedule("comfyui", config(), 4, "karras").space
    for sigma, t, rounded in zip(*(A1111["a1111_sigma_to_t"][k] for k in ("sigma", "t", "t_quantized")), strict=True):
        assert fraction.timestep(sigma) == pytest.approx(t, abs=2e-3)
        assert nearest.timestep(sigma) == rounded
    for sigma, t in zip(*(COMFY["comfy_timestep"][k] for k in ("sigma", "t")), strict=True):
        assert nearest.timestep(sigma) == t


@pytest.mark.parametrize("case", COMFY["comfy_ksampler_denoise"], ids=lambda c: f"{c['sampler']}-{c['denoise']}")
def test_comfyuis_denoise_runs_all_the_steps_of_a_longer_schedule(case):
    if case["denoise"] <= 0 or not case["sigmas"]:
        return
    ours = program_schedule("comfyui", config(case["sampler"]), case["steps"], case["scheduler"], case["denoise"])
    assert list(ours.sigmas) == pytest.approx(case["sigmas"], rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("case", A1111["a1111_img2img_steps"], ids=lambda c: f"{c['steps']}-{c['denoise']}")
def test_a1111s_image_to_image_runs_one_step_more(case):
    if case["fix_steps"]:
        return
    ours = program_schedule("a1111", config(), case["steps"], None, case["denoise"])
    assert ours.steps == case["model_steps_run"]


def test_the_first_noise():
    a1111, comfyui = (program_schedule(program, config(), 20) for program in PROGRAMS)
    assert a1111.init_noise_sigma == a1111.sigmas[0]
    assert comfyui.init_noise_sigma == pytest.approx((comfyui.sigmas[0] ** 2 + 1) ** 0.5)
    assert program_schedule("comfyui", config(), 20, "ddim_uniform").init_noise_sigma < TABLE[-1]


@pytest.mark.parametrize("entry", RECIPES["a1111_sampler_table"], ids=lambda e: e["name"])
def test_a1111s_samplers_are_known_with_what_automatic_is_for_them(entry):
    row = find_sampler(entry["name"])
    assert all(find_sampler(alias) is row for alias in entry["aliases"])
    assert row.a1111[0] == entry["name"]
    assert row.automatic in (None, entry["options"].get("scheduler", "uniform"))
    assert (row.automatic is None) == (row.a1111_levels is not None or row.placement.distilled)
    assert ("a1111" in row.discards_penultimate) == entry["options"].get("discard_next_to_last_sigma", False)
    noise = row.noise if row.program_noise is None else row.program_noise
    assert (noise == "brownian") == entry["options"].get("brownian_noise", False)


@pytest.mark.parametrize("case", RECIPES["a1111_sampler_names"], ids=lambda c: f"{c['sampler']}+{c['schedule_type']}")
def test_a1111s_older_names_are_split_as_it_splits_them(case):
    if case["schedule_type"] is not None or case["sampler"] in ("Unknown", "euler_ancestral"):
        return  # A1111 takes DPM++ 2M for a name that it does not know; we say that we do not, or know it
    sampler, schedule = case["convert_automatic_false"]
    row, levels = split_sampler(case["sampler"])
    assert row is find_sampler(sampler)
    assert levels is (None if schedule == "Automatic" else find_schedule(schedule))


@pytest.mark.parametrize("name", [name for name, row in SCHEDULES.items() if row.kind == "levels"])
def test_whole_schedules_run_with_a_checkpoints_sampler_too(name):
    for steps in (1, 2, 5, 20):
        for sampler in ("euler", "dpmpp_2m", "ddim"):
            plan = make_schedule(config(sampler), steps, name)
            assert plan.sigmas[-1] == 0
            assert np.all(np.diff(plan.sigmas) < 0)
            assert list(plan.timesteps) == [plan.space.timestep(sigma) for sigma in plan.sigmas[:-1]]


@pytest.mark.parametrize("program", PROGRAMS)
def test_any_sampler_and_schedule_descends_or_is_refused(program):
    for name in SAMPLERS:
        for schedule in SCHEDULES:
            for steps in (1, 2, 7, 30, 1000):
                try:
                    plan = program_schedule(program, config(name), steps, schedule)
                except RequestError:
                    continue
                assert np.all(np.diff(plan.sigmas) < 0), (name, schedule, steps)
                assert plan.steps == len(plan.sigmas) - 1


@pytest.mark.parametrize(
    ("program", "arguments", "problem"),
    [
        ("fooocus", {"steps": 4}, "no program 'fooocus'"),
        ("a1111", {}, "Neither"),
        ("a1111", {"steps": 0}, "0 steps"),
        ("a1111", {"steps": 4, "schedule": "trailing"}, "is diffusers'"),
        ("comfyui", {"steps": 4, "strength": 0.0}, "leaves none"),
        ("comfyui", {"steps": 1, "strength": 9e-6}, "last of more than 100,000"),
        ("comfyui", {"steps": 4, "strength": 5e-324}, "last of more than 100,000"),
        ("comfyui", {"steps": 4, "strength": 2.0}, "strength"),
    ],
)
def test_what_does_not_fit_is_refused(program, arguments, problem):
    with pytest.raises(RequestError, match=problem):
        program_schedule(program, config(), **arguments)


def test_where_a1111_leaves_out_the_only_step_none_is_said_to_be_run():
    with pytest.raises(RequestError, match="Of 1 steps, A1111's ddim runs none"):
        program_schedule("a1111", config("ddim"), 1)
    assert program_schedule("a1111", config("ddim"), 2).steps == 1
