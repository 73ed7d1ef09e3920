"""Testing for programs that build on taskfold: histories, worlds, contracts (``pip install 'taskfold[testing]'``).

`strategies` has Hypothesis strategies; `World` is a scheduler with simulated drivers; `Simulation` is a cluster of
them, and `INVARIANTS` are what is checked after each of its steps; `FaultyLog` is a log that fails as it is told to;
`LogContract` is what every log promises; `stories_in` runs scripts of what happens and follows. Each is imported when
it is first used, and pytest and Hypothesis with what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.testing import strategies
    from taskfold.testing.counterexamples import Counterexample, counterexample_of
    from taskfold.testing.faults import FaultyLog
    from taskfold.testing.histories import AllocationHistory, history_of
    from taskfold.testing.invariants import INVARIANTS, Violation
    from taskfold.testing.logs import LogContract
    from taskfold.testing.simulation import Simulation, Summary
    from taskfold.testing.stories import StoryError, check_story, stories_in
    from taskfold.testing.worlds import Run, World

__all__ = [
    "INVARIANTS",
    "AllocationHistory",
    "Counterexample",
    "FaultyLog",
    "LogContract",
    "Run",
    "Simulation",
    "StoryError",
    "Summary",
    "Violation",
    "World",
    "check_story",
    "counterexample_of",
    "history_of",
    "stories_in",
    "strategies",
]

_HOME = {
    "INVARIANTS": "invariants",
    "AllocationHistory": "histories",
    "Counterexample": "counterexamples",
    "FaultyLog": "faults",
    "LogContract": "logs",
    "Run": "worlds",
    "Simulation": "simulation",
    "StoryError": "stories",
    "Summary": "simulation",
    "Violation": "invariants",
    "World": "worlds",
    "check_story": "stories",
    "counterexample_of": "counterexamples",
    "history_of": "histories",
    "stories_in": "stories",
    "strategies": "strategies",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
