"""The nodes that ComfyUI's SamplerCustom is put together from: noise, guider, sampler and sigmas.

A node that is not in the table stays unused, and is named; so is an input of one that is, where it asks for something
that mlxdiff does not do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .recipe import Gathering

ROLES = ("noise", "guider", "sampler", "sigmas")


@dataclass(frozen=True)
class Part:
    """What a class of nodes says.

    settings  those that the class itself decides
    options   its inputs that are settings of the same name
    choices   an input whose values decide settings
    neutral   other inputs, with the value that asks for nothing; ... is any: it is read elsewhere, or changes nothing
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    choices: Mapping[str, Mapping[Any, Mapping[str, Any]]] = field(default_factory=dict)
    neutral: Mapping[str, Any] = field(default_factory=dict)


_READ = dict.fromkeys(("noise_seed", "cfg", "sampler_name", "scheduler", "steps", "denoise"), ...)  # by the way back
_OF_TRAINING = {"sigma_max": 14.614642, "sigma_min": 0.0291675}  # SD's noise levels, as the nodes are made with them
_DEVICE = {"noise_device": ...}  # the same numbers to mlxdiff, as of dpmpp_sde_gpu


def _sampler(name: str, **neutral: Any) -> Part:
    return Part({"sampler": name}, ("eta", "s_noise"), neutral=_DEVICE | neutral)


_ADAPTIVE = {"order": 3, "rtol": 0.05, "atol": 0.0078, "h_init": 0.05, "pcoeff": 0, "icoeff": 1, "dcoeff": 0}
_SOLVERS = {"midpoint": {"sampler": "dpmpp_2m_sde"}, "heun": {"sampler": "dpmpp_2m_sde_heun"}}
_TABLES = {"SD1": {"schedule": "ays"}, "SDXL": {"schedule": "ays_sdxl"}}
_TURBO = {1: {"schedule": "turbo"}, 10: {"schedule": "turbo"}}  # of other steps it takes the first of ten
_PARTS = {
    "RandomNoise": Part(),
    "CFGGuider": Part(),
    "BasicGuider": Part({"guidance_scale": 1.0}),
    "KSamplerSelect": Part(),
    "SamplerEulerAncestral": _sampler("euler_ancestral"),
    "SamplerEulerAncestralCFGPP": _sampler("euler_ancestral_cfg_pp"),
    "SamplerDPMPP_2S_Ancestral": _sampler("dpmpp_2s_ancestral"),
    "SamplerDPMPP_SDE": _sampler("dpmpp_sde", r=0.5),
    "SamplerDPMPP_2M_SDE": Part({}, ("eta", "s_noise"), {"solver_type": _SOLVERS}, _DEVICE),
    "SamplerDPMPP_3M_SDE": _sampler("dpmpp_3m_sde"),
    "SamplerDPMAdaptative": _sampler("dpm_adaptive", **_ADAPTIVE, accept_safety=0.81),
    "SamplerLMS": Part({"sampler": "lms"}, neutral={"order": 4}),
    "BasicScheduler": Part(),
    "KarrasScheduler": Part({"schedule": "karras"}, neutral={**_OF_TRAINING, "rho": 7.0}),
    "ExponentialScheduler": Part({"schedule": "exponential"}, neutral=_OF_TRAINING),
    "PolyexponentialScheduler": Part({"schedule": "polyexponential"}, neutral={**_OF_TRAINING, "rho": 1.0}),
    "BetaSamplingScheduler": Part({"schedule": "beta"}, neutral={"alpha": 0.6, "beta": 0.6}),
    "AlignYourStepsScheduler": Part(choices={"model_type": _TABLES}),
    "SDTurboScheduler": Part(choices={"steps": _TURBO}),
}


def take(made: Gathering, kind: str, inputs: Mapping[str, Any], said: Callable[[str], Any]) -> bool:
    """Takes what a node of the class `kind` says; False for a class that is not known.

    said  an input's value, also where another node holds it
    """
    part = _PARTS.get(kind)
    if part is None:
        return False
    for name, value in part.settings.items():
        made.take(name, value, kind)
    neutral = {**_READ, **part.neutral}
    for name, given in inputs.items():
        is_known = name in part.options or name in part.choices or name in neutral
        if not is_known and isinstance(given, list):
            continue  # a model or a prompt, to which the way back leads
        value = said(name) if is_known else given
        choices = part.choices.get(name, {})
        chosen = choices.get(value) if isinstance(value, str | int) else None
        for setting, each in (chosen or {}).items():
            made.take(setting, each, name)
        if name in part.options:
            made.take(name, value, name)
        elif chosen is None and (name in part.choices or neutral.get(name) not in (..., value)):
            made.leave(f"{name} of {kind}", value)
    return True
