"""compel's grammar: a prompt to nodes, which compel.py gives their meaning.

The rules are those of compel 2.5.1, which tries alternatives in order and takes the first that fits. Here each is tried
once at a place, so that brackets in brackets cost no more than their letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ...errors import RequestError

PLUS, MINUS = 1.1, 0.9

_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"""(?:\\[()",.+\-=]|[-+](?![ \t\r\n()",.+\-=]|\Z)|[^ \t\n\r\x0b\x0c()",.+\-=])+""")
_ANY_WORD = re.compile(r"[^ \t\n\r\x0b\x0c]+")
_QUOTED = re.compile(r"""\"((?:\\"|[^"\n\r])*)\"""")
_SIGNS = re.compile(r"\++|-+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)|-?[0-9]+")
_KEYWORD = re.compile(r"[A-Za-z0-9_\-]+")
_ESCAPES = {r"\t": "\t", r"\n": "\n", r"\f": "\f", r"\r": "\r"}


@dataclass(frozen=True)
class Weighed:
    """Nodes whose weights are multiplied."""

    weight: float
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Swap:
    """Nodes that .swap() would replace."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Lora:
    name: str
    weight: float


Node = str | Weighed | Swap | Lora
_Found = tuple[tuple[Node, ...], int] | None  # what stands at a place, and where it ends


@dataclass(frozen=True)
class Operation:
    """(prompts).name(options) up to `end`."""

    name: str
    prompts: list[tuple[Node, ...]]
    options: list[str]
    end: int


class Parser:
    """Looks for one thing at one place. Each answer is kept, so that trying alternatives stays cheap."""

    def __init__(self, text: str):
        self._text = text
        for name in ("_word", "_quoted", "_bracketed", "_attention", "_swap", "_lora", "_part"):
            setattr(self, name, lru_cache(None)(getattr(self, name)))

    def skip(self, place: int) -> int:
        """Past white space."""
        match = _SPACE.match(self._text, place)
        return place if match is None else match.end()

    def top(self, place: int) -> tuple[tuple[Node, ...], int]:
        """A whole prompt: what is no syntax is text, up to the next white space."""
        nodes: list[Node] = []
        while True:
            found = (
                self._swap(place)
                or self._lora(place)
                or self._attention(place)
                or self._quoted(place)
                or self._bracketed(place)
                or self._any_word(place)
            )
            if found is None:
                end = self.skip(place)
                if end == place:
                    return tuple(nodes), place
                place = end
            else:
                nodes += found[0]
                place = found[1]

    def loras(self, place: int) -> tuple[int, tuple[Node, ...]]:
        """Any number of LoRAs, and where they end."""
        nodes: list[Node] = []
        while (found := self._lora(place)) is not None:
            nodes += found[0]
            place = found[1]
        return place, tuple(nodes)

    def operation(self, place: int) -> Operation | None:
        """("a", "b").name(options)"""
        prompts: list[tuple[Node, ...]] = []
        end = self._literal("(", place)
        while end is not None:
            found = self._target(end) or self._quoted_prompt(end)
            if found is None:
                return None
            prompts.append(found[0])
            comma = self._literal(",", found[1])
            if comma is None:
                return self._called(prompts, self._literal(")", found[1]))
            end = comma
        return None

    def _called(self, prompts: list[tuple[Node, ...]], place: int | None) -> Operation | None:
        for name in ("blend", "and", "add"):
            start = None if place is None else self._literal(f".{name}", place)
            start = None if start is None else self._literal("(", start)
            if start is not None:
                options, end = self._options(start)
                end = self._literal(")", end)
                return None if end is None else Operation(name, prompts, options, end)
        return None

    def _options(self, place: int) -> tuple[list[str], int]:
        """Names and numbers between commas; of `name=value` the name."""
        options: list[str] = []
        start = place
        while True:
            keyword = _KEYWORD.match(self._text, self.skip(start))
            equals = None if keyword is None else self._literal("=", keyword.end())
            value = None if equals is None else self._value(equals)
            number = _NUMBER.match(self._text, self.skip(start))
            if keyword is not None and value is not None:
                option, end = keyword[0], value
            elif number is not None:
                option, end = str(float(number[0])), number.end()
            elif keyword is not None:
                option, end = keyword[0], keyword.end()
            else:
                return options, place
            options.append(option)
            place = end
            comma = self._literal(",", place)
            if comma is None:
                return options, place
            start = comma

    def _value(self, place: int) -> int | None:
        at = self.skip(place)
        match = _NUMBER.match(self._text, at) or _KEYWORD.match(self._text, at)
        return None if match is None else match.end()

    def _literal(self, text: str, place: int) -> int | None:
        place = self.skip(place)
        return place + len(text) if self._text.startswith(text, place) else None

    def _any_word(self, place: int) -> _Found:
        match = _ANY_WORD.match(self._text, place)
        return None if match is None else ((match[0],), match.end())

    def _word(self, place: int) -> _Found:
        match = _WORD.match(self._text, self.skip(place))
        return None if match is None else ((match[0],), match.end())

    def _quoted(self, place: int) -> _Found:
        return self._in_quotes(place, lambda parser: parser._parts(0))

    def _quoted_prompt(self, place: int) -> _Found:
        return self._in_quotes(place, lambda parser: parser.top(0))

    def _in_quotes(self, place: int, read: Callable[[Parser], tuple[tuple[Node, ...], int]]) -> _Found:
        """A text in quotes, whose inside must be all of what `read` reads."""
        match = _QUOTED.match(self._text, self.skip(place))
        if match is None:
            return None
        inside = re.sub(r"\\[tnfr]", lambda escape: _ESCAPES[escape[0]], match[1]).replace('\\"', '"')
        if not inside.strip():
            return ("",), match.end()
        inside = inside.replace('"', '\\"').expandtabs()
        parser = Parser(inside)
        nodes, end = read(parser)
        return (nodes, match.end()) if parser.skip(end) == len(inside) else None

    def _bracketed(self, place: int) -> _Found:
        start = self._literal("(", place)
        if start is None:
            return None
        nodes, end = self._parts(start)
        end = self._literal(")", end)
        return None if end is None else (nodes, end)

    def _parts(self, place: int, commas: bool = True) -> tuple[tuple[Node, ...], int]:
        """What brackets and quotes hold."""
        nodes: list[Node] = []
        while True:
            found = self._part(place)
            if found is None and commas:
                at = self.skip(place)
                found = ((self._text[at],), at + 1) if self._text[at : at + 1] in (",", ".") else None
            if found is None:
                return tuple(nodes), place
            nodes += found[0]
            place = found[1]

    def _part(self, place: int) -> _Found:
        return (
            self._lora(place)
            or self._attention(place)
            or self._swap(place)
            or self._bracketed(place)
            or self._quoted(place)
            or self._word(place)
        )

    def _target(self, place: int) -> _Found:
        return self._quoted(place) or self._bracketed(place) or self._word(place)

    def _attention(self, place: int) -> _Found:
        """.attend(1.3), or signs or a number right behind; a bare word takes signs only."""
        target = self._target(place)
        call = None if target is None else self._literal(".attend", target[1])
        start = None if call is None else self._literal("(", call)
        if target is not None and start is not None:
            weight = self._operator(self.skip(start), numbers=True)
            end = None if weight is None else self._literal(")", weight[1])
            if weight is not None and end is not None:
                return (Weighed(weight[0], target[0]),), end
        for target, numbers in ((self._quoted(place) or self._bracketed(place), True), (self._word(place), False)):
            weight = None if target is None else self._operator(target[1], numbers)
            if target is not None and weight is not None:
                return (Weighed(weight[0], target[0]),), weight[1]
        return None

    def _operator(self, place: int, numbers: bool) -> tuple[float, int] | None:
        signs = _SIGNS.match(self._text, place)
        if signs is not None:
            base = PLUS if signs[0][0] == "+" else MINUS
            return _power(base, len(signs[0])), signs.end()
        number = _NUMBER.match(self._text, place) if numbers else None
        return None if number is None else (float(number[0]), number.end())

    def _swap(self, place: int) -> _Found:
        target = self._target(place)
        call = None if target is None else self._literal(".swap", target[1])
        start = None if call is None else self._literal("(", call)
        if target is None or start is None:
            return None
        _, end = self._parts(start, commas=False)
        comma = self._literal(",", end)
        if comma is not None:
            _, end = self._options(comma)
        end = self._literal(")", end)
        return None if end is None else ((Swap(target[0]),), end)

    def _lora(self, place: int) -> _Found:
        called = self._literal("useLora", place) or self._literal("withLora", place)
        start = None if called is None else self._literal("(", called)
        name = None if start is None else _KEYWORD.match(self._text, self.skip(start))
        if name is None:
            return None
        weight, end = 1.0, name.end()
        comma = self._literal(",", end)
        number = None if comma is None else _NUMBER.match(self._text, self.skip(comma))
        if number is not None:
            weight, end = float(number[0]), number.end()
        end = self._literal(")", end)
        return None if end is None else ((Lora(name[0], weight),), end)


def _power(base: float, count: int) -> float:
    try:
        return base**count
    except OverflowError:
        raise RequestError(f"A word in the prompt has {count} plus signs.", "A few are enough.") from None
