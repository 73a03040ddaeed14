"""What mlxdiff remembers between runs: the default model, in a small JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import MlxdiffError
from ..files import atomic_write
from .local import BUILT_IN, as_path


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
    if reference != BUILT_IN and path is not None and path.is_dir():
        reference = str(path.resolve())
    state = json.dumps({**_read_state(), "default_model": reference}, indent=1, sort_keys=True)
    atomic_write(_state_file(), lambda stream: stream.write(state.encode()), force=True)


def _state_file() -> Path:
    return home() / "state.json"


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
