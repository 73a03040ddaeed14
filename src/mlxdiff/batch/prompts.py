"""Prompt files: a prompt a line, or JSON Lines whose objects take the fields of a Request, or both in one file.

    # comments and blank lines are skipped
    a red apple
    {"prompt": "a green apple", "steps": 30, "output": "green.png"}

Every line is read when it is asked for, so that a stream renders before it ends.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import IO, Any

from ..errors import InputError, RequestError
from ..request import Request
from .naming import below, parse_output

MAX_LINE = 2**16  # bytes
MAX_DIGITS = 30  # of a number: no field takes as many, and Python reads long ones in quadratic time
STANDARD_INPUT = "-"

# These belong to the model, which is loaded once for all lines.
_OF_THE_RUN = ("model", "revision", "dtype", "quantize", "vae", "prediction_type")
FIELDS = (*(field.name for field in fields(Request) if field.name not in _OF_THE_RUN), "output")


@dataclass(frozen=True)
class Entry:
    """One line: what to render, where it wants to go if it says so, and its place, as "prompts.txt, line 12"."""

    request: Request
    output: str | None
    source: str


def read_entries(lines: Iterable[str | bytes], source: str, base: Request) -> Iterator[Entry]:
    """The entries of a prompt file, lazily; raises RequestError with the line and what is wrong with it.

    What a line does not say comes from `base`. Where it has no seed, it gets base's plus the number of images before
    it, so that each image has its own and lines added at the end change none; without a seed in base it stays None.
    """
    n_images = 0
    for number, line in enumerate(lines, 1):
        here = f"{source}, line {number}"
        try:
            text = _text_of(line)
            if not text or text.startswith("#"):
                continue
            values: dict[str, Any] = _fields_of(text) if text.startswith("{") else {"prompt": text}
            if "prompt" not in values and base.prompt == "":
                raise RequestError("there is no prompt.", 'Add one: {"prompt": "..."}.')
            output = values.pop("output", None)
            if values.get("seed") is None:
                values["seed"] = base.seed + n_images if isinstance(base.seed, int) else base.seed
            request = replace(base, **values)
            if output is not None:
                _check_output(output)
        except RequestError as error:
            raise RequestError(f"{here}: {_short(error.problem)}", error.remedy) from None
        n_images += request.batch_size
        yield Entry(request, output, here)


def open_prompts(path: str) -> Iterator[bytes]:
    """The lines of the file, or of standard input for `-`, each as soon as it is there; raises InputError.

    The file is opened now and closed after its last line. A line is cut where it is longer than MAX_LINE allows.
    """
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError("There is no standard input.", "Name a file instead of -.")
        return _lines(getattr(sys.stdin, "buffer", sys.stdin), source_name(path), close=False)
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


def source_name(path: str) -> str:
    """How errors name the file."""
    return "standard input" if path == STANDARD_INPUT else path


def _lines(stream: IO[Any], name: str, *, close: bool) -> Iterator[bytes]:
    try:
        while line := stream.readline(MAX_LINE + 3):  # a carriage return, a newline, and one that is too many
            yield line
    except OSError as error:
        raise InputError(f"{name} cannot be read on ({_reason(error)}).", "Check the disk or the pipe.") from None
    finally:
        if close:
            stream.close()


def _text_of(line: str | bytes) -> str:
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
    text = text.removeprefix("\ufeff").strip()
    _check_characters("it", text)
    return text


def _fields_of(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text, object_pairs_hook=_once, parse_int=_whole, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"it is not JSON ({error.msg}, column {error.colno}).",
            'Correct it. A prompt that starts with a brace is written as {"prompt": "{..."}.',
        ) from None
    except RecursionError:
        raise RequestError("it is nested too deeply.", "Write the fields of a request, each with its value.") from None
    for name, value in values.items():
        if name in _OF_THE_RUN:
            raise RequestError(f"{name} is the same for the whole file.", f"Give it once, as --{name}.")
        if name not in FIELDS:
            raise RequestError(f"there is no field {name!r}.", f"The fields are {', '.join(sorted(FIELDS))}.")
        if name == "image" and not isinstance(value, str | None):
            raise RequestError(f"image is {type(value).__name__}, not text.", "Give the path of a picture.")
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, str):
                _check_characters(name, item)
    if values.get("rng", "") is None or values.get("n_images", 1) is None:
        raise RequestError("rng and n_images cannot be null.", "Leave them out.")
    return values


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
