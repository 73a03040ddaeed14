r"""A1111's prompt schedules: what a prompt says at which step.

[from:to:when]   `from` up to step `when`, then `to`; [to:when] starts from nothing, [from::when] ends in nothing
[a|b|c]          one after the other, a new one each step
when             a step (5), or with a point a fraction of the run (0.25)

The grammar is A1111's, read in one pass instead of by an Earley parser. A bracket group counts where everything inside
it is complete; what does not match is text. Two things make A1111 take the whole prompt as text, and so they do here:
a `|` outside of an alternation, and a backslash before nothing or before the end of a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ...errors import RequestError
from .prompt import Run

_MAX_LETTERS = 20_000_000  # of all entries of a prompt together
_TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
_ALONE = frozenset("[]():")  # what may stand alone outside of all groups
_WHEN = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


@dataclass(frozen=True)
class Change:
    """[before:after:when]; `when` as it is written."""

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    when: str


@dataclass(frozen=True)
class Alternation:
    """[a|b|...]"""

    options: tuple[tuple[Node, ...], ...]


Node = str | Change | Alternation


def schedule(text: str, run: Run, *, old_timelines: bool = False) -> tuple[tuple[int, str], ...]:
    """(last step, text) in order of steps, ending with `run.calls`.

    Raises RequestError where the entries together are too long, or `when` is past all numbers.
    """
    if old_timelines and run.first_calls is not None:
        run = Run(run.first_calls)  # which count the first pass's steps in the second, too
    nodes = read(text)
    if nodes is None:
        return ((run.calls, text),)
    whens: dict[str, int] = {}
    steps = {run.calls}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, Change):
            if node.when not in whens:
                whens[node.when] = _step(node.when, run, old_timelines)
            if whens[node.when] >= 1:
                steps.add(whens[node.when])
            stack += [*node.before, *node.after]
        elif isinstance(node, Alternation):
            steps.update(range(1, run.calls + 1))
            stack += [inner for option in node.options for inner in option]
    if len(steps) * len(text) > _MAX_LETTERS:
        raise RequestError(
            f"The prompt changes {len(steps):,} times over {len(text):,} characters.",
            "Shorten it, or take fewer steps.",
        )
    return tuple((step, _at(step, nodes, whens)) for step in sorted(steps))


def _step(when: str, run: Run, old_timelines: bool) -> int:
    """The last step before the change."""
    value = float(when)
    hires = run.first_calls is not None
    if old_timelines:
        value = value * run.calls if value < 1 else value
    elif "." in when:  # a fraction; the hires pass goes from 1 to 2
        value = (value - (1.0 if hires else 0.0)) * run.calls
    elif hires and run.first_calls is not None:
        value -= run.first_calls
    if abs(value) == float("inf"):
        raise RequestError(f"The prompt changes at step {when[:40]}.", "Give a step, or a fraction such as 0.5.")
    return min(run.calls, int(value))


def _at(step: int, nodes: tuple[Node, ...], whens: dict[str, int]) -> str:
    said: list[str] = []
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            said.append(node)
        elif isinstance(node, Change):
            stack += reversed(node.before if step <= whens[node.when] else node.after)
        else:
            stack += reversed(node.options[(step - 1) % len(node.options)])
    return "".join(said)


@dataclass
class _Group:
    """A bracket group: where it opens, and where its separators stand."""

    start: int
    separators: list[int] = field(default_factory=list)


def read(text: str) -> tuple[Node, ...] | None:
    """The text with its schedules found; None where A1111's grammar refuses it."""
    tokens = _TOKEN.findall(text)
    if sum(map(len, tokens)) != len(text):
        return None
    groups = _groups(tokens)
    kept = _kept(tokens, groups)
    return None if kept is None else _nodes(tokens, groups, kept)


def _groups(tokens: list[str]) -> dict[int, _Group]:
    """The complete groups by the place of their closing bracket.

    Nothing around a group that is not complete is complete either.
    """
    groups: dict[int, _Group] = {}
    opened: list[_Group] = []
    for index, token in enumerate(tokens):
        if token in "([":
            opened.append(_Group(index))
        elif token in ":|" and opened:
            opened[-1].separators.append(index)
        elif token in ")]":
            if opened and _is_complete(tokens, opened[-1], index):
                groups[index] = opened.pop()
            else:
                opened.clear()
    return groups


def _is_complete(tokens: list[str], group: _Group, end: int) -> bool:
    kinds = {tokens[index] for index in group.separators}
    brackets, n = tokens[group.start] + tokens[end], len(group.separators)
    if brackets == "()":
        return n == 0 or (n == 1 and kinds == {":"})
    if brackets != "[]" or n == 0 or len(kinds) > 1:
        return brackets == "[]" and n == 0
    last = tokens[group.separators[-1] + 1 : end]
    return kinds == {"|"} or (n <= 2 and len(last) == 1 and _WHEN.fullmatch(last[0]) is not None)


def _kept(tokens: list[str], groups: dict[int, _Group]) -> dict[int, int] | None:
    """The groups that count, outermost ones only: opening -> closing. None where a `|` stands in none of them.

    Where brackets are left over, a complete group next to them can also be read as brackets that stand alone. A1111's
    parser chooses from the end: the last thing is text or a group if it can be. Otherwise it is a run of brackets and
    colons; of one with an odd length the parser takes all, and thereby the closing bracket of a group right before it,
    of one with an even length all but the first.
    """
    kept: dict[int, int] = {}
    end = len(tokens)
    while end > 0:
        last = end - 1
        if tokens[last] == "|":
            return None
        if last in groups:
            end = groups[last].start
            kept[end] = last
        elif tokens[last] in _ALONE:
            first = last
            while first > 0 and tokens[first - 1] in _ALONE and not _is_alternation(tokens, groups.get(first - 1)):
                first -= 1
            end = first if (end - first) % 2 else first + 1
        else:
            end = last
    return kept


def _is_alternation(tokens: list[str], group: _Group | None) -> bool:
    """Which cannot be read in another way."""
    return group is not None and bool(group.separators) and tokens[group.separators[0]] == "|"


def _nodes(tokens: list[str], groups: dict[int, _Group], kept: dict[int, int]) -> tuple[Node, ...]:
    """Text, changes and alternations in order; brackets that only weigh words stay text."""
    ends = {group.start: end for end, group in groups.items() if tokens[end] == "]" and group.separators}
    opened: list[tuple[int, set[int]]] = []  # where each change or alternation closes, and its separators
    segments: list[list[list[Node]]] = [[[]]]  # what stands between those, so far
    inside = -1  # the end of the outermost group that counts
    for index, token in enumerate(tokens):
        inside = kept.get(index, inside)
        if index <= inside and index in ends:
            opened.append((ends[index], set(groups[ends[index]].separators)))
            segments.append([[]])
        elif opened and index in opened[-1][1]:
            segments[-1].append([])
        elif opened and index == opened[-1][0]:
            opened.pop()
            node = _node(tokens, groups[index], index, segments.pop())
            segments[-1][-1].append(node)
        else:
            segments[-1][-1].append(token)
    return tuple(segments[0][0])


def _node(tokens: list[str], group: _Group, end: int, segments: list[list[Node]]) -> Node:
    if _is_alternation(tokens, group):
        return Alternation(tuple(map(tuple, segments)))
    when = _WHEN.fullmatch(tokens[end - 1])
    assert when is not None  # or the group would not be complete
    return Change(tuple(segments[0]) if len(segments) == 3 else (), tuple(segments[-2]), when[1])
