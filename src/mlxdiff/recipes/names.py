"""What other programs call samplers, schedules and sources of noise, and back.

The names on the right are mlxdiff's. Whether one of them exists is the setting's business: a name that mlxdiff does not
have yet is still told from one that nobody knows.
"""

from __future__ import annotations

import re

# mlxdiff's name -> A1111's, as its web UI shows it, so that its "send to txt2img" finds it.
SAMPLER_NAMES = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "deis": "DEIS",
    "dpm2": "DPM2",
    "dpm2_ancestral": "DPM2 a",
    "dpm_adaptive": "DPM adaptive",
    "dpm_fast": "DPM fast",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "pndm": "PLMS",
    "restart": "Restart",
    "tcd": "TCD",
    "unipc": "UniPC",
}
SCHEDULE_NAMES = {
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "beta": "Beta",
    "simple": "Simple",
    "normal": "Normal",
    "ddim_uniform": "DDIM",
    "kl_optimal": "KL Optimal",
    "ays": "Align Your Steps",
    "turbo": "Turbo",
}
RNG_NAMES = {"torch": "CPU", "philox": "NV"}

# Names of A1111's older versions and API, ComfyUI, InvokeAI, NovelAI and stable-diffusion.cpp, as `_key` writes them.
_SAMPLERS = {
    "eulera": "euler_ancestral",
    "dpm2a": "dpm2_ancestral",
    "kdpm2": "dpm2",
    "kdpm2a": "dpm2_ancestral",
    "dpm2sa": "dpmpp_2s_ancestral",
    "dpmpp2s": "dpmpp_2s_ancestral",
    "dpmpp2sa": "dpmpp_2s_ancestral",
    "dpmad": "dpm_adaptive",
    "ddimtrailing": "ddim",
    "ddimv3": "ddim",
    "plms": "pndm",
    "unipcbh1": "unipc",
}
_SCHEDULES = {
    "uniform": "linspace",
    "sgmuniform": "trailing",
    "discrete": None,
    "default": None,
    "native": None,
    "alignyoursteps": "ays",
    "gits": "gits",
}
# What "Automatic" means to the web UI; to all other samplers their own spacing.
_AUTOMATIC = {
    "dpm2": "karras",
    "dpm2_ancestral": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2s_ancestral": "karras",
    "dpmpp_3m_sde": "exponential",
    "dpmpp_sde": "karras",
    "restart": "karras",
}
# The web UI says nothing where it drew on the GPU, as it does unless told otherwise; these are philox's numbers.
_NOISE = {"cpu": "torch", "nv": "philox", "gpu": "philox", "cuda": "philox", "stddefault": "philox"}


def sampler_and_schedule(sampler: str, schedule: str = "") -> tuple[str, str | None]:
    """mlxdiff's names of a sampler and of a schedule: what it does not know comes back as it is, "" is None.

    Where `schedule` is empty, it may stand behind the sampler, as A1111 until 1.9 and InvokeAI ("_k") write it.
    "Automatic" is the sampler's own in A1111.
    """
    name, behind = _split(sampler.strip())
    if _key(schedule) == "automatic":
        return name, _AUTOMATIC.get(name)
    return name, _schedule(schedule) if schedule else behind


def noise(text: str) -> str:
    """mlxdiff's name for a source of noise."""
    return _NOISE.get(_key(text), text.strip().lower())


def _split(text: str) -> tuple[str, str | None]:
    if len(text) > 60:
        return text, None
    if (found := _SAMPLER_OF.get(_key(text))) is not None:
        return found, None
    for ending, schedule in _ENDINGS:
        start = _key(text).removesuffix(ending)
        if start != _key(text) and start in _SAMPLER_OF:
            return _SAMPLER_OF[start], schedule
    if (plain := re.fullmatch(r"(.+) (\w+)", text)) and _key(plain[1]) in _SAMPLER_OF:
        return _SAMPLER_OF[_key(plain[1])], _schedule(plain[2])  # a schedule that nobody knows, and that is then named
    behind = re.search(r"[ _](karras|exponential)$", text.lower())
    return text, None if behind is None else behind[1]


def _schedule(text: str) -> str | None:
    key = _key(text)
    return _SCHEDULE_OF[key] if key in _SCHEDULE_OF else text.strip()


def _key(text: str) -> str:
    """The name without case, blanks, - and _, and without the k of k-diffusion in front."""
    key = re.sub(r"[\s_\-]+", "", text[:60].lower()).replace("+", "p")
    return re.sub(r"^(?:sample|k(?=[a-z]))", "", key) if key.startswith(("k", "sample")) and not _is_ours(key) else key


def _is_ours(key: str) -> bool:
    return key in ("karras", "kloptimal")


_SAMPLER_OF: dict[str, str] = {}
_SCHEDULE_OF: dict[str, str | None] = {}
for _ours, _theirs in SAMPLER_NAMES.items():
    _SAMPLER_OF |= {_key(_ours): _ours, _key(_theirs): _ours}
for _ours, _theirs in SCHEDULE_NAMES.items():
    _SCHEDULE_OF |= {_key(_ours): _ours, _key(_theirs): _ours}
_SAMPLER_OF |= _SAMPLERS | {f"{key}gpu": name for key, name in _SAMPLER_OF.items() if name.endswith("sde")}
_SCHEDULE_OF |= _SCHEDULES | {"leading": "leading", "linspace": "linspace", "trailing": "trailing"}
_ENDINGS = [("k", "karras"), *((key, name) for key, name in _SCHEDULE_OF.items() if name is not None)]
_ENDINGS.sort(key=lambda pair: -len(pair[0]))
