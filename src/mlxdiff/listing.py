"""What there is, as data: `mlxdiff.settings()` and `mlxdiff.samplers()`, which `info` prints."""

from __future__ import annotations

from typing import Any

from .catalogue import SAMPLERS
from .request import Request
from .request.declarations import declared


def settings() -> list[dict[str, Any]]:
    """Every setting of a request: name, option, type, range or choices, help, group, and whether it can be varied."""
    return [item.describe() for item in declared(Request)]


def samplers() -> list[dict[str, Any]]:
    """Every sampler: its name, the names that other programs use, its options, and what a step costs."""
    return [
        {
            "name": row.name,
            "help": row.help,
            "a1111": list(row.a1111),
            "comfyui": list(row.comfyui),
            "diffusers": list(dict.fromkeys(known.name for known in row.classes)),
            "noise": row.noise,
            "order": row.order,
            "evaluations": row.evaluations,
            "options": [
                {"name": option.name, "default": option.default, "help": option.help} for option in row.options
            ],
        }
        for row in SAMPLERS.values()
    ]
