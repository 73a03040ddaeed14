"""Settings as options: what `Request` declares becomes the options of a command, without a word about any of them here.

    @with_settings(without=("n_images",))
    def grid(pictures: ..., settings: Given, output_path: ... = None): ...

Typer reads a function's signature, so the decorated function has one with an option for each setting in the place of
`settings`. Options are text to Typer: the declaration's kind reads and checks it, and its errors are like all others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer

from ..request import MAX_SEED, Request
from ..request.declarations import Choice, Setting, declared
from .completion import for_kind
from .signature import Command, expanded, option

Given = Mapping[str, Any]  # the settings that were given, by name, parsed and checked

PLACE = "settings"  # the parameter that receives them
_TYPES = {
    "whole number": "INTEGER",
    "number": "FLOAT",
    "numbers": "N,N,...",
    "text": "TEXT",
    "reference": "REF",
    "picture": "IMAGE",
}
LONGEST_TYPE = 22  # columns; longer lists of choices are part of the help text


def settings_of(of: type = Request) -> list[Setting]:
    """The settings that a user can give: all but those that mlxdiff writes itself."""
    return [item for item in declared(of) if item.scope != "record"]


def with_settings(*, only: Collection[str] = (), without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Decorates a command that takes `settings`; `only` and `without` name settings."""
    without = {*without, "prompt"}  # an argument of `generate`
    chosen = [item for item in settings_of() if (not only or item.name in only) and item.name not in without]

    def collect(values: Mapping[str, Any]) -> Given:
        texts = {item: values[item.name] for item in chosen if values[item.name] is not None}
        return {item.name: parsed(item, value) for item, value in texts.items()}

    return lambda command: expanded(command, PLACE, map(_parameter, chosen), collect)


def parsed(item: Setting, value: Any) -> Any:
    """What an option's text (or texts, of one that may be repeated) means; raises RequestError."""
    if item.kind.type is bool:
        return item.kind.check(item.name, value)
    if item.kind.many:
        return tuple(part for text in value for part in item.kind.parse(item.name, text))
    if isinstance(item.kind, Choice):
        return value.strip()  # for Request to check: some names say two settings at once ("DPM++ 2M Karras")
    return item.kind.parse(item.name, value)


def metavar(item: Setting) -> str:
    """The type that `--help` shows: INTEGER, FLOAT, TEXT, the choices where they are short, or a grammar."""
    described = item.kind.describe()
    choices = "|".join(str(choice) for choice in described.get("choices", ()))
    if choices:
        return choices if len(choices) <= LONGEST_TYPE else "NAME"
    kind = described["type"]
    return _TYPES.get(kind, kind if "[" in kind or kind.isupper() else "TEXT")


def help_text(item: Setting) -> str:
    """Setting.long_help, with the choices that the type does not show."""
    if metavar(item) != "NAME":
        return item.long_help
    listed = f"One of {', '.join(map(str, item.kind.describe()['choices']))}."
    return item.long_help.replace(item.help, f"{item.help} {listed}", 1)


def values_of(item: Setting) -> str:
    """The values that a setting takes, in words: for tables."""
    described = item.kind.describe()
    if "choices" in described:
        return ", ".join(map(str, described["choices"]))
    if "low" in described:
        return f"{described['type']}, {plain(described['low'])} to {plain(described['high'])}"
    return described["type"]


def default_of(item: Setting) -> str:
    """What holds where a setting is not given, in words: for tables."""
    if item.unset:
        return item.unset
    return "none" if item.default is None else item.kind.show(item.default)


def plain(number: float) -> str:
    """A bound as people write it: 1000, 0.75, 1e+10, 2^64 - 1."""
    if number == MAX_SEED:
        return "2^64 - 1"
    return f"{number:g}" if isinstance(number, float) else str(number)


def _parameter(item: Setting) -> inspect.Parameter:
    flag = item.kind.type is bool
    names = (f"{item.option}/--no-{item.option[2:]}",) if flag else (item.option, *item.flags)
    declaration = typer.Option(
        *names,
        help=help_text(item),
        metavar=None if flag else metavar(item),
        show_default=False,
        rich_help_panel=item.group,
        autocompletion=for_kind(item.kind),
    )
    kind: Any = bool if flag else list[str] if item.kind.many else str
    return option(item.name, Annotated[kind | None, declaration])
