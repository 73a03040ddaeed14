"""Words that the page copies are read back by a shell as they were, and hold nothing that is a key to a terminal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_logic import FROM_DISK, MISSING, evaluate

from mlxdiff.gallery.blocks import address
from mlxdiff.printable import printable

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
BASH = shutil.which("bash")
HARD = [
    "",
    "plain",
    "a red apple",
    "it's",
    "'",
    '"double" $HOME `id` $(id) !! \\ \\n',
    "two\nlines\tand a tab\r",
    "\x1b[201~\x15rm -rf ~\n",
    "\x07\x08\x7f\x9b31m",
    "\u202egnp.exe\u2066",
    "\u2028\u2029\ufeff",
    "-n",
    "=ls",
    "~",
    "*",
    "a;b|c&d>e<f",
    "猫 🐈 é",
    "👩‍🎨",
    "\\x41\x01'!x",
]


def read_by_bash(line: str) -> list[bytes]:
    assert BASH is not None
    done = subprocess.run(
        [BASH, "-c", f"printf '%s\\0' {line}"], capture_output=True, env={"LC_ALL": "C.UTF-8", "PATH": os.defpath}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(b"\0")[:-1]


def check(texts: list[str]) -> None:
    words = evaluate("texts.map(shellWord)", texts=texts)
    for text, word in zip(texts, words, strict=True):
        assert printable(word) == word
        assert "\n" not in word
        if not word.startswith("$'"):
            assert shlex.split(word) == [text]
    assert read_by_bash(" ".join(words)) == [text.encode() for text in texts]


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_hard_words_are_read_back_by_bash():
    check(HARD)


@pytest.mark.skipif(BASH is None, reason="needs bash")
@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12), min_size=20))
def test_any_words_are_read_back_by_bash(texts):
    check(texts)


def test_half_a_letter_becomes_a_sign():
    assert evaluate("shellWord(text)", text="a\ud800b") == r"$'a\ufffdb'"


NAMES = [b"a b.png", b"\xff\xfe.png", b"caf\xe9's.png", "猫.png".encode(), b"new\nline.png", b"%41#?&.png", b"-x.png"]


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_files_are_named_with_the_bytes_that_they_have(tmp_path):
    folder = tmp_path / "my pictures"
    addresses = [address(folder / os.fsdecode(name), folder) for name in NAMES]
    paths = evaluate("addresses.map((each) => shellPath(pathOf(each, location)))", addresses=addresses)
    assert read_by_bash(" ".join(paths)) == [b"/home/me/my pictures/" + name for name in NAMES]
    served = evaluate(
        "addresses.map((each) => shellPath(pathOf(each, new URL('http://there/gallery.html'))))", addresses=addresses
    )
    expected = [name if name[:1] != b"-" else b"./" + name for name in NAMES]
    assert read_by_bash(" ".join(served)) == expected


def test_addresses_are_relative_and_mean_nothing_to_a_browser(tmp_path):
    odd = tmp_path / "javascript:alert(1)//" / '"><script>.png'
    made = address(odd, tmp_path / "pages")
    assert re.fullmatch(r"\./\.\./[\w.%/-]+", made)
    assert evaluate("pathText(made)", made=made) == './../javascript:alert(1)/"><script>.png'
    assert FROM_DISK.startswith("file:")
    assert address(Path("a.png"), Path()) == "./a.png"
