"""Repositories that their owners removed from the hub, where the same files are, and the nearest of known names.

Knows names only; nothing here asks a hub or a disk.
"""

from __future__ import annotations

from collections.abc import Iterable

from .. import spelling
from ..errors import ModelNotFoundError
from .known import KNOWN

# Removed in November 2025; the mirror was made from the originals.
_STABLE_DIFFUSION_2 = (
    "stable-diffusion-2",
    "stable-diffusion-2-base",
    "stable-diffusion-2-inpainting",
    "stable-diffusion-2-1",
    "stable-diffusion-2-1-base",
)
# As of November 2026.
MIRRORS = {f"stabilityai/{name}": f"sd2-community/{name}" for name in _STABLE_DIFFUSION_2} | {
    # Removed in August 2024.
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}


class RemovedError(ModelNotFoundError):
    """A repository that its owner removed from the hub; `mirror` has the same files."""

    def __init__(self, name: str, mirror: str):
        super().__init__(f"{name} was removed from the hub.", how_to_mirror(name, mirror))
        self.name = name
        self.mirror = mirror


def how_to_mirror(asked: str, mirror: str) -> str:
    """What to run for the same files; `asked` may name a revision."""
    return f"The same files are in {mirror}; to use them under the old name run: mlxdiff pull {asked} --mirror"


def known_names() -> list[str]:
    """The names that mlxdiff knows of, whether or not they are in the cache."""
    return list(dict.fromkeys([*MIRRORS.values(), *MIRRORS, *(each.repository for each in KNOWN.values()), *KNOWN]))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names`, and of the models that mlxdiff knows of, that is spelt most like `name`.

    A name without its owner is compared with the names without theirs. None where nothing is near.
    """
    known = dict.fromkeys([*names, *known_names()])
    known.pop(name, None)
    by_spelling: dict[str, str] = {}
    for full in known:
        by_spelling.setdefault(full.lower() if "/" in name else full.rpartition("/")[2].lower(), full)
    # Long ids of different models share most letters; short ones need room for a single slip.
    cutoff = 0.85 if len(name) > 8 else 0.5
    near = spelling.nearest(name.lower(), by_spelling, cutoff=cutoff)
    return by_spelling[near[0]] if near else None
