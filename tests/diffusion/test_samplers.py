"""What each integrator is, by mathematics alone; test_parity.py compares them with diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from oracle_schedulers import CHECKPOINTS, LCM, SD1, ZERO_SNR, denoiser

from mlxdiff.catalogue import SAMPLERS
from mlxdiff.diffusion.guidance import Unguided, guided
from mlxdiff.diffusion.samplers import sample
from mlxdiff.diffusion.samplers.multistep import pndm
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule
from mlxdiff.diffusion.space import VariancePreserving
from mlxdiff.diffusion.step import Step
from mlxdiff.errors import RequestError

SPREAD = 0.5  # standard deviation of the Gaussian data below


def gaussian(latents: mx.array, sigma: float) -> mx.array:
    """The exact denoiser of data from N(0, SPREAD^2)."""
    return latents * (SPREAD**2 / (SPREAD**2 + sigma**2))


def draws(name: str) -> bool:
    """Whether the sampler draws noise with its default options."""
    drawn = []
    list(run(name, gaussian, mx.ones((1, 1, 1, 1)), [4.0, 2.0, 1.0, 0.0], lambda *_: drawn.append(1) or mx.zeros(())))
    return bool(drawn)


def run(name, denoise, latents, sigmas, noise=None, **options) -> Iterator[Step]:
    """The row's own function with its default options."""
    row = SAMPLERS[name]
    given = {} if row.noise == "none" else {"noise": noise}
    plain = denoise
    if row.unconditional:
        denoise = guided(lambda x, sigma, _: {"positive": plain(x, sigma)}, Unguided())
    return row.run(denoise, latents, sigmas, **given, **row.settle(options))


STOCHASTIC = [name for name in SAMPLERS if draws(name)]
DETERMINISTIC = [name for name in SAMPLERS if name not in STOCHASTIC]
STEPPING = [name for name, row in SAMPLERS.items() if not row.adaptive]  # a step for each level


def levels(steps: int, high: float = 8.0, low: float = 0.25) -> list[float]:
    return (np.linspace(high ** (1 / 3), low ** (1 / 3), steps + 1) ** 3).tolist()


def last(steps: Iterator[Step]) -> mx.array:
    return list(steps)[-1].latents


def unit_noise(shape: tuple[int, ...], seed: int = 0) -> Callable[..., mx.array]:
    keys = iter(mx.random.split(mx.random.key(seed), 1000))
    return lambda *_: mx.random.normal(shape, key=next(keys))


@pytest.mark.parametrize("name", STEPPING)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_n_steps_yield_n_times_and_report_the_levels(name, steps):
    sigmas = [*levels(steps - 1), 0.0]
    walk = list(run(name, gaussian, mx.ones((1, 2, 2, 1)) * 8, sigmas, unit_noise((1, 2, 2, 1))))
    assert [step.index for step in walk] == list(range(steps))
    if name != "dpm_fast":  # which has levels of its own
        assert [step.sigma for step in walk] == sigmas[1:]
    assert all(step.latents.shape == step.denoised.shape == (1, 2, 2, 1) for step in walk)
    assert all(step.latents.dtype == mx.float32 for step in walk)
    if name not in ("pndm", "lms", "dpm_fast"):  # which follow averages in the last step, or end above 0
        assert np.allclose(np.array(walk[-1].latents), np.array(walk[-1].denoised), atol=1e-6)


@pytest.mark.parametrize("name", STEPPING)
def test_the_denoiser_is_called_as_often_as_the_row_says(name):
    calls = []

    def counted(latents, sigma):
        calls.append(sigma)
        return gaussian(latents, sigma)

    sigmas = [*levels(6), 0.0]
    last(run(name, counted, mx.ones((1, 1, 1, 1)), sigmas, unit_noise((1, 1, 1, 1))))
    n, each = len(sigmas) - 1, SAMPLERS[name].evaluations
    assert len(calls) == (n + 1 if name == "pndm" else each * n - (each - 1))  # one in the last step
    if each == 1 and name not in ("pndm", "dpm_fast"):
        assert calls == sigmas[:-1]
    if name == "pndm":
        assert calls == [sigmas[0], sigmas[1], *sigmas[1:-1]]
    if name == "heun":
        assert calls == [sigmas[0], *(sigma for sigma in sigmas[1:-1] for _ in range(2))]


