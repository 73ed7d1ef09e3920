"""What those test who build on taskfold: histories, worlds, contracts (``pip install 'taskfold[testing]'``).

`strategies` has Hypothesis strategies; `World` is a scheduler with simulated drivers; `FaultyLog` is a log that fails
as it is told to; `LogContract` is what every log promises. Each is imported when it is first used, and pytest and
Hypothesis with what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.testing import strategies
    from taskfold.testing.faults import FaultyLog
    from taskfold.testing.histories import AllocationHistory, history_of
    from taskfold.testing.logs import LogContract
    from taskfold.testing.worlds import Run, World

__all__ = ["AllocationHistory", "FaultyLog", "LogContract", "Run", "World", "history_of", "strategies"]

_HOME = {
    "AllocationHistory": "histories",
    "FaultyLog": "faults",
    "LogContract": "logs",
    "Run": "worlds",
    "World": "worlds",
    "history_of": "histories",
    "strategies": "strategies",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
