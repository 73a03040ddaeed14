"""Lines from the terminal: what is left out of them, and both libraries behind Python's readline."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from mlxdiff.cli.shell import reading
from mlxdiff.cli.shell.history import History
from mlxdiff.cli.shell.reading import Reader, fitted
from mlxdiff.errors import InputError


class Library:
    """Stands for the module readline."""

    def __init__(self, doc: str, **more: str) -> None:
        self.__doc__ = doc
        self.__dict__ |= more
        self.bound: list[str] = []
        self.history: list[str] = []
        self.line = ""
        self.delimiters = ""

    def set_auto_history(self, _): ...
    def clear_history(self):
        self.history = []

    def add_history(self, line):
        self.history.append(line)

    def set_completer_delims(self, text):
        self.delimiters = text

    def set_completer(self, complete):
        self.complete = complete

    def parse_and_bind(self, text):
        self.bound.append(text)

    def get_line_buffer(self):
        return self.line

    def get_endidx(self):
        return len(self.line)

    def get_begidx(self):
        return max(self.line.rfind(delimiter) for delimiter in self.delimiters) + 1


@pytest.fixture
def reader_of(tmp_path, monkeypatch):
    def make(library, complete=lambda line: (len(line), []), text=""):
        monkeypatch.setattr(reading, "_readline", lambda: library)
        monkeypatch.setattr(reading.output, "is_for_people", lambda: True)
        monkeypatch.setattr("builtins.input", lambda _: text)
        return Reader(History(tmp_path / "history"), complete)

    return make


@pytest.mark.parametrize(
    ("library", "binding"),
    [
        (Library("Importing this module enables command line editing using GNU readline."), "tab: complete"),
        (Library("Importing this module enables command line editing using libedit readline."), "bind ^I rl_complete"),
        (Library("", backend="editline"), "bind ^I rl_complete"),
        (Library("", backend="readline"), "tab: complete"),
    ],
)
def test_tab_is_bound_in_the_words_of_the_library(reader_of, library, binding):
    reader_of(library)
    assert library.bound[0] == binding
    assert all(binding.startswith("tab") or "set enable" not in bound for bound in library.bound)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a cat", ["a cat"]),
        ("", []),
        ("  ", []),
        ("a\nb\r\nc\rd\n", ["a", "b", "c", "d"]),
        ("a \x1b[31mred\x1b[0m cat\x07", ["a red cat"]),
        ("\x1b]0;title\x07", []),
        ("a\x9b2Jb", ["ab"]),
        ("\u202egnp.tac", ["gnp.tac"]),
        ("a\tcat", ["a\tcat"]),
    ],
)
def test_lines_are_taken_apart_and_printable(reader_of, capsys, text, lines):
    library = Library("")
    assert reader_of(library, text=text).lines() == lines
    assert library.history == lines
    left_out = any(letter in text for letter in "\x1b\x9b\u202e")
    assert ("Control characters were left out." in capsys.readouterr().err) == left_out


def test_bytes_that_are_no_text_are_an_error_of_the_line(reader_of, monkeypatch):
    with pytest.raises(InputError, match="not UTF-8"):
        reader_of(Library(""), text="a \udcff cat").lines()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a \xff cat\n"), "utf-8"))
    with pytest.raises(InputError, match="not UTF-8"):
        reader_of(None).lines()


def test_a_line_has_a_length_and_a_block_has_none(reader_of):
    with pytest.raises(InputError, match="longer than 65536 letters"):
        reader_of(Library(""), text="x" * 70_000).lines()
    assert len(reader_of(Library(""), text="x y\n" * 70_000).lines()) == 70_000


def test_letters_that_the_locale_has_not_are_only_not_remembered(reader_of):
    class Narrow(Library):
        def add_history(self, line):
            super().add_history(line.encode("ascii").decode())

    library = Narrow("")
    assert reader_of(library, text="grün\nred").lines() == ["grün", "red"]
    assert library.history == ["red"]


def test_without_a_library_the_prompt_is_no_data(reader_of, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=iter(["a cat\n", ""]).__next__))
    reader = reader_of(None)
    assert reader.lines() == ["a cat"]
    assert reader.is_empty()
    with pytest.raises(EOFError):
        reader.lines()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "mlxdiff> mlxdiff> ")


@pytest.mark.parametrize(
    ("line", "start", "texts", "offered"),
    [
        ("/st", 1, ["steps ", "strength "], ["steps ", "strength "]),
        ("/image photos/ca", 7, ["photos/cat.png"], ["cat.png"]),
        ("/image my ph", 7, ["my photo.png", "my phone/"], ["photo.png", "phone/"]),
        ("/control edges=a", 9, ["edges=apple.png"], ["apple.png"]),
        ('/image "my ph', 8, ["my photo.png"], ["photo.png"]),
        ("/steps ", 7, [], []),
        ("a cat", 0, ["other"], []),
    ],
)
def test_what_is_offered_begins_behind_the_last_delimiter(reader_of, line, start, texts, offered):
    library = Library("")
    reader_of(library, complete=lambda _: (start, texts))
    library.line = line
    found = []
    while (text := library.complete("", len(found))) is not None:
        found.append(text)
    assert found == offered
    begin = library.get_begidx()
    assert fitted(line, begin, start, texts) == offered
