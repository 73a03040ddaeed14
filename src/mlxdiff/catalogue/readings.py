"""How diffusers' classes read scheduler_config.json: their keys, their defaults, what of them is implemented."""

from __future__ import annotations

import math

from .rows import Reading

_BETAS = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
_SD_BETAS = {**_BETAS, "beta_start": 0.00085, "beta_end": 0.012}
_RAMPS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ZERO_SNR = {"rescale_betas_zero_snr": False}
# A file without the key is fine: clipping suits pixels, not latents, although DDIM's class clips by default.
_UNCLIPPED = {"clip_sample": (False,), "thresholding": (False,)}

DDIM = Reading({**_BETAS, "timestep_spacing": "leading", **_ZERO_SNR, "set_alpha_to_one": True}, _UNCLIPPED)
# PLMS is the only warm-up here.
PNDM = Reading({**_BETAS, "timestep_spacing": "leading", "set_alpha_to_one": False}, {"skip_prk_steps": (True,)})
EULER = Reading(
    {**_BETAS, "timestep_spacing": "linspace", **_ZERO_SNR, "final_sigmas_type": "zero", **_RAMPS},
    {"interpolation_type": ("linear",)},
)
EULER_ANCESTRAL = Reading({**_BETAS, "timestep_spacing": "linspace", **_ZERO_SNR})
HEUN = Reading({**_SD_BETAS, "timestep_spacing": "linspace", **_RAMPS}, {"clip_sample": (False,)})
KDPM2 = Reading({**_SD_BETAS, "timestep_spacing": "linspace", **_RAMPS})
_SOLVER = {
    "thresholding": (False,),
    "lower_order_final": (True, False),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
}
_SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")
_ORDER = {"solver_order": "order", "lower_order_final": "lower_order_final"}
DPM = Reading(
    {
        **_BETAS,
        "timestep_spacing": "linspace",
        **_ZERO_SNR,
        "lambda_min_clipped": -math.inf,
        "final_sigmas_type": "zero",
        "lower_order_final": True,
        **_RAMPS,
    },
    {
        **_SOLVER,
        "solver_order": (1, 2, 3),
        "solver_type": _SOLVER_TYPES,
        "euler_at_final": (True, False),
        "use_lu_lambdas": (False,),
        "variance_type": (),
    },
    options={**_ORDER, "solver_type": "solver_type", "euler_at_final": "euler_at_final"},
    # The last three are other classes', which diffusers' class reads as midpoint.
    values={"solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}},
)
UNIPC = Reading(
    {
        **_BETAS,
        "timestep_spacing": "linspace",
        **_ZERO_SNR,
        "final_sigmas_type": "zero",
        "lower_order_final": True,
        **_RAMPS,
    },
    {
        **_SOLVER,
        "solver_order": (1, 2, 3),
        "solver_type": _SOLVER_TYPES,
        "predict_x0": (True,),
        "disable_corrector": ([],),
        "solver_p": (),
    },
    options={**_ORDER, "solver_type": "solver_type"},
    values={"solver_type": {"midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}},
)
DEIS = Reading(
    {**_BETAS, "timestep_spacing": "linspace", "lower_order_final": True, **_RAMPS},
    {**_SOLVER, "solver_order": (1, 2, 3)},
    options=_ORDER,
    fixed={"final_sigmas_type": "sigma_min"},
)
SA_SOLVER = Reading(
    {**_BETAS, "timestep_spacing": "linspace", "lower_order_final": True, **_RAMPS},
    {
        **_SOLVER,
        "predictor_order": (1, 2, 3),
        "corrector_order": (1, 2, 3),
        "algorithm_type": ("data_prediction",),
        "tau_func": (),
        "variance_type": (),
    },
    options={
        "predictor_order": "predictor_order",
        "corrector_order": "corrector_order",
        "lower_order_final": "lower_order_final",
    },
    fixed={"final_sigmas_type": "sigma_min"},
)
DDPM = Reading(
    {**_BETAS, "timestep_spacing": "leading", **_ZERO_SNR},
    {**_UNCLIPPED, "variance_type": ("fixed_small", "fixed_small_log")},
)
LMS = Reading({**_BETAS, "timestep_spacing": "linspace", **_RAMPS})
DPM_SDE = Reading({**_SD_BETAS, "timestep_spacing": "linspace", **_RAMPS})
LCM = Reading(
    {
        **_SD_BETAS,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
        **_ZERO_SNR,
        "original_inference_steps": 50,
        "timestep_scaling": 10.0,
    },
    _UNCLIPPED,
)
TCD = Reading(LCM.defaults, LCM.only, fixed={"final_sigmas_type": "sigma_min"})
