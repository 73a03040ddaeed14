"""Bodies of requests: JSON, and the forms with files that OpenAI's clients send (RFC 7578)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from ..request.declarations import MAX_DIGITS
from .answers import Refusal

DEEPEST = 20  # lists and objects inside each other
MOST_FIELDS = 200
MOST_VALUES = 100_000  # of all lists and objects: each takes 20 times its letters in memory
LONGEST_TEXT = 20_000  # characters of any text that is no picture: a prompt of many pages

_BOUNDARY = re.compile(r"""multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))""", re.I)
_NAME = re.compile(r'\bname="([^"\r\n]{0,100})"')
_FILE = re.compile(r"\bfilename\*?=")


@dataclass(frozen=True)
class Part:
    """A field of a form: `is_file` says whether it came as a file."""

    data: bytes
    is_file: bool


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a body; raises Refusal for anything else, for NaN, and for what is nested or long without
    sense."""
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise Refusal(400, f"The body holds more than {MOST_VALUES:,} values. Send fewer.")
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_int=_whole, parse_float=_number, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise Refusal(400, "The body is not UTF-8. Send JSON in UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise Refusal(400, f"The body is not JSON ({why[:80]}). Send one JSON object.") from None
    if not isinstance(value, dict):
        raise Refusal(400, 'The body is no JSON object. Send one, such as {"prompt": "a cat"}.')
    if len(value) > MOST_FIELDS:
        raise Refusal(400, f"The body has {len(value)} fields. Send at most {MOST_FIELDS}.")
    _check_depth(value)
    return value


def form(data: bytes, kind: str) -> dict[str, list[Part]]:
    """The fields of a form by name; raises Refusal where it is malformed."""
    found = _BOUNDARY.match(kind)
    if found is None:
        raise Refusal(415, "The body is no form. Send multipart/form-data with its boundary.")
    mark = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + data).split(b"\r\n" + mark, MOST_FIELDS + 1)
    if len(pieces) > MOST_FIELDS:
        raise Refusal(400, f"The form has more than {MOST_FIELDS} parts. Send fewer.")
    if len(pieces) < 2 or pieces[0] or pieces[-1].rstrip(b"\r\n \t") != b"--":
        raise _malformed()
    fields: dict[str, list[Part]] = {}
    for piece in pieces[1:-1]:
        head, blank, content = piece.lstrip(b" \t").partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").split("\r\n")[1:]
        about = next((line for line in lines if line.lower().startswith("content-disposition:")), "")
        name = _NAME.search(about)
        if not blank or name is None:
            raise _malformed()
        fields.setdefault(name[1], []).append(Part(content, _FILE.search(about) is not None))
    return fields


def text_of(name: str, part: Part) -> str:
    """A field's text."""
    try:
        text = part.data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, f"{name} is not UTF-8 text.", parameter=name) from None
    check_text(name, text)
    return text


def check_text(name: str, value: str) -> None:
    """Raises Refusal for a text that would take minutes to read."""
    if len(value) > LONGEST_TEXT:
        message = f"{name} has {len(value):,} characters. Shorten it to {LONGEST_TEXT:,}."
        raise Refusal(400, message, parameter=name)


def _malformed() -> Refusal:
    return Refusal(400, "The form is malformed. Send multipart/form-data as RFC 7578 has it.")


def _too_deep() -> Refusal:
    return Refusal(400, f"The body is nested more than {DEEPEST} deep. Send it flatter.")


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise _too_deep()
        inner: list[Any] = []
        for one in level:
            children = list(one.values()) if isinstance(one, dict) else one
            inner += [child for child in children if isinstance(child, dict | list)]
        level = inner


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits) if len(digits) <= 400 else math.inf
    if not math.isfinite(value):
        raise ValueError("a number without an end")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
