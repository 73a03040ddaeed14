"""diffusers' schedulers as the oracle of ours: the same configs, the same analytic network, the same noise.

`trajectory(...)` and `reference(...)` return every step's latents, (B, h, w, C) float64 in variance-exploding form;
`max_error(...)` compares the two, for tests and for the table of errors in the benchmarks.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from mlxdiff.catalogue import SAMPLERS
from mlxdiff.diffusion.noise import NoiseStream, batch_noise
from mlxdiff.diffusion.samplers import sample
from mlxdiff.diffusion.schedule import Schedule, SchedulerConfig, make_schedule
from mlxdiff.diffusion.step import Denoiser

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    from diffusers import StableDiffusionImg2ImgPipeline

SHAPE = (8, 8, 4)  # h, w, C
SEEDS = (0, 1)

# What the published checkpoints say.
SD1 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SD21 = {**SD1, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
TURBO = {
    **SDXL,
    "_class_name": "EulerAncestralDiscreteScheduler",
    "timestep_spacing": "trailing",
    "sigma_max": None,
    "sigma_min": None,
    "timestep_type": "discrete",
    "rescale_betas_zero_snr": False,
}
LCM = {
    "_class_name": "LCMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "thresholding": False,
    "timestep_scaling": 10.0,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
ZERO_SNR = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "thresholding": False,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}
CHECKPOINTS = {"sd1": SD1, "sd21": SD21, "sdxl": SDXL, "turbo": TURBO, "lcm": LCM, "zero_snr": ZERO_SNR}

CLASSES: dict[str, Any] = {
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "dpm2": diffusers.KDPM2DiscreteScheduler,
    "dpm2_ancestral": diffusers.KDPM2AncestralDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "dpmpp_2m_sde": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "tcd": diffusers.TCDScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "lms": diffusers.LMSDiscreteScheduler,
    "deis": diffusers.DEISMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "sa_solver": diffusers.SASolverScheduler,
}
EXTRA = {
    "pndm": {"skip_prk_steps": True},
    "dpmpp_2m": {"algorithm_type": "dpmsolver++"},
    "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
    "ddpm": {"clip_sample": False},
    "sa_solver": {"algorithm_type": "data_prediction"},
}
SPACED = [name for name in CLASSES if not SAMPLERS[name].placement.distilled]
RAMPS = ("karras", "exponential", "beta")
RAMPED = ("euler", "heun", "dpm2", "lms", "dpmpp_2m", "dpmpp_2m_sde", "deis", "unipc", "sa_solver")
TWICE = ("heun", "dpm2", "dpm2_ancestral")  # two evaluations a step, one in the last
WITH_SIGMAS = (
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "deis",
    "unipc",
    "sa_solver",
)  # variance-preserving, but with a list of sigmas
VARIANCE_PRESERVING = ("ddim", "pndm", "lcm", "tcd", "ddpm", *WITH_SIGMAS)


def scheduler_of(config: Mapping[str, Any], sampler: str, steps: int | None = None, schedule: str | None = None) -> Any:
    """The diffusers scheduler that a user gets by switching a pipeline with this config to another class."""
    extra = dict(EXTRA.get(sampler, {}))
    if schedule in RAMPS:
        extra |= {f"use_{ramp}_sigmas": ramp == schedule for ramp in RAMPS}
    elif schedule is not None:
        extra["timestep_spacing"] = schedule
        if sampler in ("euler", "lms", *TWICE, *WITH_SIGMAS):
            extra |= {f"use_{ramp}_sigmas": False for ramp in RAMPS}
    extra = {key: value for key, value in extra.items() if value is not None}
    scheduler = copy.deepcopy(_constructed(json.dumps(config, sort_keys=True), sampler, json.dumps(extra)))
    if steps is not None:
        with _unwarned():
            scheduler.set_timesteps(steps)
    return scheduler


@functools.cache
def _constructed(config: str, sampler: str, extra: str) -> Any:
    """Both as JSON. Some classes compute a thousand timesteps when they are made, for half a second."""
    with _unwarned():
        given = json.loads(config)
        source = getattr(diffusers, given["_class_name"]).from_config(given)
        return CLASSES[sampler].from_config(source.config, **json.loads(extra))


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """diffusers hands tensors to numpy in a way that numpy 2 warns about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def torch_network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) and a scalar: smooth, bounded, nonlinear, and different for every channel and timestep."""
    t = torch.as_tensor(t, dtype=torch.float64)
    bend, tilt = torch.sin(t / 150).float(), torch.cos(t / 400).float()
    return torch.tanh(x * 0.9 + bend * 0.3) * (0.8 + tilt * 0.2) + torch.roll(x, 1, dims=1) * 0.05


def mlx_network(x: mx.array, t: mx.array) -> mx.array:
    """The same for (B, h, w, C)."""
    time = float(t.item())
    bend, tilt = np.float32(math.sin(time / 150)), np.float32(math.cos(time / 400))
    return mx.tanh(x * 0.9 + float(bend) * 0.3) * (0.8 + float(tilt) * 0.2) + mx.roll(x, 1, axis=3) * 0.05


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).double().numpy()


def reference(
    config: Mapping[str, Any],
    sampler: str,
    steps: int,
    schedule: str | None = None,
    strength: float | None = None,
    **step: Any,
) -> list[np.ndarray]:
    """Every step's latents as diffusers makes them, moved to variance-exploding form; `step` goes to its `step`."""
    scheduler = scheduler_of(config, sampler, steps, schedule)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    noise = torch.cat([torch.randn((1, SHAPE[2], *SHAPE[:2]), generator=g) for g in generators])
    if hasattr(scheduler, "set_begin_index"):  # or timesteps that coincide make the class leave the first out
        scheduler.set_begin_index(0)
    start = noise * scheduler.init_noise_sigma
    if strength is not None:
        timesteps = cut(scheduler, steps, strength)
        start = scheduler.add_noise(torch.from_numpy(picture()).permute(0, 3, 1, 2), noise, timesteps[:1])
        scheduler.timesteps_to_run = timesteps
    latents = run_scheduler(scheduler, start, generators, **step)
    if sampler in TWICE:
        latents = [*latents[1:-1:2], latents[-1]]
    if sampler == "pndm" and len(latents) > 1:  # the first step's two evaluations
        latents = latents[1:]
    if sampler in VARIANCE_PRESERVING:
        sigmas = levels_after(scheduler, sampler)
        latents = [x * math.sqrt(1 + sigma**2) for x, sigma in zip(latents, sigmas, strict=True)]
    return latents


