"""Following: a stream file that grows, or standard input, observed by an engine as it comes.

The file is read from its beginning, since what the log has already adds nothing. A line counts when its newline is
there, and what it tells is one write. A file that gets shorter, or is replaced, is read again from its beginning. A
line that cannot be read is passed over, counted and told: a mirror must not end because of one line.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from time import monotonic
from typing import Final

from taskfold.live.background import Background
from taskfold.live.engine import Engine
from taskfold.log.contract import check_dialect
from taskfold.log.lines import MAX_LINE_BYTES
from taskfold.log.registry import stored_log
from taskfold.model.errors import ListenerError, SourceError, TaskfoldError
from taskfold.nomad.importing.observation import Statement
from taskfold.sources.detect import told_by
from taskfold.sources.source import statements_of_line

__all__ = ["STANDARD_INPUT", "Follower"]

STANDARD_INPUT: Final = "-"
_BLOCK_BYTES: Final = 1 << 18
_GZIP: Final = b"\x1f\x8b"
_TOLD_LINES: Final = 10
"""How many bad lines are told one by one; those that follow are only counted."""


class Follower(Background):
    """Has an engine observe what a file, or standard input, tells, from a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        source: str,
        *,
        on_note: Callable[[str], None] = lambda _: None,
        on_problem: Callable[[str], None] = lambda _: None,
        poll_seconds: float = 0.2,
        silence_seconds: float = 0,
    ) -> None:
        """Name what is followed: a file that grows, a pipe, or ``-`` for standard input.

        ``on_note`` is told what happens, ``on_problem`` what ends the following. A source that says nothing for longer
        than ``silence_seconds`` is a problem, unless that is 0: a Nomad's event stream says something every 30 seconds.
        Raises SourceError when it cannot be opened.
        """
        super().__init__("taskfold-follow", on_problem)
        self.lines = 0
        """How many lines were read."""
        self.bad_lines = 0
        """How many of them were passed over."""
        self.error = ""
        """What ended the following; empty while it goes on."""
        self.is_done = threading.Event()
        """Set when there is nothing more to follow."""
        self._silence_seconds = silence_seconds
        self._last_heard = monotonic()
        """When something came the last time, or the following began."""
        self._engine = engine
        self._source = source
        self._path = Path(source).absolute()
        self._on_note = on_note
        self._others: set[str] = set()
        """What was passed over since it is no allocation."""
        self._poll_seconds = poll_seconds
        self._is_told = False
        """The dialect of what is followed is known, and is the log's."""
        self._file = _opened(source)
        # Standard input and pipes come to an end, after which nothing comes any more.
        self._grows = source != STANDARD_INPUT and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def start(self) -> None:
        """Begin."""
        self._last_heard = monotonic()
        super().start()

    @property
    def silent_seconds(self) -> float:
        """For how long nothing has come."""
        return monotonic() - self._last_heard

    @property
    def problem(self) -> str:
        """Why what was followed is not up to date any more; empty while it is."""
        if self.error:
            return self.error
        if self.is_done.is_set() and not self._is_stopped.is_set():
            return f"{self._name} has ended: what is served is as of then"
        silent = self.silent_seconds
        if self._silence_seconds and silent > self._silence_seconds:
            return f"nothing has come from {self._name} for {silent:.0f} seconds: what is served may be out of date"
        return ""

    def stop(self) -> None:
        """End after the line that is being observed."""
        self._is_stopped.set()
        if not self._thread.ident:
            self._file.close()
        elif self._grows:
            self._thread.join()

    def _run(self) -> None:
        try:
            for line in self._lines():
                if self._is_stopped.is_set():
                    break
                self.lines += 1
                self._observe(line)
        except Exception as error:  # noqa: BLE001 - a mirror that stands still must say so, whatever the reason
            is_ours = isinstance(error, (TaskfoldError, OSError))
            self.error = f"following {self._name} ended: {error if is_ours else repr(error)}"
            self._on_problem(self.error)
        else:
            if not self._is_stopped.is_set():
                self._on_note(f"{self._name} has ended; what it told is served on")
        finally:
            self._file.close()
            self.is_done.set()

    @property
    def _name(self) -> str:
        return "standard input" if self._source == STANDARD_INPUT else self._source

    def _observe(self, line: bytes) -> None:
        """Observe what a line tells, as one write. Raises what the engine's log raises."""
        if not line.strip():
            return
        try:
            statements = list(statements_of_line(line, self._name, self.lines, self._pass_over))
        except SourceError as error:
            self.bad_lines += 1
            if self.bad_lines <= _TOLD_LINES:
                last = "; others like it will not be told" if self.bad_lines == _TOLD_LINES else ""
                self._on_note(f"skipped: {error}{last}")
            return
        if statements:
            self._check_dialect(statements[0])
            try:
                self._engine.observe(*statements)
            except ListenerError as error:  # it is recorded, and nothing that was observed
                self._on_note(str(error))

    def _pass_over(self, other: str) -> None:
        """Say once of each kind of object that it is no allocation."""
        if other not in self._others:
            self._others.add(other)
            self._on_note(f"{self._name}, line {self.lines}: looks like {other}, not an allocation: skipped")

    def _check_dialect(self, statement: Statement) -> None:
        """Refuse what another Nomad says than the log is of. Raises DialectError."""
        dialect = None if self._is_told else told_by(statement)
        if dialect is not None:
            check_dialect(self._engine.reader.header, dialect)
            self._is_told = True

    def _lines(self) -> Iterator[bytes]:
        """Yield each whole line as it comes. Raises SourceError for one that is too long."""
        rest = b""
        for block in self._blocks():
            if block is None:  # another file, or the same from its beginning
                rest = b""
                self.lines = 0
                continue
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
            if len(rest) > MAX_LINE_BYTES:
                raise SourceError(self._name, f"a line is longer than {MAX_LINE_BYTES >> 20} MiB", line=self.lines + 1)

    def _blocks(self) -> Iterator[bytes | None]:
        """Yield what comes, as it comes; None where it begins anew."""
        is_first = True
        while not self._is_stopped.is_set():
            block = self._file.read(_BLOCK_BYTES)
            if block:
                self._last_heard = monotonic()
                if is_first and block.startswith(_GZIP):
                    raise SourceError(self._name, "is gzip, which cannot be followed: unpack it, or pipe zcat into `-`")
                is_first = False
                yield block
            elif block is not None and not self._grows:  # None: a pipe that says so rather than wait has nothing yet
                return
            elif self._grows and self._is_replaced():
                self._on_note(f"{self._source} begins anew")
                is_first = True
                yield None
            else:
                self._is_stopped.wait(self._poll_seconds)

    def _is_replaced(self) -> bool:
        """Tell whether the file got shorter, or is another one now; then it is open at its beginning."""
        own = os.fstat(self._file.fileno())
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False  # between two files
        if (own.st_dev, own.st_ino) != (now.st_dev, now.st_ino):
            self._file.close()
            self._file = _opened(str(self._path))
            return True
        if now.st_size < self._file.tell():
            self._file.seek(0)
            return True
        return False


def _opened(source: str) -> FileIO:
    """Open a file, or standard input. Raises SourceError.

    Without a buffer: its lock would be held while a pipe is read, and the interpreter cannot end before it gets that.
    """
    if source == STANDARD_INPUT and sys.stdin is None:
        raise SourceError("standard input", "cannot be followed: it is closed")
    try:
        if source == STANDARD_INPUT:
            return FileIO(sys.stdin.fileno(), closefd=False)
        if Path(source).exists() and (log := stored_log(source)) is not None:
            raise SourceError(source, f"is {log.kind.noun}, which cannot be followed")
        return FileIO(source)
    except OSError as error:
        raise SourceError(source, f"cannot be followed: {error.strerror or error}") from None
