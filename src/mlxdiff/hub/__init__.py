"""A model's name to its files on disk: built in, a folder, or a repository in the Hugging Face cache.

`resolve` never touches the network; `plan` and `pull` do. Nothing here looks into a weight.

reference.py   what a user calls a model: owner/name@revision, an address
selection.py   which files of a repository mlxdiff loads
known.py       short names of repositories
mirrors.py     what was removed from the hub, and the nearest name
state.py       the default model, mirrors agreed to
local.py       a reference to a folder on this disk
client.py      one question to the hub: how long, how much, whom the token reaches
retry.py       which failures pass, and how long to wait
listing.py     what the hub says of a repository, looked at before it is believed
transfer.py    one file: resumed, verified, named
verified.py    which files were read and found sound
download.py    a plan, and bringing it into the cache
contents.py    what lies in the cache, broken links too
upkeep.py      which models are in the cache; verifying them
removal.py     removing and pruning
failures.py    the hub's errors in words
choosing.py    what a repository is, and which of its files are needed
library.py     a reference to a part's file or folder
shelf.py       parts in folders, by name
store.py       mlxdiff's own store of parts
cached_parts.py  the parts in a snapshot of the cache
hashes.py      the hashes by which other programs know files
"""

from __future__ import annotations

from ..checkpoint.kinds import kind_if_sound, kind_of_file
from ..part_kinds import KINDS, MODEL, noun_of
from .cached_parts import CachedPart
from .download import Plan, PlannedFile, Progress, plan, pull
from .hashes import FileHashes, file_hash, find_by_hash, hashes_of
from .known import KNOWN, spelled_out
from .library import find_image_encoder, find_part, kind_of_folder, resolve_vae
from .local import Snapshot, cached_names, is_local, resolve
from .mirrors import RemovedError
from .reference import BUILT_IN, HubReference, canonical, only_paths, parse_reference
from .removal import Removal, prunable, removal_of, remove
from .shelf import folders_of
from .shelf import shelved as named_parts
from .state import default_model, home, mirror_of, set_default_model, set_mirror
from .store import (
    StoredPart,
    add_part,
    check_stored,
    find_stored,
    planned_part,
    remove_stored,
    stored_part,
    stored_parts,
)
from .upkeep import CachedModel, CheckedFile, cached_models, cached_parts, find_models, remove_damaged, verify

__all__ = [
    "BUILT_IN",
    "KINDS",
    "KNOWN",
    "MODEL",
    "CachedModel",
    "CachedPart",
    "CheckedFile",
    "FileHashes",
    "HubReference",
    "Plan",
    "PlannedFile",
    "Progress",
    "Removal",
    "RemovedError",
    "Snapshot",
    "StoredPart",
    "add_part",
    "cached_models",
    "cached_names",
    "cached_parts",
    "canonical",
    "check_stored",
    "default_model",
    "file_hash",
    "find_by_hash",
    "find_image_encoder",
    "find_models",
    "find_part",
    "find_stored",
    "folders_of",
    "hashes_of",
    "home",
    "is_local",
    "kind_if_sound",
    "kind_of_file",
    "kind_of_folder",
    "mirror_of",
    "named_parts",
    "noun_of",
    "only_paths",
    "parse_reference",
    "plan",
    "planned_part",
    "prunable",
    "pull",
    "removal_of",
    "remove",
    "remove_damaged",
    "remove_stored",
    "resolve",
    "resolve_vae",
    "set_default_model",
    "set_mirror",
    "spelled_out",
    "stored_part",
    "stored_parts",
    "verify",
]
