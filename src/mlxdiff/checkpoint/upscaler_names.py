"""Names of an upscaler's weights as ESRGAN's three generations wrote them, to those of the last: Real-ESRGAN's.

    model.0.weight, model.1.sub.0.RDB1.conv1.0.weight, model.3.weight   2018, numbered layers of one chain
    conv_first.weight, RRDB_trunk.0.RDB1.conv1.weight, upconv1.weight   2019
    conv_first.weight, body.0.rdb1.conv1.weight, conv_up1.weight        Real-ESRGAN, also its compact networks

Names alone; nothing here reads a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What torch.save was given around the network's own dictionary; the running average is the one that is published.
_WRAPPERS = ("params_ema.", "params.", "state_dict.", "module.")

_SECOND = (
    (r"^RRDB_trunk\.", "body."),
    (r"\.RDB([1-3])\.", r".rdb\1."),
    (r"^trunk_conv\.", "conv_body."),
    (r"^upconv(\d)\.", r"conv_up\1."),
    (r"^HRconv\.", "conv_hr."),
)
_BLOCK = re.compile(r"model\.1\.sub\.(\d+)\.RDB([1-3])\.conv([1-5])\.0\.(weight|bias)")
_TRUNK = re.compile(r"model\.1\.sub\.(\d+)\.(weight|bias)")
_LAYER = re.compile(r"model\.(\d+)\.(weight|bias)")


def upscaler_names(keys: Iterable[str]) -> dict[str, str]:
    """Today's names -> the keys that are stored; keys of no known form keep their own."""
    keys = list(keys)
    for wrapper in _WRAPPERS:
        inside = [key for key in keys if key.startswith(wrapper)]
        if inside:
            return {name: f"{wrapper}{key}" for name, key in _named([key[len(wrapper) :] for key in inside]).items()}
    return _named(keys)


def _named(keys: list[str]) -> dict[str, str]:
    if "model.0.weight" in keys and any(map(_BLOCK.fullmatch, keys)):
        return _first_generation(keys)
    named = {}
    for key in keys:
        name = key
        for pattern, replacement in _SECOND:
            name = re.sub(pattern, replacement, name)
        named[name] = key
    return named


def _first_generation(keys: list[str]) -> dict[str, str]:
    """In the chain a doubling's convolution stands behind the doubling; the last two are at full size."""
    numbers = {int(match[1]) for key in keys if (match := _LAYER.fullmatch(key)) and len(match[1]) < 5}
    *ups, hr, last = sorted(numbers - {0}) if len(numbers) > 2 else (0, 0)
    layers = {0: "conv_first", hr: "conv_hr", last: "conv_last"}
    layers |= {number: f"conv_up{i}" for i, number in enumerate(ups, start=1)}
    named = {}
    for key in keys:
        if match := _BLOCK.fullmatch(key):
            name = f"body.{match[1]}.rdb{match[2]}.conv{match[3]}.{match[4]}"
        elif match := _TRUNK.fullmatch(key):
            name = f"conv_body.{match[2]}"
        elif (match := _LAYER.fullmatch(key)) and len(match[1]) < 5:
            name = f"{layers[int(match[1])]}.{match[2]}"
        else:
            name = key
        named[name] = key
    return named
