"""The grammar of `--where`: conditions as SQL and Python write them, read by hand and never run as Python.

    steps > 20 and (sampler = 'euler' or lora contains 'ink') and not seed in (1, 2, 3)

    expression = condition | "(" expression ")" | "not" expression | expression ("and" | "or") expression
    condition  = value compare value [compare value]...     compare: = == != <> < <= > >=
               | value ["not"] "in" "(" value {"," value} ")"
               | value ["not"] ("contains" | "like") text
               | value "is" ["not"] "missing"
    value      = name | number | text                       text: '...' or "...", the quote itself twice

`not` binds closer than `and`, and that closer than `or`. Words are the same in capitals; `null` is `missing`. The
expression becomes a list in which every operator stands behind what it joins, so that neither its length nor its
depth takes anything of Python's stack. Knows no name and no type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import RequestError
from ..request.declarations import shown

COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
WORDS = ("and", "or", "not", "in", "contains", "like", "is", "missing", "null")
MAX_NUMBER = 40  # characters; a seed has at most 20 digits
HELP = "For example: \"steps > 20 and prompt contains 'cat'\"; docs/culling.md lists what can be said."
_SAME = {"==": "=", "<>": "!="}
_BINDS = {"not": 3, "and": 2, "or": 1}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<word>[^\W\d]\w*(?:[.-][^\W\d]\w*)*)"
    r"|(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    r"|(?P<mark><=|>=|<>|!=|==|[=<>(),]))"
)
_END = "the end"
_MEANT = {
    "&": "Write and.",
    "|": "Write or.",
    "!": "Write not, or !=.",
    "~": "Write contains, or like.",
    "'": "",
    '"': "",
}


@dataclass(frozen=True)
class Token:
    """A piece of the expression: `kind` is number, text, name, word, mark or end; `at` counts characters from 1."""

    kind: str
    value: Any
    at: int


@dataclass(frozen=True)
class Condition:
    """`left` compared with each of `right` by `operator`: one of COMPARISONS, in, contains, like or missing.

    negated  whether it is the other way round, as `not in` is
    """

    left: Token
    operator: str
    right: tuple[Token, ...] = ()
    negated: bool = False
    at: int = 1


def parse(text: str) -> list[Condition | str]:
    """The conditions, and `not`, `and` and `or` behind what they join; raises RequestError with the place."""
    return _Parser(list(_tokens(text))).expression()


def wrong(problem: str, at: int, remedy: str = "") -> NoReturn:
    """Raises the error about what stands at a character, counted from 1."""
    raise RequestError(f"--where, character {at}: {problem}.", remedy or HELP)


def _tokens(text: str) -> Iterator[Token]:
    place, end = 0, len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            start = len(text) - len(text[place:].lstrip())
            char = text[start]
            problem = "a text begins that has no end" if char in "'\"" else f"{shown(char)} has no meaning"
            wrong(problem, start + 1, "Close it with the same quote." if char in "'\"" else _MEANT.get(char, ""))
        kind = found.lastgroup or ""
        start, value, place = found.start(kind), found[kind], found.end()
        if kind == "number":
            if place < end and (text[place].isalnum() or text[place] in "._"):
                wrong(f"{shown(text[start : place + 1])} is neither a number nor a name", start + 1, "Quote text.")
            yield Token(kind, _number(value, start + 1), start + 1)
        elif kind == "text":
            yield Token(kind, value[1:-1].replace(value[0] * 2, value[0]), start + 1)
        elif kind == "word":
            word = value.lower()
            yield Token("word", word, start + 1) if word in WORDS else Token("name", value, start + 1)
        else:
            yield Token("mark", _SAME.get(value, value), start + 1)
    yield Token("end", _END, end + 1)


def _number(text: str, at: int) -> int | float:
    if len(text) > MAX_NUMBER:
        wrong(f"a number has {len(text)} characters", at, "Write a shorter one.")
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else float(text)


class _Parser:
    """Dijkstra's shunting yard: operators wait on a stack of their own until what they bind is complete."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._next = tokens, 0

    def expression(self) -> list[Condition | str]:
        found: list[Condition | str] = []
        waiting: list[Token] = []
        while True:
            while (token := self._peek()).value in ("not", "(") and token.kind in ("word", "mark"):
                waiting.append(self._take())
            self._condition(found)
            while self._is("mark", ")"):
                place = self._take().at
                while waiting and waiting[-1].value != "(":
                    found.append(waiting.pop().value)
                if not waiting:
                    wrong("a parenthesis closes that was not opened", place, "Leave it out.")
                waiting.pop()
            token = self._take()
            if token.kind == "end":
                break
            if token.kind != "word" or token.value not in ("and", "or"):
                wrong(f"{_shown(token)} stands where and, or or the end is expected", token.at)
            while waiting and _BINDS.get(waiting[-1].value, 0) >= _BINDS[token.value]:
                found.append(waiting.pop().value)
            waiting.append(token)
        for token in reversed(waiting):
            if token.value == "(":
                wrong("a parenthesis opens that is not closed", token.at, "Add a ).")
            found.append(token.value)
        return found

    def _condition(self, found: list[Condition | str]) -> None:
        """One condition; of a chain (1 < steps < 9) all of them, and the `and`s between."""
        left = self._value()
        negated = self._skip("word", "not")
        token = self._take()
        if token.kind == "mark" and token.value in COMPARISONS and not negated:
            right = self._value()
            found.append(Condition(left, token.value, (right,), at=token.at))
            while self._peek().kind == "mark" and self._peek().value in COMPARISONS:
                left, token = right, self._take()
                right = self._value()
                found += [Condition(left, token.value, (right,), at=token.at), "and"]
        elif token.kind == "word" and token.value == "in":
            found.append(Condition(left, "in", self._list(), negated, token.at))
        elif token.kind == "word" and token.value in ("contains", "like"):
            found.append(Condition(left, token.value, (self._value(),), negated, token.at))
        elif token.kind == "word" and token.value == "is" and not negated:
            negated = self._skip("word", "not")
            last = self._take()
            if last.kind != "word" or last.value not in ("missing", "null"):
                wrong(f"{_shown(last)} stands behind is", last.at, "Write is missing or is not missing; = compares.")
            found.append(Condition(left, "missing", (), negated, token.at))
        else:
            what = "alone is no condition" if not negated else "is followed by not, and that by no in, contains or like"
            remedy = f"Compare it ({left.value} = ...), or write {left.value} is not missing."
            wrong(f"{_shown(left)} {what}", left.at, remedy if left.kind == "name" else "")

    def _list(self) -> tuple[Token, ...]:
        opening = self._take()
        if opening.value != "(" or opening.kind != "mark":
            wrong(f"{_shown(opening)} stands behind in", opening.at, "Write values in parentheses: in (1, 2).")
        values = [self._value()]
        while self._skip("mark", ","):
            values.append(self._value())
        closing = self._take()
        if closing.value != ")" or closing.kind != "mark":
            wrong(
                f"{_shown(closing)} stands in a list", closing.at, "Separate its values by commas, and close it with )."
            )
        return tuple(values)

    def _value(self) -> Token:
        token = self._take()
        if token.kind not in ("number", "text", "name"):
            wrong(f"{_shown(token)} stands where a name, a number or a text is expected", token.at)
        return token

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _is(self, kind: str, value: str) -> bool:
        return self._peek().kind == kind and self._peek().value == value

    def _skip(self, kind: str, value: str) -> bool:
        return self._is(kind, value) and bool(self._take())


def _shown(token: Token) -> str:
    return _END if token.kind == "end" else shown(token.value) if token.kind == "text" else f"{token.value}"[:60]
