"""Puts a measured table into a page of docs/, between two marks: <!-- NAME --> and <!-- /NAME -->."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def write(page: str, name: str, shown: str) -> None:
    """Replaces what stands between the marks of `name`; ValueError where the page has no such marks."""
    path, start, end = DOCS / page, f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, rest = path.read_text(encoding="utf-8").split(start, 1)
    _, tail = rest.split(end, 1)
    path.write_text(f"{head}{start}{shown}{end}{tail}", encoding="utf-8")
