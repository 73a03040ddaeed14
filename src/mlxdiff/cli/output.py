"""What the terminal sees: data on stdout, bars and words on stderr, one line for each error.

Everything printed goes through here and through `printable`: names in files, from servers and in prompts may hold
escape sequences. Streams may be gone (`| head`, `>/dev/full`): what people read is then dropped, what data was lost
is an error.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from ..errors import MlxdiffError, MlxdiffWarning, OutputError
from ..printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NARROWEST = 12  # columns that a column of a table keeps, however little room there is
GAP = "  "
WARNING = "warning: "
# What JSON leaves as it is and a terminal obeys: C1 controls and DEL, bidirectional marks, line separators; and lone
# surrogates, which no encoding can write.
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass
class Verbosity:
    """Set by the options --quiet and --verbose, before or after the command, and by --progress json.

    events  whether every line on stderr is a JSON object
    """

    quiet: bool = False
    verbose: bool = False
    events: bool = False


verbosity = Verbosity()
_bars: Console | None = None  # of the bars that are drawn now


def err_console() -> Console:
    """For people: bars, tables beside data, warnings. Silent under --quiet."""
    from rich.console import Console

    file: Any = None if sys.stderr is None else _Lasting(sys.stderr)
    return Console(file=file, stderr=True, quiet=verbosity.quiet, highlight=False)


def out_console() -> Console:
    """For data that is a table in colours; lines, plain tables and JSON go through `say`, `table` and `say_json`."""
    from rich.console import Console

    return Console(highlight=False)


def above(console: Console | None) -> None:
    """From now on (until None) bars stand at the bottom of this console, and lines are printed above them."""
    global _bars
    _bars = console


def say(line: str) -> None:
    """One line of data on stdout, never wrapped or coloured, so that scripts can read it.

    Where the reader has ended (`| head`) the line is dropped: a run is finished all the same. Raises OutputError where
    the system refuses it, as on a full disk.
    """
    write(f"{printable(line)}\n")


def write(text: str) -> None:
    """Data on stdout as it is; see `say`."""
    if sys.stdout is None:
        return
    if _bars is not None and _is_terminal(sys.stdout):
        from rich.text import Text

        _bars.print(Text(text), end="", soft_wrap=True)
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        sys.stdout.write(text.encode("ascii", "backslashreplace").decode())
        sys.stdout.flush()
    except OSError as error:
        if (lost := lost_output(error)) is not None:
            raise lost from None


def write_bytes(data: bytes) -> None:
    """A file on stdout; raises OutputError as `say` does, and ends quietly where the reader has gone."""
    if sys.stdout is None:
        raise OutputError("There is no standard output.", "Name a file.")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        if (lost := lost_output(error)) is not None:
            raise lost from None


def columns() -> int:
    """How wide the terminal is."""
    return shutil.get_terminal_size().columns


def is_for_people() -> bool:
    """Whether stdout is a terminal."""
    return _is_terminal(sys.stdout)


def is_typed_to() -> bool:
    """Whether stdin is a terminal."""
    return _is_terminal(sys.stdin)


def event(values: Mapping[str, Any]) -> None:
    """One JSON object on stderr, for a program that follows a run."""
    _put(f"{json_line(values)}\n")


def _put(text: str) -> None:
    """To stderr as it is; stderr that is gone is no error."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)


def json_line(values: Mapping[str, Any]) -> str:
    """The object as one line of JSON in which nothing drives a terminal; reading it gives the same values."""
    text = json.dumps(values, ensure_ascii=False, sort_keys=True)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def say_json(values: Mapping[str, Any]) -> None:
    """One JSON object a line on stdout."""
    write(f"{json_line(values)}\n")


def table(rows: Iterable[Sequence[str]], header: Sequence[str] | None = None) -> None:
    """Aligned columns on stdout. On a terminal cells are wrapped within their columns; piped, nothing is."""
    width = shutil.get_terminal_size().columns if _is_terminal(sys.stdout) else None
    for line in table_lines(rows, header, width):
        say(line)


def table_lines(rows: Iterable[Sequence[str]], header: Sequence[str] | None, width: int | None) -> list[str]:
    """The lines of a table. Cells are wrapped where that makes it `width` columns wide; words are never cut."""
    cells = [[printable(cell) for cell in row] for row in ([] if header is None else [header]) + list(rows)]
    if not cells:
        return []
    columns = list(zip(*cells, strict=True))
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    if width is not None:
        # The widest column gives way first, but no narrower than its longest word; the last may hold long paths.
        words = [max(len(word) for cell in column for word in _words(cell)) for column in columns]
        least = [*words[:-1], min(words[-1], NARROWEST)]
        room = width - len(GAP) * (len(widths) - 1)
        if sum(least) > room and header is not None:
            return _stacked(cells, width)
        while sum(widths) > room and (shrinkable := [i for i in range(len(widths)) if widths[i] > least[i]]):
            widths[max(shrinkable, key=widths.__getitem__)] -= 1
    lines = []
    for row in cells:
        columns = [_wrapped(cell, None if width is None else size) for cell, size in zip(row, widths, strict=True)]
        for i in range(max(map(len, columns))):
            parts = [column[i] if i < len(column) else "" for column in columns]
            lines.append(GAP.join(part.ljust(size) for part, size in zip(parts, widths, strict=True)).rstrip())
    return lines


