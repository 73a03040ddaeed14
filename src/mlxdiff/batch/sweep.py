"""Sweeps: one request varied along one or two axes, as the cells of a sheet. Knows no MLX, and renders nothing.

An axis is written NAME=VALUES: `steps=10,20,30`, `guidance-scale=2..8+2`, `prompt=apple,pear,"a plum, ripe"`. NAME is
any setting that was declared with `vary`, and its kind reads the values and shows them; or a number inside a setting
that has parts, of all its values at once: `lora.scale=0,0.5,1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product
from typing import Any

from ..errors import RequestError
from ..request import RANDOM_SEED, Request
from ..request.declarations import Setting, Text, declared, nearest, setting_called
from ..request.structured import Structured

MAX_VALUES = 100
MAX_CELLS = 1000
NUMBERS = (int, float)


def _varied_settings() -> Iterator[Setting]:
    for item in declared(Request):
        if item.vary and item.scope != "record":
            yield item
            if isinstance(item.kind, Structured):
                parts = (part for part in declared(item.kind.of) if part.kind.type in NUMBERS)
                yield from (replace(part, name=f"{item.name}.{part.name}") for part in parts)


VARIED = {item.name: item for item in _varied_settings()}

_OWN = {name for name in VARIED if name != "prompt" and "." not in name}
_NUMBER = r"-?\d{1,19}(?:\.\d{1,9})?"
_RANGE = re.compile(rf"({_NUMBER}?)\.\.({_NUMBER}?)(?:([+-])(\S*))?")
# A field in quotes, where two quotes stand for one, or everything up to the next comma.
_FIELD = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^",][^,]*)?)(,|$)')


@dataclass(frozen=True)
class Axis:
    """`name` is a setting. Of a prompt axis, each value replaces the first one where that occurs."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What each column or row is called: numbers with the setting's name, other values alone."""
        return tuple(self._label(value) for value in self.values)

    def _label(self, value: Any) -> str:
        kind = VARIED[self.name].kind
        if value is None:
            return f"{_shown(self.name)} {VARIED[self.name].unset or 'unset'}"
        text = kind.show(value)
        return text if kind.type is str else f"{_shown(self.name)} {text}"


@dataclass(frozen=True)
class Cell:
    """One place of the sheet, and the request that renders it; `values` are those of the axes."""

    row: int
    column: int
    request: Request
    values: tuple[Any, ...]


def as_json(axes: Sequence[Axis], values: Sequence[Any]) -> dict[str, Any]:
    """A cell's values by setting, as JSON holds them."""
    return {
        axis.name: None if value is None else VARIED[axis.name].kind.to_json(value)
        for axis, value in zip(axes, values, strict=True)
    }


def varied_names() -> list[str]:
    """What can be varied, as it is typed."""
    return [_shown(name) for name in VARIED]


def parse_axis(text: str) -> Axis:
    """Reads NAME=VALUES; raises RequestError, which quotes the part that is wrong."""
    name, equals, values = text.partition("=")
    setting = setting_called(name, VARIED.values())
    if not equals:
        raise RequestError(f"--vary {text!r} has no values.", "Write it as steps=10,20 or guidance-scale=2..8+2.")
    if setting is None:
        close = nearest(name.strip().replace("_", "-").lower(), varied_names())
        raise RequestError(f"A sweep cannot vary {name.strip()!r}.", close)
    found: list[Any] = []
    for value, quoted in _fields(text, values):
        if not value and setting.default is None and not _holds_text(setting):
            found.append(None)  # nothing in quotes: as if it were not given
        elif setting.kind.type not in NUMBERS:
            found.append(setting.kind.parse(setting.name, value))
        elif ".." in value and not quoted:
            found += _range(setting, value)
        else:
            found.append(_number(setting, value))
        if len(found) > MAX_VALUES:
            raise _too_many(_shown(setting.name))
    if setting.name == "prompt" and not found[0]:
        raise RequestError(f"The first value of --vary {text!r} is empty.", "Begin with words of the prompt.")
    return Axis(setting.name, tuple(found))


def _holds_text(setting: Setting) -> bool:
    return setting.name == "prompt" or type(setting.kind) is Text


def cells(request: Request, axes: Sequence[Axis]) -> list[Cell]:
    """The cells in reading order: the first axis gives the columns, the second one the rows.

    Raises RequestError for axes that do not go together, and for values that a request cannot have.
    """
    if not 1 <= len(axes) <= 2:
        raise RequestError(f"{len(axes)} things are varied.", "Give --vary once or twice: columns, then rows.")
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names) and names[0] != "prompt":
        raise RequestError(f"{_shown(names[0])} is varied twice.", "Vary two different things.")
    columns, rows = axes[0].values, axes[1].values if len(axes) == 2 else (None,)
    if len(columns) * len(rows) > MAX_CELLS:
        raise RequestError(f"The sweep has {len(columns) * len(rows)} cells.", f"At most {MAX_CELLS} are rendered.")
    for axis in axes:
        if axis.name == "prompt":
            _check_occurs(str(axis.values[0]), request)
    found = []
    for (row, below), (column, across) in product(enumerate(rows), enumerate(columns)):
        values = (across, below)[: len(axes)]
        found.append(Cell(row, column, _varied(request, axes, values), values))
    return found


