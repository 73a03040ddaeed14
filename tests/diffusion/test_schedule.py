from __future__ import annotations

import math
import warnings
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle_schedulers import (
    CHECKPOINTS,
    CLASSES,
    LCM,
    RAMPS,
    SD1,
    SD21,
    SDXL,
    TURBO,
    TWICE,
    WITH_SIGMAS,
    ZERO_SNR,
    distinct,
    last_alpha_bar,
    scheduler_of,
)
from scipy.stats import beta

from mlxdiff.catalogue import SAMPLERS, SCHEDULES
from mlxdiff.diffusion.ramps import beta_quantiles
from mlxdiff.diffusion.schedule import Schedule, SchedulerConfig, make_schedule
from mlxdiff.errors import RequestError

STEPS = (1, 2, 5, 7, 20, 30, 50, 333)
# diffusers makes its tables in fp32: 1 - alpha_bar is off by 1e-7 or so, which is much where sigma is small, and
# rescaling for zero terminal SNR costs digits where alpha_bar is small.
TOLERANCE = 4e-5
ROUNDING = 4e-7


def schedule_of(
    config, sampler: str, steps: int, schedule: str | None = None, strength: float | None = None
) -> Schedule:
    return make_schedule(SchedulerConfig.from_dict(config, sampler), steps, schedule, strength)


def their_timesteps(scheduler, sampler: str) -> list[float]:
    if sampler in ("dpm2", "dpm2_ancestral"):
        return scheduler.timesteps.tolist()[::2]
    return distinct(scheduler) if sampler in ("heun", "pndm") else scheduler.timesteps.tolist()


def their_sigmas(scheduler, sampler: str) -> list[float]:
    """One a step and the last; for the variance-preserving classes from alpha_bar at their timesteps."""
    if sampler in TWICE:
        return list(dict.fromkeys(scheduler.sigmas.tolist()))
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas.tolist()
    bars = [*scheduler.alphas_cumprod.double()[distinct(scheduler)].tolist(), last_alpha_bar(scheduler, sampler)]
    return [math.sqrt((1 - bar) / bar) if bar > 0 else math.inf for bar in bars]


def agree(ours: Schedule, scheduler, sampler: str) -> None:
    assert ours.timesteps == pytest.approx(their_timesteps(scheduler, sampler), abs=2e-3)
    ours_squared, theirs_squared = np.square(ours.sigmas), np.square(their_sigmas(scheduler, sampler))
    assert len(ours_squared) == len(theirs_squared)
    if math.isinf(theirs_squared[0]):
        assert ours.sigmas[0] > 1e9
        theirs_squared[0] = ours_squared[0]
    assert np.allclose(ours_squared, theirs_squared, rtol=2 * TOLERANCE, atol=ROUNDING)


@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_checkpoints_own_schedule_is_diffusers(name, sampler):
    for steps in STEPS[:-1] if SAMPLERS[sampler].placement.distilled else STEPS:  # lcm is distilled on 50
        agree(schedule_of(CHECKPOINTS[name], sampler, steps), scheduler_of(CHECKPOINTS[name], sampler, steps), sampler)


@pytest.mark.parametrize("schedule", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("sampler", [name for name in CLASSES if not SAMPLERS[name].placement.distilled])
@pytest.mark.parametrize("name", ["sd1", "zero_snr"])
def test_a_spacing_replaces_the_checkpoints(name, sampler, schedule):
    for steps in STEPS:
        ours = schedule_of(CHECKPOINTS[name], sampler, steps, schedule)
        agree(ours, scheduler_of(CHECKPOINTS[name], sampler, steps, schedule), sampler)


@pytest.mark.parametrize("schedule", RAMPS)
@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "dpm2", "dpm2_ancestral", "lms", "dpmpp_2m", "unipc", "deis", "sa_solver"]
)
@pytest.mark.parametrize("name", ["sd1", "turbo", "zero_snr"])
def test_a_ramp_is_diffusers(name, sampler, schedule):
    # One step of a class that ends at the smallest sigma leads nowhere there, from the highest level to itself.
    for steps in STEPS[1:] if SAMPLERS[sampler].reading.fixed else STEPS:
        ours = schedule_of(CHECKPOINTS[name], sampler, steps, schedule)
        theirs = scheduler_of(CHECKPOINTS[name], sampler, steps, schedule)
        assert list(ours.sigmas) == pytest.approx(their_sigmas(theirs, sampler), rel=TOLERANCE, abs=1e-6)
        expected = theirs.timesteps.tolist()
        if sampler == "heun":
            expected = [expected[0], *expected[1::2]]
        if sampler.startswith("dpm2"):
            expected = expected[::2]
        # Where DPM-Solver's class cuts off fractions, rounding errors decide at levels that are whole.
        cuts_off = sampler in WITH_SIGMAS and schedule != "karras"
        close = 1.0 if cuts_off else 0.5 if sampler in WITH_SIGMAS else 0.02
        assert ours.timesteps == pytest.approx(expected, abs=close)
        if cuts_off:
            assert sum(a != b for a, b in zip(ours.timesteps, expected, strict=True)) <= max(2, 0.1 * steps)


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "euler_ancestral"])
@pytest.mark.parametrize("schedule", RAMPS)
def test_a_ramp_for_a_sampler_whose_class_has_none_is_eulers(sampler, schedule):
    config = {**SDXL, "set_alpha_to_one": True}
    ours, eulers = schedule_of(config, sampler, 9, schedule), schedule_of(config, "euler", 9, schedule)
    assert (ours.sigmas, ours.timesteps) == (eulers.sigmas, eulers.timesteps)


