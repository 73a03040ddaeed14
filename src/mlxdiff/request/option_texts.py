"""A request as the texts of the command line's options: what would be typed to render the same picture again."""

from __future__ import annotations

from collections.abc import Iterator

from . import Request
from .declarations import Setting, declared
from .kinds import BatchPlaces, Prompts, Seeds

_ONE_FOR_EACH = (Prompts, Seeds, BatchPlaces)  # of which a request of several images may hold one for each


def option_texts(request: Request) -> Iterator[tuple[Setting, str]]:
    """Each setting that the request says, with the text that its option takes; one that may be repeated, as often.

    What only mlxdiff writes is left out, and what a request holds unasked. Of several images with prompts or seeds of
    their own it says them all, though no option takes more than one.
    """
    for item in declared(Request):
        value = getattr(request, item.name)
        if value is None or value == item.default or item.scope == "record":
            continue
        if item.kind.many:
            values = [(one,) for one in value]
        elif isinstance(value, tuple) and isinstance(item.kind, _ONE_FOR_EACH):
            values = [one for one in value if one is not None]
        else:
            values = [value]
        yield from ((item, item.kind.show(one)) for one in values)


def is_one_command(request: Request) -> bool:
    """Whether options can say the request: each of its values is read back from the text of its option."""
    if request.batch_size != 1:
        return False
    found: dict[str, list[str]] = {}
    for item, text in option_texts(request):
        found.setdefault(item.name, []).append(text)
    for item in declared(Request):
        texts = found.get(item.name, [])
        if item.kind.many:
            read = tuple(part for text in texts for part in item.kind.parse(item.name, text)) or None
        else:
            read = item.kind.parse(item.name, texts[0]) if len(texts) == 1 else item.default
        if item.scope != "record" and read != getattr(request, item.name):
            return False
    return True
