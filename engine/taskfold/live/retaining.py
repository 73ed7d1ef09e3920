"""Retaining: collecting what has ended, again and again, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Self

from taskfold.live.collecting import Collecting
from taskfold.live.retention import Retention
from taskfold.log.ownership import Owned
from taskfold.model.errors import TaskfoldError

__all__ = ["Retainer"]

_EVERY_SECONDS: Final = 60.0


class Retainer(Owned):
    """Has an engine collect, every so often, what is not to be kept any longer."""

    def __init__(
        self,
        engine: Collecting,
        retention: Retention,
        *,
        every_seconds: float = _EVERY_SECONDS,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Name the engine and what it keeps; ``on_problem`` is told when its log cannot be written."""
        self._engine = engine
        self._retention = retention
        self._every_seconds = every_seconds
        self._on_problem = on_problem
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskfold-retain", daemon=True)
        self._own_with(engine.store.log)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, after what is being written."""
        self.stop()

    def stop(self) -> None:
        """End, after what is being written."""
        self._is_stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._engine.store.is_closed:
            try:
                self._engine.retain(self._retention)
            except TaskfoldError as error:  # what a listener raises ends nothing
                if not self._engine.store.is_closed:
                    self._on_problem(str(error))
            if self._is_stopped.wait(self._every_seconds):
                return
