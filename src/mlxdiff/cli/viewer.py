"""`--open`: a finished picture in the system's own viewer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import output


def show(paths: Sequence[Path]) -> None:
    """Opens the picture, or the folder of several; says so where this system has nothing to open it with."""
    if not paths:
        return
    path = paths[0] if len(paths) == 1 else paths[0].parent
    program = _program()
    if program is None:
        output.note(f"There is no viewer to open {path} with: --open needs a desktop.", style="yellow")
        return
    try:
        # It outlives this program, and its words are not for this terminal.
        subprocess.Popen(
            [program, str(path.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        output.note(f"{program} does not open {path} ({error.strerror}).", style="yellow")


def _program() -> str | None:
    """`open` on a Mac; `xdg-open` where there is a screen: without one it would start a browser in this terminal."""
    if sys.platform == "darwin":
        return shutil.which("open")
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        return None
    return shutil.which("xdg-open")
