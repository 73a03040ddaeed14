"""What runs have measured, in mlxdiff's own folder: a hint for the next one, and never an error."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MlxdiffError

if TYPE_CHECKING:
    from ..batch.pace import Pace

NAME = "pace.json"
MAX_BYTES = 2**20


def _place() -> tuple[Path, str]:
    """The file, and this machine's name in it: folders of settings are carried from one to another."""
    from .. import backend, hub

    return hub.home() / NAME, f"{backend.backend_name()}, {backend.device_name()}"


def load_pace() -> Pace:
    """What is known of this machine; nothing where there is no file, or a damaged one."""
    from ..batch.pace import Pace

    path, machine = _place()
    return Pace.from_json(_read(path).get(machine))


def save_pace(pace: Pace) -> None:
    """Keeps what is new. Where that cannot be written the next run knows less."""
    if not pace.changed:
        return
    from ..files import atomic_write

    path, machine = _place()
    data = json.dumps({**_read(path), machine: pace.to_json()}, indent=1).encode()
    with suppress(MlxdiffError, OSError):
        atomic_write(path, lambda stream: stream.write(data), force=True)


def _read(path: Path) -> dict[str, object]:
    from ..files import open_regular

    try:
        with open_regular(path) as file:
            values = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
