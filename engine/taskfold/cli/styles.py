"""The colours of states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.text import Text

__all__ = ["FAILED_STYLE", "STATE_STYLES", "STATUS_STYLES", "state_cell"]

FAILED_STYLE: Final = "red"
STATE_STYLES: Final[Mapping[str, str]] = {"pending": "yellow", "running": "green", "dead": "dim"}
STATUS_STYLES: Final[Mapping[str, str]] = {
    "pending": "yellow",
    "running": "green",
    "complete": "dim",
    "failed": FAILED_STYLE,
    "lost": "bold red",
}


def state_cell(state: str, *, failed: bool) -> Text:
    """Return a task's state in its colour; that it failed is also a word, since not everybody sees colours."""
    return Text(f"{state}, failed", style=FAILED_STYLE) if failed else Text(state, style=STATE_STYLES.get(state, ""))
