from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_schedulers import SD1, SD21, denoiser, scheduler_of

from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule
from mlxdiff.diffusion.space import (
    HUGE_SIGMA,
    FlowMatching,
    Training,
    VariancePreserving,
    from_flow,
    to_flow,
    training_sigmas,
)
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
    denoised = VariancePreserving(prediction_type).to_denoised(output, x0 + sigma * noise, sigma)
    assert np.allclose(np.array(denoised), np.array(x0), atol=1e-5)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_to_output_is_the_inverse(prediction_type, sigma):
    latents, output = array(0, math.hypot(sigma, 1)), array(1)
    space = VariancePreserving(prediction_type)
    denoised = space.to_denoised(output, latents, sigma)
    assert np.allclose(np.array(space.to_output(denoised, latents, sigma)), np.array(output), atol=1e-4)


def test_unknown_types_are_refused():
    with pytest.raises(UnsupportedError, match="'flow'"):
        VariancePreserving("flow")


def test_half_precision_outputs_are_converted_in_fp32():
    latents = array(0, 14.6)
    output = array(1).astype(mx.float16)
    denoised = VariancePreserving("epsilon").to_denoised(output, latents, 14.6)
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


def test_the_timestep_of_any_level_is_diffusers():
    theirs = scheduler_of(SD1, "euler", steps=7)
    logs = np.log((((1 - theirs.alphas_cumprod) / theirs.alphas_cumprod) ** 0.5).numpy())
    space = VariancePreserving("epsilon")
    for sigma in (0.01, 0.0292, 0.1, 1.2345, 5.0, 14.0, 14.6, 20.0):
        expected = float(theirs._sigma_to_t(np.array(sigma), logs))
        assert space.timestep(sigma) == pytest.approx(expected, abs=2e-3)


def test_at_a_level_of_training_the_timestep_is_whole_and_at_zero_it_is_the_cleanest():
    space = VariancePreserving("v_prediction")
    table = training_sigmas(Training())
    assert [space.timestep(float(table[i])) for i in (0, 1, 500, 998, 999)] == pytest.approx([0, 1, 500, 998, 999])
    assert space.timestep(0.0) == 0


@given(st.floats(0, 1))
def test_flow_matching_levels_go_both_ways(s):
    assert to_flow(from_flow(s)) == pytest.approx(s, rel=1e-9)
    assert 0 <= from_flow(s) <= HUGE_SIGMA


@pytest.mark.parametrize("s", [0.02, 0.5, 0.99, 1.0])
def test_flow_matching_by_its_definition(s):
    """z = (1 - s) x0 + s noise; the network says noise - x0 and is told 1000 s."""
    space, sigma = FlowMatching(), from_flow(s)
    x0, noise = array(0), array(1)
    latents = x0 + noise * sigma
    assert np.allclose(np.array(latents * space.scale(sigma)), np.array((1 - s) * x0 + s * noise), atol=1e-6)
    assert space.timestep(sigma) == pytest.approx(1000 * s)
    output = noise - x0
    assert np.allclose(np.array(space.to_denoised(output, latents, sigma)), np.array(x0), atol=1e-5)
    assert np.allclose(np.array(space.to_output(x0, latents, sigma)), np.array(output), atol=1e-4)


def test_half_precision_flow_outputs_are_converted_in_fp32():
    denoised = FlowMatching().to_denoised(array(1).astype(mx.float16), array(0), 1.0)
    assert denoised.dtype == mx.float32
