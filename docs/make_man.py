"""Writes the man pages in docs/man from the same declarations as `--help`; a wheel installs them.

A test runs `pages` and fails where one is missing or stale:
    python docs/make_man.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from mlxdiff import __version__
from mlxdiff.cli import app
from mlxdiff.cli.help import panels_of, usage_of

MAN = Path(__file__).parent / "man"
EXIT_STATUS = (
    ("0", "All done."),
    ("1", "An error, in one sentence on stderr."),
    ("2", "Wrong usage."),
    ("3", "Some jobs failed; the others are done."),
    ("130", "Interrupted (143 with SIGTERM)."),
)
FILES = (("config.toml", "Defaults for settings, and profiles, in the platform's folder or at MLXDIFF_CONFIG."),)


def escaped(text: str) -> str:
    """Text that troff prints as it is: backslashes, dashes that can be copied, no request at a line's start."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    text = text.replace("^", r"\(ha").replace("~", r"\(ti")
    return re.sub(r"^([.])", r"\&\1", text, flags=re.MULTILINE)


def emphasized(names: str) -> str:
    """`-o, --output PATH` with what is typed in bold and what stands for something in italics."""
    words = [
        escaped(word)
        if word == "/"
        else rf"\fB{escaped(word)}\fR"
        if word.startswith("-")
        else rf"\fI{escaped(word)}\fR"
        for word in names.split(" ")
    ]
    return " ".join(words).replace(r",\fR", r"\fR,")


def page(command: Any, context: Any, others: list[str]) -> str:
    """One command's page in man's macros."""
    path = context.command_path
    name = path.replace(" ", "-")
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n") if part.strip()]
    lines = [
        f'.TH {escaped(name).upper()} 1 "" "mlxdiff {__version__}" "mlxdiff"',
        ".ad l",
        ".SH NAME",
        rf"{escaped(name)} \- {escaped(paragraphs[0].rstrip('.'))}",
        ".SH SYNOPSIS",
        rf"\fB{escaped(path)}\fR{escaped(usage_of(command, context).removeprefix(path))}",
        ".SH DESCRIPTION",
    ]
    for paragraph in paragraphs:
        lines += [".PP", escaped(paragraph)]
    for title, rows in panels_of(command, context).items():
        lines.append(f'.SH "{escaped(title.upper())}"')
        for names, text in rows:
            lines += [".TP", emphasized(names), escaped(text) or r"\&"]
    if command.epilog:
        lines += [".SH EXAMPLES", ".nf", *map(escaped, command.epilog.strip().splitlines()), ".fi"]
    for title, table in (("EXIT STATUS", EXIT_STATUS), ("FILES", FILES)):
        lines.append(f'.SH "{title}"')
        for left, right in table:
            lines += [".TP", rf"\fB{escaped(left)}\fR", escaped(right)]
    also = [rf"\fB{escaped(other)}\fR(1)" for other in others if other != name]
    return "\n".join([*lines, '.SH "SEE ALSO"', ",\n".join(also)]) + "\n"


def pages() -> dict[Path, str]:
    """Every page's path and content."""
    group: Any = typer.main.get_command(app.app)
    top = group.make_context("mlxdiff", [], resilient_parsing=True)
    contexts = {"mlxdiff": (group, top)}
    for name, command in group.commands.items():
        contexts[f"mlxdiff-{name}"] = (command, command.make_context(name, [], parent=top, resilient_parsing=True))
    return {MAN / f"{name}.1": page(command, context, list(contexts)) for name, (command, context) in contexts.items()}


if __name__ == "__main__":
    for path, content in pages().items():
        path.write_text(content)
        print(path.name)
