"""Settings of guidance besides its scale: when it works, and what it is mixed with."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError
from .declarations import Choice, Number, setting

GUIDANCE_MODES = ("cfg", "cfgpp")
MAX_PAG_SCALE = 100


@dataclass(frozen=True)
class GuidanceSettings:
    """The interval, the form and the correction of guidance."""

    guidance_start: float | None = setting(
        Number(0, 1),
        "Fraction of the steps before which there is no guidance.",
        group="Guidance",
        unset="0",
        neutral=0.0,
        a1111="Guidance start",
    )
    guidance_end: float | None = setting(
        Number(0, 1),
        "Fraction of the steps after which there is no guidance; such steps take half the time.",
        group="Guidance",
        unset="1",
        neutral=1.0,
        a1111="Guidance end",
    )
    guidance_rescale: float | None = setting(
        Number(0, 1),
        "How much of the contrast that guidance adds is taken back (Lin et al. 2024).",
        group="Guidance",
        unset="0",
        neutral=0.0,
        a1111="Guidance rescale",
    )
    guidance_mode: str | None = setting(
        Choice(GUIDANCE_MODES),
        "cfgpp takes the sampler's CFG++ form, which wants a guidance scale of about 1.",
        group="Guidance",
        unset="the sampler's own",
        a1111="Guidance mode",
    )
    pag_scale: float | None = setting(
        Number(0, MAX_PAG_SCALE),
        "Perturbed-attention guidance (Ahn et al. 2024): sounder shapes for half more time; 0 is off, 3 is usual.",
        group="Guidance",
        unset="0",
        neutral=0.0,
        a1111="PAG scale",
    )

    @property
    def guidance_interval(self) -> tuple[float, float]:
        """Fractions of the steps between which guidance is applied: (0, 1) is all of them."""
        start = 0.0 if self.guidance_start is None else self.guidance_start
        return start, 1.0 if self.guidance_end is None else self.guidance_end

    def _check_interval(self) -> None:
        """Raises RequestError for an interval that holds no step."""
        start, end = self.guidance_interval
        if start >= end:
            raise RequestError(
                f"Guidance starts at {start:g} and ends at {end:g} of the steps.",
                "Let it start before it ends, or turn it off with a guidance_scale of 1.",
            )
