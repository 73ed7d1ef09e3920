"""Background threads that serve an engine until they are stopped, and report problems.

Each ends with the process at the latest: `LogListener` follows the appends of other processes, `Retainer` collects
ended allocations, `taskfold.sources.follow.Follower` observes a file.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol, Self

from taskfold.live.reader import Reader
from taskfold.live.retention import Retention
from taskfold.live.store import Store
from taskfold.log.ownership import Owned
from taskfold.model.errors import ListenerError, LogError, TaskfoldError, Unreadable

__all__ = ["Background", "LogListener", "Retainer"]

logger: Final = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
"""The longest delay until an append is noticed if its notification is lost, as behind some proxies."""
_EVERY_SECONDS: Final = 60.0


def log_problem(problem: str) -> None:
    """Log a problem as a warning, and so its end."""
    logger.warning("%s", problem or "the log can be read again")


class Background(ABC):
    """A thread that works until it is stopped. Use `start` and `stop`, or a ``with`` statement."""

    def __init__(self, name: str, on_problem: Callable[[str], None]) -> None:
        """Name the thread; ``on_problem`` is called with each new problem, and with an empty text when it is over."""
        self._on_problem = on_problem
        self._last_problem = ""
        self._is_stopped = threading.Event()
        # A daemon, which ends with the process: a blocked read of a pipe cannot be interrupted.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, after any write in progress. Safe if it never started, or has ended."""
        self._is_stopped.set()
        if self._thread.ident is not None:
            self._wake()
            self._thread.join()

    def __enter__(self) -> Self:
        """Start the thread."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self.stop()

    @abstractmethod
    def _run(self) -> None:
        """Work until stopped."""

    def _wake(self) -> None:
        """Wake the thread if it waits for anything but the stop signal."""
        return

    def _report_problem(self, problem: str) -> None:
        """Report a problem once, and its end."""
        if problem != self._last_problem:
            self._last_problem = problem
            self._on_problem(problem)


class SharingEngine(Protocol):
    """The part of an engine that a log listener needs."""

    store: Store

    def catch_up(self) -> int:
        """Read the appends of other processes."""


class RetainingEngine(Protocol):
    """The part of an engine that a retainer needs."""

    reader: Reader

    def retain(self, retention: Retention) -> object:
        """Collect the allocations that a retention no longer keeps."""

    def compact(self) -> int:
        """Remove the records of collected allocations, except each one's last."""


class LogListener(Background, Owned):
    """Lets an engine follow the appends of other processes to its log.

    Without one, an engine reads other processes' appends when it writes, and by `Engine.catch_up`. If no other process
    can write the log, starting a listener does nothing. Stop it before the engine is closed.
    """

    def __init__(
        self,
        engine: SharingEngine,
        *,
        on_problem: Callable[[str], None] | None = None,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        """Take the engine; ``on_problem`` is called when the log cannot be read, and with an empty text at the end.

        Without one, problems are logged as warnings.
        """
        super().__init__("taskfold-listen", on_problem or log_problem)
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._own_with(engine.store.log)

    def start(self) -> None:
        """Start the thread, if other processes may write the log."""
        if self._engine.store.shared is not None:
            super().start()

    def _wake(self) -> None:
        if self._engine.store.shared is not None:
            self._engine.store.shared.interrupt()

    def _run(self) -> None:
        log = self._engine.store.shared
        assert log is not None
        while not self._is_stopped.is_set() and not self._engine.store.is_closed:
            try:
                log.listen()  # before the first read, so that no append is missed between the two
                self._engine.catch_up()
                self._report_problem("")
                log.wait(self._poll_seconds)
            except ListenerError as error:  # from callbacks that this thread ran
                log_problem(str(error))
            except (LogError, Unreadable) as error:
                if not self._engine.store.is_closed:
                    self._report_problem(str(error))
                self._is_stopped.wait(self._poll_seconds)


class Retainer(Background, Owned):
    """Lets an engine collect, at intervals, the allocations that a retention no longer keeps, and compact its log."""

    def __init__(
        self,
        engine: RetainingEngine,
        retention: Retention | None,
        *,
        every_seconds: float = _EVERY_SECONDS,
        compact_every_seconds: float | None = None,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the engine and the retention; without one nothing is collected.

        The log is compacted every ``compact_every_seconds``, never without it. ``on_problem`` is called each time the
        log cannot be written.
        """
        super().__init__("taskfold-retain", on_problem)
        self._engine = engine
        self._retention = retention
        self._every_seconds = every_seconds
        self._compact_every_seconds = compact_every_seconds
        self._compact_at = 0.0
        self._own_with(engine.reader)

    def _run(self) -> None:
        while not self._engine.reader.is_closed:
            try:
                self.retain()
            except TaskfoldError as error:  # an error of a listener does not end the thread
                if not self._engine.reader.is_closed:
                    self._on_problem(str(error))
            if self._is_stopped.wait(self._every_seconds):
                return

    def retain(self) -> None:
        """Collect, and compact where it is time. Raises LogError and ListenerError."""
        if self._retention is not None:
            self._engine.retain(self._retention)
        if self._compact_every_seconds is not None and monotonic() >= self._compact_at:
            self._engine.compact()
            self._compact_at = monotonic() + self._compact_every_seconds
