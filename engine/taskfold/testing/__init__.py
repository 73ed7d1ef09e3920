"""What those test who build on taskfold: histories, worlds, contracts (``pip install 'taskfold[testing]'``).

`strategies` has Hypothesis strategies; `World` is a scheduler with simulated drivers; `FaultyLog` is a log that fails
as it is told to; `LogContract` is what every log promises. Each is imported when it is first used, and pytest and
Hypothesis with what needs them.
"""

from __future__ import annotations

import sys
from importlib import import_module

_HOME = {
    "FaultyLog": "faults",
    "History": "histories",
    "LogContract": "logs",
    "Run": "worlds",
    "World": "worlds",
    "history_of": "histories",
}

__all__ = ["FaultyLog", "History", "LogContract", "Run", "World", "history_of", "strategies"]


def __getattr__(name: str) -> object:
    """Import what a name stands for when it is first used."""
    if name == "strategies":
        value: object = import_module("taskfold.testing.strategies")
    elif name in _HOME:
        if name == "LogContract" and "taskfold.testing.logs" not in sys.modules:
            import pytest

            # So that a promise that is broken is shown with its values.
            pytest.register_assert_rewrite("taskfold.testing.logs")
        value = getattr(import_module(f"taskfold.testing.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'taskfold.testing' has no attribute {name!r}", name=name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
