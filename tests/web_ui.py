"""How AUTOMATIC1111's web UI takes its own text apart: its grammar, written anew from its description.

The last line counts if it has three `name: value` at least, and is part of the prompt otherwise. A value is a JSON
string or ends at a comma; WxH becomes two values.
"""

from __future__ import annotations

import json
import re

_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")


def parse(text: str) -> dict[str, str]:
    """The values by name, with Prompt and Negative prompt."""
    *lines, last = text.strip().split("\n")
    if len(_PARAMETER.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    now = "Prompt"
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            now, line = "Negative prompt", line.removeprefix("Negative prompt:").strip()
        prompts[now].append(line)
    found = {name: "\n".join(part).strip("\n") for name, part in prompts.items()}
    for name, value in _PARAMETER.findall(last):
        value = unquote(value)
        size = _SIZE.fullmatch(value)
        if size is None:
            found[name] = value
        else:
            found[f"{name}-1"], found[f"{name}-2"] = size.groups()
    return found


def unquote(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
