from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
import torch
from oracle_schedulers import LCM, SD1, SD21, scheduler_of

from mlxdiff.diffusion.prediction import consistency, denoiser, to_denoised, to_output
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule
from mlxdiff.errors import UnsupportedError

TYPES = ("epsilon", "v_prediction", "sample")


def array(seed: int, scale: float = 1.0) -> mx.array:
    return mx.random.normal((2, 4, 4, 4), key=mx.random.key(seed)) * scale


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_true_outputs_give_back_x0(prediction_type, sigma):
    """From the definitions: z = alpha x0 + s noise, and v = alpha noise - s x0."""
    x0, noise = array(0), array(1)
    alpha, s = 1 / math.hypot(sigma, 1), sigma / math.hypot(sigma, 1)
    output = {"epsilon": noise, "v_prediction": alpha * noise - s * x0, "sample": x0}[prediction_type]
    denoised = to_denoised(prediction_type, output, x0 + sigma * noise, sigma)
    assert np.allclose(np.array(denoised), np.array(x0), atol=1e-5)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_to_output_is_the_inverse(prediction_type, sigma):
    latents, output = array(0, math.hypot(sigma, 1)), array(1)
    denoised = to_denoised(prediction_type, output, latents, sigma)
    assert np.allclose(np.array(to_output(prediction_type, denoised, latents, sigma)), np.array(output), atol=1e-4)


def test_unknown_types_are_refused():
    for convert in (to_denoised, to_output):
        with pytest.raises(UnsupportedError, match="'flow'"):
            convert("flow", array(0), array(1), 1.0)


def test_half_precision_outputs_are_converted_in_fp32():
    latents = array(0, 14.6)
    output = array(1).astype(mx.float16)
    denoised = to_denoised("epsilon", output, latents, 14.6)
    assert denoised.dtype == mx.float32
    assert np.allclose(np.array(denoised), np.array(latents) - 14.6 * np.array(output).astype(np.float64), atol=1e-5)


@pytest.mark.parametrize("config", [SD1, SD21], ids=["epsilon", "v_prediction"])
def test_the_network_sees_what_it_sees_in_diffusers_and_x0_is_the_same(config):
    theirs = scheduler_of(config, "euler", steps=7)
    plan = make_schedule(SchedulerConfig.from_dict(config, "euler"), 7)
    latents = array(3, 10.0)
    seen = {}

    def network(scaled, timestep):
        seen["scaled"], seen["timestep"] = np.array(scaled), timestep
        return mx.sin(scaled)

    denoised = denoiser(network, plan)(latents, plan.sigmas[2])
    x = torch.from_numpy(np.array(latents))
    theirs.set_begin_index(2)
    scaled = theirs.scale_model_input(x, theirs.timesteps[2])
    expected = theirs.step(torch.sin(scaled), theirs.timesteps[2], x).pred_original_sample
    assert np.allclose(seen["scaled"], scaled.numpy(), rtol=1e-6)
    assert seen["timestep"].dtype == mx.float32
    assert seen["timestep"].shape == ()
    assert seen["timestep"].item() == theirs.timesteps[2].item()
    assert np.allclose(np.array(denoised), expected.numpy(), rtol=1e-5, atol=1e-4)


def test_a_compiled_network_is_traced_once():
    plan = make_schedule(SchedulerConfig.from_dict(SD1, "euler"), 5)
    traces = []

    @mx.compile
    def network(scaled, timestep):
        traces.append(1)
        return scaled * mx.cos(timestep)

    denoise = denoiser(network, plan)
    for sigma in plan.sigmas[:-1]:
        mx.eval(denoise(array(0), sigma))
    assert len(traces) == 1


def test_only_the_schedules_own_levels_have_a_timestep():
    plan = make_schedule(SchedulerConfig.from_dict(SD1, "euler"), 5)
    assert [plan.timestep(sigma) for sigma in plan.sigmas[:-1]] == list(plan.timesteps)
    for sigma in (1.2345, plan.sigmas[-1]):
        with pytest.raises(ValueError, match="not in tuple"):
            plan.timestep(sigma)


def test_the_boundary_condition_is_diffusers():
    theirs = scheduler_of(LCM, "lcm")
    plan = make_schedule(SchedulerConfig.from_dict(LCM, "lcm"), 4)
    latents = array(0, 5.0)
    for sigma, timestep in zip(plan.sigmas[:-1], plan.timesteps, strict=True):
        c_skip, c_out = theirs.get_scalings_for_boundary_condition_discrete(int(timestep))
        preserved = np.array(latents) / math.hypot(sigma, 1)
        bounded = consistency(lambda x, _: mx.cos(x), plan)(latents, sigma)
        assert np.allclose(np.array(bounded), c_out * np.cos(np.array(latents)) + c_skip * preserved, atol=1e-6)


def test_at_timestep_zero_the_boundary_condition_is_the_identity():
    config = SchedulerConfig.from_dict({**LCM, "num_train_timesteps": 50}, "lcm")  # distilled on every timestep
    plan = make_schedule(config, 50)
    assert plan.timesteps[-1] == 0
    latents = array(0)
    bounded = consistency(lambda x, _: x * 0 + 99, plan)(latents, plan.sigmas[-2])
    assert np.allclose(np.array(bounded), np.array(latents) / math.hypot(plan.sigmas[-2], 1), atol=1e-6)
