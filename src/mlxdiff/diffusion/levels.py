"""Whole schedules of other programs: steps + 1 noise levels, descending, from the levels of training.

`table` is `space.training_sigmas`: (N,) ascending. The last level is 0 where nothing else is said. Sources are A1111
1.10.1 (modules/sd_schedulers.py), ComfyUI 0.3.64 (comfy/samplers.py) and Forge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import ramps

# Sabour et al. 2024, "Align Your Steps", the levels for 10 steps.
_AYS_SD = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)

# The same before they were rounded, which ComfyUI has.
_AYS_SD_EXACT = (
    *(14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092),
    *(0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
)
_AYS_SDXL_EXACT = (
    *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
    *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
)


def uniform(steps: int, table: np.ndarray) -> np.ndarray:
    """Timesteps evenly from the noisiest to the cleanest, both included."""
    return _ended(_at(np.linspace(len(table) - 1, 0, steps), table))


def sgm_uniform(steps: int, table: np.ndarray) -> np.ndarray:
    """Timesteps evenly from the noisiest, one step short of the cleanest."""
    return _ended(_at(np.linspace(len(table) - 1, 0, steps + 1)[:-1], table))


def simple(steps: int, table: np.ndarray) -> np.ndarray:
    """Every (N / steps)-th level of training, counted from the noisiest."""
    return _ended([table[-(1 + int(i * len(table) / steps))] for i in range(steps)])


def ddim_uniform(steps: int, table: np.ndarray) -> np.ndarray:
    """Every (N // steps)-th level from the second cleanest up: it begins below the noisiest, maybe with a step more."""
    return _ended(table[1 :: max(len(table) // steps, 1)][::-1])


def turbo(steps: int, table: np.ndarray) -> np.ndarray:
    """Timesteps round(N / steps * k - 1) for k = steps, ..., 1 (Forge)."""
    places = np.round(len(table) / steps * np.arange(steps, 0, -1) - 1).astype(int)
    return _ended(table[np.maximum(places, 0)])


def kl_optimal(steps: int, table: np.ndarray) -> np.ndarray:
    """Evenly in atan sigma (Sabour et al. 2024, appendix); `steps` levels down to the cleanest, and 0."""
    parts = np.linspace(0, 1, steps)
    return _ended(np.tan(parts * math.atan(table[0]) + (1 - parts) * math.atan(table[-1])))


def kl_optimal_a1111(steps: int, table: np.ndarray) -> np.ndarray:
    """The same with the cleanest level of training as the last: A1111 does not go on to 0."""
    return kl_optimal(steps + 1, table)[:-1]


def beta_comfyui(steps: int, table: np.ndarray) -> np.ndarray:
    """Quantiles of Beta(0.6, 0.6) as timesteps, rounded, each once; `ramps.beta` has them as levels."""
    places = np.rint(ramps.beta_quantiles(1 - np.arange(steps) / steps, 0.6) * (len(table) - 1)).astype(int)
    return _ended(table[list(dict.fromkeys(places.tolist()))])


def linear_quadratic(steps: int, table: np.ndarray) -> np.ndarray:
    """A line over the first half of the steps, to 0.025 below the top, then a parabola (ComfyUI, from Mochi)."""
    if steps == 1:
        return np.array([table[-1], 0.0])
    drop, linear = 0.025, steps // 2
    quadratic, rest = steps - linear, linear - drop * steps
    bend = rest / (linear * quadratic**2)
    slope = drop / linear - 2 * rest / quadratic**2
    i = np.arange(linear, steps)
    fallen = [*(np.arange(linear) * drop / linear), *(bend * i**2 + slope * i + bend * linear**2), 1.0]
    return (1 - np.array(fallen)) * table[-1]


def ays(steps: int, _table: np.ndarray) -> np.ndarray:
    """Align Your Steps for Stable Diffusion 1 (Sabour et al. 2024), interpolated in log sigma (A1111)."""
    return _ended(_log_interpolated(_AYS_SD, steps))


def ays_sdxl(steps: int, _table: np.ndarray) -> np.ndarray:
    """Align Your Steps for Stable Diffusion XL."""
    return _ended(_log_interpolated(_AYS_SDXL, steps))


def ays_comfyui(steps: int, _table: np.ndarray) -> np.ndarray:
    """ComfyUI's node: one level more, of which the last becomes 0."""
    return _ended(_log_interpolated(_AYS_SD_EXACT, steps + 1)[:-1])


def ays_sdxl_comfyui(steps: int, _table: np.ndarray) -> np.ndarray:
    return _ended(_log_interpolated(_AYS_SDXL_EXACT, steps + 1)[:-1])


def ddim_a1111(steps: int, table: np.ndarray) -> np.ndarray:
    """A1111's for DDIM and PLMS: every (N // steps)-th timestep from 1 up, the cleanest of them where the run ends."""
    places = np.minimum(np.arange(0, len(table), max(len(table) // steps, 1)) + 1, len(table) - 1)
    return np.array(list(dict.fromkeys(table[places[::-1]].tolist())))


def unipc_a1111(steps: int, table: np.ndarray) -> np.ndarray:
    """A1111's for UniPC: even in time from the noisiest to the cleanest, on a line in log alpha between timesteps."""
    log_alpha = -0.5 * np.log1p(table**2)
    places = np.linspace(1, 1 / len(table), steps + 1) * len(table) - 1
    return np.sqrt(np.expm1(-2 * np.interp(places, np.arange(len(table)), log_alpha)))


def _at(timesteps: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Levels at timesteps with fractions: in log sigma a line between two of training."""
    return np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))


def _log_interpolated(levels: Sequence[float], n: int) -> np.ndarray:
    if n == len(levels):
        return np.array(levels)
    places = np.linspace(0, 1, len(levels))
    return np.exp(np.interp(np.linspace(0, 1, n), places, np.log(levels)))


def _ended(levels: np.ndarray | Sequence[float]) -> np.ndarray:
    return np.append(np.asarray(levels, dtype=np.float64), 0.0)
