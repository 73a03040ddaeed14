r"""ComfyUI's prompt syntax: round brackets only.

(text)       times 1.1
(text:1.3)   1.3 in place of the weight around it, whatever that was
\( \)        the brackets themselves; any other backslash is text

Groups are found by counting brackets, so unbalanced ones stay text. There are no square brackets, breaks or schedules.
"""

from __future__ import annotations

from ...errors import RequestError
from .prompt import Fragment, Part, Prompt, Run, check_text, one_entry

EMPHASIS = 1.1
_CLOSE, _OPEN = "\0\1", "\0\2"  # what ComfyUI itself puts in the place of escaped brackets
_MAX_WORK = 5_000_000  # letters looked at, over all depths


def parse(text: str, run: Run) -> Prompt:
    """Raises RequestError for a prompt that is too long or too deeply nested."""
    return Prompt((Part((one_entry(text, fragments(text), run.calls),)),))


def fragments(text: str) -> tuple[Fragment, ...]:
    """Text and weights in order; nothing at all for an empty prompt. Neighbours of equal weight are not joined."""
    check_text(text)
    found: list[Fragment] = []
    stack = [(text.replace("\\)", _CLOSE).replace("\\(", _OPEN), 1.0, True)]
    work = 0
    while stack:
        item, weight, is_list = stack.pop()
        if is_list:
            work += len(item) + 1
            if work > _MAX_WORK:
                raise RequestError("The prompt's brackets are nested too deeply.", "Remove some of them.")
            stack += [(piece, weight, False) for piece in reversed(_groups(item))]
        elif len(item) >= 2 and item[0] == "(" and item[-1] == ")":
            stack.append((*_weighed(item[1:-1], weight), True))
        else:
            found.append(Fragment(item.replace(_CLOSE, ")").replace(_OPEN, "("), weight))
    return tuple(found)


def _groups(text: str) -> list[str]:
    """Cuts text before each bracket that opens a group and behind the one that closes it."""
    pieces, start, depth = [], 0, 0
    for index, letter in enumerate(text):
        if letter == "(":
            if depth == 0 and index > start:
                pieces.append(text[start:index])
                start = index
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                pieces.append(text[start : index + 1])
                start = index + 1
    return [*pieces, text[start:]] if start < len(text) else pieces


def _weighed(text: str, weight: float) -> tuple[str, float]:
    """The inside of a group and its weight: what follows its last colon, if Python reads that as a number."""
    inside, colon, number = text.rpartition(":")
    if colon and inside:
        try:
            return inside, float(number)
        except ValueError:
            pass
    return text, weight * EMPHASIS
