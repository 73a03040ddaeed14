"""What `mlxdiff pull` does with the cache and the store instead of filling them: list, remove, prune, verify."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from ..errors import CheckpointError, RequestError
from . import keeping, output

if TYPE_CHECKING:
    from ..hub import CachedModel, Removal, StoredPart


def described(model: CachedModel) -> dict[str, Any]:
    """A model or a part of the cache as a JSON object."""
    said: dict[str, Any] = {
        "model": model.reference,
        "revision": model.revision,
        "refs": list(model.refs),
        "kind": model.kind,
        "bytes": model.size,
        "last_used": keeping.as_date(model.last_used),
        "complete": model.complete,
        "path": str(model.path),
    }
    if model.parts:
        said["parts"] = [{"path": part.path, "kind": part.kind} for part in model.parts]
    return said


def list_models(model: str | None, *, json: bool) -> None:
    """One line a revision or part on stdout, or one JSON object."""
    models, stored = _found(model)
    if json:
        for found in models:
            output.say_json(described(found))
        for part in stored:
            output.say_json(keeping.described(part))
        return
    if not models and not stored:
        output.note("There is no model in the cache and no part in the store. To get one run: mlxdiff pull MODEL")
        return
    _table(models, stored)


def _found(name: str | None) -> tuple[list[CachedModel], list[StoredPart]]:
    """What a name means in the cache and in the store, which goes first; without one, everything."""
    from .. import hub

    if name is None:
        return [*hub.cached_models(), *hub.cached_parts()], hub.stored_parts()
    stored = hub.find_stored(name)
    return [] if stored else hub.find_models(name), stored


def remove_model(model: str, kind: str | None, *, dry_run: bool, yes: bool, json: bool) -> None:
    """Removes a repository's revisions, or the one after the @; or a part of the store."""
    from .. import hub

    if kind is not None or hub.find_stored(model):
        _remove_stored(hub.stored_part(model, kind), dry_run=dry_run, yes=yes, json=json)
        return
    _remove(hub.removal_of(model), dry_run=dry_run, yes=yes, json=json)
    removed, default = hub.parse_reference(model), hub.parse_reference(hub.default_model())
    if not dry_run and removed is not None and default is not None and removed.name == default.name:
        output.note(f"{removed.name} is still the default model; for another run: mlxdiff pull MODEL --set-default")


def prune_models(*, dry_run: bool, yes: bool, json: bool) -> None:
    """Removes what no branch or tag stands for, and unfinished downloads."""
    from .. import hub

    removal = hub.prunable()
    if removal.empty and not json:
        output.note("There is nothing to prune.")
        return
    _remove(removal, dry_run=dry_run, yes=yes, json=json)


