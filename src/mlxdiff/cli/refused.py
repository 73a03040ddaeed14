"""Pictures that were to be rendered again, and cannot be: each with its sentence, of very many their number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import MlxdiffError
from . import output

MOST = 20  # that are named on stderr


def tell(found: Sequence[tuple[Path, MlxdiffError]], *, json: bool) -> None:
    """Names them on stderr, and with `json` all of them on stdout too."""
    for path, error in found if json else ():
        output.say_json({"event": "failed", "source": str(path), "error": str(error)})
    for path, error in found[:MOST]:
        text = str(error)
        output.complain("failed", text if str(path) in text else f"{path}: {text}")
    if len(found) > MOST:
        output.complain("failed", f"{len(found) - MOST} more pictures cannot be rendered again.")
