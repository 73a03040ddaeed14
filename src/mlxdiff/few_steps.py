"""LoRAs that make pictures in a few steps: the sampler, schedule, guidance and steps that their authors ask for.

Names only: nothing here opens a file. A row fills settings that are not given, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .request import Request

# What A1111 and ComfyUI have for diffusers' trailing timesteps, and for DDIM on them: without noise it is Euler.
_IN_PROGRAMS = {"trailing": "sgm_uniform", "ddim": "euler"}
_COUNT = re.compile(r"(\d{1,2})[-_ ]?steps?(?![a-z])")


@dataclass(frozen=True)
class FewSteps:
    """A kind of distillation. `name` is a pattern in its files' names, in small letters, with dashes for all marks.

    steps           where the name does not say how many
    guidance_scale  1 computes no second branch; None leaves the checkpoint's own
    """

    called: str
    name: str
    sampler: str
    steps: int
    schedule: str | None = None
    guidance_scale: float | None = 1.0
    eta: float | None = None

    def settings(self, name: str) -> dict[str, Any]:
        """The settings of a file of that name."""
        count = _COUNT.search(name)
        steps = self.steps if count is None or int(count[1]) == 0 else int(count[1])
        found = {
            "sampler": self.sampler,
            "schedule": self.schedule,
            "steps": steps,
            "guidance_scale": self.guidance_scale,
            "eta": self.eta,
        }
        return {key: value for key, value in found.items() if value is not None}


# In this order: the first that matches counts. What their authors' pages say, with the names of the files there.
TABLE = (
    # ByteDance/Hyper-SD: Hyper-SDXL-1step-lora, Hyper-SD15-8steps-lora, Hyper-SDXL-12steps-CFG-lora (guidance 5 to 8)
    FewSteps("Hyper-SD", r"hyper-?sd.*-(8|12)-?steps?-cfg", "ddim", 8, "trailing", guidance_scale=None),
    FewSteps("Hyper-SD", r"hyper-?sd.*-1-?steps?", "tcd", 1, eta=1.0),
    FewSteps("Hyper-SD", r"hyper-?sd", "ddim", 4, "trailing"),
    # ByteDance/SDXL-Lightning: sdxl_lightning_4step_lora
    FewSteps("Lightning", r"lightning-\d-?steps?|(sdxl|sd-xl|xl)-lightning", "euler", 4, "trailing"),
    # h1t/TCD-SDXL-LoRA, TCD-SD15-LoRA, TCD-SD21-base-LoRA
    FewSteps("TCD", r"(^|-)tcd-(sd|lora)|-tcd($|-)", "tcd", 4, eta=0.3),
    # wangfuyun/PCM_Weights: pcm_sd15_smallcfg_4step_converted, pcm_sdxl_normalcfg_8step_converted, pcm_*_lcmlike_lora
    FewSteps("PCM", r"(^|-)pcm-.*lcmlike", "lcm", 4),
    FewSteps("PCM", r"(^|-)pcm-.*normalcfg", "ddim", 8, "trailing", guidance_scale=None),
    FewSteps("PCM", r"(^|-)pcm-.*(smallcfg|steps?)", "ddim", 4, "trailing"),
    # tianweiy/DMD2: dmd2_sdxl_4step_lora_fp16
    FewSteps("DMD2", r"(^|-)dmd2($|-)", "lcm", 4),
    # jasperai/flash-sdxl, flash-sd
    FewSteps("Flash Diffusion", r"(^|-)flash-(sd|sdxl)($|-)", "lcm", 4),
    # latent-consistency/lcm-lora-sdv1-5, lcm-lora-sdxl; LCM_LoRA_Weights_SD15, pytorch_lora_weights in such a folder
    FewSteps("LCM", r"(^|-)lcm($|-)", "lcm", 4),
    # built in: emoji-4steps
    FewSteps("built in", r"^emoji-\d-?steps?$", "ddim", 4, "trailing"),
    # sd_xl_turbo_lora_v1
    FewSteps("Turbo", r"(^|-)(sd-?xl|sd\d*)-turbo|turbo-lora", "euler_ancestral", 4, "trailing"),
)


def row_of(names: Iterable[str]) -> tuple[FewSteps, str] | None:
    """The row of a LoRA of any of these names (its file's, its folder's, in its metadata), and that name; or None."""
    plain = [re.sub(r"[^a-z0-9]+", "-", name[:200].lower()).strip("-") for name in names]
    for row in TABLE:
        for name in plain:
            if re.search(row.name, name):
                return row, name
    return None


def filled(request: Request, row: FewSteps, name: str) -> tuple[Request, dict[str, Any]]:
    """The request with the row's settings where it has none of its own, and those settings.

    With a sampler of the request's own the options of another one stay out; with noise levels, steps and schedule.
    """
    settings = row.settings(name)
    if request.compat in ("a1111", "comfyui"):
        settings = {key: _IN_PROGRAMS.get(value, value) for key, value in settings.items()}
    if request.sampler not in (None, settings["sampler"]):
        settings.pop("eta", None)
    if request.sigmas is not None:
        settings = {key: value for key, value in settings.items() if key not in ("steps", "schedule")}
    settings = {key: value for key, value in settings.items() if getattr(request, key) is None}
    return request.replaced(**settings), settings
