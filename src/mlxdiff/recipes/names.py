"""What other programs call samplers, schedules and sources of noise, and what A1111 calls mlxdiff's.

The catalogue knows the names of A1111, ComfyUI and diffusers. Here is what InvokeAI, NovelAI and stable-diffusion.cpp
make of them: other spellings, and a schedule inside the sampler's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..catalogue import SAMPLERS, SCHEDULES, find_schedule, split_sampler
from ..errors import RequestError

RNG_NAMES = {"torch": "CPU", "philox": "NV"}

_LONGEST = 60  # letters of a name
# Spellings that no rule below gives.
_SAMPLERS = {
    "dpm++2s_a": "DPM++ 2S a",
    "dpmpp_2s": "DPM++ 2S a",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "dpm_2_a": "DPM2 a",
    "ddim_v3": "DDIM",
    "k_lms": "LMS",
}
# What means the sampler's own: stable-diffusion.cpp's, SwarmUI's and NovelAI's word for it.
_OWN = ("", "discrete", "default", "native")
# The web UI writes nothing if it drew on the GPU, its default; these are philox's numbers.
_NOISE = {"cpu": "torch", "nv": "philox", "gpu": "philox", "cuda": "philox", "std_default": "philox"}


def sampler_name(sampler: str) -> str:
    """The name by which A1111's web UI finds a sampler of mlxdiff; its own one where the web UI has none."""
    return _theirs(SAMPLERS[sampler].a1111, sampler) if sampler in SAMPLERS else sampler


def schedule_name(schedule: str) -> str:
    return _theirs(SCHEDULES[schedule].a1111, schedule) if schedule in SCHEDULES else schedule


def sampler_and_schedule(sampler: str, schedule: str = "") -> tuple[str, str | None]:
    """mlxdiff's names of a sampler and of a schedule: what it does not know comes back as it is, "" is None.

    Where `schedule` is empty, it may stand behind the sampler, as A1111 until 1.9 and InvokeAI ("_k") write it.
    "Automatic" is the sampler's own in A1111.
    """
    name, behind = _split(sampler.strip())
    if schedule.strip().lower() == "automatic":
        return name, SAMPLERS[name].automatic if name in SAMPLERS else None
    return name, _schedule(schedule) if schedule else behind


def noise(text: str) -> str:
    """mlxdiff's name for a source of noise."""
    return _NOISE.get(text.strip().lower(), text.strip().lower())


def _split(text: str) -> tuple[str, str | None]:
    for name, schedule in _spellings(text[:_LONGEST]) if len(text) <= _LONGEST else ():
        try:
            row, behind = split_sampler(name)
        except RequestError:
            continue
        return row.name, schedule if behind is None else behind.name
    behind = re.search(r"[ _](karras|exponential)$", text.lower())
    return text, None if behind is None else behind[1]


def _spellings(text: str) -> Iterator[tuple[str, str | None]]:
    """The name as the catalogue might know it, with the schedule that was taken off it."""
    for name, schedule in ((text, None), *_without_schedule(text)):
        lower = name.lower()
        yield _SAMPLERS.get(lower, name), schedule
        yield re.sub(r"^(?:k_|sample_)|_gpu$", "", lower), schedule


def _without_schedule(text: str) -> Iterator[tuple[str, str | None]]:
    if text.lower().endswith("_k"):
        yield text[:-2], "karras"
    name, _, schedule = text.rpartition(" ")
    if name:  # stable-diffusion.cpp: an unknown one is then named
        yield name, _schedule(schedule)


def _schedule(text: str) -> str | None:
    if text.strip().lower() in _OWN:
        return None
    try:
        return find_schedule(text).name
    except RequestError:
        return text.strip()


def _theirs(names: tuple[str, ...], ours: str) -> str:
    return names[0] if names else ours
