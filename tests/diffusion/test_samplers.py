"""What each integrator is, by mathematics alone; test_parity.py compares them with diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from oracle_schedulers import CHECKPOINTS, LCM, SD1

from mlxdiff.diffusion.prediction import denoiser
from mlxdiff.diffusion.samplers import SAMPLERS, Step, pndm, sample
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule
from mlxdiff.errors import RequestError
from mlxdiff.request import SAMPLERS as NAMES

SPREAD = 0.5  # standard deviation of the Gaussian data below
DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if not sampler.stochastic]


def gaussian(latents: mx.array, sigma: float) -> mx.array:
    """The exact denoiser of data from N(0, SPREAD^2)."""
    return latents * (SPREAD**2 / (SPREAD**2 + sigma**2))


def levels(steps: int, high: float = 8.0, low: float = 0.25) -> list[float]:
    return (np.linspace(high ** (1 / 3), low ** (1 / 3), steps + 1) ** 3).tolist()


def last(steps: Iterator[Step]) -> mx.array:
    return list(steps)[-1].latents


def unit_noise(shape: tuple[int, ...], seed: int = 0) -> Callable[[], mx.array]:
    keys = iter(mx.random.split(mx.random.key(seed), 1000))
    return lambda: mx.random.normal(shape, key=next(keys))


def test_the_names_are_those_of_a_request_in_the_same_order():
    assert tuple(SAMPLERS) == NAMES


def test_the_table_says_which_samplers_need_noise():
    assert {name for name, sampler in SAMPLERS.items() if sampler.stochastic} == {
        "euler_ancestral",
        "dpmpp_2m_sde",
        "lcm",
    }


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_n_steps_yield_n_times_and_report_the_levels(name, steps):
    sampler, sigmas = SAMPLERS[name], [*levels(steps - 1), 0.0]
    noise = (unit_noise((1, 2, 2, 1)),) if sampler.stochastic else ()
    walk = list(sampler.run(gaussian, mx.ones((1, 2, 2, 1)) * 8, sigmas, *noise))
    assert [step.index for step in walk] == list(range(steps))
    assert [step.sigma for step in walk] == sigmas[1:]
    assert all(step.latents.shape == step.denoised.shape == (1, 2, 2, 1) for step in walk)
    assert all(step.latents.dtype == mx.float32 for step in walk)
    if name != "pndm":  # whose last step follows an average of predictions
        assert np.allclose(np.array(walk[-1].latents), np.array(walk[-1].denoised), atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_denoiser_is_called_as_often_as_the_method_says(name):
    calls = []

    def counted(latents, sigma):
        calls.append(sigma)
        return gaussian(latents, sigma)

    sampler, sigmas = SAMPLERS[name], [*levels(4), 0.0]
    noise = (unit_noise((1, 1, 1, 1)),) if sampler.stochastic else ()
    last(sampler.run(counted, mx.ones((1, 1, 1, 1)), sigmas, *noise))
    if name == "heun":
        expected = [sigmas[0], *(sigma for sigma in sigmas[1:-1] for _ in range(2))]
    elif name == "pndm":
        expected = [sigmas[0], sigmas[1], *sigmas[1:-1]]
    else:
        expected = sigmas[:-1]
    assert calls == expected


@pytest.mark.parametrize(
    ("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpmpp_2m", 2), ("pndm", 2)], ids=str
)
def test_halving_the_steps_divides_the_error_by_two_to_the_order(name, order):
    """On Gaussian data the ODE has the solution x(sigma) = x(s) sqrt((c^2 + sigma^2) / (c^2 + s^2))."""
    high, low = 8.0, 0.25
    exact = math.sqrt((SPREAD**2 + low**2) / (SPREAD**2 + high**2))
    errors = [
        abs(float(last(SAMPLERS[name].run(gaussian, mx.ones((1, 1, 1, 1)), levels(n, high, low))).item()) / exact - 1)
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
            float(last(pndm(gaussian, mx.ones((1, 1, 1, 1)), levels(steps), prediction_type)).item()) / exact - 1
        )

    assert 0.7 < math.log2(error(64, "v_prediction") / error(128, "v_prediction")) < 1.3
    assert error(32, "epsilon") < error(32, "v_prediction")


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_deterministic_samplers_agree_in_the_limit(name):
    sigmas = [*levels(400, 10.0, 0.002), 0.0]
    start = mx.linspace(-20, 20, 64).reshape(1, 8, 8, 1)

    def two_modes(latents, sigma):  # the exact denoiser of data that is +1 or -1
        return mx.tanh(latents / sigma**2)

    end = np.array(last(SAMPLERS[name].run(two_modes, start, sigmas)))
    assert np.allclose(np.abs(end), 1, atol=0.02)
    assert np.array_equal(np.sign(end), np.sign(np.array(start)))


@pytest.mark.parametrize(("name", "steps", "bias"), [("euler_ancestral", 400, 0.02), ("dpmpp_2m_sde", 60, 0.02)])
def test_the_stochastic_samplers_end_with_the_variance_of_the_data(name, steps, bias):
    shape = (1, 256, 256, 1)
    noise = unit_noise(shape)
    end = np.array(last(SAMPLERS[name].run(gaussian, noise() * 20, [*levels(steps, 20, 0.01), 0.0], noise)))
    n = end.size
    assert abs(end.mean()) < 4 * SPREAD / math.sqrt(n)
    assert abs(end.var() / SPREAD**2 - 1) < bias + 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_the_noise_that_is_added_keeps_each_level(name):
    """After every step the latents are again data plus noise of that step's sigma, up to the discretisation."""
    shape = (1, 128, 128, 1)
    noise = unit_noise(shape, seed=1)
    start = noise() * math.hypot(SPREAD, 20)
    for step in SAMPLERS[name].run(gaussian, start, [*levels(200, 20, 0.05), 0.0], noise):
        expected = SPREAD**2 + step.sigma**2
        assert abs(float(mx.var(step.latents).item()) / expected - 1) < 0.08


