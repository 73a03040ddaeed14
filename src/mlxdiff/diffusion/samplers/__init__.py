"""Integrators of the diffusion equation: each walks down a list of sigmas and yields a Step at every level.

A sampler knows no network: `denoise(latents, sigma)` returns the predicted x0. Nothing here is evaluated; the caller
decides when. Latents are (B, h, w, C) fp32 in variance-exploding form, x0 + sigma * noise, so that the ODE is
d latents / d sigma = (latents - denoised) / sigma (Karras et al. 2022, equation 1 with sigma(t) = t).

arithmetic   what several share: how a step shrinks noise, and how ancestral sampling splits it
euler         of first order: Euler, DDIM, DDPM, with and without fresh noise; and Heun's method
dpm           DPM-Solver-2
dpm_fast      DPM-Solver of orders 1 to 3, in a number of evaluations or to a tolerance
dpmpp         DPM-Solver++ of several steps
dpmpp_single  DPM-Solver++ of one step
multistep     averages of the last slopes: PLMS, LMS, DEIS, iPNDM, RES
unipc         UniPC
sa_solver     SA-Solver
restart       Heun's method that goes back up
cfg_pp        those in CFG++ form
consistency   consistency models

Each has a row in `mlxdiff.catalogue.samplers`, which says its names and what it takes; `sample` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx

from ...catalogue import SAMPLERS, Sampler
from ..keeping import Keeping, keeper, kept
from ..schedule import Schedule
from ..step import Denoiser, Noise, Step

__all__ = ["SAMPLERS", "Step", "sample"]


def sample(
    row: Sampler,
    denoise: Denoiser,
    latents: mx.array,
    schedule: Schedule,
    noise: Noise,
    options: Mapping[str, Any] | None = None,
    keeping: Keeping | None = None,
) -> Iterator[Step]:
    """Runs a sampler on latents that carry noise of schedule.sigmas[0] (`Schedule.start`).

    denoise   guidance included; with `branches` where the row says `unconditional`
    noise     is called if the sampler draws any
    options   the row's; None, and what is left out or None, is the checkpoint's or the row's default
    keeping   what stays of a picture, whatever the sampler is

    Raises RequestError for an option that the sampler has not.
    """
    settled = row.settle({} if options is None else options)
    asked = {name for name, value in ({} if options is None else options).items() if value is not None}
    settled |= {name: value for name, value in schedule.options if name not in asked}
    given = {name: getattr(schedule, name) for name in row.takes}
    if row.noise != "none":
        given["noise"] = noise
    return kept(row.run(keeper(denoise, keeping), latents, schedule.sigmas, **given, **settled), keeping)
