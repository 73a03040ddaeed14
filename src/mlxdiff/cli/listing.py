"""What there is to choose from, as tables and as data: `info --settings`, `info --samplers`, and docs/settings.md."""

from __future__ import annotations

from typing import Any

from ..request import SAMPLERS
from ..request.declarations import GROUPS, Setting
from . import output
from .config import Layers
from .declared import default_of, settings_of, values_of


def show_settings(layers: Layers, *, json: bool) -> None:
    """One JSON object a setting, or a table; with the value that holds without an option, and who says so."""
    items = ordered(settings_of())
    held = {item.name: layers.origin(item.name) for item in items}
    if json:
        for item in items:
            value, source = held[item.name]
            value = item.describe()["default"] if value is None else item.kind.to_json(value)
            output.say_json(item.describe() | {"value": value, "source": source})
        return
    rows = []
    for item in items:
        value, source = held[item.name]
        default = default_of(item)
        said = (default, source) if value is None else (item.kind.show(value), f"{source}; default: {default}")
        rows.append((names(item), *said, values_of(item), item.help))
    header = ("option", "value", "from", "values", "help")
    output.table(rows, header)
    if layers.config.path is not None:
        output.note(f"Defaults are read from {layers.config.path}.", style="dim")


def show_samplers(*, json: bool) -> None:
    """One JSON object a sampler, or a table."""
    rows = sampler_rows()
    if json:
        for row in rows:
            output.say_json(row)
        return
    others = ("a1111", "comfyui", "diffusers")
    table = [(row["name"], *(", ".join(row.get(other, ())) for other in others), sampler_help(row)) for row in rows]
    output.table(table, ("sampler", "A1111", "ComfyUI", "diffusers", "help"))


def sampler_help(row: dict[str, Any]) -> str:
    """What it does, whether it draws noise, what a step costs, and its options."""
    options = {each["name"]: each["default"] for each in row.get("options", ())}
    said = [row.get("help", "")]
    if row.get("noise", "none") != "none" and options.get("eta") != 0:
        said.append("Draws noise.")
    if row.get("evaluations", 1) != 1:
        said.append(f"Calls the network {row['evaluations']} times a step.")
    if options:
        said.append(f"Options: {', '.join(f'{name}={default}' for name, default in options.items())}.")
    return " ".join(part for part in said if part)


def sampler_rows() -> list[dict[str, Any]]:
    """The samplers as data: those of the catalogue."""
    try:
        from ..listing import samplers  # type: ignore[import-not-found]
    except ImportError:
        return [{"name": name} for name in SAMPLERS]
    return samplers()


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
