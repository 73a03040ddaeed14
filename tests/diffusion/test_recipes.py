"""The samplers of A1111 (k-diffusion) and ComfyUI: numbers in recipes.json, which came from those programs themselves.

All run on one analytic denoiser from one start, with noise drawn as those programs draw it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from oracle_schedulers import SD1

from mlxdiff.catalogue import find_sampler
from mlxdiff.diffusion.brownian import brownian_noise, shared_brownian_noise
from mlxdiff.diffusion.guidance import guided
from mlxdiff.diffusion.programs import program_schedule
from mlxdiff.diffusion.ramps import karras
from mlxdiff.diffusion.samplers import sample
from mlxdiff.diffusion.schedule import SchedulerConfig

RECIPES = json.loads((Path(__file__).parent / "recipes.json").read_text())
KDIFFUSION, COMFY = RECIPES["a1111_kdiffusion"], RECIPES["comfy"]
INDICES = RECIPES["definition"]["value_indices_flat"]
LOW, HIGH = 0.0291675, 14.614642
SIGMAS = RECIPES["definition"]["sigmas"]["5"]


def nhwc(x: torch.Tensor) -> mx.array:
    return mx.array(x.permute(0, 2, 3, 1).contiguous().numpy())


def start(high: float = HIGH) -> mx.array:
    return nhwc(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * high)


def positive(latents: mx.array, sigma: float) -> mx.array:
    return latents / (1 + sigma**2) + 0.3 * mx.tanh(latents) * (sigma / (1 + sigma))


def negative(latents: mx.array, sigma: float) -> mx.array:
    return latents / (1 + sigma**2)


class Both:
    """A guidance that gives D, and the negative branch beside it."""

    def branches(self, _sigma):
        return ("negative", "positive")

    def combine(self, denoised, _latents, _sigma):
        return denoised["positive"]


def denoiser():
    return guided(lambda x, s, _: {"negative": negative(x, s), "positive": positive(x, s)}, Both())


def sequence() -> Callable[..., mx.array]:
    generator = torch.Generator().manual_seed(1234)
    return lambda *_: nhwc(torch.randn((1, 4, 8, 8), generator=generator))


def levels(steps: int) -> list[float]:
    return SIGMAS if steps == 5 else [*karras(steps, HIGH, LOW).tolist(), 0.0]


def close(walk, expected, tolerance=2e-5) -> None:
    latents = np.array(list(walk)[-1].latents).transpose(0, 3, 1, 2).reshape(-1)
    scale = max(abs(value) for value in expected["values"])
    assert latents[INDICES] == pytest.approx(expected["values"], abs=tolerance * scale)
    assert latents.sum() == pytest.approx(expected["sum"], abs=tolerance * expected["abs_sum"])


def walk(name: str, sigmas, noise=None, high=HIGH, **options):
    row = find_sampler(name)
    given = {} if row.noise == "none" else {"noise": sequence() if noise is None else noise}
    return row.run(denoiser(), start(high), sigmas, **given, **row.settle(options))


SEQUENCE = {
    "euler": ("Euler", {}),
    "euler_churn10": ("Euler", {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}),
    "euler_ancestral": ("Euler a", {}),
    "euler_ancestral_eta0.5": ("Euler a", {"eta": 0.5}),
    "heun": ("Heun", {}),
    "heun_churn10": ("Heun", {"s_churn": 10.0}),
    "dpm_2": ("DPM2", {}),
    "dpm_2_churn10": ("DPM2", {"s_churn": 10.0}),
    "dpm_2_ancestral": ("DPM2 a", {}),
    "lms": ("LMS", {}),
    "dpmpp_2s_ancestral": ("DPM++ 2S a", {}),
    "dpmpp_2s_ancestral_eta0": ("DPM++ 2S a", {"eta": 0.0}),
    "dpmpp_sde_eta0": ("DPM++ SDE", {"eta": 0.0}),
    "dpmpp_2m": ("DPM++ 2M", {}),
    "dpmpp_2m_sde_eta0": ("DPM++ 2M SDE", {"eta": 0.0}),
    "dpmpp_3m_sde_eta0": ("DPM++ 3M SDE", {"eta": 0.0}),
    "restart": ("Restart", {}),
}


@pytest.mark.parametrize("case", SEQUENCE)
def test_k_diffusions_samplers(case):
    name, options = SEQUENCE[case]
    for steps in (int(key) for key in KDIFFUSION[case] if key.isdigit()):
        close(walk(name, levels(steps), **options), KDIFFUSION[case][str(steps)])


@pytest.mark.parametrize("case", ["dpm_2_discard", "dpm_2_ancestral_discard"])
def test_a_schedule_without_its_last_level_but_one(case):
    name = {"dpm_2_discard": "DPM2", "dpm_2_ancestral_discard": "DPM2 a"}[case]
    assert find_sampler(name).discards_penultimate
    sigmas = levels(6)
    close(walk(name, [*sigmas[:5], 0.0]), KDIFFUSION[case]["5"])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpm_fast_and_adaptive(eta):
    sigmas = [HIGH, 5.0, 2.0, 1.0, LOW, 0.0]
    fast = list(walk("DPM fast", sigmas, eta=eta))
    assert [step.index for step in fast] == [0, 1, 2, 3, 4]
    close(fast, KDIFFUSION[f"dpm_fast_eta{eta:g}"]["5"])
    close(walk("DPM adaptive", sigmas, eta=eta), KDIFFUSION[f"dpm_adaptive_eta{eta:g}"]["5"], tolerance=1e-4)
    assert dict(find_sampler("DPM adaptive").a1111_defaults) == {"eta": 1.0}


BROWNIAN = {
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
}


@pytest.mark.parametrize(("case", "name"), BROWNIAN.items())
def test_k_diffusions_samplers_on_a_brownian_path(case, name):
    noise = brownian_noise([1234], 8, 8, 4, (SIGMAS[-2], SIGMAS[0]))
    close(walk(name, SIGMAS, noise), KDIFFUSION[case]["5"], tolerance=1e-4)
    shared = shared_brownian_noise(1234, 1, 8, 8, 4, (SIGMAS[-2], SIGMAS[0]))
    close(walk(name, SIGMAS, shared), COMFY[case]["5"], tolerance=1e-4)


def test_a_schedule_without_its_last_level_but_one_on_a_brownian_path():
    sigmas = levels(6)
    assert find_sampler("DPM++ 3M SDE").discards_penultimate == ("a1111",)
    noise = brownian_noise([1234], 8, 8, 4, (sigmas[4], sigmas[0]))
    # A1111's levels are fp32, and so are the ends of its tree.
    close(walk("DPM++ 3M SDE", [*sigmas[:5], 0.0], noise), KDIFFUSION["dpmpp_3m_sde_discard"]["5"], tolerance=3e-4)


COMFYS = (
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "ddpm",
    "lcm",
    "ipndm",
    "res_multistep",
    "ddim",
)


@pytest.mark.parametrize("name", COMFYS)
def test_comfyuis_samplers(name):
    close(walk(name, SIGMAS), COMFY[name]["5"])


def test_comfyuis_ancestral_form_of_res_multistep():
    close(walk("res_multistep", SIGMAS, eta=1.0), COMFY["res_multistep_ancestral"]["5"])


TIMESTEPS = RECIPES["a1111_timesteps"]


@pytest.mark.parametrize(
    ("case", "sampler", "options"),
    [
        ("ddim", "DDIM", {}),
        ("ddim_eta1", "DDIM", {"eta": 1.0}),
        ("ddim_cfgpp", "DDIM CFG++", {}),
        ("unipc_bh1", "UniPC", dict(find_sampler("UniPC").a1111_defaults)),
        ("unipc_bh2", "UniPC", {"order": 3, "solver_type": "bh2"}),
    ],
)
@pytest.mark.parametrize("steps", [5, 20])
def test_a1111s_samplers_of_timesteps(case, sampler, options, steps):
    """They work on latents of unit variance, from unit noise to one timestep above the cleanest."""
    if str(steps) not in TIMESTEPS[case]:
        return
    expected = TIMESTEPS[case][str(steps)]
    row = find_sampler(sampler)
    plan = program_schedule("a1111", SchedulerConfig.from_dict(SD1, row.name), steps)
    assert list(plan.timesteps) == pytest.approx(expected["t_called"], abs=2e-2)
    walk = list(sample(row, denoiser(), start(plan.init_noise_sigma), plan, sequence(), options))
    last = walk[-1]
    close([replace(last, latents=plan.end(last.latents))], expected)


def test_a1111s_plms_asks_about_the_second_timestep_twice():
    expected = TIMESTEPS["plms"]["20"]
    plan = program_schedule("a1111", SchedulerConfig.from_dict(SD1, "pndm"), 20)
    called = []

    def counted(latents, sigma):
        called.append(plan.timestep(sigma))
        return positive(latents, sigma)

    walk = list(sample(find_sampler("PLMS"), counted, start(plan.init_noise_sigma), plan, sequence()))
    assert called == pytest.approx(expected["t_called"])
    close([replace(walk[-1], latents=plan.end(walk[-1].latents))], expected)
