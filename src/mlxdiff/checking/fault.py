"""What can be wrong with a folder of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# The kinds, and what each means; docs/checking.md says what to do.
KINDS = {
    "damaged": "the file is not whole: a wrong checksum, missing bytes, pixels that cannot be decoded",
    "trailing": "there are bytes behind the end of the picture",
    "format": "the file has another format than its name says",
    "unreadable": "the file or folder cannot be opened, or is a pipe or a device",
    "too-large": "the file claims more than is looked at",
    "changing": "the file was changed while it was read, twice",
    "metadata": "what it says about how it was made cannot be used, or was edited",
    "parameters": "A1111's text in it says something else than its JSON",
    "size": "it has another size than it says",
    "input": "a file that it was made from has another content now",
    "provenance": "it says that mlxdiff made it, and that no model did",
    "journal": "a line of the journal is damaged, or says something else than its picture",
    "missing": "the journal has a picture or a file beside it that is not there",
    "content": "the file is not the one that the journal describes",
    "swapped": "the file is one that the journal has under another name",
    "beside": "latents or a trajectory belong to another picture than the one that they lie beside",
    "leftover": "a process left a temporary file or a lock when it was killed",
    "unfinished": "a command was ended before all of its pictures were there",
    "rerendered": "rendered again, it is another picture",
}


@dataclass(frozen=True)
class Fault:
    """`kind` is one of KINDS, `problem` a sentence."""

    kind: str
    path: Path
    problem: str


class UnsoundError(Exception):
    """What ends the look at one file: the kind of a fault, and its sentence."""

    def __init__(self, kind: str, problem: str):
        super().__init__(problem)
        self.kind, self.problem = kind, problem

    def at(self, path: Path) -> Fault:
        return Fault(self.kind, path, self.problem)


def damaged(problem: str) -> UnsoundError:
    return UnsoundError("damaged", problem)
