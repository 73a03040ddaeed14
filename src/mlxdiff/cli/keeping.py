"""What `mlxdiff pull` does with parts: LoRAs, VAEs and the like, from a file on this disk or from the hub."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelNotFoundError, UnsupportedError
from . import output

if TYPE_CHECKING:
    from ..hub import Plan, Snapshot, StoredPart

PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def part_in(reference: str, kind: str | None) -> Path | None:
    """The file on this disk that a reference names, where that is to be kept as a part; None for all else.

    Raises CheckpointError for a damaged file, UnsupportedError for a pickle.
    """
    from .. import hub

    path = Path(reference).expanduser()
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return None
    if not is_file:
        if kind is not None and hub.is_local(reference):
            raise ModelNotFoundError(f"There is no file {reference}.", "Check the path.")
        return None
    if path.suffix.lower() in PICKLES:
        raise UnsupportedError(
            f"{reference} is a pickle, which could run any code when it is opened.",
            "Look for the same as .safetensors. One that you trust can be converted with PyTorch:"
            " safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'NAME.safetensors')",
        )
    if path.suffix.lower() != ".safetensors":
        return None
    return path if kind is not None or hub.kind_of_file(path) != hub.MODEL else None


def tell_what_is_here(reference: str, *, json: bool) -> bool:
    """Says where a part is that needs no pull: a component's folder, or a name of the store; False for all else."""
    from .. import hub
    from ..metadata import printable

    path, kind = Path(reference).expanduser(), None
    if hub.is_local(reference):
        kind = hub.kind_of_folder(path)
        stored = hub.find_stored(reference) if kind is None else []
        if stored:
            path, kind = stored[0].path, stored[0].kind
    if kind is None:
        return False
    row = hub.KINDS[kind]
    use = row.usage(reference)
    output.note(printable(f"{reference} is {row.article} on this disk: nothing to fetch. Use it with: {use}"))
    if json:
        output.say_json(
            {"model": reference, "revision": None, "path": str(path), "kind": kind, "use": use, "ready": True}
        )
    else:
        output.say(printable(f"ready {path}"))
    return True


def keep(source: Path, kind: str | None, name: str | None, *, force: bool, dry_run: bool, json: bool) -> None:
    """Copies a part's file into mlxdiff's store, and says how to use it."""
    from .. import hub
    from ..metadata import printable

    part = hub.planned_part(source, kind, name)
    use = hub.KINDS[part.kind].usage(part.name)
    said = {**described(part), "use": use}
    if dry_run:
        if json:
            output.say_json({**said, "ready": False})
        else:
            output.say(printable(f"{source} would be kept as the {hub.KINDS[part.kind].noun} {part.name}: {part.path}"))
        return
    is_new = hub.add_part(source, kind, name, force=force)
    state = "kept" if is_new else "here already"
    output.note(printable(f"{part.name} is {state}, {hub.KINDS[part.kind].article}. Use it with: {use}"))
    if json:
        output.say_json({**said, "ready": True})
    else:
        output.say(printable(f"ready {part.path}"))


def kind_of(plan: Plan, snapshot: Snapshot) -> str | None:
    """What was brought: as the repository says, or the file's header; None where neither tells."""
    from .. import hub

    found = hub.kind_if_sound(snapshot.path) if snapshot.path.is_file() else None
    return plan.kind if found is None else found


def tell_use(reference: str, revision: str | None, kind: str | None) -> str | None:
    """Says what a part of the hub is and how it is used, and returns the option; None for a model."""
    from .. import hub

    parsed = hub.parse_reference(reference)
    if kind == hub.MODEL or parsed is None:
        return None
    parsed = replace(parsed, revision=parsed.revision if revision is None else revision)
    if kind is None:
        output.note(f"{parsed.typed}: its header does not say what it is.", style="yellow")
        return None
    use = hub.KINDS[kind].usage(parsed.typed)
    output.note(f"{parsed.typed} is {hub.KINDS[kind].article}. Use it with: {use}")
    return use


def described(part: StoredPart) -> dict[str, Any]:
    """A part of the store as a JSON object, with the keys of a model of the cache."""
    return {
        "model": part.name,
        "revision": None,
        "refs": [],
        "kind": part.kind,
        "bytes": part.size,
        "last_used": as_date(part.last_used),
        "complete": True,
        "path": str(part.path),
    }


def as_date(seconds: float) -> str | None:
    """Seconds since 1970 as ISO 8601; None where there are none."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds") if seconds else None
