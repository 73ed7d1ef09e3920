"""Texts for people: counts, and texts of unknown origin."""

from __future__ import annotations

__all__ = ["count_text", "visible"]


def visible(text: str) -> str:
    r"""Return a text with unprintable characters escaped, so that it cannot move the cursor.

    >>> print(visible("red\x1b[31m\n"))
    red\x1b[31m\n
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count_text(1, "task"), count_text(2, "task"), count_text(46_000, "record")
    ('1 task', '2 tasks', '46,000 records')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
