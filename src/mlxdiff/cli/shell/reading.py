"""A line from the terminal, with the editing that Python's readline has, be it GNU's or libedit; or without any.

What comes back is printable: escape sequences in a pasted text are left out before anything is done with it. A block of
several lines that a terminal pastes as one is taken apart here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ...batch.prompts import MAX_LINE
from ...errors import InputError
from ...printable import printable
from .. import output
from .history import History

PROMPT = "mlxdiff> "
# Between these words of a line are completed one by one; a value with blanks is put together again (`_fitted`).
DELIMITERS = " \t\n=,:/<>\"'"
Complete = Callable[[str], tuple[int, list[str]]]
"""A line up to the cursor to where the word to complete begins, and the texts that may stand there."""


class Reader:
    """Reads lines. `complete` is asked when Tab is pressed; `history` is what the arrow keys go back to."""

    def __init__(self, history: History, complete: Complete) -> None:
        self._history, self._complete = history, complete
        self._readline = _readline() if output.is_for_people() else None
        self._offered: list[str] = []
        if self._readline is not None:
            self._prepare(self._readline)

    def lines(self) -> list[str]:
        """What was typed until Enter: one line, or those of a pasted block; nothing for a blank one.

        Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C, InputError for bytes that are no text.
        """
        try:
            text = self._ask()
        except UnicodeDecodeError:
            text = "\udcff"
        if re.search(r"[\ud800-\udfff]", text):
            raise InputError("The line is not UTF-8 text.", "See which encoding the terminal is set to.")
        parts = re.split(r"\r\n|\r|\n", text)
        if max(map(len, parts)) > MAX_LINE:
            raise InputError(f"The line is longer than {MAX_LINE} letters.", "Shorten it.")
        found = [printable(part) for part in parts]
        if found != parts:
            output.note("Control characters were left out.", style="dim")
        found = [line for line in found if line.strip()]
        for line in found:
            if self._history.add(line):
                self._remember(line)
        return found

    def is_empty(self) -> bool:
        """Whether nothing stood in the line when Ctrl-C ended it."""
        return self._readline is None or not self._readline.get_line_buffer().strip()

    def _ask(self) -> str:
        if self._readline is not None:
            return input(PROMPT)
        # The prompt is no data: it goes where notes go, since stdout may lead to a file.
        if sys.stderr is not None:
            sys.stderr.write(PROMPT)
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def _prepare(self, readline: Any) -> None:
        readline.set_auto_history(False)
        readline.clear_history()
        for line in self._history.read():
            self._remember(line)
        readline.set_completer_delims(DELIMITERS)
        readline.set_completer(self._offer)
        if _is_libedit(readline):
            readline.parse_and_bind("bind ^I rl_complete")
            return
        readline.parse_and_bind("tab: complete")
        # A pasted block stays in the line until Enter: it can be read before it is done, and a tab in it is a tab.
        readline.parse_and_bind("set enable-bracketed-paste on")

    def _remember(self, line: str) -> None:
        if self._readline is not None:
            with suppress(UnicodeEncodeError):  # letters that the locale has not
                self._readline.add_history(line)

    def _offer(self, text: str, state: int) -> str | None:
        """readline's question for the text number `state`."""
        del text
        if state == 0:
            assert self._readline is not None
            line = self._readline.get_line_buffer()[: self._readline.get_endidx()]
            self._offered = fitted(line, self._readline.get_begidx(), *self._complete(line))
        return self._offered[state] if state < len(self._offered) else None


def fitted(line: str, begin: int, start: int, texts: list[str]) -> list[str]:
    """Texts that may stand from `start` on, as readline wants them: from the last delimiter, at `begin`, on."""
    whole = [line[:start] + text for text in texts]
    return [text[begin:] for text in whole if text[:begin] == line[:begin]]


def _readline() -> Any:
    """Python's readline; None where it was built without."""
    try:
        import readline
    except ImportError:
        return None
    return readline


def _is_libedit(readline: Any) -> bool:
    """Which macOS has in its place; its key bindings are written in another way."""
    return getattr(readline, "backend", "") == "editline" or "libedit" in (readline.__doc__ or "")
