"""A model's name to its files on disk: built in, a folder, or a repository in the Hugging Face cache.

`resolve` never touches the network; `plan` and `pull` do. Nothing here looks into a weight.

selection.py   which files of a repository mlxdiff loads
mirrors.py     what was removed from the hub, and the nearest name
local.py       a reference to a folder on this disk
state.py       the default model, mirrors agreed to
download.py    a plan, and bringing it into the cache
transfer.py    one file: resumed, verified, named
retry.py       which failures pass, and how long to wait
upkeep.py      what the cache holds; verifying and removing it
failures.py    the hub's errors in words
"""

from __future__ import annotations

from .download import Plan, PlannedFile, Progress, plan, pull
from .local import BUILT_IN, Snapshot, is_local, resolve, resolve_vae
from .mirrors import RemovedError
from .state import default_model, home, mirror_of, set_default_model, set_mirror
from .upkeep import (
    CachedModel,
    CheckedFile,
    Removal,
    cached_models,
    find_models,
    prunable,
    removal_of,
    remove,
    remove_damaged,
    verify,
)

__all__ = [
    "BUILT_IN",
    "CachedModel",
    "CheckedFile",
    "Plan",
    "PlannedFile",
    "Progress",
    "Removal",
    "RemovedError",
    "Snapshot",
    "cached_models",
    "default_model",
    "find_models",
    "home",
    "is_local",
    "mirror_of",
    "plan",
    "prunable",
    "pull",
    "removal_of",
    "remove",
    "remove_damaged",
    "resolve",
    "resolve_vae",
    "set_default_model",
    "set_mirror",
    "verify",
]
