"""What a shell offers behind an option when Tab is pressed: choices, models and parts that are here, short names.

A shell completes files by itself wherever nothing is offered. Whatever fails here offers nothing: a half-typed line is
no place for an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator

from ..part_kinds import MODEL
from ..request.declarations import Kind, PartReference, Reference, declared
from ..request.structured import Structured

Complete = Callable[[str], list[str]]

# Names that mean nothing to any shell: others, such as "my style", are typed by hand, in quotes.
_PLAIN = re.compile(r"\w[\w.+@/-]*")


def for_kind(kind: Kind) -> Complete | None:
    """What completes a setting's values; None where the shell's own files will do, or nothing can be offered."""
    described = kind.describe()
    if "choices" in described:
        return among(map(str, described["choices"]))
    if isinstance(kind, Structured):
        return for_kind(declared(kind.of)[0].kind)
    if isinstance(kind, PartReference):
        return parts(kind.part, kind.names)
    return models if isinstance(kind, Reference) else None


def among(choices: Iterable[str]) -> Complete:
    """Completes one of a few names."""
    listed = list(choices)
    return lambda incomplete: _beginning(incomplete, listed)


def models(incomplete: str) -> list[str]:
    """Models on this disk: the built-in one, those of the cache, and their short names."""
    return offered(incomplete, lambda: names_here(MODEL))


def parts(kind: str, known: Iterable[str] = ()) -> Complete:
    """Completes parts of a kind on this disk, such as LoRAs, behind the names that are `known` without a file."""
    known = tuple(known)

    def names() -> Iterator[str]:
        yield from known
        yield from names_here(kind)

    return lambda incomplete: offered(incomplete, names)


def pullable(incomplete: str) -> list[str]:
    """What `pull` may be asked for: short names, and what is in the cache."""

    def names() -> Iterator[str]:
        from .. import hub

        yield from hub.KNOWN
        yield from hub.cached_names()

    return offered(incomplete, names)


def models_or_files(incomplete: str) -> list[str]:
    """Models, where no file begins as what was typed: `info` is asked about both."""
    try:
        with os.scandir() as entries:
            if any(entry.name.startswith(incomplete) for entry in entries):
                return []
    except OSError:
        pass
    return models(incomplete)


def offered(incomplete: str, names: Callable[[], Iterable[str]]) -> list[str]:
    """Those of the names that begin so and mean nothing to a shell; none for a path, or where names cannot be had."""
    if incomplete.startswith((".", "/", "~")):  # a path
        return []
    try:
        return _beginning(incomplete, (name for name in names() if _PLAIN.fullmatch(name)))
    except Exception:
        return []


def names_here(kind: str) -> Iterator[str]:
    """The names of models, or of a kind of parts, that are on this disk."""
    if kind != MODEL:
        from ..hub.shelf import shelved

        yield from (part.name for part in shelved(kind))
    yield from _here(kind)


def _here(kind: str) -> Iterator[str]:
    """The repositories of a kind in the cache, with their short names, and what comes with mlxdiff."""
    from .. import hub

    if kind == MODEL:
        yield hub.BUILT_IN
    found = hub.cached_models() if kind == MODEL else [part for part in hub.cached_parts() if part.kind in (kind, None)]
    here = dict.fromkeys(each.reference for each in found)
    yield from (name for name, known in hub.KNOWN.items() if known.repository in here)
    yield from here


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
