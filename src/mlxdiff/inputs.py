"""Files that others wrote, opened for reading: whatever is in the way is an InputError in words."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import BinaryIO

from .errors import InputError
from .files import open_regular


def open_input(path: str | Path, what: str = "file") -> BinaryIO:
    """Opens a regular file; InputError for a missing one, a folder, a pipe, a device, one that is not to be read.

    `what` is what was looked for: "picture" or "file".
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        return open_regular(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what) from None


def unreadable(path: Path, error: OSError | ValueError, what: str) -> InputError:
    """Why `path` cannot be read, in words; `what` as for `open_input`."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return InputError(f"{path} is a link that leads nowhere.", f"Name the {what} itself.")
        return InputError(f"There is no {what} {path}.", "Check its name and folder.")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path} is a folder.", f"Name {'the pictures' if what == 'picture' else 'a file'} in it.")
    if isinstance(error, PermissionError):
        return InputError(f"There is no permission to read {path}.", "Change its permissions.")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputError(f"{path} cannot be read ({reason}).", f"Give a {what} on a disk.")
