"""What mlxdiff remembers between runs, in a small JSON file: the default model, and mirrors that stand for others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import MlxdiffError
from ..files import atomic_write
from .reference import BUILT_IN, as_path, canonical, parse_repository


def home() -> Path:
    """The folder of mlxdiff's own state: MLXDIFF_HOME, or the platform's place for a user's data."""
    chosen = os.environ.get("MLXDIFF_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_dir

    return Path(user_data_dir("mlxdiff"))


def default_model() -> str:
    """MLXDIFF_MODEL, else what `set_default_model` recorded, else the built-in one."""
    chosen = os.environ.get("MLXDIFF_MODEL")
    if chosen:
        return chosen
    recorded = _read_state().get("default_model", BUILT_IN)
    if not isinstance(recorded, str):
        raise _damaged_state()
    return recorded


def set_default_model(reference: str) -> None:
    """Records the model that is used when none is named. Raises OutputError where it cannot be written."""
    path = as_path(reference)
    if reference != BUILT_IN and path is not None and path.exists():
        reference = str(path.resolve())
    else:
        reference = canonical(reference)
    _write_state({**_read_state(), "default_model": reference})


def mirror_of(name: str) -> str | None:
    """The repository that the user agreed to take for one that was removed from the hub; None where none was asked."""
    mirrors = _read_state().get("mirrors", {})
    if not isinstance(mirrors, dict):
        raise _damaged_state()
    mirror = mirrors.get(name)
    return mirror if isinstance(mirror, str) and parse_repository(mirror) is not None else None


def set_mirror(name: str, mirror: str) -> None:
    """Records that `mirror` stands for `name` from now on. Raises OutputError where it cannot be written."""
    state = _read_state()
    mirrors = state.get("mirrors", {})
    _write_state({**state, "mirrors": {**(mirrors if isinstance(mirrors, dict) else {}), name: mirror}})


def _state_file() -> Path:
    return home() / "state.json"


def _write_state(state: dict[str, Any]) -> None:
    content = json.dumps(state, indent=1, sort_keys=True).encode()
    atomic_write(_state_file(), lambda stream: stream.write(content), force=True)


def _read_state() -> dict[str, Any]:
    try:
        state = json.loads(_state_file().read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError):
        raise _damaged_state() from None
    if not isinstance(state, dict):
        raise _damaged_state()
    return state


def _damaged_state() -> MlxdiffError:
    return MlxdiffError(
        f"{_state_file()} cannot be read.", "Delete it, then set the default again: mlxdiff pull MODEL --set-default"
    )
