"""Following a growing stream file, or standard input: an engine observes each line as it arrives.

The file is read from its beginning, since documents that the log has add nothing. A document counts when its end has
arrived (the newline, if it is a line), and is one write. A file that gets shorter, or is replaced, is read again from
its beginning. An invalid document is skipped, counted and reported, as a mirror must not end because of one.
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
from taskfold.log.compression import compression_of
from taskfold.log.contract import check_dialect
from taskfold.log.registry import stored_log
from taskfold.model.errors import ListenerError, SourceError, TaskfoldError
from taskfold.nomad.importing.observation import Statement
from taskfold.sources.detect import dialect_of_statement
from taskfold.sources.documents import Document, Documents, InvalidText
from taskfold.sources.encodings import as_utf8
from taskfold.sources.source import DecodedDocument, DocumentReader, decode_document, invalid_text_error

__all__ = ["STANDARD_INPUT", "Follower"]

STANDARD_INPUT: Final = "-"
_BLOCK_BYTES: Final = 1 << 18
_REPORTED_LINES: Final = 10
"""The most invalid lines that are reported one by one; later ones are only counted."""


class Follower(Background):
    """A thread in which an engine observes a file, or standard input."""

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
        """Take the engine, and the source: a growing file, a pipe, or ``-`` for standard input.

        ``on_note`` is called with notes, ``on_problem`` with the error that ends the following. Silence for longer than
        ``silence_seconds`` counts as a problem, unless that is 0: Nomad's event stream sends a heartbeat every 30
        seconds or sooner. Raises SourceError when the source cannot be opened.
        """
        super().__init__("taskfold-follow", on_problem)
        self.bad_lines = 0
        """The number of documents, or lines, that were skipped."""
        self.error = ""
        """The error that ended the following; empty while it runs."""
        self.is_done = threading.Event()
        """Set when the following has ended."""
        self._silence_seconds = silence_seconds
        self._last_input = monotonic()
        """The time of the last input, or of the start."""
        self._engine = engine
        self._source = source
        self._path = Path(source).absolute()
        self._on_note = on_note
        self._others: set[str] = set()
        """The kinds of other objects that were skipped."""
        self._reader = DocumentReader(self._name, self._note_skipped)
        self._documents: Documents[DecodedDocument] = Documents((), decode_document)
        self._begins_anew = False
        """Another file, or the same one from its beginning, is next."""
        self._poll_seconds = poll_seconds
        self._is_told = False
        """The source's dialect is known, and matches the log's."""
        self._file = _opened(source)
        # Standard input and pipes can end.
        self._grows = source != STANDARD_INPUT and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    @property
    def lines(self) -> int:
        """The number of complete lines of the file so far."""
        return self._documents.lines

    def start(self) -> None:
        """Start following."""
        self._last_input = monotonic()
        super().start()

    @property
    def silent_seconds(self) -> float:
        """The seconds since the last input."""
        return monotonic() - self._last_input

    @property
    def problem(self) -> str:
        """Why the mirror is out of date; empty if it is not."""
        if self.error:
            return self.error
        if self.is_done.is_set() and not self._is_stopped.is_set():
            return f"{self._name} has ended: the state served is as of then"
        silent = self.silent_seconds
        if self._silence_seconds and silent > self._silence_seconds:
            return f"nothing has come from {self._name} for {silent:.0f} seconds: the state served may be out of date"
        return ""

    @property
    def contact_seconds(self) -> float:
        """For how long nothing was heard that what is served could rest on; 0 while it is up to date."""
        return self.silent_seconds if self.problem else 0.0

    def numbers(self) -> Iterator[tuple[str, str, float]]:
        """Yield the numbers of the following: name, meaning, value."""
        yield "source_ended", "Whether what is followed has ended.", int(self.is_done.is_set())
        yield "source_silent_seconds", "For how long nothing has come from what is followed.", self.silent_seconds
        yield "source_lines", "Lines that were read of what is followed.", self.lines
        yield "source_bad_lines", "Those that could not be read.", self.bad_lines

    def stop(self) -> None:
        """Stop after the line in progress."""
        self._is_stopped.set()
        if not self._thread.ident:
            self._file.close()
        elif self._grows:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._begins_anew = True
            while self._begins_anew and not self._is_stopped.is_set():
                self._begins_anew = False
                self._documents = Documents(as_utf8(self._blocks(), self._name), decode_document)
                for document in self._documents:
                    if self._is_stopped.is_set():
                        break
                    self._observe(document)
        except Exception as error:  # noqa: BLE001 - a mirror that stops must say why, whatever the reason
            is_ours = isinstance(error, (TaskfoldError, OSError))
            self.error = f"following {self._name} ended: {error if is_ours else repr(error)}"
            self._on_problem(self.error)
        else:
            if not self._is_stopped.is_set():
                self._on_note(f"{self._name} has ended; its last state stays available")
        finally:
            self._file.close()
            self.is_done.set()

    @property
    def _name(self) -> str:
        return "standard input" if self._source == STANDARD_INPUT else self._source

    def _observe(self, document: Document[DecodedDocument] | InvalidText) -> None:
        """Observe the content of a document, as one write. Raises the errors of the engine's log."""
        try:
            if isinstance(document, InvalidText):
                if document.is_cut:
                    return  # the rest has not arrived
                raise invalid_text_error(document, self._name, is_begun=False)
            statements = list(self._reader.statements(document))
        except SourceError as error:
            self.bad_lines += 1
            if self.bad_lines <= _REPORTED_LINES:
                last = "; later ones will only be counted" if self.bad_lines == _REPORTED_LINES else ""
                self._on_note(f"skipped: {error}{last}")
            return
        if statements:
            self._check_dialect(statements[0])
            try:
                self._engine.observe(*statements)
            except ListenerError as error:  # recorded; only a listener failed
                self._on_note(str(error))

    def _note_skipped(self, line: int, other: str) -> None:
        """Report each kind of skipped object once."""
        if other not in self._others:
            self._others.add(other)
            self._on_note(f"{self._name}, line {line}: looks like {other}, not an allocation: skipped")

    def _check_dialect(self, statement: Statement) -> None:
        """Check that an observation has the log's dialect. Raises DialectError."""
        dialect = None if self._is_told else dialect_of_statement(statement)
        if dialect is not None:
            check_dialect(self._engine.reader.header, dialect)
            self._is_told = True

    def _blocks(self) -> Iterator[bytes]:
        """Yield input as it arrives, up to the end, or until reading restarts. Raises SourceError."""
        is_first = True
        while not self._is_stopped.is_set():
            block = self._file.read(_BLOCK_BYTES)
            if block:
                self._last_input = monotonic()
                if is_first and (compression := compression_of(block)) is not None:
                    sentence = f"is {compression.title}, which cannot be followed: unpack it, or pipe zcat into `-`"
                    raise SourceError(self._name, sentence)
                is_first = False
                yield block
            elif block is not None and not self._grows:  # None: a non-blocking pipe without input
                return
            elif self._grows and self._is_replaced():
                self._on_note(f"{self._source} begins anew")
                self._begins_anew = True
                return
            else:
                self._is_stopped.wait(self._poll_seconds)

    def _is_replaced(self) -> bool:
        """Tell whether the file got shorter, or was replaced; if so, it is open at its beginning."""
        own = os.fstat(self._file.fileno())
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False  # removed, and not yet replaced
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

    Unbuffered: a buffer's lock would be held while a pipe is read, and the interpreter needs it to exit.
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