def test_a_spacing_switches_the_checkpoints_ramp_off():
    config = {**SDXL, "use_karras_sigmas": True}
    assert schedule_of(config, "euler", 9) == schedule_of(SDXL, "euler", 9, "karras")
    assert schedule_of(config, "euler", 9, "leading") == schedule_of(SDXL, "euler", 9)


def test_a_ramp_takes_its_ends_from_the_config_if_they_are_there():
    config = {**SDXL, "sigma_min": 0.1, "sigma_max": 10.0}
    for ramp in RAMPS:
        ours, theirs = schedule_of(config, "euler", 5, ramp), scheduler_of(config, "euler", 5, ramp)
        assert (ours.sigmas[0], ours.sigmas[-2]) == pytest.approx((10.0, 0.1))
        assert list(ours.sigmas) == pytest.approx(theirs.sigmas.tolist(), rel=1e-6)


@pytest.mark.parametrize(
    "betas",
    [
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": (np.linspace(0.01, 0.1, 1000) ** 2).tolist()},
        {"num_train_timesteps": 100},
    ],
    ids=["linear", "scaled_linear", "squaredcos_cap_v2", "trained_betas", "fewer"],
)
@pytest.mark.parametrize("sampler", CLASSES)
def test_every_beta_schedule_is_diffusers(betas, sampler):
    config = {**SD21, **betas}
    agree(schedule_of(config, sampler, 10), scheduler_of(config, sampler, 10), sampler)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("ramp", [None, "karras"])
def test_the_cosine_schedule_of_dpm_solver_is_clipped_at_lambda_min(spacing, ramp):
    config = {
        "_class_name": "DPMSolverMultistepScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "lambda_min_clipped": -5.1,
        "timestep_spacing": spacing,
    }
    ours, theirs = schedule_of(config, "dpmpp_2m", 20, ramp), scheduler_of(config, "dpmpp_2m", 20, ramp)
    if ramp is None:
        agree(ours, theirs, "dpmpp_2m")
        assert ours.timesteps[0] < 999
    else:  # the ramp hands the rounding errors of its ends on to all, and the class cuts off fractions of timesteps
        assert list(ours.sigmas) == pytest.approx(theirs.sigmas.tolist(), rel=3e-4)
        assert ours.timesteps == pytest.approx(theirs.timesteps.tolist(), abs=1)


def test_euler_may_stop_at_the_smallest_sigma_of_training():
    config = {**SDXL, "final_sigmas_type": "sigma_min"}
    ours = schedule_of(config, "euler", 5)
    agree(ours, scheduler_of(config, "euler", 5), "euler")
    assert ours.sigmas[-1] > 0.02
    assert ours.signal_scale == 1.0  # Euler's class hands its latents to the VAE as they are


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [("lcm", None), ("tcd", None)]
    + [(s, c) for s in CLASSES if s not in ("lcm", "tcd") for c in (None, "leading", "trailing", "linspace", "karras")],
)
@pytest.mark.parametrize("name", ["sd1", "sdxl", "turbo", "zero_snr"])
def test_the_first_noise_is_as_strong_as_in_diffusers(name, sampler, schedule):
    config = CHECKPOINTS[name]
    ours = schedule_of(config, sampler, 10, schedule)
    ramp = schedule in RAMPS and "use_karras_sigmas" not in SAMPLERS[sampler].reading.defaults
    theirs = scheduler_of(config, sampler, 10, None if ramp else schedule)
    variance_preserving = SAMPLERS[sampler].placement.variance_preserving
    if variance_preserving:
        assert theirs.init_noise_sigma == 1.0
        assert ours.init_noise_sigma == pytest.approx(math.hypot(ours.sigmas[0], 1))
    else:
        assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=TOLERANCE)