ORDERS = {
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "dpm2": 2,
    "dpmpp_2m": 2,
    "pndm": 2,
    "deis": 2,
    "res_multistep": 2,
}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_halving_the_steps_divides_the_error_by_two_to_the_order(name, order):
    """On Gaussian data the ODE has the solution x(sigma) = x(s) sqrt((c^2 + sigma^2) / (c^2 + s^2))."""
    high, low = 8.0, 0.25
    exact = math.sqrt((SPREAD**2 + low**2) / (SPREAD**2 + high**2))
    errors = [
        abs(float(last(run(name, gaussian, mx.ones((1, 1, 1, 1)), levels(n, high, low))).item()) / exact - 1)
        for n in (64, 128, 256)
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert min(errors) > 3e-6  # above fp32's rounding, or the quotient means nothing
    assert orders[-1] > order - 0.15
    if name != "pndm":  # PLMS is pseudo-numerical: of second order, with extrapolations of fourth
        assert orders[-1] < order + 0.5


def test_averaging_velocities_is_of_first_order_and_averaging_noise_of_second():
    exact = math.sqrt((SPREAD**2 + 0.25**2) / (SPREAD**2 + 8.0**2))

    def error(steps: int, prediction_type: str) -> float:
        return abs(
            float(
                last(pndm(gaussian, mx.ones((1, 1, 1, 1)), levels(steps), VariancePreserving(prediction_type))).item()
            )
            / exact
            - 1
        )

    assert 0.7 < math.log2(error(64, "v_prediction") / error(128, "v_prediction")) < 1.3
    assert error(32, "epsilon") < error(32, "v_prediction")


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if not SAMPLERS[name].own_levels])
def test_the_deterministic_samplers_agree_in_the_limit(name):
    sigmas = [*levels(400, 10.0, 0.002), 0.0]
    start = mx.linspace(-20, 20, 64).reshape(1, 8, 8, 1)

    def two_modes(latents, sigma):  # the exact denoiser of data that is +1 or -1
        return mx.tanh(latents / sigma**2)

    end = np.array(last(run(name, two_modes, start, sigmas)))
    assert np.allclose(np.abs(end), 1, atol=0.02)
    assert np.array_equal(np.sign(end), np.sign(np.array(start)))


@pytest.mark.parametrize(
    ("name", "steps", "bias"),
    [
        ("euler_ancestral", 400, 0.02),
        ("ddpm", 400, 0.02),
        ("dpm2_ancestral", 60, 0.04),
        ("dpmpp_2s_ancestral", 60, 0.02),
        ("dpmpp_sde", 400, 0.04),
        ("dpmpp_2m_sde", 60, 0.02),
        ("dpmpp_2m_sde_heun", 200, 0.02),
        ("dpmpp_3m_sde", 60, 0.02),
        ("sa_solver", 200, 0.02),
        ("restart", 30, 0.04),
    ],
)
def test_the_stochastic_samplers_end_with_the_variance_of_the_data(name, steps, bias):
    shape = (1, 256, 256, 1)
    noise = unit_noise(shape)
    end = np.array(last(run(name, gaussian, noise() * 20, [*levels(steps, 20, 0.01), 0.0], noise)))
    n = end.size
    assert abs(end.mean()) < 4 * SPREAD / math.sqrt(n)
    assert abs(end.var() / SPREAD**2 - 1) < bias + 4 * math.sqrt(2 / n)


@pytest.mark.parametrize(
    "name", ["euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"]
)
def test_the_noise_that_is_added_keeps_each_level(name):
    """After every step the latents are again data plus noise of that step's sigma, up to the discretisation."""
    shape = (1, 128, 128, 1)
    noise = unit_noise(shape, seed=1)
    start = noise() * math.hypot(SPREAD, 20)
    for step in run(name, gaussian, start, [*levels(200, 20, 0.05), 0.0], noise):
        expected = SPREAD**2 + step.sigma**2
        assert abs(float(mx.var(step.latents).item()) / expected - 1) < 0.08


@pytest.mark.parametrize("steps", [1, 4])
def test_consistency_sampling_with_the_exact_function_is_exact_in_any_number_of_steps(steps):
    def exact(latents, sigma):  # follows the ODE of Gaussian data to sigma 0
        return latents * (SPREAD / math.hypot(SPREAD, sigma))

    shape = (1, 256, 256, 1)
    noise = unit_noise(shape)
    end = np.array(last(run("lcm", exact, noise() * math.hypot(SPREAD, 10), [*levels(steps - 1, 10), 0.0], noise)))
    assert abs(end.var() / SPREAD**2 - 1) < 0.03


