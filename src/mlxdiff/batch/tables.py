"""Prompt files as tables: `.csv` and `.tsv`, whose first line names the settings.

    prompt,steps,CFG scale
    "a red apple, on a table",20,7
    a pear,,5

An empty cell is not given. A cell in quotes may have commas, line ends and doubled quotes in it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePath
from typing import Any

from .. import spelling
from ..errors import RequestError
from .named_options import NAMES, find, is_known, read_pairs

DELIMITERS = {".csv": ",", ".tsv": "\t"}

Text = Callable[[str | bytes], str]


def delimiter_of(path: str) -> str | None:
    """What is between the cells of a file of this name; None if it is no table."""
    return DELIMITERS.get(PurePath(path).suffix.lower())


def rows(
    lines: Iterable[str | bytes], delimiter: str, source: str, decoded: Text
) -> Iterator[tuple[str, Callable[[], dict[str, Any] | None]]]:
    """The place of each row, and what reads its settings. `decoded` gives a line as text, or raises RequestError."""
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number += 1
            yield decoded(line)

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = f"{source}, line {number + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # What follows cannot be told apart any more: this is the last row.
            yield place, partial(_refuse, f"its cells cannot be told apart ({error}).")
            return
        except RequestError as error:
            yield f"{source}, line {number}", partial(_refuse, error.problem, error.remedy)
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            try:
                header = _header(cells, delimiter)
            except RequestError as error:
                yield place, partial(_refuse, error.problem, error.remedy)
                return
            continue
        yield place, partial(_row, header, cells, place)


def _header(cells: list[str], delimiter: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if len(names) == 1 and not is_known(names[0]) and any(mark in names[0] for mark in ";\t,"):
        mark = next(mark for mark in ";\t," if mark in names[0])
        called = {";": "semicolons", "\t": "tabs", ",": "commas"}
        raise RequestError(
            f"the cells are separated by {called[mark]}, not by {called[delimiter]}.",
            "Save the table as CSV with commas, or as .tsv with tabs.",
        )
    for i, name in enumerate(names, 1):
        if not is_known(name):
            near = spelling.nearest(name.lower(), NAMES)
            raise RequestError(
                f"column {i} is named {name[:60]!r}, which is no setting.",
                spelling.question(near, "The first line names the settings: prompt,steps,cfg_scale."),
            )
        item = find(name)
        if item is not None and not item.kind.many and [find(other) for other in names].count(item) > 1:
            raise RequestError(f"two columns say {item.name}.", "Leave one out.")
    return names


def _row(header: list[str], cells: list[str], place: str) -> dict[str, Any]:
    if any(cell.strip() for cell in cells[len(header) :]):
        raise RequestError(
            f"it has {len(cells)} cells for {len(header)} columns.", 'Put a cell with commas in it in quotes: "a, b".'
        )
    given = [(name, cell.strip()) for name, cell in zip(header, cells, strict=False) if cell.strip()]
    return read_pairs(given, place, about="column ")


def _refuse(problem: str, remedy: str = "Put each cell with quotes or line ends in it in quotes.") -> dict[str, Any]:
    raise RequestError(problem, remedy)