def _stacked(cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table whose columns do not fit beside each other: below its first cell, each row's others with their names."""
    header, *rows = cells
    lines = []
    for first, *others in rows:
        lines.append(first)
        for name, cell in zip(header[1:], others, strict=True):
            if cell:
                lines += [f"  {line}" for line in _wrapped(f"{name}: {cell}", width - 2)]
    return lines


def _words(cell: str) -> list[str]:
    """The words, with the blanks that indent the first of a line."""
    return ["", *re.findall(r"^[ ]*\S+|\S+", cell, re.MULTILINE)]


def _wrapped(cell: str, width: int | None) -> list[str]:
    import textwrap

    lines: list[str] = []
    for line in cell.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        wrapped: list[str] = []
        if width is not None and len(line) > width:
            wrapped = textwrap.wrap(line.strip(), width, break_long_words=False, break_on_hyphens=False)
        lines += [indent + part for part in wrapped] if wrapped else [line]
    return lines


def cell(text: str, style: str = "") -> Text:
    """A text as Rich prints it, for tables and bars: no markup in it, and nothing that drives a terminal."""
    from rich.text import Text

    return Text(printable(text), style=style)


def note(text: str, style: str = "") -> None:
    """One line for people on stderr; `text` is plain, so that brackets in prompts and paths stay as they are."""
    if verbosity.quiet:
        return
    _print_line(("", text, style))


def answer(text: str, style: str = "") -> None:
    """One line on stderr that somebody has just asked for, so that it is said under --quiet too."""
    _print_line(("", text, style))


def warn(text: str) -> None:
    """A warning of the command line itself, as `MlxdiffWarning`s look."""
    note(f"{WARNING}{text}", style="yellow")


def report(error: MlxdiffError) -> None:
    """An error as its two sentences, also under --quiet; with -v the traceback as well."""
    if verbosity.verbose and sys.stderr is not None:
        import traceback

        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    complain("error", str(error))


def complain(what: str, text: str) -> None:
    """One line on stderr for what went wrong, also under --quiet."""
    _print_line((f"{what}: ", text, "bold red"))


def one_line(text: str) -> str:
    """The text as one printable line: a line break in a file's name must not look like another message."""
    return " ".join(printable(text).split("\n"))


def _print_line(parts: tuple[str, str, str]) -> None:
    """(head, text, style): the head in its style, or where there is none the text. stderr that is gone is no error."""
    head, text, style = parts
    head, text = one_line(head), one_line(text)
    if verbosity.events:
        if not head and text.startswith(WARNING):
            head, text = WARNING, text.removeprefix(WARNING)
        event({"event": head.rstrip(": ") or "note", "text": text})
        return
    if sys.stderr is None:
        return
    try:
        if _bars is not None or _is_terminal(sys.stderr):
            from rich.console import Console
            from rich.text import Text

            line = Text(head, style=style).append(Text(text, style="not bold default")) if head else Text(text, style)
            console = Console(stderr=True, highlight=False) if _bars is None else _bars
            console.print(line, soft_wrap=True)
        else:
            sys.stderr.write(f"{head}{text}\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)


def show_warnings() -> None:
    """Each different MlxdiffWarning is one line on stderr; others are for developers, shown with -v."""
    warnings.simplefilter("default" if verbosity.verbose else "ignore")
    warnings.filterwarnings("once", category=MlxdiffWarning)
    plain = warnings.showwarning if not isinstance(warnings.showwarning, _Shown) else warnings.showwarning.plain
    warnings.showwarning = _Shown(plain)


class _Shown:
    """Python's hook for warnings, with ours as one line, once: Python forgets it wherever filters change."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self._said: set[str] = set()

    def __call__(self, message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, MlxdiffWarning):
            if str(message) not in self._said:
                self._said.add(str(message))
                warn(str(message))
        else:
            self.plain(message, category, filename, lineno, file, line)


class _Lasting:
    """A stream to people: once it fails, as a terminal that was closed does, what is written to it is dropped."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _drop(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _drop(self._stream)


def lost_output(error: OSError) -> OutputError | None:
    """The words for stdout that failed, None where its reader has only gone; nothing more is written to it."""
    has_gone = error.errno in (errno.EPIPE, errno.EINVAL)  # EINVAL is a closed pipe on Windows
    if sys.stdout is not None:
        has_gone = has_gone or (error.errno == errno.EIO and _is_device(sys.stdout))  # a terminal that was closed
        _drop(sys.stdout)
    if has_gone:
        return None
    return OutputError(
        f"Standard output cannot be written ({os.strerror(error.errno or 0)}).", "Send it elsewhere, or free the disk."
    )


def _is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _is_device(stream: IO[str]) -> bool:
    """Whether it is a terminal or another device; a terminal that was closed does not say that it is one."""
    try:
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _drop(stream: IO[str]) -> None:
    """Lets what is still to come vanish, so that neither the next line nor Python's own last flush fails again."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
