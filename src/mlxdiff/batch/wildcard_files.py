"""The folder of `--wildcards`: which files there are, what a name means, and their lines.

    colors.txt           __colors__           one option a line; `3::red` is taken three times as often
    animals/cats.txt     __animals/cats__     or __cats__, if there is no cats.txt above
    # a comment          a line that begins with #, and whatever follows " #"

Only regular .txt files inside the folder are read, each when it is first named: no name leads out of it, and no link.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from .. import spelling
from ..errors import InputError, RequestError
from ..files import open_regular
from .templates import Option, Parts, is_template, parse, weighted, wildcards_in

SUFFIX = ".txt"
MAX_BYTES = 2**26  # of a file
MAX_FILES = 100_000
MAX_LINE = 2**14  # characters
MAX_CHAIN = 100  # files that name each other
_OTHERS = (".yaml", ".yml", ".json")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_COMMENT = re.compile(r"(?:^|\s+)#.*$")
_LONGEST = 60  # characters of a name in an error


class Lines(Sequence[Option]):
    """The options of a wildcard, taken apart when they are asked for; those of weight 0 are left out."""

    def __init__(self, lines: Sequence[str]) -> None:
        pairs = [pair for pair in map(weighted, lines) if pair[0] > 0]
        self.texts = [text for _, text in pairs]
        self.weights = [weight for weight, _ in pairs]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        return Option(_parsed(self.texts[index]), self.weights[index])

    @cached_property
    def sums(self) -> list[float]:
        """Of the weights up to each line."""
        return list(accumulate(self.weights))


class WildcardFiles:
    """The wildcards in `folder`; None has none. Raises InputError where that is no folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._paths: dict[str, Path] = {}
        self._refused: dict[str, str] = {}  # names of what is there and not read, and why
        self._read: dict[str, list[str]] = {}
        self._lines: dict[str, Lines] = {}
        self._checked: set[str] = set()
        if folder is not None:
            self._list(folder)

    @property
    def names(self) -> list[str]:
        """Of all files, without .txt."""
        return list(self._paths)

    def options(self, name: str) -> Lines:
        """The lines of all files that the name means; raises RequestError where there is none, or no line."""
        if name not in self._lines:
            texts = dict.fromkeys(line for file in self._files(name) for line in self._text(file))
            found = Lines(list(texts))
            if not found:
                raise RequestError(f"The wildcard __{_cut(name)}__ has no lines.", "Write one option a line.")
            self._lines[name] = found
        return self._lines[name]

    def check(self, text: str) -> None:
        """Raises RequestError where the text, or a file that it names, names one that is missing, or itself."""
        for name in sorted(wildcards_in(text)):
            for file in self._files(name):
                self._check(file, ())

    def _check(self, file: str, chain: tuple[str, ...]) -> None:
        if file in chain:
            way = " > ".join(_cut(name) for name in (*chain[chain.index(file) :][:5], file))
            raise RequestError(f"The wildcard {_cut(file)} names itself ({way}).", "Take one of the names out.")
        if file in self._checked:
            return
        if len(chain) > MAX_CHAIN:
            raise RequestError(f"More than {MAX_CHAIN} wildcards name each other in a chain.", "Use fewer.")
        names = sorted(set().union(*(wildcards_in(line) for line in self._text(file) if "__" in line)))
        for name in names:
            try:
                files = self._files(name)
            except RequestError as error:
                raise RequestError(f"In {self._paths[file]}: {error.problem}", error.remedy) from None
            for other in files:
                self._check(other, (*chain, file))
        self._checked.add(file)

    def _list(self, folder: Path) -> None:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "is not there"
            raise InputError(f"The folder of wildcards {folder} {what}.", "Name a folder of .txt files.")
        root = folder.resolve()
        for path in _walk(folder):
            name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())  # macOS takes accents apart
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in _OTHERS:
                self._refused.setdefault(stem, f"{name} is there, and only .txt files are read")
            if suffix.lower() != SUFFIX:
                continue
            if len(self._paths) >= MAX_FILES:
                raise InputError(f"{folder} has more than {MAX_FILES} files.", "Name the folder of the wildcards.")
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                self._refused[stem] = f"{name} is a link that leads out of the folder"
            elif not path.is_file():
                self._refused[stem] = f"{name} is no regular file"
            else:
                self._paths[stem] = path

    def _files(self, name: str) -> list[str]:
        """The names of the files that a wildcard means, in their order."""
        asked = unicodedata.normalize("NFC", re.sub(r"[/\\]+", "/", name))
        if asked.startswith("/") or ".." in asked.split("/") or re.match(r"[A-Za-z]:", asked):
            raise RequestError(
                f"The wildcard __{_cut(name)}__ leads out of the folder.", "Name a .txt file inside it, without .txt."
            )
        if self.folder is None:
            raise RequestError(f"There is no folder for __{_cut(name)}__.", "Name it with --wildcards DIR.")
        asked = asked.removesuffix(SUFFIX).strip("/")
        if asked in self._paths:
            return [asked]
        for pattern in (asked, f"**/{asked}"):
            form = _pattern(pattern)
            found = sorted(known for known in self._paths if form.fullmatch(known))
            if found:
                return found
        raise RequestError(f"There is no wildcard __{_cut(name)}__ in {self.folder}.", self._meant(asked))

    def _meant(self, name: str) -> str:
        why = self._refused.get(name)
        if why is not None:
            return f"{why[0].upper()}{why[1:]}."
        near = spelling.nearest(name, islice(self._paths, 10_000))
        if near:
            return spelling.question([f"__{each}__" for each in near])
        return (
            f"It would be {name.rpartition('/')[2][:_LONGEST]}.txt there." if self._paths else "It has no .txt files."
        )

    def _text(self, file: str) -> list[str]:
        if file not in self._read:
            self._read[file] = _lines_of(self._paths[file])
        return self._read[file]


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below the folder that is not hidden, in an order that does not depend on the disk."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(where, name)


def _lines_of(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"The wildcards {path} cannot be read ({error.strerror}).", "Check the file.") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"The wildcards {path} are larger than {MAX_BYTES >> 20} MiB.", "Cut the file in pieces.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}, is not UTF-8.", "Save the file as UTF-8 text.") from None
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise InputError(
            f"{path}, line {line}, has the character U+{ord(control[0]):04X}, which is not text.",
            "Check that the file is one of text, and take the character out.",
        )
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if "#" in line:
            line = _COMMENT.sub("", line)
        line = line.strip()
        if len(line) > MAX_LINE:
            raise InputError(
                f"{path}, line {number}, is longer than {MAX_LINE} characters.", "Write one option a line."
            )
        if line:
            found.append(line)
    return found


def _pattern(text: str) -> re.Pattern[str]:
    """A name with `*`, `**` (also across folders) and `?`."""
    forms = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", re.sub(r"\*{3,}", "**", text))
    return re.compile("".join(forms.get(piece) or re.escape(piece) for piece in pieces))


def _parsed(text: str) -> Parts:
    return parse(text) if "{" in text or is_template(text) else (text,)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
