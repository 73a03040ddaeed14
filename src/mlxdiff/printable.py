"""Text from files, servers and users as it may be printed: without what would drive a terminal.

Everything that is printed goes through `printable`, in tables, errors, warnings and `--json` alike.
"""

from __future__ import annotations

import re

# Escape sequences of terminals (ECMA-48): CSI to its final letter, a string (OSC, DCS) to its end, then all others.
# A string stops at the start of another one, or many starts without an end would each be searched to the last letter.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)
# What else must not reach a terminal: controls but tab and newline, and marks that turn the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without escape sequences, control characters (but tab and newline) and bidirectional marks."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))
    return _SURROGATES.sub("\ufffd", text)
