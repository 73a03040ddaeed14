"""Options and placements of timesteps that several samplers share."""

from __future__ import annotations

import math
from dataclasses import replace

from .rows import Option, Placement

S_NOISE = Option("s_noise", 1.0, "Strength of the added noise; 1 keeps its variance.", 0.0, 10.0)
ETA = Option("eta", 1.0, "Share of fresh noise: 0 adds none, 1 is ancestral sampling.", 0.0, 10.0)
CHURN = (
    Option("s_churn", 0.0, "Noise added on the way, shared out over the steps; 0 adds none.", 0.0, 1000.0),
    Option("s_tmin", 0.0, "Lowest noise level at which churn adds noise.", 0.0, math.inf),
    Option("s_tmax", math.inf, "Highest noise level at which churn adds noise.", 0.0, math.inf),
    S_NOISE,
)
DDIM_ETA = Option("eta", 0.0, "Share of fresh noise: 0 is DDIM, 1 is DDPM.", 0.0, 1.0)
ORDER = Option("order", 2, "Steps that a step looks back on, itself counted.", choices=(1, 2, 3))
SOLVER_TYPE = Option("solver_type", "midpoint", "Form of the second order.", choices=("midpoint", "heun"))

EVEN = Placement()
STRIDED = Placement(variance_preserving=True, whole=True, strided=True, infinite=True)
REPEATED = Placement(variance_preserving=True, whole=True, strided=True, repeated=True)
SPARED = Placement(variance_preserving=True, whole=True, spare=True, full_ramp=True, ramp_timesteps="whole")
DPM_SOLVER = replace(SPARED, cosine_cut=True)
WHOLE = Placement(variance_preserving=True, whole=True, infinite=True)
WHOLE_KARRAS = Placement(ramp_timesteps="whole_karras")
DISTILLED = Placement(variance_preserving=True, distilled=True, infinite=True)
