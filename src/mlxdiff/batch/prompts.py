"""Prompt files: a prompt a line, with A1111's options or without, or JSON Lines whose objects hold settings of a
Request, or all in one file; or a table.

    # comments and blank lines are skipped
    a red apple
    a pear --steps 30 --cfg_scale 6
    {"prompt": "a green apple", "steps": 30, "output": "green.png"}

Every line is read when it is asked for, so that a stream renders before it ends.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from .. import catalogue
from ..errors import InputError, MlxdiffWarning, RequestError
from ..request import RANDOM_SEED, SAMPLER_PAIRS, SAMPLERS, Request
from ..request.declarations import MAX_DIGITS
from . import tables
from .named_options import SETTINGS, has_options, read_line
from .naming import below, parse_output
from .templates import first_mark
from .wildcards import Wildcards

MAX_LINE = 2**16  # bytes
_MAX_CUT = 2**26  # bytes of a line that is too long, which are read to find its end
STANDARD_INPUT = "-"
TYPED = "The line"  # the place of an entry that was typed

FIELDS = (*SETTINGS, "output")

Row = tuple[str, Callable[[], dict[str, Any] | None]]  # its place, and what reads its settings: None of a comment


@dataclass(frozen=True)
class Entry:
    """One line: what to render, where it wants to go if it says so, and its place, as "prompts.txt, line 12".

    `counted_from` is the seed of the run where the line's own was counted from it; None where the line says its own.
    `wildcards` draw the prompts of each image, where one of them is a template.
    """

    request: Request
    output: str | None
    source: str
    counted_from: int | None = None
    wildcards: Wildcards | None = None


class Entries:
    """The entries of a prompt file, each read when it is asked for.

    A bad line raises RequestError, which names the line and what is wrong with it; the next call gets the next line.
    What a line does not say comes from `base`. Where it has no seed, it gets base's plus the number of images before
    it, so that each image has its own and lines added at the end change none; without a seed in base it stays None. A
    seed of -1 is none.
    """

    def __init__(self, rows: Iterator[Row], base: Request, wildcards: Wildcards | None = None) -> None:
        self._rows, self._base, self._wildcards = rows, base, wildcards
        self._n_images = 0
        self._waiting: deque[Entry] = deque()
        self._remarked = wildcards is not None

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        if self._waiting:
            return self._waiting.popleft()
        for place, read in self._rows:
            try:
                values = read()
                if values is None:
                    continue
                self._waiting.extend(self._entries(values, place))
                return self._waiting.popleft()
            except RequestError as error:
                raise RequestError(f"{place}: {_short(error.problem)}", error.remedy) from None
        raise StopIteration

    def _entries(self, values: dict[str, Any], place: str) -> list[Entry]:
        """The entry of a row; with every combination of its templates, one for each negative prompt."""
        base = self._base
        if "prompt" not in values and base.prompt == "":
            raise RequestError("there is no prompt.", 'Add one: {"prompt": "..."}.')
        output = values.pop("output", None)
        counted_from = None
        if values.get("seed") in (None, RANDOM_SEED):
            counted_from = base.seed if isinstance(base.seed, int) else None
            values["seed"] = base.seed if counted_from is None else counted_from + self._n_images
        request = changed(base, values)
        if output is not None:
            _check_output(output)
        wildcards = self._wildcards
        requests, drawn = [request], None
        if wildcards is None:
            self._remark(request, place)
        elif wildcards.concern(request):
            requests, drawn = (wildcards.combinations(request), None) if wildcards.every else ([request], wildcards)
        self._n_images += sum(one.batch_size for one in requests)
        return [Entry(one, output, place, counted_from, drawn) for one in requests]

    def _remark(self, request: Request, place: str) -> None:
        mark = None if self._remarked else first_mark(request.prompts[0])
        if mark is not None:
            self._remarked = True
            warnings.warn(MlxdiffWarning(f"{place}: {mark} is text without --wildcards."), stacklevel=2)


def changed(base: Request, values: Mapping[str, Any]) -> Request:
    """The request with these settings in place of its own.

    Another model is not taken at the revision of the one before, and a sampler's name that says a schedule too ("DPM++
    2M Karras") replaces both.
    """
    values = dict(values)
    if values.get("model") is not None:
        values.setdefault("revision", None)
    for sampler, schedule in SAMPLER_PAIRS:
        name = values.get(sampler)
        if isinstance(name, str) and name not in SAMPLERS and catalogue.split_sampler(name)[1] is not None:
            values.setdefault(schedule, None)
    return base.replaced(**values)


def typed_entries(line: str, base: Request, wildcards: Wildcards | None = None) -> list[Entry]:
    """The entries of a line that a person typed, in the grammar of a prompt file's; none of a comment.

    Raises RequestError, which begins with TYPED.
    """
    rows: list[Row] = [(TYPED, partial(_values_of, line, TYPED, wildcards is not None))]
    return list(Entries(iter(rows), base, wildcards))


def read_entries(
    lines: Iterable[str | bytes], source: str, base: Request, wildcards: Wildcards | None = None
) -> Entries:
    """The entries of a prompt file, lazily; of a table, if `source` is named as one."""
    delimiter = tables.delimiter_of(source)
    if delimiter is not None:
        return Entries(tables.rows(lines, delimiter, source, partial(_text_of, ends=True)), base, wildcards)
    rows = (
        (place, partial(_values_of, line, place, wildcards is not None))
        for place, line in ((f"{source}, line {number}", line) for number, line in enumerate(lines, 1))
    )
    return Entries(rows, base, wildcards)


def _values_of(line: str | bytes, place: str, templates: bool) -> dict[str, Any] | None:
    """The settings of a line; None for one that is blank, or a comment. `templates` may begin with a brace."""
    text = _text_of(line)
    if not text or text.startswith("#"):
        return None
    if text.startswith("{") and not (templates and re.match(r"\{\s*[^\s\"'}]", text)):
        return _fields_of(text)
    if "\r" in text:
        raise RequestError(
            "it has a carriage return inside, which old Macs ended lines with.",
            "Save the file with the line ends of Unix or Windows.",
        )
    return read_line(text, place) if has_options(text) else {"prompt": text}


def open_prompts(path: str) -> Generator[bytes]:
    """The lines of the file, or of standard input for `-`, each as soon as it is there; raises InputError.

    The file is opened now and closed after its last line. A line that is longer than MAX_LINE allows is cut.
    """
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError("There is no standard input.", "Name a file instead of -.")
        return _lines(_standard_input(), source_name(path), close=False)
    try:
        stream = open(path, "rb")  # noqa: SIM115 (closed by _lines)
    except FileNotFoundError:
        raise InputError(f"There is no prompt file {path}.", "Check its name and folder.") from None
    except PermissionError:
        raise InputError(f"There is no permission to read {path}.", "Change its permissions.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder.", "Name a file of prompts, one a line.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({_reason(error)}).", "Check its name.") from None
    return _lines(stream, path, close=True)


def _standard_input() -> IO[Any]:
    """A stream of its own: Python ends with an abort while a thread of the program waits for a line of sys.stdin."""
    held = getattr(sys.stdin, "buffer", sys.stdin)
    try:
        return open(held.fileno(), "rb", closefd=False)
    except (AttributeError, OSError, ValueError):  # something in memory, or closed: whoever reads it says so
        return held


def source_name(path: str) -> str:
    """How errors name the file."""
    return "standard input" if path == STANDARD_INPUT else path


def _lines(stream: IO[Any], name: str, *, close: bool) -> Generator[bytes]:
    try:
        while line := stream.readline(MAX_LINE + 3):  # a carriage return, a newline, and one that is too many
            yield line
            length = len(line)
            while len(line) > MAX_LINE and line[-1:] not in (b"\n", "\n"):  # its rest is no line of its own
                if length > _MAX_CUT:
                    raise InputError(
                        f"{name} has no line end in {length} bytes.", "Name a file of prompts, one a line."
                    )
                line = stream.readline(MAX_LINE + 3)
                length += len(line)
    except OSError as error:
        raise InputError(f"{name} cannot be read on ({_reason(error)}).", "Check the disk or the pipe.") from None
    finally:
        if close:
            stream.close()


def _text_of(line: str | bytes, *, ends: bool = False) -> str:
    """The line as text, with the spaces and the line's end around it where they count."""
    if isinstance(line, bytes):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if len(line) <= MAX_LINE:  # else it may only have been cut inside a letter
                raise RequestError(
                    f"byte {error.start + 1} is not UTF-8.", "Save the file as UTF-8 and run this again."
                ) from None
            text = ""
    else:
        text = line
    if len(line.rstrip(b"\r\n" if isinstance(line, bytes) else "\r\n")) > MAX_LINE:  # type: ignore[arg-type]
        raise RequestError(f"it is longer than {MAX_LINE} bytes.", "Check that the file is one of prompts, one a line.")
    text = text.removeprefix("\ufeff") if ends else text.removeprefix("\ufeff").strip()
    _check_characters("it", text)
    return text


