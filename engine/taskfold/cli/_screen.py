"""Tables, and the colours of states: cut to the width of a terminal, or plain and whole for pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Final, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

__all__ = [
    "FAILED_STYLE",
    "STATE_STYLES",
    "STATUS_STYLES",
    "Cell",
    "Column",
    "Screen",
    "Table",
    "TableRow",
    "state_cell",
]

Cell: TypeAlias = str | Text
TableRow: TypeAlias = Sequence[Cell] | Text
"""The cells of a row, or a heading that stands across all columns."""

FAILED_STYLE: Final = "red"
STATE_STYLES: Final[Mapping[str, str]] = {"pending": "yellow", "running": "green", "dead": "dim"}
STATUS_STYLES: Final[Mapping[str, str]] = {
    "pending": "yellow",
    "running": "green",
    "complete": "dim",
    "failed": FAILED_STYLE,
    "lost": "bold red",
}

_BETWEEN: Final = "  "
_NARROW: Final = 130
_ROWS_AT_ONCE: Final = 500
"""The first rows decide the widths, so that a long log is shown at once; later rows may only widen a column."""
_LEAST_OF_LAST: Final = 32
"""How wide the last column should be, before other columns are narrowed for it."""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    right: bool = False
    least: int = 0
    """The least width on a narrow terminal; 0 keeps the width."""


class Screen:
    """Standard output, as a terminal or not."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.is_plain = not self.console.is_terminal or self.console.is_dumb_terminal
        self.arrow = "->" if self.is_plain else "→"

    @property
    def is_narrow(self) -> bool:
        """Whether it is a terminal too narrow for a wide table."""
        return not self.is_plain and self.console.width < _NARROW

    def line(self, text: Cell, style: str = "") -> None:
        """Write one line."""
        if self.is_plain:
            sys.stdout.write(f"{str(text).rstrip()}\n")
        else:
            self.console.print(text, style=style, no_wrap=True, crop=False, overflow="ignore")

    def caption(self, text: str) -> None:
        """Write the line below a table."""
        self.line("")
        if self.is_plain:
            self.line(text)
        else:
            self.console.print(text, style="dim")


class Table:
    """A table; the last column takes the remaining width.

    Cells wider than the terminal are cut or, with ``wraps``, wrapped.
    """

    def __init__(self, screen: Screen, columns: Sequence[Column], *, wraps: bool = False) -> None:
        self._screen = screen
        self._columns = columns
        self._wraps = wraps
        self._widths = [len(column.title) for column in columns]

    def show(self, rows: Iterable[TableRow]) -> None:
        """Write the rows, with the titles before the first. O(rows), in constant memory."""
        rest = iter(rows)
        is_first = True
        while block := list(islice(rest, _ROWS_AT_ONCE)):
            for row in block:
                if not isinstance(row, Text):
                    self._widths = [
                        max(width, cell_len(str(cell))) for width, cell in zip(self._widths, row, strict=True)
                    ]
            widths = self._widths if self._screen.is_plain else self._fitted()
            if is_first:
                is_first = False
                self._row([Text(column.title, style="bold") for column in self._columns], widths)
            for row in block:
                if isinstance(row, Text):
                    self._screen.line(row)
                else:
                    self._row(row, widths)

    def _fitted(self) -> list[int]:
        """Return the widths that fit the terminal."""
        widths = self._widths.copy()
        room = self._screen.console.width - sum(widths[:-1]) - len(_BETWEEN) * (len(widths) - 1)
        for place, column in enumerate(self._columns):
            least = max(column.least, len(column.title))
            if column.least and room < _LEAST_OF_LAST and widths[place] > least:
                cut = min(widths[place] - least, _LEAST_OF_LAST - room)
                widths[place] -= cut
                room += cut
        widths[-1] = max(room, len(self._columns[-1].title))
        return widths

    def _row(self, row: Sequence[Cell], widths: list[int]) -> None:
        if self._screen.is_plain:
            cells = [
                _padded(str(cell), width, column)
                for cell, width, column in zip(row, widths, self._columns, strict=True)
            ]
            self._screen.line(_BETWEEN.join(cells))
            return
        parts = [self._fitting(Text(c) if isinstance(c, str) else c, w) for c, w in zip(row, widths, strict=True)]
        for texts in zip_longest(*parts, fillvalue=Text()):
            line = Text()
            for text, width, column in zip(texts, widths, self._columns, strict=True):
                line.append_text(_aligned(text.copy(), width, column)).append(_BETWEEN)
            line.rstrip()
            self._screen.line(line)

    def _fitting(self, cell: Text, width: int) -> list[Text]:
        """Return the lines of a cell, none wider than this."""
        if cell.cell_len <= width:
            return [cell]
        if self._wraps:
            return list(cell.wrap(self._screen.console, width))
        cell.truncate(width, overflow="ellipsis")
        return [cell]


def _aligned(cell: Text, width: int, column: Column) -> Text:
    cell.rstrip()
    room = max(width - cell.cell_len, 0)
    if column.right:
        cell.pad_left(room)
    else:
        cell.pad_right(room)
    return cell


def _padded(cell: str, width: int, column: Column) -> str:
    room = " " * (width - cell_len(cell))
    return room + cell if column.right else cell + room


def state_cell(state: str, *, failed: bool) -> Text:
    """Return a task's state in its colour; a failure is also a word, as not everybody sees colours."""
    return Text(f"{state}, failed", style=FAILED_STYLE) if failed else Text(state, style=STATE_STYLES.get(state, ""))
