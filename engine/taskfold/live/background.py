"""Background: threads that serve an engine for as long as somebody wants them, and say what is wrong.

Each has a thread of its own, which ends with the process: `LogListener` takes in what other processes append,
`Retainer` collects what has ended; `taskfold.sources.follow.Follower` observes what a file tells.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol, Self

from taskfold.live.reader import Reader
from taskfold.live.retention import Retention
from taskfold.live.store import Store
from taskfold.log.ownership import Owned
from taskfold.model.errors import ListenerError, LogError, TaskfoldError, Unreadable

__all__ = ["Background", "LogListener", "Retainer"]

logger: Final = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
"""How long an append may stay unheard of where no notification comes through (a proxy may swallow them)."""
_EVERY_SECONDS: Final = 60.0


def log_problem(problem: str) -> None:
    """Log a problem as a warning, and its end."""
    logger.warning("%s", problem or "the log can be read again")


class Background(ABC):
    """A thread that works until it is stopped. `start` and `stop` it, or use it in a ``with`` statement."""

    def __init__(self, name: str, on_problem: Callable[[str], None]) -> None:
        """Name the thread; ``on_problem`` is called with what is wrong, and, with an empty text, when it is over."""
        self._on_problem = on_problem
        self._last_problem = ""
        self._is_stopped = threading.Event()
        # The thread ends with the process: nobody can wake a read of a pipe.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after what is being written. A thread that never began, or has ended, is left alone."""
        self._is_stopped.set()
        if self._thread.ident is not None:
            self._wake()
            self._thread.join()

    def __enter__(self) -> Self:
        """Begin."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stop()

    @abstractmethod
    def _run(self) -> None:
        """Work until stopped."""

    def _wake(self) -> None:
        """Wake the thread, where it waits for something else than being stopped."""
        return

    def _tell_problem(self, problem: str) -> None:
        """Tell of a problem once, and of its end."""
        if problem != self._last_problem:
            self._last_problem = problem
            self._on_problem(problem)


class CatchesUp(Protocol):
    """An engine, as far as a shared log is concerned."""

    store: Store

    def catch_up(self) -> int:
        """Take in what other processes have appended."""


class Retains(Protocol):
    """An engine, as far as retention is concerned."""

    reader: Reader

    def retain(self, retention: Retention) -> object:
        """Collect what is not to be kept any longer."""


class LogListener(Background, Owned):
    """Has an engine take in what other processes append to its log, as they do.

    Without one an engine takes in what others wrote when it writes itself, and by `Engine.catch_up`. An engine whose
    log nobody else can write needs none, and starting one does nothing. Stop it before its engine is closed.
    """

    def __init__(
        self,
        engine: CatchesUp,
        *,
        on_problem: Callable[[str], None] | None = None,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        """Name the engine; ``on_problem`` is called when the log cannot be read, and, with an empty text, when it can.

        Without one it is logged as a warning.
        """
        super().__init__("taskfold-listen", on_problem or log_problem)
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._own_with(engine.store.log)

    def start(self) -> None:
        """Begin, where other processes may write the log."""
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
                log.listen()  # before it is read, so that nothing falls between the two
                self._engine.catch_up()
                self._tell_problem("")
                log.wait(self._poll_seconds)
            except ListenerError as error:  # of what was told here for another thread
                log_problem(str(error))
            except (LogError, Unreadable) as error:
                if not self._engine.store.is_closed:
                    self._tell_problem(str(error))
                self._is_stopped.wait(self._poll_seconds)


class Retainer(Background, Owned):
    """Has an engine collect, every so often, what is not to be kept any longer."""

    def __init__(
        self,
        engine: Retains,
        retention: Retention,
        *,
        every_seconds: float = _EVERY_SECONDS,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Name the engine and what it keeps; ``on_problem`` is called each time that its log cannot be written."""
        super().__init__("taskfold-retain", on_problem)
        self._engine = engine
        self._retention = retention
        self._every_seconds = every_seconds
        self._own_with(engine.reader)

    def _run(self) -> None:
        while not self._engine.reader.is_closed:
            try:
                self._engine.retain(self._retention)
            except TaskfoldError as error:  # what a listener raises ends nothing
                if not self._engine.reader.is_closed:
                    self._on_problem(str(error))
            if self._is_stopped.wait(self._every_seconds):
                return
