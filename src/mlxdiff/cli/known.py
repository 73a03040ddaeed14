"""`mlxdiff pull --list-known`: the short names of much used models and parts, and which of them are here."""

from __future__ import annotations

from . import output


def list_known(*, json: bool) -> None:
    """One JSON object a short name, or a table."""
    from .. import hub

    here = set(hub.cached_names())
    if json:
        for name, known in hub.KNOWN.items():
            said = {"name": name, "model": known.repository, "kind": known.kind, "about": known.about}
            output.say_json({**said, "here": known.repository in here})
        return
    rows = [
        (name, hub.noun_of(known.kind), known.about, known.repository, "yes" if known.repository in here else "")
        for name, known in hub.KNOWN.items()
    ]
    output.table(rows, ("name", "kind", "about", "stands for", "here"))
    output.note("A short name stands for its repository wherever one does: mlxdiff generate PROMPT --model sd21")
