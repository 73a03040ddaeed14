"""Step by step against diffusers: its schedulers, the same configs, the same analytic network, the same noise.

Most errors are near 1e-6, the rounding of fp32. What is allowed more, and why:
- Euler's classes lose digits at zero terminal SNR: from sigma 4096 they compute sample + derivative * dt in fp32, where
  the two terms cancel. `test_where_eulers_class_cancels_...` shows who is right.
- diffusers' tables are fp32, and off by 1.7e-5 at the smallest sigma, where linspace with one or two steps stands.
- dpm2_ancestral's middle level goes with the square of that sigma.
- DPM-Solver's class cuts the fractions off the timesteps of exponential and beta ramps, so that rounding errors decide
  whether the network is told 999 or 998.
"""

from __future__ import annotations

import numpy as np
import oracle_schedulers
import pytest
from oracle_schedulers import (
    CHECKPOINTS,
    CLASSES,
    RAMPED,
    RAMPS,
    SD1,
    SDXL,
    SPACED,
    WITH_SIGMAS,
    ZERO_SNR,
    error_table,
    max_error,
)

from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule

TOLERANCE = 1e-5
CANCELLED = 3e-3  # 4096 * 2^-24, some times over: 2.3e-3 on an Intel Xeon with AVX-512, less on an AMD EPYC
SMALLEST_SIGMA = 4e-5
ONE_TIMESTEP = 5e-3


def allowed(name: str, sampler: str, steps: int, schedule: str | None) -> float:
    config = CHECKPOINTS[name]
    plan = make_schedule(SchedulerConfig.from_dict(config, sampler), steps, schedule)
    if sampler.startswith("euler") and config.get("rescale_betas_zero_snr") and plan.sigmas[0] > 4000:
        return CANCELLED
    if sampler in WITH_SIGMAS and schedule in ("exponential", "beta"):
        return ONE_TIMESTEP
    if sampler in ("deis", "sa_solver"):  # which end at the smallest sigma
        return SMALLEST_SIGMA
    if plan.timesteps[-1] < 0.5 and steps <= 2:
        return 4 * SMALLEST_SIGMA if sampler == "dpm2_ancestral" else SMALLEST_SIGMA  # 1.15e-4 on that Xeon
    return TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_sampler_on_every_checkpoints_config(name, sampler, steps):
    assert max_error(CHECKPOINTS[name], sampler, steps) < allowed(name, sampler, steps, None)