def verify_models(model: str | None, *, dry_run: bool, yes: bool, json: bool) -> None:
    """Reads models again; damaged files are removed after a question, so that a pull brings them anew.

    Raises CheckpointError where a file is damaged or a model not complete.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from .. import hub
    from ..metadata import printable

    models, stored = _found(model)
    lost = _verify_stored(stored, json=json)
    bad: list[str] = []
    others: list[str] = []
    for found in models:
        name = f"{found.reference}@{found.revision[:12]}"
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=output.err_console(), transient=True) as bars:
            task = bars.add_task(name)
            files = list(
                hub.verify(
                    found, lambda path, task=task, bars=bars: bars.update(task, description=printable(str(path)))
                )
            )
        damaged = [file for file in files if file.sound is False]
        unknown = [file for file in files if file.sound is None]
        ours = [file for file in damaged if file.needed]
        if json:
            said = {"damaged": [file.path for file in damaged], "unknown": [file.path for file in unknown]}
            output.say_json({**described(found), **said, "files": len(files)})
        else:
            for file in damaged:
                whose = "" if file.needed else "; mlxdiff does not load it, and leaves it"
                output.say(printable(f"{name}/{file.path}: damaged, {file.why}{whose}"))
            for file in unknown:
                output.say(printable(f"{name}/{file.path}: not checked, {file.why}"))
            left = f", {len(unknown)} not checked" if unknown else ""
            state = f"{len(damaged)} damaged" if damaged else "sound" if found.complete else "not complete"
            output.say(f"{name}: {state} ({len(files)} files{left})")
        if ours or not found.complete:
            bad.append(found.reference)
        elif damaged:
            others.append(found.reference)
        if ours and not dry_run and (yes or _agreed(f"Remove {len(ours)} damaged files of {name}?", asked=False)):
            hub.remove_damaged(found, ours)
            output.note(f"The damaged files of {name} were removed.")
    if lost:
        raise CheckpointError(
            f"{', '.join(part.name for part in lost)}: damaged in mlxdiff's store.",
            f"Copy the file again: mlxdiff pull FILE --as {lost[0].name} --force",
        )
    if bad:
        names = dict.fromkeys(bad)
        raise CheckpointError(
            f"{', '.join(names)}: damaged or not complete.",
            f"Remove what is damaged with --verify --yes, then run: mlxdiff pull {next(iter(names))}",
        )
    if others:
        raise CheckpointError(
            f"{', '.join(dict.fromkeys(others))}: files are damaged that mlxdiff does not load.",
            "Fetch them anew with the program that needs them.",
        )


def _verify_stored(parts: list[StoredPart], *, json: bool) -> list[StoredPart]:
    """Reads parts of the store again; returns the damaged ones."""
    from .. import hub
    from ..metadata import printable

    lost = []
    for part in parts:
        sound = hub.check_stored(part)
        if sound is False:
            lost.append(part)
        name = f"{part.name} ({hub.noun_of(part.kind)})"
        state = {True: "sound", False: "damaged", None: "not checked, no hash of it is known"}[sound]
        if json:
            damaged, unknown = ([part.path.name] if sound is wanted else [] for wanted in (False, None))
            output.say_json({**keeping.described(part), "damaged": damaged, "unknown": unknown, "files": 1})
        else:
            output.say(printable(f"{name}: {state}"))
    return lost


def _remove_stored(part: StoredPart, *, dry_run: bool, yes: bool, json: bool) -> None:
    """Shows what would go, asks, and removes it. Raises RequestError without a terminal to ask on."""
    from rich.filesize import decimal

    from .. import hub

    if not json:
        _table([], [part])
    size = decimal(part.size)
    if dry_run:
        if not json:
            output.note(f"This would free {size}.")
    else:
        if not yes and not _agreed(f"Remove this and free {size}?", asked=True):
            output.note("Nothing was removed.")
            raise typer.Exit(1)
        hub.remove_stored(part)
        if not json:
            output.note(f"Freed {size}.")
    if json:
        output.say_json(
            {"removed": not dry_run, "bytes": part.size, "models": [keeping.described(part)], "unfinished": []}
        )


def _remove(removal: Removal, *, dry_run: bool, yes: bool, json: bool) -> None:
    """Shows what would go, asks, and removes it. Raises RequestError without a terminal to ask on."""
    from rich.filesize import decimal

    from .. import hub
    from ..metadata import printable

    if not json:
        if removal.models:
            _table(list(removal.models))
        for path in (*removal.unfinished, *removal.folders):
            output.say(printable(f"unfinished {path}"))
    size = decimal(removal.size)
    if dry_run:
        if not json:
            output.note(f"This would free {size}.")
    elif not removal.empty:
        if not yes and not _agreed(f"Remove this and free {size}?", asked=True):
            output.note("Nothing was removed.")
            raise typer.Exit(1)
        hub.remove(removal)
        if not json:
            output.note(f"Freed {size}.")
    if json:
        paths = [str(path) for path in (*removal.unfinished, *removal.folders)]
        models = [described(model) for model in removal.models]
        output.say_json({"removed": not dry_run, "bytes": removal.size, "models": models, "unfinished": paths})


def _agreed(question: str, *, asked: bool) -> bool:
    """The answer given on a terminal; where there is none it is no, or an error if it had to be `asked`."""
    if can_ask():
        return confirmed(question, default=False)
    if asked:
        raise RequestError("There is no terminal to ask whether to remove this.", "Add --yes, or --dry-run to look.")
    return False


def can_ask() -> bool:
    """Whether there is a terminal for a question and its answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(question: str, *, default: bool) -> bool:
    """Asks on stderr, whatever --quiet says; unlike typer's question this leaves stdout to data."""
    while True:
        sys.stderr.write(f"{question} {'[Y/n]' if default else '[y/N]'} ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer:  # end of input
            return False
        match answer.strip().lower():
            case "":
                return default
            case "y" | "yes":
                return True
            case "n" | "no":
                return False


def _table(models: list[CachedModel], stored: Sequence[StoredPart] = ()) -> None:
    """Aligned lines as wide as they are: a table that fits the screen would cut names that scripts read."""
    from rich.filesize import decimal

    from ..hub import noun_of
    from ..metadata import printable

    rows = [("model", "revision", "kind", "size", "last used", "state")]
    for model in models:
        revision = printable(" ".join((model.revision[:12], *model.refs)))
        kind = noun_of(model.kind) if len(model.parts) < 2 else f"{len(model.parts)} files"
        state = "complete" if model.complete else "not complete"
        rows.append((model.reference, revision, kind, decimal(model.size), _day(model.last_used), state))
        if len(model.parts) > 1:
            rows += [(printable(f"  {part.path or '.'}"), "", part.noun, "", "", "") for part in model.parts]
    for part in stored:
        name, kind = printable(part.name), noun_of(part.kind)
        rows.append((name, "file", kind, decimal(part.size), _day(part.last_used), "complete"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        output.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().date().isoformat() if seconds else "-"
