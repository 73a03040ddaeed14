"""A model's name to its files on disk: built in, a folder, or a repository in the Hugging Face cache.

`resolve` never touches the network; `plan` and `pull` do. Nothing here looks into a weight.

selection.py   which files of a repository mlxdiff loads
local.py       a reference to a folder on this disk; what the cache holds
state.py       the default model
download.py    a plan, and bringing it into the cache
failures.py    the hub's errors in words
"""

from __future__ import annotations

from .download import Plan, PlannedFile, Progress, plan, pull
from .local import BUILT_IN, CachedModel, Snapshot, cached_models, is_local, resolve
from .state import default_model, home, set_default_model

__all__ = [
    "BUILT_IN",
    "CachedModel",
    "Plan",
    "PlannedFile",
    "Progress",
    "Snapshot",
    "cached_models",
    "default_model",
    "home",
    "is_local",
    "plan",
    "pull",
    "resolve",
    "set_default_model",
]
