"""Flow matching against diffusers' FlowMatchEulerDiscreteScheduler, level by level and step by step."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import torch
from oracle_schedulers import SEEDS, SHAPE, denoiser, fresh_noise, mlx_network, nhwc, picture, torch_network

from mlxdiff.catalogue import SAMPLERS
from mlxdiff.diffusion.flow import FlowConfig, make_flow_schedule
from mlxdiff.diffusion.guidance import Unguided, guided
from mlxdiff.diffusion.samplers import sample
from mlxdiff.diffusion.space import HUGE_SIGMA, from_flow, to_flow
from mlxdiff.errors import CheckpointError, MlxdiffError, RequestError, UnsupportedError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Img2ImgPipeline
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
SCHNELL = {**SD3, "shift": 1.0, "use_dynamic_shifting": False}
DEV = {**SD3, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
LINEAR = {**DEV, "time_shift_type": "linear"}
TERMINAL = {**DEV, "shift_terminal": 0.1}
CONFIGS = {"sd3": SD3, "schnell": SCHNELL, "dev": DEV, "linear": LINEAR, "terminal": TERMINAL}
STEPS = (2, 4, 5, 28, 50)


def theirs(config, steps, even=False, ramp=None, mu=None):
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    scheduler = FlowMatchEulerDiscreteScheduler(**own, **({f"use_{ramp}_sigmas": True} if ramp else {}))
    levels = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if even else {}
    scheduler.set_timesteps(steps, mu=mu, **levels)
    return scheduler


def mu_of(config) -> float | None:
    return FlowConfig.from_dict(config).mu(1024) if config.get("use_dynamic_shifting") else None


def ours(config, steps, even=False, ramp=None, **more):
    return make_flow_schedule(FlowConfig.from_dict(config), steps, ramp, mu=mu_of(config), even=even, **more)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_levels_and_timesteps_are_diffusers(name, even):
    for steps in STEPS:
        expected, plan = theirs(CONFIGS[name], steps, even, mu=mu_of(CONFIGS[name])), ours(CONFIGS[name], steps, even)
        levels = [sigma / (1 + sigma) for sigma in plan.sigmas]
        assert levels == pytest.approx(expected.sigmas.tolist(), abs=3e-7)
        assert list(plan.timesteps) == pytest.approx(expected.timesteps.tolist(), abs=2e-4)


@pytest.mark.parametrize("ramp", ["karras", "exponential", "beta"])
def test_ramps_are_diffusers(ramp):
    for steps in (4, 28):
        levels = [sigma / (1 + sigma) for sigma in ours(SD3, steps, ramp=ramp).sigmas]
        assert levels == pytest.approx(theirs(SD3, steps, ramp=ramp).sigmas.tolist(), abs=3e-7)
        asked = FlowConfig.from_dict({**SD3, f"use_{ramp}_sigmas": True})
        assert make_flow_schedule(asked, steps) == ours(SD3, steps, ramp=ramp)


def test_mu_is_fluxs():
    for tokens in (256, 1024, 4096, 8192):
        assert FlowConfig.from_dict(DEV).mu(tokens) == pytest.approx(calculate_shift(tokens, 256, 4096, 0.5, 1.15))


@pytest.mark.parametrize("strength", [None, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_eulers_steps_are_diffusers(name, even, strength):
    for steps in (4, 10, 28):
        scheduler = theirs(CONFIGS[name], steps, even, mu=mu_of(CONFIGS[name]))
        plan = ours(CONFIGS[name], steps, even, strength=strength)
        noise = torch.cat(
            [torch.randn((1, SHAPE[2], *SHAPE[:2]), generator=torch.Generator().manual_seed(s)) for s in SEEDS]
        )
        timesteps, x = scheduler.timesteps, noise
        if strength is not None:
            pipeline = SimpleNamespace(scheduler=scheduler)
            timesteps, _ = StableDiffusion3Img2ImgPipeline.get_timesteps(pipeline, steps, strength, None)
            x = scheduler.scale_noise(torch.from_numpy(picture()).permute(0, 3, 1, 2), timesteps[:1], noise)
        assert plan.steps == len(timesteps)
        draw = fresh_noise()
        start = plan.start(draw(), None if strength is None else mx.array(picture()))
        walk = list(sample(SAMPLERS["euler"], denoiser(mlx_network, plan), start, plan, draw))
        for step, t in zip(walk, timesteps, strict=True):
            x = scheduler.step(torch_network(x, t), t, x).prev_sample
            mine = np.array(step.latents) / (1 + step.sigma)
            assert np.abs(mine - nhwc(x)).max() < 2e-5 * np.abs(nhwc(x)).max()
        assert mx.array_equal(plan.end(walk[-1].latents), walk[-1].latents)


@pytest.mark.parametrize(
    "name",
    [n for n, r in SAMPLERS.items() if not (r.placement.distilled or r.placement.repeated or r.own_levels)],
)
def test_every_other_sampler_walks_a_flow(name):
    """On data N(0, c^2) the exact flow is known: the ODE scales by sqrt((c^2 + sigma^2) / (c^2 + sigma_0^2))."""
    levels = [1.0, *(to_flow(sigma) for sigma in np.geomspace(100, 0.01, 80)), 0.0]
    plan = make_flow_schedule(FlowConfig.from_dict(SD3, name), sigmas=levels)
    c, noise = 0.5, fresh_noise()

    def exact(scaled, timestep):  # noise - x0 expected at z
        s = timestep.item() / 1000
        return scaled * ((s - (1 - s) * c * c) / ((1 - s) ** 2 * c * c + s * s))

    plain = denoiser(exact, plan)
    denoise = guided(lambda x, sigma, _: {"positive": plain(x, sigma)}, Unguided())
    end = np.array(list(sample(SAMPLERS[name], denoise, plan.start(noise()), plan, noise))[-1].latents)
    assert np.all(np.isfinite(end))
    assert end.std() == pytest.approx(c, rel=0.2)


def test_a_run_from_pure_noise_starts_at_a_huge_finite_level():
    plan = ours(SD3, 4)
    assert plan.sigmas[0] == plan.init_noise_sigma == HUGE_SIGMA
    assert plan.timestep(HUGE_SIGMA) == 1000
    scaled = plan.scale_input(plan.start(mx.ones((1, 1, 1, 1))), HUGE_SIGMA)
    assert scaled.item() == pytest.approx(1)


def test_levels_may_be_given_as_they_are():
    plan = ours(SD3, None, sigmas=[1.0, 0.5, 0.25, 0.0])
    assert plan.sigmas == (HUGE_SIGMA, 1.0, from_flow(0.25), 0.0)
    assert plan.timesteps == (1000, 500, 250)
    with pytest.raises(RequestError, match=r"begin at 14\.6"):
        ours(SD3, None, sigmas=[14.6, 0.5, 0.0])


@pytest.mark.parametrize(
    ("config", "arguments", "problem"),
    [
        (SD3, {"steps": 0}, "0 steps"),
        (SD3, {"steps": 4, "strength": 0.0}, "leaves none"),
        (SD3, {"steps": 4, "strength": math.nan}, "strength"),
        (SD3, {"steps": 4, "schedule": "trailing"}, "spaces discrete timesteps"),
        (SD3, {}, "Neither"),
        (DEV, {"steps": 4}, "no mu"),
    ],
)
def test_what_does_not_fit_is_refused(config, arguments, problem):
    with pytest.raises(RequestError, match=problem):
        make_flow_schedule(FlowConfig.from_dict(config), **arguments)


@pytest.mark.parametrize("sampler", ["lcm", "pndm", "tcd", "restart", "dpm_adaptive"])
def test_samplers_of_discrete_timesteps_are_refused(sampler):
    with pytest.raises(RequestError, match="flow matching"):
        FlowConfig.from_dict(SD3, sampler)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"invert_sigmas": True}, UnsupportedError),
        ({"stochastic_sampling": True}, UnsupportedError),
        ({"time_shift_type": "cubic"}, UnsupportedError),
        ({"shift": 0}, CheckpointError),
        ({"shift": "3"}, CheckpointError),
        ({"shift_terminal": 1.0}, CheckpointError),
        ({"base_image_seq_len": -1}, CheckpointError),
        ({"max_image_seq_len": 256}, CheckpointError),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, error):
    with pytest.raises(error) as caught:
        FlowConfig.from_dict({**SD3, **changes})
    assert isinstance(caught.value, MlxdiffError)
