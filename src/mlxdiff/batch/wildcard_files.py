"""The folder of `--wildcards`: which files there are, what a name means, and their lines.

    colors.txt           __colors__           one option a line; `3::red` is taken three times as often
    animals/cats.txt     __animals/cats__     or __cats__, if there is no cats.txt above
    # a comment          a line that begins with #, and whatever follows " #"
    packs/zoo.yaml       __packs/animals/pets__ of its names (wildcard_collections.py), unless a .txt file has that name

Only regular files inside the folder are read: no name leads out of it, and no link. A .txt file is read when it is
first named, collections when a name is asked for that is no .txt file.
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
from . import wildcard_collections, wildcard_text
from .templates import Option, Parts, is_template, parse, weighted, wildcards_in
from .wildcard_collections import Named

SUFFIX = ".txt"
MAX_FILES = 100_000
MAX_NAMES = 100_000  # of all collections
MAX_CHAIN = 100  # files that name each other
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
        self._collections: dict[str, Path] = {}  # by name, with the ending
        self._refused: dict[str, str] = {}  # names of what is there and not read, and why
        self._read: dict[str, list[str]] = {}
        self._lines: dict[str, Lines] = {}
        self._checked: set[str] = set()
        if folder is not None:
            self._list(folder)

    @property
    def names(self) -> list[str]:
        """Of all .txt files, without .txt, and of what collections name."""
        return [*self._paths, *self._named]

    @cached_property
    def _named(self) -> dict[str, Named]:
        """What collections name, and no .txt file; of two collections the first by name has it."""
        found: dict[str, Named] = {}
        for file, path in self._collections.items():
            for name, named in wildcard_collections.read(path).items():
                full = unicodedata.normalize("NFC", f"{file.rpartition('/')[0]}/{name}".strip("/"))
                if full not in self._paths:
                    found.setdefault(full, named)
            if len(found) > MAX_NAMES:
                raise InputError(f"The collections in {self.folder} have more than {MAX_NAMES} names.", "Use fewer.")
        return found

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
                raise RequestError(f"In {self._place(file)}: {error.problem}", error.remedy) from None
            for other in files:
                self._check(other, (*chain, file))
        self._checked.add(file)

    def _list(self, folder: Path) -> None:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "is not there"
            raise InputError(f"The folder of wildcards {folder} {what}.", "Name a folder of wildcards.")
        root = folder.resolve()
        for path in _walk(folder):
            name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())  # macOS takes accents apart
            stem, suffix = os.path.splitext(name)
            is_text = suffix.lower() == SUFFIX
            if not is_text and suffix.lower() not in wildcard_collections.SUFFIXES:
                continue
            if len(self._paths) + len(self._collections) >= MAX_FILES:
                raise InputError(f"{folder} has more than {MAX_FILES} files.", "Name the folder of the wildcards.")
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                self._refused[stem] = f"{name} is a link that leads out of the folder"
            elif not path.is_file():
                self._refused[stem] = f"{name} is no regular file"
            elif is_text:
                self._paths[stem] = path
            else:
                self._collections[name] = path

    def _files(self, name: str) -> list[str]:
        """The names of the files that a wildcard means, in their order."""
        asked = unicodedata.normalize("NFC", re.sub(r"[/\\]+", "/", name))
        if asked.startswith("/") or ".." in asked.split("/") or re.match(r"[A-Za-z]:", asked):
            raise RequestError(
                f"The wildcard __{_cut(name)}__ leads out of the folder.", "Name a file inside it, without .txt."
            )
        if self.folder is None:
            raise RequestError(f"There is no folder for __{_cut(name)}__.", "Name it with --wildcards DIR.")
        asked = asked.removesuffix(SUFFIX).strip("/")
        if asked in self._paths or asked in self._named:
            return [asked]
        for pattern in (asked, f"**/{asked}"):
            form = _pattern(pattern)
            found = sorted(known for known in self.names if form.fullmatch(known))
            if found:
                return found
        raise RequestError(f"There is no wildcard __{_cut(name)}__ in {self.folder}.", self._meant(asked))

    def _meant(self, name: str) -> str:
        why = self._refused.get(name)
        if why is not None:
            return f"{why[0].upper()}{why[1:]}."
        near = spelling.nearest(name, islice(self.names, 10_000))
        if near:
            return spelling.question([f"__{each}__" for each in near])
        return f"It would be {name.rpartition('/')[2][:_LONGEST]}.txt there." if self.names else "It has no wildcards."

    def _text(self, file: str) -> list[str]:
        if file not in self._read:
            known = file in self._paths
            self._read[file] = wildcard_text.lines(self._paths[file]) if known else self._named[file].lines()
        return self._read[file]

    def _place(self, file: str) -> Path:
        return self._paths[file] if file in self._paths else self._named[file].path


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below the folder that is not hidden, in an order that does not depend on the disk."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(where, name)


def _pattern(text: str) -> re.Pattern[str]:
    """A name with `*`, `**` (also across folders) and `?`."""
    forms = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", re.sub(r"\*{3,}", "**", text))
    return re.compile("".join(forms.get(piece) or re.escape(piece) for piece in pieces))


def _parsed(text: str) -> Parts:
    return parse(text) if "{" in text or is_template(text) else (text,)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