def test_zero_terminal_snr_is_eulers_2_to_the_minus_24_and_ddims_zero():
    at_4096 = math.sqrt(2**24 - 1)
    assert schedule_of(ZERO_SNR, "euler", 5).sigmas[0] == pytest.approx(at_4096)
    assert schedule_of(ZERO_SNR, "dpmpp_2m", 5).sigmas[0] == pytest.approx(at_4096)
    assert schedule_of(ZERO_SNR, "ddim", 5, "karras").sigmas[0] == pytest.approx(at_4096)
    sigma = schedule_of(ZERO_SNR, "ddim", 5).sigmas[0]
    x0_share = 1 / math.hypot(sigma, 1)  # of latents scaled to unit variance, where diffusers has exactly none
    assert x0_share < np.finfo(np.float32).eps / 10
    assert sigma**2 < np.finfo(np.float32).max / 100


def test_a_schedule_that_ends_above_zero_scales_to_the_signal():
    ours, theirs = schedule_of(SD1, "ddim", 5), scheduler_of(SD1, "ddim", 5)
    last_bar = float(theirs.final_alpha_cumprod)
    assert ours.sigmas[-1] == pytest.approx(math.sqrt((1 - last_bar) / last_bar), rel=TOLERANCE)
    latents = mx.ones((1, 2, 2, 4)) * 3
    assert np.allclose(np.array(ours.end(latents)), 3 * math.sqrt(last_bar), rtol=1e-6)
    assert mx.array_equal(schedule_of(ZERO_SNR, "ddim", 5).end(latents), latents)


@pytest.mark.parametrize("sampler", [name for name in CLASSES if name != "pndm"])
@pytest.mark.parametrize("strength", [0.1, 0.29, 0.3, 0.5, 0.8, 0.999, 1.0])
def test_strength_leaves_the_steps_that_img2img_runs(sampler, strength):
    for steps in (10, 30):
        theirs = scheduler_of(SDXL, sampler, steps)
        pipeline = SimpleNamespace(scheduler=theirs)
        timesteps, kept = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, None)
        ours = schedule_of(SDXL, sampler, steps, strength=strength)
        assert len(ours.timesteps) == len(ours.sigmas) - 1 == kept
        expected = timesteps.tolist()[::2] if sampler.startswith("dpm2") else list(dict.fromkeys(timesteps.tolist()))
        assert ours.timesteps == pytest.approx(expected, rel=1e-6)
        whole = schedule_of(SDXL, sampler, steps)
        assert ours.sigmas == whole.sigmas[-kept - 1 :]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 30])
@pytest.mark.parametrize("strength", [0.1, 0.3, 0.5, 0.7, 0.95, 1.0])
def test_pndm_is_cut_where_diffusers_cuts_its_doubled_list(steps, strength):
    if int(steps * strength) == 0:
        return
    theirs = scheduler_of(SD1, "pndm", steps)
    pipeline = SimpleNamespace(scheduler=theirs)
    asked, kept = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, None)
    ours = schedule_of(SD1, "pndm", steps, strength=strength)
    assert len(ours.timesteps) == kept
    if steps == 1:
        assert (ours.rehearsal, ours.timesteps) == (None, tuple(asked.tolist()))
    else:
        assert [ours.timesteps[0], ours.timestep(ours.rehearsal), *ours.timesteps[1:]] == asked.tolist()


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.73, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_span_spreads_the_steps_over_a_part_of_the_distillation_as_diffusers_lcm_img2img(steps, strength):
    theirs = scheduler_of(LCM, "lcm")
    theirs.set_timesteps(steps, strength=strength)
    ours = make_schedule(SchedulerConfig.from_dict(LCM), steps, span=strength)
    assert list(ours.timesteps) == theirs.timesteps.tolist()


def test_a_span_is_for_consistency_models_and_holds_the_steps():
    with pytest.raises(RequestError, match="leaves 5 of the 50"):
        make_schedule(SchedulerConfig.from_dict(LCM), 6, span=0.1)
    with pytest.raises(ValueError, match="smaller than `num_inference_steps`"):
        scheduler_of(LCM, "lcm").set_timesteps(6, strength=0.1)
    with pytest.raises(RequestError, match="strength"):
        make_schedule(SchedulerConfig.from_dict(LCM), 2, span=1.5)
    with pytest.raises(RequestError, match="does not spread"):
        make_schedule(SchedulerConfig.from_dict(SD1, "euler"), 6, span=0.5)


