"""`compat`: whose picture a recipe gives, as ordinary settings. What the request says itself stays."""

from __future__ import annotations

from typing import Any

from . import Request

# rng: A1111 draws on the GPU by default, and these are CUDA's numbers; ComfyUI draws on the CPU.
# rounding: both cut off what does not fill a level of 8 bits.
PRESETS: dict[str, dict[str, Any]] = {
    "diffusers": {"rng": "torch", "prompt_syntax": "plain"},
    "a1111": {"rng": "philox", "prompt_syntax": "a1111", "rounding": "truncate"},
    "comfyui": {"rng": "torch", "prompt_syntax": "comfyui", "rounding": "truncate"},
}
NATIVE: dict[str, Any] = {"rng": "torch"}


def applied(request: Request) -> Request:
    """The request with its program's values where it has none of its own.

    An empty negative prompt is none to A1111, and for SDXL then all zeros; to ComfyUI no negative prompt is an empty
    one.
    """
    preset = NATIVE if request.compat is None else PRESETS[request.compat]
    values = {name: value for name, value in preset.items() if getattr(request, name, ...) is None}
    if request.compat == "a1111" and request.negative_prompt == "":
        values["negative_prompt"] = None
    if request.compat == "comfyui" and request.negative_prompt is None:
        values["negative_prompt"] = ""
    return request.replaced(**values) if values else request