@pytest.mark.parametrize("schedule", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("sampler", SPACED)
@pytest.mark.parametrize("name", ["sd1", "sd21", "zero_snr"])
def test_every_spacing(name, sampler, schedule):
    for steps in (1, 2, 5, 20):
        assert max_error(CHECKPOINTS[name], sampler, steps, schedule) < allowed(name, sampler, steps, schedule)


@pytest.mark.parametrize("schedule", RAMPS)
@pytest.mark.parametrize("sampler", RAMPED)
@pytest.mark.parametrize("name", ["sd1", "sd21", "sdxl", "zero_snr"])
def test_every_ramp(name, sampler, schedule):
    for steps in (2, 20):
        assert max_error(CHECKPOINTS[name], sampler, steps, schedule) < allowed(name, sampler, steps, schedule)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", ["sd1", "sd21", "zero_snr"])
def test_ddim_with_eta(name, eta, steps, monkeypatch):
    """From infinite noise diffusers subtracts the noise's variance from all but itself and takes the root. In fp32 the
    rest has few digits or, on some processors, is below 0: so diffusers gets its table in fp64.
    """
    made = oracle_schedulers.scheduler_of

    def in_fp64(*arguments):
        scheduler = made(*arguments)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
        return scheduler

    monkeypatch.setattr(oracle_schedulers, "scheduler_of", in_fp64)
    assert max_error(CHECKPOINTS[name], "ddim", steps, eta=eta) < TOLERANCE


@pytest.mark.parametrize("solver_order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_dpm_solvers_settings(sampler, final_sigmas_type, solver_type, solver_order):
    algorithm = {"dpmpp_2m": "dpmsolver++", "dpmpp_2m_sde": "sde-dpmsolver++"}[sampler]
    own = {"solver_order": solver_order, "solver_type": solver_type, "final_sigmas_type": final_sigmas_type}
    config = {**SDXL, "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": algorithm, **own}
    for steps in (1, 2, 3, 5, 20):
        assert max_error(config, sampler, steps) < TOLERANCE
    for switch in ({"lower_order_final": False}, {"euler_at_final": True}):
        for steps in (5, 20):
            assert max_error({**config, **switch}, sampler, steps) < TOLERANCE


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["bh1", "bh2"])
@pytest.mark.parametrize("last", [{}, {"final_sigmas_type": "sigma_min"}, {"lower_order_final": False}])
def test_unipcs_settings(last, solver_type, order):
    """To sigma 0 the class makes NaN with bh1, and with an order above 1."""
    own = {"solver_order": order, "solver_type": solver_type, **last}
    config = {**SDXL, "_class_name": "UniPCMultistepScheduler", **own}
    if "lower_order_final" in last or solver_type == "bh1":
        config["final_sigmas_type"] = "sigma_min"
    for steps in (1, 2, 3, 5, 20):
        assert max_error(config, "unipc", steps) < SMALLEST_SIGMA
    assert max_error(config, "unipc", 20, strength=0.5) < SMALLEST_SIGMA


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_and_sa_solvers_settings(order):
    config = {**SDXL, "_class_name": "DEISMultistepScheduler", "solver_order": order}
    switched = {**config, "lower_order_final": False}
    for steps in (1, 2, 3, 5, 14, 20):
        assert max_error(config, "deis", steps) < SMALLEST_SIGMA
        assert max_error(switched, "deis", steps) < SMALLEST_SIGMA
    for corrector in (1, 2, 3):
        own = {"predictor_order": order, "corrector_order": corrector}
        config = {**SDXL, "_class_name": "SASolverScheduler", **own}
        for steps in (2, 5, 20):
            assert max_error(config, "sa_solver", steps) < 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_tcd_with_eta(eta):
    for steps in (1, 2, 4, 8):
        assert max_error(CHECKPOINTS["lcm"], "tcd", steps, eta=eta) < SMALLEST_SIGMA


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("name", ["sd1", "sd21", "zero_snr"])
def test_image_to_image(name, sampler, strength):
    """But for lms: diffusers' class weighs slopes of the steps that were left out, which it does not have."""
    for steps in (5, 20):
        if sampler == "lms" and strength < 1:
            continue
        tolerance = CANCELLED if strength > 0.9 and name == "zero_snr" and sampler.startswith("euler") else TOLERANCE
        assert max_error(CHECKPOINTS[name], sampler, steps, strength=strength) < tolerance


@pytest.mark.parametrize("schedule", ["linspace", "trailing"])
@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_timesteps_that_1000_does_not_divide_into(sampler, schedule):
    """diffusers then lands beside the timestep that it goes on from, and we with it."""
    for steps in (3, 6, 7, 12, 30):
        plan = make_schedule(SchedulerConfig.from_dict(ZERO_SNR, sampler), steps, schedule)
        assert plan.arrivals != plan.sigmas[1:]
        assert max_error(ZERO_SNR, sampler, steps, schedule) < TOLERANCE


def test_where_eulers_class_cancels_the_closed_form_says_that_we_are_right():
    """One step from sigma 4096 to 0 ends at the predicted x0, and DPM-Solver's class, which does not cancel, agrees."""
    assert max_error(ZERO_SNR, "euler", 1) > 1e-4
    assert max_error(ZERO_SNR, "dpmpp_2m", 1) < 1e-6


def test_the_oracle_notices_a_wrong_schedule(monkeypatch):
    """The comparison is not vacuous: the neighbouring timestep, or noise from other seeds, is far outside."""
    ours = oracle_schedulers.trajectory(SD1, "ddim", 10)
    theirs = oracle_schedulers.reference({**SD1, "steps_offset": 2}, "ddim", 10)
    assert np.abs(ours[-1] - theirs[-1]).max() > 100 * TOLERANCE
    monkeypatch.setattr(oracle_schedulers, "SEEDS", (0, 2))
    assert np.abs(ours[-1] - oracle_schedulers.trajectory(SD1, "ddim", 10)[-1]).max() > 0.1


def test_the_table_of_errors_covers_all():
    table = error_table(steps=(2,))
    assert set(table) == {(name, sampler) for name in CHECKPOINTS for sampler in CLASSES}
    assert table["sdxl", "euler"] == max_error(SDXL, "euler", 2)
