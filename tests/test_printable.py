"""What is printed never drives a terminal."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff import metadata
from mlxdiff.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with\nlines\tand tabs", "plain, with\nlines\tand tabs"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;aGk=\x07clip", "clip"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1b]0;never ended\nnext", "0;never ended\nnext"),
        ("\x1b(Bcharset", "charset"),
        ("\x1b\x1b[31m[31mnested", "[31mnested"),
        ("\x1bcreset", "reset"),
        ("a\x00b\x08c\x7fd\x85e", "abcde"),
        ("windows\r\nlines", "windows\nlines"),
        ("abc\u202egpj.exe\u2069", "abcgpj.exe"),
        ("half \ud83d", "half \ufffd"),
        ("family 👨‍👩‍👧 ❤️ ناز‌نین", "family 👨‍👩‍👧 ❤️ ناز‌نین"),  # joiners are letters here
        ("", ""),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_printable_never_lets_a_control_through(text):
    shown = printable(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    "text",
    ["\x90" * 500_000, "\x1b]" * 250_000, "\x1b[" + "0" * 500_000, "\x1b]" + "a" * 500_000, "\x9d\x90" * 250_000],
    ids=lambda text: ascii(text[:6]),
)
def test_printable_takes_no_time_over_codes_without_an_end(text):
    start = time.process_time()
    assert not re.search(r"[\x1b\x90\x9d]", printable(text))
    assert time.process_time() - start < 1


def test_it_is_found_where_it_was():
    assert metadata.printable is printable
