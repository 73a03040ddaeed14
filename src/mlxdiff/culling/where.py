"""`--where`: an expression that was checked before any picture is read, and then says of each whether it is chosen.

A comparison with something that a picture does not have is false, whichever it is: `steps != 20` chooses pictures that
say their steps and say another number. `not` turns around what it stands before: `not steps = 20` chooses all others
too. Of several values (two LoRAs) one has to match; none may for !=, not in, not contains and not like.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import RequestError
from . import names
from .language import COMPARISONS, Condition, Token, parse, wrong
from .literals import DATE, MAX_PATTERN, NUMBER, TEXT, Like, Span, described, folded, plain, span
from .names import Name
from .pictures import Picture

Test = Callable[[Picture], bool]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OF_SPANS: dict[str, Callable[[float, Span], bool]] = {
    "=": lambda moment, day: day.start <= moment < day.end,
    "<": lambda moment, day: moment < day.start,
    "<=": lambda moment, day: moment < day.end,
    ">": lambda moment, day: moment >= day.end,
    ">=": lambda moment, day: moment >= day.start,
}
_MIRRORED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Where:
    """The expression; raises RequestError, which names the place, for one that cannot be used."""

    def __init__(self, text: str) -> None:
        self._program = [part if isinstance(part, str) else _test(part) for part in parse(text)]

    def matches(self, picture: Picture) -> bool:
        """Whether the picture is chosen."""
        found: list[bool] = []
        for part in self._program:
            if not isinstance(part, str):
                found.append(part(picture))
            elif part == "not":
                found[-1] = not found[-1]
            else:
                last = found.pop()
                found[-1] = (found[-1] and last) if part == "and" else (found[-1] or last)
        return found[0]


def parse_order(text: str) -> Callable[[Picture], tuple[Any, ...]]:
    """What `--sort NAME` (or -NAME, the largest first) sorts by: what a picture does not say comes last, either way."""
    name = names.called(text.removeprefix("-"))
    if name is None:
        raise RequestError(f"--sort: there is no name {text[:80]!r}.", names.nearest(text.removeprefix("-")))
    down = text.startswith("-")

    def key(picture: Picture) -> tuple[Any, ...]:
        values = list(name.values(picture))
        if not values:
            return (1,)
        first = min(values) if not down else max(values)
        return 0, _Down(first) if down else first

    return key


class _Down:
    """A value that comes before smaller ones."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Down) -> bool:
        return other.value < self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Down) and other.value == self.value


def _test(condition: Condition) -> Test:
    """The condition with its names found and its types checked."""
    if condition.operator == "missing":
        if condition.left.kind != "name":
            wrong(f"{described(condition.left.value)} is never missing", condition.left.at, "Write a name.")
        values = _named(condition.left).values
        wanted = condition.negated
        return lambda picture: any(True for _ in values(picture)) == wanted
    if condition.operator in ("contains", "like"):
        return _text_test(condition)
    if condition.operator == "in":
        tests = [_comparison(Condition(condition.left, "=", (right,), at=right.at)) for right in condition.right]
        if not condition.negated:
            return lambda picture: any(test(picture) for test in tests)
        has = _presence(condition.left)
        return lambda picture: has(picture) and not any(test(picture) for test in tests)
    return _comparison(condition)


def _comparison(condition: Condition) -> Test:
    """One of COMPARISONS between two values, of which none, one or two are names."""
    left, sign, right = condition.left, condition.operator, condition.right[0]
    assert sign in COMPARISONS
    if left.kind != "name" and right.kind == "name":
        left, sign, right = right, _MIRRORED[sign], left
    mine, theirs = _type(left), _type(right, quoted=True)
    if mine == DATE and right.kind == "text":
        day = span(right.value)
        if day is None:
            wrong(f"{described(right.value)} is no date", right.at, "Write it as '2026-11-26' or '2026-11-26 18:30'.")
        compare, others = _OF_SPANS, _constant(day)
    elif mine != theirs:
        wrong(f"{_called(left)} is compared with {_called(right)}", condition.at, _other_type(left, right))
    else:
        compare, others = _ORDERS, _values(right, left)
    values = _values(left)
    has = _both(left, right)
    if sign == "!=":
        equal = compare["="]
        return lambda picture: has(picture) and not _any(equal, values(picture), others(picture))
    return lambda picture: _any(compare[sign], values(picture), others(picture))