@pytest.mark.parametrize("name", STEPPING)
def test_nothing_is_evaluated(name):
    """On latents of 256 TB, which only stay an expression as long as nobody looks at them."""
    shape = (1, 4_000_000, 4_000_000, 4)
    walk = list(run(name, gaussian, mx.zeros(shape), [*levels(4), 0.0], lambda *_: mx.zeros(shape)))
    assert walk[-1].latents.shape == shape


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_computed_before_the_first_step_is_asked_for(name):
    def explode(*_):
        raise AssertionError

    walk = run(name, explode, mx.zeros((1, 1, 1, 1)), [*levels(2), 0.0], explode)
    with pytest.raises(AssertionError):
        next(walk)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm"])
def test_the_first_step_from_nearly_infinite_noise_keeps_its_digits(name):
    """From sigma = 2^30, as zero terminal SNR starts: in double precision by hand, D + (x - D) r (or r^2)."""
    sigma, sigma_next = 2.0**30, 12.0
    x = np.linspace(-3, 3, 64) * sigma
    denoised = np.cos(np.arange(64.0))
    walk = run(
        name,
        lambda *_: mx.array(denoised.reshape(1, 8, 8, 1)),
        mx.array(x.reshape(1, 8, 8, 1)),
        [sigma, sigma_next, 0.0],
        lambda *_: mx.zeros((1, 8, 8, 1)),
    )
    ratio = 0 if name == "lcm" else sigma_next / sigma if name in DETERMINISTIC else (sigma_next / sigma) ** 2
    expected = denoised + (x - denoised) * ratio
    assert np.allclose(np.array(next(walk).latents).reshape(-1), expected, atol=1e-5)


def test_dpmpp_2m_uses_the_step_sizes_in_log_sigma():
    """One second-order step by hand (Lu et al. 2022b, equation 4.7 divided by alpha), with unequal steps."""
    sigmas, constants = [10.0, 4.0, 1.0], iter([2.0, 5.0])
    walk = run("dpmpp_2m", lambda *_: mx.array([[[[next(constants)]]]]), mx.array([[[[7.0]]]]), sigmas)
    first, second = (float(step.latents.item()) for step in walk)
    assert first == pytest.approx(0.4 * 7 + 0.6 * 2)
    r = math.log(10 / 4) / math.log(4 / 1)
    target = (1 + 1 / (2 * r)) * 5 - 1 / (2 * r) * 2
    assert second == pytest.approx(0.25 * first + 0.75 * target)


@pytest.mark.parametrize("name", STEPPING)
def test_sample_runs_a_schedules_own_sampler(name):
    config = CHECKPOINTS["lcm"] if SAMPLERS[name].placement.distilled else SD1
    plan = make_schedule(SchedulerConfig.from_dict(config, name), 4)
    noise = unit_noise((1, 4, 4, 4))
    network = denoiser(lambda x, t: mx.sin(x) * mx.cos(t), plan)
    denoise = guided(lambda x, sigma, _: {"positive": network(x, sigma)}, Unguided())
    walk = list(sample(SAMPLERS[name], denoise, plan.start(noise()), plan, noise))
    if name != "dpm_fast":
        assert [step.sigma for step in walk] == list(plan.sigmas[1:])
    assert bool(mx.all(mx.isfinite(walk[-1].latents)))


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if not row.placement.distilled])
def test_no_sampler_blows_up_on_a_checkpoint_with_zero_terminal_snr(name):
    """Gaussian data: from whatever level the sampler starts, it ends with about their spread."""
    plan = make_schedule(SchedulerConfig.from_dict(ZERO_SNR, name), 30)
    noise = unit_noise((1, 64, 64, 4))
    denoise = guided(lambda x, sigma, _: {"positive": gaussian(x, sigma)}, Unguided())
    end = last(sample(SAMPLERS[name], denoise, plan.start(noise()), plan, noise))
    assert float(mx.std(end).item()) == pytest.approx(SPREAD, rel=0.25)


def test_sample_puts_the_boundary_condition_around_the_denoiser_of_lcm():
    plan = make_schedule(SchedulerConfig.from_dict({**LCM, "timestep_scaling": 0.0}), 2)  # all skip, no output
    latents = mx.ones((1, 1, 1, 4)) * 3
    walk = sample(SAMPLERS["lcm"], lambda x, _: x * 0 + 99, latents, plan, lambda *_: mx.zeros((1, 1, 1, 4)))
    assert np.allclose(np.array(next(walk).denoised), 3 / math.hypot(plan.sigmas[0], 1))