def cut(scheduler: Any, steps: int, strength: float) -> torch.Tensor:
    """The timesteps that diffusers' img2img runs."""
    pipeline = SimpleNamespace(scheduler=scheduler)
    return StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, None)[0]


def picture() -> np.ndarray:
    """Latents to start img2img from, (B, h, w, C)."""
    return np.sin(np.arange(len(SEEDS) * math.prod(SHAPE), dtype=np.float32)).reshape(len(SEEDS), *SHAPE)


def run_scheduler(scheduler: Any, x: torch.Tensor, generators: Any, **step: Any) -> list[np.ndarray]:
    latents = []
    drawing = "generator" in inspect.signature(scheduler.step).parameters
    stochastic = {"generator": generators} if drawing else {}
    timesteps = getattr(scheduler, "timesteps_to_run", scheduler.timesteps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in timesteps:
            output = torch_network(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(output, t, x, **stochastic, **step).prev_sample
            latents.append(nhwc(x))
    return latents


def distinct(scheduler: Any) -> list[int]:
    return list(dict.fromkeys(scheduler.timesteps.tolist()))


def levels_after(scheduler: Any, sampler: str) -> list[float]:
    """The sigma that a variance-preserving scheduler's latents are read at after each step."""
    timesteps = getattr(scheduler, "timesteps_to_run", scheduler.timesteps)
    if sampler in WITH_SIGMAS:
        return scheduler.sigmas[1:].double().tolist()[-len(timesteps) :]
    bars = scheduler.alphas_cumprod.double()
    next_ones = timesteps.tolist()[2 if sampler == "pndm" else 1 :]
    end = last_alpha_bar(scheduler, sampler)
    if sampler == "pndm" and len(timesteps) == 2:  # a cut that leaves the warm-up alone ends where it warms up
        end = float(bars[timesteps[1]])
    return [math.sqrt((1 - bar) / bar) for bar in [*(float(bars[t]) for t in next_ones), end]]


def last_alpha_bar(scheduler: Any, sampler: str) -> float:
    """Where DDIM's, PNDM's and LCM's classes end: DDIM and PNDM one stride below their last timestep."""
    if sampler in ("lcm", "ddpm"):
        return 1.0
    if sampler == "tcd":
        return float(scheduler.alphas_cumprod[0])
    landing = distinct(scheduler)[-1] - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    return float(scheduler.alphas_cumprod.double()[landing] if landing >= 0 else scheduler.final_alpha_cumprod)


def denoiser(network: Any, plan: Schedule) -> Denoiser:
    """A network (scaled latents, timestep) -> output as samplers call it."""

    def denoise(latents: mx.array, sigma: float) -> mx.array:
        output = network(plan.scale_input(latents, sigma), mx.array(plan.timestep(sigma), dtype=mx.float32))
        return plan.to_denoised(output, latents, sigma)

    return denoise


def fresh_noise(seeds: Sequence[int] | None = None) -> Any:
    streams = [NoiseStream(seed) for seed in (SEEDS if seeds is None else seeds)]
    return lambda *_: batch_noise(streams, *SHAPE)


def trajectory(
    config: Mapping[str, Any],
    sampler: str,
    steps: int,
    schedule: str | None = None,
    strength: float | None = None,
    **options: Any,
) -> list[np.ndarray]:
    """Every step's latents as we make them."""
    plan = make_schedule(SchedulerConfig.from_dict(config, sampler), steps, schedule, strength)
    noise = fresh_noise()
    start = plan.start(noise(), None if strength is None else mx.array(picture()))
    walk = sample(SAMPLERS[sampler], denoiser(mlx_network, plan), start, plan, noise, options)
    return [np.array(step.latents).astype(np.float64) for step in walk]


def max_error(
    config: Mapping[str, Any],
    sampler: str,
    steps: int,
    schedule: str | None = None,
    strength: float | None = None,
    **options: Any,
) -> float:
    """The largest difference to diffusers in any step, relative to that step's largest latent."""
    ours = trajectory(config, sampler, steps, schedule, strength, **options)
    theirs = reference(config, sampler, steps, schedule, strength, **options)
    if len(ours) != len(theirs):
        raise AssertionError(f"{len(ours)} steps here, {len(theirs)} in diffusers")
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True))


def error_table(steps: Sequence[int] = (5, 20, 50)) -> dict[tuple[str, str], float]:
    """The largest error over `steps` of every sampler on every checkpoint's config: {(checkpoint, sampler): error}."""
    return {
        (name, sampler): max(max_error(config, sampler, n) for n in steps)
        for name, config in CHECKPOINTS.items()
        for sampler in CLASSES
    }