def _fields_of(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text, object_pairs_hook=_once, parse_int=_whole, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"it is not JSON ({error.msg}, column {error.colno}).",
            'Correct it. A prompt that starts with a brace is written as {"prompt": "{..."}, or needs --wildcards.',
        ) from None
    except RecursionError:
        raise RequestError("it is nested too deeply.", "Write the fields of a request, each with its value.") from None
    for name, value in values.items():
        if name not in FIELDS:
            raise RequestError(f"there is no field {name!r}.", f"The fields are {', '.join(sorted(FIELDS))}.")
        if value is None and name in SETTINGS and SETTINGS[name].default not in (None, ""):
            raise RequestError(f"{name} cannot be null.", "Leave it out.")
        _check_texts(name, value)
    return values


def _check_texts(name: str, value: Any) -> None:
    """Every text in the value, however deep; JSON that is nested too deeply has been refused."""
    if isinstance(value, str):
        _check_characters(name, value)
    elif isinstance(value, list):
        for item in value:
            _check_texts(name, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(name, key)
            _check_texts(name, item)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise RequestError(f"{twice!r} is there twice.", "Leave one out.")
    return values


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RequestError(f"a number has {len(digits)} digits.", "Write a shorter one.")
    return int(digits)


def _no_constant(name: str) -> float:
    raise RequestError(f"{name} is no number in JSON.", "Write a number.")


def _check_characters(name: str, text: str) -> None:
    if found := re.search(r"[\0\ud800-\udfff]", text):
        raise RequestError(
            f"{name} has the character U+{ord(found[0]):04X}, which is not text.", "Save the file as UTF-8 text."
        )


def _check_output(output: Any) -> None:
    if not isinstance(output, str):
        raise RequestError(f"output is {type(output).__name__}, not text.", "Give a path inside the output folder.")
    below(parse_output(None), output)


def _short(problem: str) -> str:
    """An error may quote what it found, and what it found may be a book."""
    return problem if len(problem) <= 300 else f"{problem[:280]}..."


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