def _varied(request: Request, axes: Sequence[Axis], values: Sequence[Any]) -> Request:
    changed = list(zip(axes, values, strict=True))
    changes: dict[str, Any] = {axis.name: value for axis, value in changed if axis.name in _OWN}
    if changes.get("seed", ...) in (None, RANDOM_SEED):
        del changes["seed"]  # the request's own, which was drawn and recorded
    inside = [(axis, value) for axis, value in changed if "." in axis.name]
    words = {str(axis.values[0]): str(value) for axis, value in changed if axis.name == "prompt"}
    if "model" in changes:
        changes["revision"] = None  # the request's is of its own model
    if words:
        # In one pass, longest first: what one axis puts in is not for the other one to find.
        pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))
        for name in ("prompt", "negative_prompt"):
            text = getattr(request, name)
            if text is not None and name not in changes:
                changes[name] = pattern.sub(lambda match: words[match[0]], text)
    made = request.replaced(**changes)
    for axis, value in inside:
        setting, _, part = axis.name.partition(".")
        held = getattr(made, setting)
        if not held:
            raise RequestError(
                f"{_shown(axis.name)} is varied, and there is no {setting}.", f"Add --{_shown(setting)}."
            )
        made = made.replaced(**{setting: tuple(replace(one, **{part: value}) for one in held)})
    return made


def _check_occurs(word: str, request: Request) -> None:
    if word not in str(request.prompt) and word not in (request.negative_prompt if request.negative_prompt else ""):
        raise RequestError(
            f"{word!r} does not occur in the prompt {request.prompt!r}.",
            "The first value of --vary prompt=... is what the others replace.",
        )


def _fields(text: str, values: str) -> list[tuple[str, bool]]:
    """The values between commas, each with whether it was quoted."""
    found, at = [], 0
    while True:
        match = _FIELD.match(values, at)
        if match is None:
            raise RequestError(f"A quote in --vary {text!r} is not closed, or closed too early.", "Check the quotes.")
        quoted, plain, comma = match.groups()
        if quoted is None and (plain is None or not plain.strip()):
            raise RequestError(f"A value of --vary {text!r} is empty.", 'Remove a comma, or write "" for nothing.')
        found.append((plain.strip(), False) if quoted is None else (quoted.replace('""', '"'), True))
        at = match.end()
        if not comma:
            return found
        if len(found) > MAX_VALUES:
            raise _too_many(text.partition("=")[0])


def _range(setting: Setting, text: str) -> list[int | float]:
    """START..STOP+STEP with both ends, or START..STOP-STEP downwards; exact, since it counts in decimals."""
    match = _RANGE.fullmatch(text)
    if match is None or not match[1] or not match[2]:
        raise RequestError(f"{text!r} is not a range.", "Write one as 2..8+2, or as 8..2-2 to go down.")
    start, stop = Decimal(match[1]), Decimal(match[2])
    down = stop < start
    if match[3] is None:
        step = Decimal(-1 if down else 1)
    else:
        if not re.fullmatch(_NUMBER, match[4]) or Decimal(match[4]) <= 0:
            raise RequestError(f"The step of the range {text!r} is {match[4]!r}.", "It is a number above 0.")
        step = Decimal(match[4]) * (-1 if match[3] == "-" else 1)
    if start != stop and (step < 0) != down:
        raise RequestError(
            f"The range {text!r} goes from {start} away from {stop}.", "Go up with +STEP and down with -STEP."
        )
    count = int((stop - start) / step) + 1
    if count > MAX_VALUES:
        raise _too_many(_shown(setting.name))
    return [_number(setting, format(start + i * step, "f")) for i in range(count)]


def _number(setting: Setting, text: str) -> int | float:
    if not re.fullmatch(_NUMBER, text):
        raise RequestError(
            f"{text!r} is no value for {_shown(setting.name)}.", "Give numbers, or a range such as 2..8+2."
        )
    if setting.kind.type is float:
        return float(text)
    value = Decimal(text)
    if value != value.to_integral_value():
        raise RequestError(f"{text} is no value for {_shown(setting.name)}.", "It takes whole numbers.")
    return int(value)


def _too_many(name: str) -> RequestError:
    return RequestError(f"{name} has more than {MAX_VALUES} values.", "Vary it over fewer.")


def _shown(field: str) -> str:
    return field.replace("_", "-")