@pytest.mark.parametrize("steps", [1, 4])
def test_consistency_sampling_with_the_exact_function_is_exact_in_any_number_of_steps(steps):
    def exact(latents, sigma):  # follows the ODE of Gaussian data to sigma 0
        return latents * (SPREAD / math.hypot(SPREAD, sigma))

    shape = (1, 256, 256, 1)
    noise = unit_noise(shape)
    end = np.array(
        last(SAMPLERS["lcm"].run(exact, noise() * math.hypot(SPREAD, 10), [*levels(steps - 1, 10), 0.0], noise))
    )
    assert abs(end.var() / SPREAD**2 - 1) < 0.03


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_evaluated(name):
    """On latents of 256 TB, which only stay an expression as long as nobody looks at them."""
    shape = (1, 4_000_000, 4_000_000, 4)
    sampler = SAMPLERS[name]
    noise = (lambda: mx.zeros(shape),) if sampler.stochastic else ()
    walk = list(sampler.run(gaussian, mx.zeros(shape), [*levels(4), 0.0], *noise))
    assert walk[-1].latents.shape == shape


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_computed_before_the_first_step_is_asked_for(name):
    def explode(*_):
        raise AssertionError

    sampler = SAMPLERS[name]
    noise = (explode,) if sampler.stochastic else ()
    walk = sampler.run(explode, mx.zeros((1, 1, 1, 1)), [*levels(2), 0.0], *noise)
    with pytest.raises(AssertionError):
        next(walk)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_the_first_step_from_nearly_infinite_noise_keeps_its_digits(name):
    """From sigma = 2^30, as zero terminal SNR starts: in double precision by hand, D + (x - D) r (or r^2)."""
    sigma, sigma_next = 2.0**30, 12.0
    x = np.linspace(-3, 3, 64) * sigma
    denoised = np.cos(np.arange(64.0))
    sampler = SAMPLERS[name]
    noise = (lambda: mx.zeros((1, 8, 8, 1)),) if sampler.stochastic else ()
    walk = sampler.run(
        lambda *_: mx.array(denoised.reshape(1, 8, 8, 1)),
        mx.array(x.reshape(1, 8, 8, 1)),
        [sigma, sigma_next, 0.0],
        *noise,
    )
    ratio = 0 if name == "lcm" else sigma_next / sigma if not sampler.stochastic else (sigma_next / sigma) ** 2
    expected = denoised + (x - denoised) * ratio
    assert np.allclose(np.array(next(walk).latents).reshape(-1), expected, atol=1e-5)


def test_dpmpp_2m_uses_the_step_sizes_in_log_sigma():
    """One second-order step by hand (Lu et al. 2022b, equation 4.7 divided by alpha), with unequal steps."""
    sigmas, constants = [10.0, 4.0, 1.0], iter([2.0, 5.0])
    walk = SAMPLERS["dpmpp_2m"].run(lambda *_: mx.array([[[[next(constants)]]]]), mx.array([[[[7.0]]]]), sigmas)
    first, second = (float(step.latents.item()) for step in walk)
    assert first == pytest.approx(0.4 * 7 + 0.6 * 2)
    r = math.log(10 / 4) / math.log(4 / 1)
    target = (1 + 1 / (2 * r)) * 5 - 1 / (2 * r) * 2
    assert second == pytest.approx(0.25 * first + 0.75 * target)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sample_runs_a_schedules_own_sampler(name):
    config = CHECKPOINTS["lcm"] if name == "lcm" else SD1
    plan = make_schedule(SchedulerConfig.from_dict(config, name), 4)
    noise = unit_noise((1, 4, 4, 4))
    denoise = denoiser(lambda x, t: mx.sin(x) * mx.cos(t), plan)
    walk = list(sample(name, denoise, noise() * plan.init_noise_sigma, plan, noise))
    assert [step.sigma for step in walk] == list(plan.sigmas[1:])
    assert bool(mx.all(mx.isfinite(walk[-1].latents)))


def test_sample_puts_the_boundary_condition_around_the_denoiser_of_lcm():
    plan = make_schedule(SchedulerConfig.from_dict({**LCM, "timestep_scaling": 0.0}), 2)  # all skip, no output
    latents = mx.ones((1, 1, 1, 4)) * 3
    first = next(sample("lcm", lambda x, _: x * 0 + 99, latents, plan, lambda: mx.zeros((1, 1, 1, 4))))
    assert np.allclose(np.array(first.denoised), 3 / math.hypot(plan.sigmas[0], 1))


def test_sample_refuses_an_unknown_name():
    plan = make_schedule(SchedulerConfig.from_dict(SD1), 2)
    with pytest.raises(RequestError, match="no sampler 'plms'") as caught:
        sample("plms", gaussian, mx.zeros((1, 1, 1, 4)), plan, lambda: mx.zeros((1, 1, 1, 4)))
    assert ", ".join(NAMES) in caught.value.remedy
