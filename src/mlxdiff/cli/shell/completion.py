"""What Tab offers, as a function of the line up to the cursor: commands, settings, their values, files and names.

Everything comes from the declarations: a new setting is completed without a word here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any

from ...errors import MlxdiffError
from ...part_kinds import MODEL
from ...picture_files import PICTURE_SUFFIXES
from ...printable import printable
from ...request.declarations import PartReference, Reference, Setting, declared
from ...request.pictures import ALPHA, BETWEEN, MaskSource, PictureSource, PictureSources
from ...request.structured import Structured
from .state import DEFAULT, SETTINGS, setting_named, typed_name

PICTURES = (*PICTURE_SUFFIXES, ".tif", ".tiff")
WEIGHTS = (".safetensors",)
MOST = 2000  # that are offered
Found = tuple[int, list[str]]
"""Where the word to complete begins, and the texts that may stand there."""


class Completer:
    """`commands` are names, each with what completes its argument; `names` lists what is known of a kind of part, or
    of models, and is asked anew each time; `wildcards` the names of wildcards."""

    def __init__(
        self,
        commands: dict[str, Callable[[str], Found]],
        names: Callable[[str], Iterable[str]],
        wildcards: Callable[[], Iterable[str]],
    ) -> None:
        self._commands, self._names, self._wildcards = commands, names, wildcards

    def __call__(self, line: str) -> Found:
        """(where the word to complete begins, the texts that may stand there), of the line up to the cursor."""
        try:
            start, texts = self._command(line) if line.lstrip().startswith("/") else self._prompt(line)
        except (MlxdiffError, OSError):  # a folder that cannot be read, a damaged cache: nothing is offered
            return len(line), []
        safe = (text for text in dict.fromkeys(texts) if printable(text) == text and not re.search(r"[\t\n]", text))
        return start, [text for text, _ in zip(safe, range(MOST), strict=False)]

    def _command(self, line: str) -> Found:
        head = re.match(r"\s*/(\S*)$", line)
        if head is not None:
            known = (*self._commands, *map(typed_name, SETTINGS))
            typed = head[1].lower().replace("_", "-")
            return head.start(1), [f"{name} " for name in sorted(known) if name.startswith(typed)]
        parts = re.match(r"\s*/(\S+)\s+(.*)$", line)
        if parts is None:
            return len(line), []
        name, text = parts[1].lower(), parts[2]
        if name in self._commands:
            start, texts = self._commands[name](text)
        elif (item := setting_named(name)) is not None:
            start, texts = self._value(item, text)
            texts += [DEFAULT] if text and DEFAULT.startswith(text) else []
        else:
            return len(line), []
        return parts.start(2) + start, texts

    def _prompt(self, line: str) -> Found:
        """An option's name, its value, a LoRA's name in a tag, or a wildcard's."""
        if (option := re.search(r"(?:^|\s)--([\w-]*)$", line)) is not None:
            typed = option[1].lower().replace("_", "-")
            names = [*map(typed_name, SETTINGS), "output"]
            return option.start(1), [f"{name} " for name in sorted(names) if name.startswith(typed)]
        if (tag := re.search(r"<(?:lora|lyco):([^:<>]*)$", line)) is not None:
            return tag.start(1), _beginning(tag[1], self._names("lora"))
        if (wildcard := re.search(r"(?<!\w)__([^\s_][^\s]*|)$", line)) is not None:
            return wildcard.start(1), _beginning(wildcard[1], (f"{name}__" for name in self._wildcards()))
        options = list(re.finditer(r"(?:^|\s)--([A-Za-z][\w-]*)(?:\s+|\s*=\s*)", line))
        if options:
            item = setting_named(options[-1][1])
            text = line[options[-1].end() :]
            if item is not None and not text.startswith("~"):  # which in a line nobody replaces
                start, texts = self._value(item, text)
                return options[-1].end() + start, texts
        return len(line), []

    def _value(self, item: Setting, text: str) -> Found:
        quote = len(text) - len(text.lstrip("\"'"))
        start, texts = self._of_kind(item.kind, text[quote:])
        return quote + start, texts

    def _of_kind(self, kind: Any, text: str) -> Found:
        if isinstance(kind, Structured):
            return self._structured(kind, text)
        if isinstance(kind, PictureSources):
            at = text.rfind(BETWEEN) + 1
            start, texts = self._of_kind(kind.one, text[at:])
            return at + start, texts
        choices = [str(choice) for choice in kind.describe().get("choices", ())]
        if isinstance(kind, MaskSource):
            choices.append(ALPHA)
        found = _beginning(text, choices)
        if isinstance(kind, PictureSource):
            found += files(text, PICTURES)
        elif isinstance(kind, Reference):
            names = [*kind.names, *self._names(kind.part)] if isinstance(kind, PartReference) else self._names(MODEL)
            found += [*_beginning(text, names), *files(text, WEIGHTS)]
        return 0, found

    def _structured(self, kind: Structured, text: str) -> Found:
        """REF[=IMAGE][,key=value]...: whichever of these the cursor is in."""
        parts = {part.name: part.kind for part in declared(kind.of)}
        needed = [item.name for item in fields(kind.of) if item.default is MISSING]
        key = re.search(r",\s*(\w*)(?:=([^,=]*))?$", text)
        if key is not None and key[2] is not None:
            if key[1] not in parts or key[1] in needed:
                return len(text), []
            start, texts = self._of_kind(parts[key[1]], key[2])
            return key.start(2) + start, texts
        if key is not None:
            return key.start(1), _beginning(key[1], (f"{name}=" for name in parts if name not in needed))
        heads = text.split("=", len(needed) - 1)
        start, texts = self._of_kind(parts[needed[len(heads) - 1]], heads[-1])
        more = "=" if len(heads) < len(needed) else ""
        return len(text) - len(heads[-1]) + start, [one if one.endswith("/") else one + more for one in texts]


def of_words(words: Iterable[str]) -> Callable[[str], Found]:
    """Completes an argument that is one of some words, or several with blanks between."""
    known = tuple(words)

    def complete(text: str) -> Found:
        start = max(text.rfind(" "), text.rfind("\t")) + 1
        return start, _beginning(text[start:], known)

    return complete


def of_files(suffixes: Sequence[str] = ()) -> Callable[[str], Found]:
    """Completes an argument that is a path; without suffixes, a folder's."""
    return lambda text: (0, files(text, suffixes))


def of_nothing(text: str) -> Found:
    return len(text), []


def files(text: str, suffixes: Sequence[str]) -> list[str]:
    """The paths that begin like this: folders, with a slash behind, and files with one of the suffixes."""
    folder, _, begin = text.rpartition("/")
    folder = f"{folder}/" if "/" in text else ""
    found = []
    with suppress(OSError), os.scandir(os.path.expanduser(folder) or ".") as scan:  # there is no such folder
        for entry in scan:
            if not entry.name.startswith(begin) or (entry.name.startswith(".") and not begin.startswith(".")):
                continue
            if os.path.isdir(entry.path):  # a link in a circle is none
                found.append(f"{folder}{entry.name}/")
            elif entry.name.lower().endswith(tuple(suffixes)):
                found.append(f"{folder}{entry.name}")
            if len(found) == MOST:
                break
    return sorted(found)


def _beginning(text: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(text)]