def test_options_go_to_the_sampler_and_beat_the_checkpoints():
    config = {**SD1, "_class_name": "DPMSolverMultistepScheduler", "solver_order": 1}
    plan = make_schedule(SchedulerConfig.from_dict(config), 6)

    def end(**options):
        walk = sample(SAMPLERS["dpmpp_2m"], gaussian, mx.ones((1, 1, 1, 1)) * 14, plan, unit_noise(()), options)
        return last(walk).item()

    assert end() == end(order=1) == end(order=None)
    assert end() != end(order=2)
    assert end(order=2) != end(order=3)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("euler", {"eta": 0.5}, "has no eta"),
        ("lms", {"s_churn": 1}, "has no s_churn"),
        ("euler_ancestral", {"order": 2}, "has no order"),
        ("euler_ancestral", {"eta": -1}, "eta is -1"),
        ("euler_ancestral", {"eta": math.nan}, "eta is nan"),
        ("euler_ancestral", {"eta": "1"}, "eta is '1'"),
        ("dpmpp_2m", {"order": 4}, "order is 4"),
        ("dpmpp_2m", {"solver_type": "bh1"}, "solver_type is 'bh1'"),
    ],
)
def test_options_that_a_sampler_has_not_or_cannot_take_are_refused(name, options, problem):
    plan = make_schedule(SchedulerConfig.from_dict(SD1, name), 2)
    with pytest.raises(RequestError, match=problem):
        sample(SAMPLERS[name], gaussian, mx.zeros((1, 1, 1, 4)), plan, unit_noise(()), options)


TWINS = {
    "ddim": "euler",
    "euler_ancestral": "euler",
    "dpm2_ancestral": "dpm2",
    "dpmpp_2m_sde": "dpmpp_2m",
    "dpmpp_sde": "dpmpp_2s_ancestral",
    "euler_ancestral_cfg_pp": "euler_cfg_pp",
}


@pytest.mark.parametrize("name", TWINS)
def test_at_eta_0_no_noise_is_drawn_and_the_sampler_is_its_deterministic_twin(name):
    def never(*_):
        raise AssertionError

    start, sigmas = mx.linspace(-9, 9, 16).reshape(1, 4, 4, 1), [*levels(5), 0.0]
    twin = TWINS[name]
    still = {"eta": 0.0} if "eta" in SAMPLERS[twin].settle({}) else {}
    quiet = list(run(name, gaussian, start, sigmas, never, eta=0.0))
    for ours, theirs in zip(quiet, run(twin, gaussian, start, sigmas, never, **still), strict=True):
        assert np.allclose(np.array(ours.latents), np.array(theirs.latents), atol=1e-5)


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m"])
def test_without_guidance_the_cfg_pp_form_is_the_sampler_itself(name):
    """D and D_u are then one. ComfyUI's dpmpp_2s_ancestral_cfg_pp mixes predictions of two levels, and is not."""
    start, sigmas, form = mx.linspace(-9, 9, 16).reshape(1, 4, 4, 1), [*levels(5), 0.0], SAMPLERS[name].cfg_pp
    assert SAMPLERS[form].unconditional
    plain = run(name, gaussian, start, sigmas, unit_noise(start.shape))
    for ours, theirs in zip(run(form, gaussian, start, sigmas, unit_noise(start.shape)), plain, strict=True):
        assert np.allclose(np.array(ours.latents), np.array(theirs.latents), atol=1e-5)


def test_restart_goes_up_again_and_makes_as_many_steps_as_it_was_asked_for():
    for n, climbs in ((19, 0), (20, 1), (35, 1), (36, 2), (50, 2)):
        sigmas = [*levels(n - 1, 14.6, 0.03), 0.0]
        steps = list(run("restart", gaussian, mx.ones((1, 1, 1, 1)) * 14, sigmas, unit_noise((1, 1, 1, 1))))
        assert len(steps) == n
        assert sum(later.sigma > sooner.sigma for sooner, later in pairwise(steps)) == climbs
        assert steps[-1].sigma == 0


def test_dpm_adaptive_takes_more_steps_for_less_error():
    exact = 14.0 * math.sqrt((SPREAD**2 + 0.03**2) / (SPREAD**2 + 14.0**2))
    counts, error = [], 1.0
    for rtol in (0.2, 0.05, 0.002, 0.0005):
        start = mx.full((1, 1, 1, 1), 14.0)
        steps = list(run("dpm_adaptive", gaussian, start, [14.0, 0.03, 0.0], rtol=rtol, atol=rtol / 5))
        counts.append(len(steps))
        error = abs(steps[-1].latents.item() / exact - 1)
        assert [step.index for step in steps] == list(range(len(steps)))
    assert counts == sorted(set(counts))
    assert error < 2e-3


def test_a_step_is_a_value():
    step = Step(0, 1.0, mx.zeros(1), mx.zeros(1))
    with pytest.raises(AttributeError):
        step.index = 2  # type: ignore[misc]
