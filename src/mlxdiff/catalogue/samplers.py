"""The table of samplers. Another one is a row here and a function in mlxdiff/diffusion/samplers/."""

from __future__ import annotations

from .readings import DDIM, DPM, EULER, EULER_ANCESTRAL, HEUN, KDPM2, LCM, PNDM
from .rows import Option, Placement, Sampler, SchedulerClass

_S_NOISE = Option("s_noise", 1.0, "Strength of the added noise; 1 keeps its variance.", 0.0, 10.0)
_ETA = Option("eta", 1.0, "Share of fresh noise: 0 adds none, 1 is ancestral sampling.", 0.0, 10.0)
_DDIM_ETA = Option("eta", 0.0, "Share of fresh noise: 0 is DDIM, 1 is DDPM.", 0.0, 1.0)
_ORDER = Option("order", 2, "Steps that a step looks back on, itself counted.", choices=(1, 2, 3))
_SOLVER_TYPE = Option("solver_type", "midpoint", "Form of the second order.", choices=("midpoint", "heun"))

_EVEN = Placement()
_DDIM = Placement(variance_preserving=True, whole=True, strided=True, infinite=True)
_PNDM = Placement(variance_preserving=True, whole=True, strided=True, repeated=True)
_DPM = Placement(variance_preserving=True, whole=True, spare=True, full_ramp=True, ramp_timesteps="whole")
_KDPM2 = Placement(ramp_timesteps="whole_karras")
_LCM = Placement(variance_preserving=True, distilled=True, infinite=True)

_ROWS = (
    Sampler(
        "ddim",
        "euler.ddim",
        "DDIM (Song et al. 2021).",
        DDIM,
        _DDIM,
        a1111=("DDIM",),
        comfyui=("ddim",),
        classes=(SchedulerClass("DDIMScheduler"), SchedulerClass("DDIMParallelScheduler")),
        noise="fresh",
        options=(_DDIM_ETA,),
        takes=("arrivals",),
    ),
    Sampler(
        "pndm",
        "multistep.pndm",
        "PLMS (Liu et al. 2022).",
        PNDM,
        _PNDM,
        a1111=("PLMS",),
        classes=(SchedulerClass("PNDMScheduler"),),
        takes=("space", "arrivals", "departure", "rehearsal"),
        order=2,
    ),
    Sampler(
        "euler",
        "euler.euler",
        "Euler's method (Karras et al. 2022).",
        EULER,
        _EVEN,
        a1111=("Euler", "k_euler"),
        comfyui=("euler",),
        classes=(SchedulerClass("EulerDiscreteScheduler"),),
        nearest=("LMSDiscreteScheduler",),
    ),
    Sampler(
        "euler_ancestral",
        "euler.euler_ancestral",
        "Euler's method with fresh noise in every step.",
        EULER_ANCESTRAL,
        _EVEN,
        a1111=("Euler a", "k_euler_a", "k_euler_ancestral", "Euler ancestral"),
        comfyui=("euler_ancestral",),
        classes=(SchedulerClass("EulerAncestralDiscreteScheduler"),),
        nearest=("DDPMScheduler", "DDPMParallelScheduler"),
        noise="fresh",
        options=(_ETA, _S_NOISE),
    ),
    Sampler(
        "heun",
        "euler.heun",
        "Heun's method (Karras et al. 2022).",
        HEUN,
        _EVEN,
        a1111=("Heun", "k_heun"),
        comfyui=("heun",),
        classes=(SchedulerClass("HeunDiscreteScheduler"),),
        order=2,
        evaluations=2,
    ),
    Sampler(
        "dpm2",
        "dpm.dpm2",
        "DPM-Solver-2 (Lu et al. 2022a).",
        KDPM2,
        _KDPM2,
        a1111=("DPM2", "k_dpm_2"),
        comfyui=("dpm_2",),
        classes=(SchedulerClass("KDPM2DiscreteScheduler"),),
        automatic="karras",
        order=2,
        evaluations=2,
        discards_penultimate=True,
    ),
    Sampler(
        "dpm2_ancestral",
        "dpm.dpm2_ancestral",
        "DPM-Solver-2 with fresh noise in every step.",
        KDPM2,
        _KDPM2,
        a1111=("DPM2 a", "k_dpm_2_a", "k_dpm_2_ancestral"),
        comfyui=("dpm_2_ancestral",),
        classes=(SchedulerClass("KDPM2AncestralDiscreteScheduler"),),
        noise="fresh",
        options=(_ETA, _S_NOISE),
        automatic="karras",
        order=2,
        evaluations=2,
        discards_penultimate=True,
    ),
    Sampler(
        "dpmpp_2m",
        "dpmpp.dpmpp_2m",
        "DPM-Solver++(2M) (Lu et al. 2022b).",
        DPM,
        _DPM,
        a1111=("DPM++ 2M", "k_dpmpp_2m"),
        comfyui=("dpmpp_2m",),
        classes=(SchedulerClass("DPMSolverMultistepScheduler", (("algorithm_type", (None, "dpmsolver++", "deis")),)),),
        nearest=(
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "DEISMultistepScheduler",
            "UniPCMultistepScheduler",
        ),
        options=(_ORDER, _SOLVER_TYPE),
        automatic="karras",
        order=2,
    ),
    Sampler(
        "dpmpp_2m_sde",
        "dpmpp.dpmpp_2m_sde",
        "SDE-DPM-Solver++(2M) (Lu et al. 2022b).",
        DPM,
        _DPM,
        a1111=("DPM++ 2M SDE", "k_dpmpp_2m_sde"),
        comfyui=("dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
        classes=(SchedulerClass("DPMSolverMultistepScheduler", (("algorithm_type", ("sde-dpmsolver++",)),)),),
        nearest=("DPMSolverSDEScheduler", "SASolverScheduler"),
        noise="fresh",
        options=(_ORDER, _SOLVER_TYPE, _ETA, _S_NOISE),
        automatic="exponential",
    ),
    Sampler(
        "lcm",
        "consistency.lcm",
        "Multistep consistency sampling (Luo et al. 2023).",
        LCM,
        _LCM,
        a1111=("LCM", "k_lcm"),
        comfyui=("lcm",),
        classes=(SchedulerClass("LCMScheduler"),),
        nearest=("TCDScheduler",),
        noise="fresh",
        takes=("boundary",),
    ),
)

SAMPLERS = {row.name: row for row in _ROWS}
