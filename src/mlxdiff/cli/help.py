"""`--help` as a page: panels of options, with full names and types on the left; it reads well from 30 columns on.

Typer's own pages give names and types 60 of 80 columns, cut the names, and read `[@revision]` as markup.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import typer.core

from ..request.declarations import GROUPS

WIDEST = 100  # columns: longer lines are hard to read
NARROWEST = 24
LEFT = 28  # columns for names and types; longer ones have a line of their own
TWO_COLUMNS = 60  # below this width help stands below the names
OTHERS = "Options"  # the panel of what is in no other
PANELS = ("Arguments", "Commands", "Input", *GROUPS, "Run", "Output", OTHERS)


class Command(typer.core.TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))


class Group(typer.core.TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))


def page(command: Any, ctx: Any) -> str:
    """The whole page, ending in a line break."""
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))
    pieces = [_usage(command, ctx, width), *_paragraphs(command.help, width)]
    pieces += ["\n".join([_bold(f"{name}:"), *_rows(rows, width)]) for name, rows in panels_of(command, ctx).items()]
    if command.epilog:
        lines = command.epilog.strip().splitlines()
        pieces.append("\n".join([_bold("Examples:"), *(f"  {line}".rstrip() for line in lines)]))
    return "\n\n".join(pieces) + "\n"


def panels_of(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """The panels in their order: names and types, and what they do."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in (*command.get_params(ctx),):
        if not getattr(param, "hidden", False):
            panels.setdefault(_panel(param), []).append((_names(param), _help(param)))
    if isinstance(command, Group):
        panels["Commands"] = [
            (name, (found.get_short_help_str(200))) for name, found in command.commands.items() if not found.hidden
        ]
    order = [*PANELS, *(name for name in panels if name not in PANELS)]
    return {name: panels[name] for name in sorted(panels, key=order.index)}


def usage_of(command: Any, ctx: Any) -> str:
    """`mlxdiff generate [OPTIONS] [PROMPT]`"""
    words = [ctx.command_path, "[OPTIONS]"]
    if isinstance(command, Group):
        words.append("COMMAND ...")
    for argument in (param for param in command.params if param.param_type_name == "argument"):
        name = argument.metavar or argument.name.upper()
        words.append(name if argument.required else f"[{name}]")
    return " ".join(words)


def _usage(command: Any, ctx: Any, width: int) -> str:
    lines = _wrapped(f"Usage: {usage_of(command, ctx)}", width, "  ")
    return "\n".join(lines).replace("Usage:", _bold("Usage:"), 1)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of whole words; those after the first begin with the indent."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent)


def _paragraphs(text: str | None, width: int) -> list[str]:
    """Paragraphs, each wrapped anew."""
    parts = (text or "").strip().split("\n\n")
    return ["\n".join(_wrapped(" ".join(part.split()), width)) for part in parts if part]


def _panel(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    panel = getattr(param, "rich_help_panel", None)
    return panel if isinstance(panel, str) else OTHERS


def _names(param: Any) -> str:
    """`-o, --output PATH`: short names first, and the type of what follows."""
    if param.param_type_name == "argument":
        return param.metavar or param.name.upper()
    short = [name for name in param.opts if not name.startswith("--")]
    names = ", ".join([*short, *(name for name in param.opts if name.startswith("--"))])
    if param.secondary_opts:
        names += f" / {', '.join(param.secondary_opts)}"
    return names if param.is_flag else f"{names} {_type(param)}"


def _type(param: Any) -> str:
    if param.metavar:
        return param.metavar
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    name = getattr(annotation, "__name__", None) or getattr(getattr(param, "type", None), "name", "text")
    return {"str": "TEXT", "int": "INTEGER", "float": "FLOAT"}.get(name, name.upper())


def _help(param: Any) -> str:
    text = " ".join((param.help or "").split())
    default = getattr(param, "default", None)
    if param.show_default is True and isinstance(default, int | float) and not param.is_flag and "Default:" not in text:
        text += f" Default: {default}." if isinstance(default, int) else f" Default: {default:g}."
    return text


def _rows(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    rows = list(rows)
    left = 6 if width < TWO_COLUMNS else min(LEFT, max(len(names) for names, _ in rows)) + 4
    lines = []
    for names, text in rows:
        wrapped = _wrapped(text, width - left)
        heads = [f"  {_coloured(part)}" for part in _wrapped(names, width - 2, "  ")]
        if wrapped and len(names) + 4 <= left:
            heads[-1] += " " * (left - len(names) - 2) + wrapped.pop(0)
        lines += [*heads, *(" " * left + line for line in wrapped)]
    return lines


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if _colours() else text


def _coloured(text: str) -> str:
    return f"\x1b[36m{text}\x1b[0m" if _colours() else text


def _colours() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in (None, "dumb")
    return not plain and sys.stdout is not None and sys.stdout.isatty()
