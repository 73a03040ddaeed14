"""The table of schedules. Another one is a row here, and for a ramp a function in mlxdiff/diffusion/ramps.py."""

from __future__ import annotations

from .rows import ScheduleRow

_ROWS = (
    ScheduleRow("leading", "spacing", "Every (1000 / steps)-th timestep, counted from the cleanest."),
    ScheduleRow("linspace", "spacing", "Timesteps evenly from the noisiest to the cleanest."),
    ScheduleRow(
        "trailing",
        "spacing",
        "Every (1000 / steps)-th timestep, counted from the noisiest.",
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
        comfyui_function="levels.beta_comfyui",
        key="use_beta_sigmas",
    ),
    ScheduleRow(
        "polyexponential", "ramp", "A power of the way in log sigma.", "ramps.polyexponential", ("Polyexponential",)
    ),
    ScheduleRow(
        "uniform",
        "levels",
        "Timesteps evenly over all of training.",
        "levels.uniform",
        a1111=("Uniform", "Normal"),
        comfyui=("normal",),
    ),
    ScheduleRow(
        "sgm_uniform",
        "levels",
        "Timesteps evenly over training, one step short of the cleanest.",
        "levels.sgm_uniform",
        a1111=("SGM Uniform", "SGMUniform"),
        comfyui=("sgm_uniform",),
    ),
    ScheduleRow(
        "simple",
        "levels",
        "Every (1000 / steps)-th level of training, counted from the noisiest.",
        "levels.simple",
        a1111=("Simple",),
        comfyui=("simple",),
    ),
    ScheduleRow(
        "ddim_uniform",
        "levels",
        "Every (1000 // steps)-th level from the second cleanest up.",
        "levels.ddim_uniform",
        a1111=("DDIM", "ddim"),
        comfyui=("ddim_uniform",),
    ),
    ScheduleRow(
        "ays",
        "levels",
        "Align Your Steps (Sabour et al. 2024) for Stable Diffusion 1.",
        "levels.ays",
        a1111=("Align Your Steps", "align_your_steps"),
        comfyui=("AlignYourStepsScheduler",),
        comfyui_function="levels.ays_comfyui",
        sdxl="ays_sdxl",
    ),
    ScheduleRow(
        "ays_sdxl",
        "levels",
        "Align Your Steps for Stable Diffusion XL.",
        "levels.ays_sdxl",
        comfyui_function="levels.ays_sdxl_comfyui",
    ),
    ScheduleRow(
        "kl_optimal",
        "levels",
        "Evenly in atan sigma (Sabour et al. 2024).",
        "levels.kl_optimal",
        a1111=("KL Optimal",),
        comfyui=("kl_optimal",),
        a1111_function="levels.kl_optimal_a1111",
    ),
    ScheduleRow(
        "linear_quadratic",
        "levels",
        "A line over the first half of the steps, then a parabola.",
        "levels.linear_quadratic",
        comfyui=("linear_quadratic",),
    ),
    ScheduleRow("turbo", "levels", "Whole timesteps, counted from the noisiest (Forge).", "levels.turbo", ("Turbo",)),
)

SCHEDULES = {row.name: row for row in _ROWS}
