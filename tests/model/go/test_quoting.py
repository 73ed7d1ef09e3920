"""Quoted texts are what Go's ``%q`` prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfold.model.go.quoting import go_quoted

QUOTED = [
    ("", '""'),
    ("plain é 日本 🙂", '"plain é 日本 🙂"'),
    ('"\\', r'"\"\\"'),
    ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
    ("\x00\x01\x1b\x7f", r'"\x00\x01\x1b\x7f"'),
    ("\x80\x9f\xa0\xad", r'"\u0080\u009f\u00a0\u00ad"'),
    ("\u2028\u2029\u200b\ufeff\u3000", r'"\u2028\u2029\u200b\ufeff\u3000"'),
    ("\U000e0001\U0010ffff\ue000", r'"\U000e0001\U0010ffff\ue000"'),
    ("'`${}<&>", '"\'`${}<&>"'),
    ("\ufffd", '"\ufffd"'),
]


@pytest.mark.parametrize(("text", "quoted"), QUOTED)
def test_a_text_is_quoted_as_go_does(text: str, quoted: str) -> None:
    assert go_quoted(text) == quoted


@given(st.text())
def test_a_quoted_text_is_printable_and_loses_nothing(text: str) -> None:
    quoted = go_quoted(text)
    assert quoted.isprintable()
    inner = quoted.removeprefix('"').removesuffix('"')
    # Python reads the same escapes; what is beyond them stays as it is.
    assert inner.encode("ascii", "backslashreplace").decode("unicode_escape") == text