def _any(compare: Callable[[Any, Any], bool], left: Iterable[Any], right: Iterable[Any]) -> bool:
    right = tuple(right)
    return any(compare(one, other) for one in left for other in right)


def _text_test(condition: Condition) -> Test:
    """`contains` and `like`: of text, and whatever its capitals are."""
    left, (right,) = condition.left, condition.right
    word = condition.operator
    if _type(left) != TEXT:
        remedy = "Compare it with a number." if _type(left) == NUMBER else "Compare it: date >= '2026-11-26'."
        wrong(f"{_called(left)} is no text, and {word} is about text", condition.at, remedy)
    if right.kind != "text":
        wrong(f"{_called(right)} stands behind {word}", right.at, f"Write a text in quotes: {word} 'cat'.")
    if word == "like" and len(right.value) > MAX_PATTERN:
        wrong(f"a pattern has {len(right.value)} characters", right.at, f"Write at most {MAX_PATTERN}.")
    if word == "contains":
        part = folded(right.value)

        def test(text: str) -> bool:
            return part in folded(text)
    else:
        test = Like(right.value).matches
    values = _values(left)
    if condition.negated:
        has = _presence(left)
        return lambda picture: has(picture) and not any(test(one) for one in values(picture))
    return lambda picture: any(test(one) for one in values(picture))


def _named(token: Token, *, quoted: bool = False) -> Name:
    """The name; raises RequestError. `quoted`: it may be meant as text."""
    name = names.called(token.value)
    if name is None:
        meant = f"Text stands in quotes: '{token.value[:80]}'. " if quoted else ""
        wrong(f"there is no name {token.value[:80]!r}", token.at, meant + names.nearest(token.value))
    return name


def _type(token: Token, *, quoted: bool = False) -> str:
    return {"number": NUMBER, "text": TEXT}.get(token.kind) or _named(token, quoted=quoted).type


def _values(token: Token, beside: Token | None = None) -> Callable[[Picture], Iterable[Any]]:
    """What a name has, or the value itself: beside a name that knows spellings, in that name's own."""
    if token.kind == "name":
        name = _named(token)
        if name.type == TEXT:
            return lambda picture: [plain(one) for one in name.values(picture)]
        return name.values
    value = token.value
    find = _named(beside).find if beside is not None and beside.kind == "name" else None
    if find is not None and isinstance(value, str):
        try:
            value = find(value)
        except RequestError as error:
            wrong(f"{error.problem.rstrip('.')}", token.at, error.remedy)
    return _constant(plain(value) if isinstance(value, str) else value)


def _constant(value: Any) -> Callable[[Picture], Iterable[Any]]:
    values = (value,)
    return lambda _: values


def _presence(*tokens: Token) -> Test:
    """Whether the picture says everything that is named."""
    named = [_named(token).values for token in tokens if token.kind == "name"]
    return lambda picture: all(any(True for _ in values(picture)) for values in named)


def _both(left: Token, right: Token) -> Test:
    return _presence(left, right)


def _called(token: Token) -> str:
    if token.kind != "name":
        return described(token.value)
    return f"{token.value}, {'a number' if _named(token).type == NUMBER else f'a {_named(token).type}'},"


def _other_type(left: Token, right: Token) -> str:
    if right.kind == "text" and _type(left) == NUMBER:
        return "Write the number without quotes." if right.value.strip()[:1].isdigit() else "Compare it with a number."
    if right.kind == "number" and _type(left) == TEXT:
        return f"Write text in quotes: '{right.value}'."
    if _type(left) == DATE:
        return "Write a date in quotes: '2026-11-26'."
    return "Compare values of one type."
