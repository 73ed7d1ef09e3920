"""A progress bar on standard error, for input that takes longer than a moment."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Protocol, Self

__all__ = ["Progress"]

_PATIENCE_S: Final = 0.5
"""Seconds before the bar appears."""
_STEP_S: Final = 0.1


class Readable(Protocol):
    """A source that is being read, such as a `Replay`."""

    def progress(self) -> float | None:
        """Return the fraction read so far, from 0 to 1; None if the size is unknown."""
        ...


class Progress:
    """A progress bar on a terminal for the reading of sources, shown while its block runs.

    A thread of its own asks ten times a second, so that the loop that reads pays nothing.
    """

    def __init__(self, label: str, replay: Readable | None = None, *, is_visible: bool = True) -> None:
        self.replay = replay
        """The source, once it is known."""
        self._label = label
        self._is_over = threading.Event()
        is_shown = is_visible and sys.stderr is not None and sys.stderr.isatty()
        self._thread = threading.Thread(target=self._run, daemon=True) if is_shown else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        if self._is_over.wait(_PATIENCE_S):
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
            task = bar.add_task(self._label, total=None)
            while not self._is_over.wait(_STEP_S):
                fraction = self._fraction()
                if fraction is not None:
                    bar.update(task, total=1.0, completed=fraction)

    def _fraction(self) -> float | None:
        # The reading thread may be closing the file at this very moment.
        with suppress(OSError, ValueError):
            return None if self.replay is None else self.replay.progress()
        return None
