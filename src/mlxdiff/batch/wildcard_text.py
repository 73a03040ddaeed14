"""Text files of wildcards: one option a line, with comments; and what every option must be, wherever it is from."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError
from ..files import open_regular

MAX_BYTES = 2**26  # of a file
MAX_LINE = 2**14  # characters
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_COMMENT = re.compile(r"(?:^|\s+)#.*$")


def read(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """A file's text; raises InputError where it cannot be read, is too large, or is no text in UTF-8."""
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"The wildcards {path} cannot be read ({error.strerror}).", "Check the file.") from None
    if len(data) > max_bytes:
        raise InputError(f"The wildcards {path} are larger than {max_bytes >> 20} MiB.", "Cut the file in pieces.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}, is not UTF-8.", "Save the file as UTF-8 text.") from None
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise _no_text(f"{path}, line {line},", control[0])
    return text


def lines(path: Path) -> list[str]:
    """The options of a .txt file. Raises InputError as `read` does, and for a line that is too long."""
    found = []
    for number, line in enumerate(read(path).split("\n"), 1):
        if "#" in line:
            line = _COMMENT.sub("", line)
        line = line.strip()
        if len(line) > MAX_LINE:
            raise _too_long(f"{path}, line {number},")
        if line:
            found.append(line)
    return found


def check(option: str, place: str) -> None:
    """Raises InputError where an option is too long or has a control character. place: where it is, for the error."""
    if len(option) > MAX_LINE:
        raise _too_long(place)
    control = _CONTROL.search(option)
    if control is not None:
        raise _no_text(place, control[0])


def _too_long(place: str) -> InputError:
    return InputError(f"{place} is longer than {MAX_LINE} characters.", "Write one option a line.")


def _no_text(place: str, control: str) -> InputError:
    return InputError(
        f"{place} has the character U+{ord(control):04X}, which is not text.",
        "Check that the file is one of text, and take the character out.",
    )
