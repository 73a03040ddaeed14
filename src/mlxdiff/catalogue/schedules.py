"""The table of schedules. Another one is a row here, and for a ramp a function in mlxdiff/diffusion/ramps.py."""

from __future__ import annotations

from .rows import ScheduleRow

_ROWS = (
    ScheduleRow("leading", "spacing", "Every (1000 / steps)-th timestep, counted from the cleanest."),
    ScheduleRow("linspace", "spacing", "Timesteps evenly from the noisiest to the cleanest.", a1111=("Uniform",)),
    ScheduleRow(
        "trailing",
        "spacing",
        "Every (1000 / steps)-th timestep, counted from the noisiest.",
        a1111=("SGM Uniform", "SGMUniform"),
        comfyui=("sgm_uniform",),
    ),
    ScheduleRow(
        "karras",
        "ramp",
        "Karras et al. 2022, equation 5, rho = 7.",
        "ramps.karras",
        a1111=("Karras",),
        comfyui=("karras",),
        key="use_karras_sigmas",
    ),
    ScheduleRow(
        "exponential",
        "ramp",
        "Evenly in log sigma.",
        "ramps.exponential",
        a1111=("Exponential",),
        comfyui=("exponential",),
        key="use_exponential_sigmas",
    ),
    ScheduleRow(
        "beta",
        "ramp",
        "Quantiles of Beta(0.6, 0.6) (Lee et al. 2024).",
        "ramps.beta",
        a1111=("Beta",),
        comfyui=("beta",),
        key="use_beta_sigmas",
    ),
)

SCHEDULES = {row.name: row for row in _ROWS}
