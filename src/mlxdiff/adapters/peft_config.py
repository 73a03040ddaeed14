"""PEFT's config of an adapter: alpha and rank, for all modules and for some of them.

It is `adapter_config.json` beside the weights, or what diffusers writes into their header, one for each component.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.detect import read_json
from ..checkpoint.header import Header
from ..errors import CheckpointError, MlxdiffWarning, UnsupportedError
from .keys import PEFT

_FILE = "adapter_config.json"
_IN_HEADER = "lora_adapter_metadata"
_COMPONENTS = ("unet.", "text_encoder.", "text_encoder_2.")
# What PEFT's own classes have where a config says nothing.
_RANK = _ALPHA = 8
# Names of modules, and what PEFT's users write for several at once. Other regular expressions can take forever.
_PATTERN = re.compile(r"\^?(\\\.|\.\*|[\w.-]){1,300}\$?")
_MOST_STARS = 3
# Ways to begin a training that also change the weights of the model itself.
_CHANGES_MODEL = ("pissa", "olora", "corda", "loftq", "lora_ga")

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PeftConfig:
    """Configs by the prefix of the modules that they are about."""

    source: str
    sections: Sections

    def numbers(self, name: str) -> dict[str, float]:
        """`alpha` and `scale`, or IA3's `on_input`, of the module that the file calls `name`; {} where no config is.

        Raises CheckpointError for numbers that are none.
        """
        prefix = next((prefix for prefix in self.sections if name.startswith(prefix)), None)
        if prefix is None:
            return {}
        values, module = self.sections[prefix], name[len(prefix) :]
        if values.get("peft_type") == "IA3":
            return {"on_input": float(self._is_feedforward(values.get("feedforward_modules"), module))}
        rank = self._number(values, "rank_pattern", "r", module, _RANK)
        alpha = self._number(values, "alpha_pattern", "alpha" if "alpha" in values else "lora_alpha", module, _ALPHA)
        if rank < 1 or alpha == 0:
            raise self._bad(f"gives {module!r} the rank {rank:g} and the alpha {alpha:g}")
        return {"alpha": alpha, "scale": alpha / (math.sqrt(rank) if values.get("use_rslora") is True else rank)}

    def _number(self, values: Mapping[str, Any], patterns: str, name: str, module: str, default: float) -> float:
        found = values.get(name, default)
        by_pattern = values.get(patterns)
        if isinstance(by_pattern, dict):
            found = next((number for pattern, number in by_pattern.items() if self._is_for(pattern, module)), found)
        if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < 1e9:
            raise self._bad(f"has {name} = {str(found)[:40]}")
        return float(found)

    def _is_feedforward(self, chosen: Any, module: str) -> bool:
        """Whether IA3 multiplies the input of a module, and not its output."""
        if isinstance(chosen, str):
            return self._is_for(chosen, module)
        return isinstance(chosen, list) and any(isinstance(name, str) and module.endswith(name) for name in chosen)

    def _is_for(self, pattern: str, module: str) -> bool:
        if _PATTERN.fullmatch(pattern) is None or pattern.count("*") > _MOST_STARS:
            raise UnsupportedError(
                f"{self.source} chooses modules by {pattern[:80]!r}, which mlxdiff does not read.",
                "Save the adapter with the names of its modules.",
            )
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.source} {what[:200]}.", "Download it again.")


def config_of(path: Path, header: Header) -> PeftConfig | None:
    """The config that belongs to a file, or None. Raises CheckpointError for a damaged one, UnsupportedError for an
    adapter that only fits a model which PEFT has changed."""
    if any(key.startswith(PEFT) for key in header.tensors):
        beside = path.parent / _FILE
        found = PeftConfig(str(beside), {PEFT: read_json(beside)}) if beside.is_file() else None
        if found is None and any(re.search(r"\.(lora_|hada_|lokr_)", key) for key in header.tensors):
            text = f"{path} is without PEFT's {_FILE}, so its alpha is not known: its rank is taken for it."
            warnings.warn(MlxdiffWarning(text), stacklevel=2)
    else:
        found = _in_header(path, header)
    if found is None:
        return None
    for values in found.sections.values():
        start = values.get("init_lora_weights")
        if isinstance(start, str) and start.startswith(_CHANGES_MODEL):
            raise UnsupportedError(
                f"{found.source} says that the model was changed for this adapter too ({start[:40]}).",
                "Save it in PEFT with path_initial_model_for_weight_conversion, as a LoRA for the original model.",
            )
    return found


def _in_header(path: Path, header: Header) -> PeftConfig | None:
    text = header.metadata.get(_IN_HEADER)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} has {_IN_HEADER} that is no JSON object.", "Download it again.")
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        prefix = next((prefix for prefix in _COMPONENTS if key.startswith(prefix)), "")
        sections.setdefault(prefix, {})[key[len(prefix) :]] = value
    # The empty prefix fits every name: last.
    return PeftConfig(str(path), dict(sorted(sections.items(), reverse=True)))