SIGMAS = (14.0, 5.0, 1.0, 0.2, 0.0)


@pytest.mark.parametrize("sampler", [name for name, row in SAMPLERS.items() if not row.placement.distilled])
def test_sigmas_replace_the_schedule(sampler):
    plan = make_schedule(SchedulerConfig.from_dict(SDXL, sampler), sigmas=list(SIGMAS))
    assert plan.sigmas == SIGMAS
    assert plan.steps == 4
    assert list(plan.timesteps) == [plan.space.timestep(sigma) for sigma in SIGMAS[:-1]]
    assert make_schedule(SchedulerConfig.from_dict(SDXL, sampler), sigmas=SIGMAS, strength=0.5).sigmas == SIGMAS[2:]


def test_euler_is_told_the_timesteps_of_given_sigmas_that_diffusers_tells():
    theirs = scheduler_of(SDXL, "euler")
    with warnings.catch_warnings():  # diffusers hands tensors to numpy in a way that numpy 2 warns about
        warnings.simplefilter("ignore")
        theirs.set_timesteps(sigmas=list(SIGMAS))
    ours = make_schedule(SchedulerConfig.from_dict(SDXL, "euler"), sigmas=SIGMAS)
    assert list(ours.timesteps) == pytest.approx(theirs.timesteps.tolist(), abs=2e-3)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma))


@pytest.mark.parametrize(
    ("sigmas", "problem"),
    [
        ([], "sigmas are"),
        ([1.0], "sigmas are"),
        ("14,1", "sigmas are"),
        ([2.0, "1"], "sigmas are"),
        ([2.0, True], "sigmas are"),
        ([math.inf, 1.0], "finite"),
        ([2.0, math.nan], "finite"),
        ([2.0, -1.0], "finite"),
        ([1.0, 2.0], "from 1 to 2"),
        ([1.0, 1.0, 0.0], "from 1 to 1"),
        ([1.0, 0.0, 0.0], "from 0 to 0"),
    ],
)
def test_sigmas_that_make_no_sense_are_refused(sigmas, problem):
    with pytest.raises(RequestError, match=problem):
        make_schedule(SchedulerConfig.from_dict(SDXL), sigmas=sigmas)


def test_sigmas_beside_steps_or_a_schedule():
    config = SchedulerConfig.from_dict(SDXL)
    assert make_schedule(config, 4, sigmas=SIGMAS) is make_schedule(config, sigmas=SIGMAS)
    with pytest.raises(RequestError, match="5 are asked for"):
        make_schedule(config, 5, sigmas=SIGMAS)
    with pytest.raises(RequestError, match="Both a schedule"):
        make_schedule(config, schedule="karras", sigmas=SIGMAS)
    with pytest.raises(RequestError, match="Neither"):
        make_schedule(config)


def test_a_schedule_is_made_once():
    first = schedule_of(SDXL, "euler", 20, "beta")
    assert schedule_of(SDXL, "euler", 20, "Beta") is first
    assert schedule_of(dict(SDXL), "Euler", 20, "beta") is first


def test_a_schedule_answers_between_its_levels():
    plan = schedule_of(SDXL, "euler", 5)
    for higher, lower in pairwise(plan.sigmas[:-1]):
        middle = math.sqrt(higher * lower)
        assert plan.timestep(lower) < plan.timestep(middle) < plan.timestep(higher)
    assert plan.timestep(0.0) == 0


def test_the_boundary_condition_is_diffusers():
    theirs = scheduler_of(LCM, "lcm")
    plan = schedule_of(LCM, "lcm", 4)
    for sigma, timestep in zip(plan.sigmas[:-1], plan.timesteps, strict=True):
        c_skip, c_out = theirs.get_scalings_for_boundary_condition_discrete(int(timestep))
        assert plan.boundary(sigma) == pytest.approx((c_skip / math.hypot(sigma, 1), c_out), rel=1e-9)


def test_at_timestep_zero_the_boundary_condition_is_the_identity():
    config = SchedulerConfig.from_dict({**LCM, "num_train_timesteps": 50}, "lcm")  # distilled on every timestep
    plan = make_schedule(config, 50)
    assert plan.timesteps[-1] == 0
    assert plan.boundary(plan.sigmas[-2]) == (pytest.approx(1 / math.hypot(plan.sigmas[-2], 1)), 0)


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.0), (10, 0.09), (1, 0.99)])
def test_a_strength_that_leaves_nothing_is_refused(steps, strength):
    with pytest.raises(RequestError, match="leaves none"):
        schedule_of(SD1, "ddim", steps, strength=strength)


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(RequestError, match="strength"):
        schedule_of(SD1, "ddim", 10, strength=strength)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_more_steps_than_the_model_has_timesteps_are_refused(sampler, steps):
    with pytest.raises(RequestError, match=f"{steps} steps"):
        schedule_of(SD1, sampler, steps)


