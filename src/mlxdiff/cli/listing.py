"""What there is to choose from, as tables and as data: `info --settings`, `info --samplers`, and docs/settings.md."""

from __future__ import annotations

from typing import Any

from ..request import SAMPLERS, Request
from ..settings import GROUPS, Setting, listed
from . import output
from .declared import default_of, settings_of, values_of


def show_settings(*, json: bool) -> None:
    """One JSON object a setting, or a table."""
    if json:
        for described in listed(Request):
            output.say_json(described)
        return
    header = ("option", "values", "default", "help")
    rows = [(names(item), values_of(item), default_of(item), item.help) for item in ordered(settings_of())]
    output.table(rows, header)


def show_samplers(*, json: bool) -> None:
    for row in sampler_rows():
        if json:
            output.say_json(row)
        else:
            output.say(row["name"])


def sampler_rows() -> list[dict[str, Any]]:
    """The samplers as data."""
    return [{"name": name} for name in SAMPLERS]


def names(item: Setting) -> str:
    """`--guidance-scale, --cfg`"""
    return ", ".join((item.option, *item.flags))


def ordered(items: list[Setting]) -> list[Setting]:
    """By group, in the groups' order."""
    order = [*GROUPS, *(item.group for item in items)]
    return sorted(items, key=lambda item: order.index(item.group))


def settings_page(items: list[Setting]) -> str:
    """The reference in Markdown: a section a group, a table of its settings."""
    lines: list[str] = []
    for group in dict.fromkeys(item.group for item in ordered(items)):
        lines += [
            f"## {group}",
            "",
            "| option | values | default | `--vary` | A1111's name | |",
            "|---|---|---|---|---|---|",
        ]
        for item in (item for item in items if item.group == group):
            cells = (
                ", ".join(f"`{name}`" for name in (item.option, *item.flags)),
                values_of(item),
                default_of(item),
                "yes" if item.vary else "",
                item.a1111 or "",
                item.help,
            )
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
