"""Writes what is generated into its pages: each command's `--help` into docs/COMMAND.md, the settings into settings.md.

It stands between markers. A test runs `rendered` and fails where a page is missing or stale:
    python docs/make_help.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent
START, END = "<!-- help -->\n", "<!-- /help -->"
SETTINGS = "settings"  # the page of this name has no command's help, but all settings


def help_of(command: str) -> str:
    """What `mlxdiff COMMAND --help` shows in a terminal of 80 columns."""
    shown = subprocess.run(
        [sys.executable, "-m", "mlxdiff", command, "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return f"```\n{shown.strip()}\n```\n"


def settings() -> str:
    """Tables of the settings as they are declared."""
    from mlxdiff.cli.declared import settings_of
    from mlxdiff.cli.listing import settings_page

    return settings_page(settings_of())


def rendered(page: Path) -> str:
    """The page with what is generated in it renewed."""
    text = page.read_text()
    head, rest = text.split(START, 1)
    _, tail = rest.split(END, 1)
    made = settings() if page.stem == SETTINGS else help_of(page.stem)
    return f"{head}{START}{made}{END}{tail}"


def pages() -> list[Path]:
    return [page for page in sorted(DOCS.glob("*.md")) if START in page.read_text()]


if __name__ == "__main__":
    for page in pages():
        page.write_text(rendered(page))
        print(page.name)