def test_more_steps_than_a_consistency_model_was_distilled_on_are_refused():
    with pytest.raises(RequestError, match="distilled on 50"):
        schedule_of(LCM, "lcm", 51)
    with pytest.raises(ValueError, match="smaller than `num_inference_steps`"):
        scheduler_of(LCM, "lcm", 51)


def test_steps_that_a_spacing_cannot_hold_are_refused():
    with pytest.raises(RequestError, match="too many"):  # offset 1: the last of 1000 timesteps would be number 1000
        schedule_of(SD1, "ddim", 1000)
    with pytest.raises(RequestError, match="too many"):  # 1001 points in 1000 timesteps all coincide
        schedule_of({**SD1, "timestep_spacing": "leading"}, "dpmpp_2m", 1000)
    assert len(schedule_of(SD1, "ddim", 1000, "trailing").timesteps) == 1000


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lcm_has_a_schedule_of_its_own(schedule):
    with pytest.raises(RequestError, match="distillation"):
        schedule_of(LCM, "lcm", 4, schedule)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(RequestError, match="no schedule 'cosine'") as caught:
        schedule_of(SD1, "euler", 4, "cosine")
    assert ", ".join(SCHEDULES) in caught.value.remedy


@pytest.mark.parametrize("a", [0.6, 0.3, 2.5])
def test_quantiles_of_the_beta_distribution_are_scipys(a):
    probabilities = np.concatenate([np.linspace(0, 1, 101), [1e-6, 1 - 1e-6]])
    assert np.allclose(beta_quantiles(probabilities, a), beta.ppf(probabilities, a, a), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("config", [SD1, SDXL, ZERO_SNR], ids=["sd1", "sdxl", "zero_snr"])
def test_sigmas_keep_more_digits_than_an_fp32_table(config):
    """Against exact fractions of the same betas."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    bar, bars = Fraction(1), []
    for one_minus in (1 - Fraction(float(b)) for b in betas[:40]):
        bar *= one_minus
        bars.append(float((1 - bar) / bar) ** 0.5)
    ours = schedule_of({**config, "rescale_betas_zero_snr": False}, "ddim", 999, "leading")
    table = dict(zip(ours.timesteps, ours.sigmas, strict=False))
    assert [table[t] for t in range(1, 40)] == pytest.approx(bars[1:], rel=1e-12)
    fp32 = scheduler_of(SD1, "euler").alphas_cumprod
    assert abs(float(((1 - fp32[1]) / fp32[1]) ** 0.5) / bars[1] - 1) > 1e-6


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(CHECKPOINTS)),
    st.sampled_from(sorted(SAMPLERS)),
    st.integers(1, 1000),
    st.sampled_from([None, *SCHEDULES]),
    st.none() | st.floats(0.01, 1),
)
def test_any_schedule_is_finite_and_descends(name, sampler, steps, schedule, strength):
    assume(not SAMPLERS[sampler].placement.distilled or schedule is None)
    try:
        plan = schedule_of(CHECKPOINTS[name], sampler, steps, schedule, strength)
    except RequestError:
        assume(False)
        return
    sigmas = np.array(plan.sigmas)
    assert np.all(np.isfinite(sigmas))
    assert np.all(np.diff(sigmas[:-1]) < 0)
    assert 0 <= sigmas[-1] <= sigmas[-2]
    assert np.all(np.diff(plan.timesteps) <= 0)
    assert plan.timesteps[-1] >= 0
    assert plan.timesteps[0] <= 999
    assert [plan.timestep(sigma) for sigma in plan.sigmas[:-1]] == list(plan.timesteps)
    assert all(isinstance(number, float) for number in (*plan.sigmas, *plan.timesteps, plan.init_noise_sigma))
    assert torch.isfinite(torch.tensor(plan.init_noise_sigma, dtype=torch.float32))


def test_lcm_and_turbo_configs_name_their_samplers():
    assert schedule_of(LCM, None, 4).sampler == "lcm"
    assert schedule_of(TURBO, None, 4).sampler == "euler_ancestral"
    assert set(CLASSES) == {name for name, row in SAMPLERS.items() if row.classes} - {
        "dpmpp_sde"
    }  # which needs torchsde
