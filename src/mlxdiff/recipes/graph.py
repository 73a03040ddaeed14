"""ComfyUI's graph: nodes by id, which ones are samplers, and who takes something from whom."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

_SAMPLERS = re.compile(r"KSampler|SamplerCustom", re.IGNORECASE)
_CHOICES = re.compile(r"Select|Provider|Node$")  # KSamplerSelect names a sampler, and samples nothing


def is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def is_sampler(node: Mapping[str, Any]) -> bool:
    kind = node["class_type"]
    return _SAMPLERS.search(kind) is not None and _CHOICES.search(kind) is None


def link_of(nodes: Mapping[str, Any], value: Any) -> str | None:
    """The node that an input comes from."""
    if isinstance(value, list) and len(value) == 2 and str(value[0]) in nodes:
        return str(value[0])
    return None


def links_of(nodes: Mapping[str, Any]) -> dict[str, dict[str, None]]:
    """The nodes that each one takes something from."""
    found = {name: (link_of(nodes, value) for value in node["inputs"].values()) for name, node in nodes.items()}
    return {name: dict.fromkeys(link for link in links if link is not None) for name, links in found.items()}


def users_of(links: Mapping[str, Mapping[str, None]]) -> dict[str, dict[str, None]]:
    """The nodes that take something from each one."""
    found: dict[str, dict[str, None]] = {name: {} for name in links}
    for name, taken in links.items():
        for other in taken:
            found[other][name] = None
    return found


def reached(links: Mapping[str, Mapping[str, None]], *starts: str) -> list[str]:
    """The nodes that can be reached from these, and these, nearest first."""
    found, waiting = dict.fromkeys(starts), deque(starts)
    while waiting:
        for name in links[waiting.popleft()]:
            if name not in found:
                found[name] = None
                waiting.append(name)
    return list(found)
