from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.text.syntax import plain
from mlxdiff.text.syntax.prompt import Fragment, Run


@given(st.text())
def test_every_character_is_text(text):
    (part,) = plain.parse(text, Run(7)).parts
    (entry,) = part.entries
    assert (entry.text, entry.pieces, entry.last_call) == (text, (Fragment(text),), 7)
