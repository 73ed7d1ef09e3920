"""Logs that several processes write: taking turns with them, and hearing of what they wrote."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Self

from taskfold.live.engine import Engine
from taskfold.log.ownership import Owned
from taskfold.model.errors import ListenerError, LogError, Unreadable

__all__ = ["LogListener"]

logger: Final = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
"""How long an append may stay unheard of where no notification comes through (a proxy may swallow them)."""


def _log_problem(problem: str) -> None:
    logger.warning("%s", problem or "the log can be read again")


class LogListener(Owned):
    """Has an engine take in what other processes append to its log, as they do, from a thread of its own.

    Without one an engine takes in what others wrote when it writes itself, and by `Engine.catch_up`. An engine whose
    log nobody else can write needs none, and starting one does nothing.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        on_problem: Callable[[str], None] | None = None,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        """Name the engine; ``on_problem`` is told when the log cannot be read, and, with an empty text, when it can.

        Without one it is logged as a warning.
        """
        self._engine = engine
        self._on_problem = on_problem or _log_problem
        self._poll_seconds = poll_seconds
        self._problem = ""
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskfold-listen", daemon=True)
        self._own_with(engine.store.log)

    def start(self) -> None:
        """Begin."""
        if self._engine.store.shared is not None:
            self._thread.start()

    def stop(self) -> None:
        """End. It is to be stopped before its engine is closed."""
        self._is_stopped.set()
        if self._thread.ident is not None and self._engine.store.shared is not None:
            self._engine.store.shared.interrupt()
            self._thread.join()

    def __enter__(self) -> Self:
        """Begin."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stop()

    def _run(self) -> None:
        log = self._engine.store.shared
        assert log is not None
        while not self._is_stopped.is_set() and not self._engine.store.is_closed:
            try:
                log.listen()  # before it is read, so that nothing falls between the two
                self._engine.catch_up()
                self._tell("")
                log.wait(self._poll_seconds)
            except ListenerError as error:  # of what was told here for another thread
                _log_problem(str(error))
            except (LogError, Unreadable) as error:
                if not self._engine.store.is_closed:
                    self._tell(str(error))
                self._is_stopped.wait(self._poll_seconds)

    def _tell(self, problem: str) -> None:
        """Tell of a problem once, and of its end."""
        if problem != self._problem:
            self._problem = problem
            self._on_problem(problem)
