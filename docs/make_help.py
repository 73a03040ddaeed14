"""Writes each command's `--help` into its page: between the markers of docs/COMMAND.md.

A test runs `rendered` and fails where a page is missing or stale:
    python docs/make_help.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent
START, END = "<!-- help -->\n", "<!-- /help -->"


def help_of(command: str) -> str:
    """The plain text of `mlxdiff COMMAND --help`, 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "TYPER_USE_RICH": "0", "NO_COLOR": "1", "TERM": "dumb"}
    shown = subprocess.run(
        [sys.executable, "-m", "mlxdiff", command, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return "\n".join(line.rstrip() for line in shown.strip().splitlines()).replace("python -m mlxdiff", "mlxdiff")


def rendered(page: Path) -> str:
    """The page with its help renewed."""
    text = page.read_text()
    head, rest = text.split(START, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{START}```\n{help_of(page.stem)}\n```\n{END}{tail}"


def pages() -> list[Path]:
    return [page for page in sorted(DOCS.glob("*.md")) if START in page.read_text()]


if __name__ == "__main__":
    for page in pages():
        page.write_text(rendered(page))
        print(page.name)
