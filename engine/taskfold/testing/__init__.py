"""Testing for programs that build on taskfold: histories, worlds, contracts (``pip install 'taskfold[testing]'``).

`strategies` has Hypothesis strategies; `World` is a scheduler with simulated drivers; `Simulation` is a cluster of
them, and `INVARIANTS` are what is checked after each of its steps; `FaultyLog` is a log that fails as it is told to;
`SchedulerMachine` and `LifecycleMachine` drive a scheduler and a fold of yours beside the model; `LogContract` and
`DriverContract` are what every log and every driver promise; `stories_in` runs scripts of what happens and follows.
Each is imported when it is first used, and pytest and Hypothesis with what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.testing import strategies
    from taskfold.testing.counterexamples import Counterexample, counterexample_of
    from taskfold.testing.deviations import Deviation
    from taskfold.testing.drivers import DriverContract, DriverProcess, TaskDriver
    from taskfold.testing.faults import FaultyLog
    from taskfold.testing.histories import AllocationHistory, history_of
    from taskfold.testing.invariants import INVARIANTS, Violation
    from taskfold.testing.lifecycle_machine import FoldAdapter, LifecycleMachine
    from taskfold.testing.logs import LogContract
    from taskfold.testing.scheduler_machine import AllocationStatus, SchedulerAdapter, SchedulerMachine, TaskStatus
    from taskfold.testing.simulation import Simulation, Summary
    from taskfold.testing.stories import StoryError, check_story, stories_in
    from taskfold.testing.worlds import Run, World

__all__ = [
    "INVARIANTS",
    "AllocationHistory",
    "AllocationStatus",
    "Counterexample",
    "Deviation",
    "DriverContract",
    "DriverProcess",
    "FaultyLog",
    "FoldAdapter",
    "LifecycleMachine",
    "LogContract",
    "Run",
    "SchedulerAdapter",
    "SchedulerMachine",
    "Simulation",
    "StoryError",
    "Summary",
    "TaskDriver",
    "TaskStatus",
    "Violation",
    "World",
    "check_story",
    "counterexample_of",
    "history_of",
    "stories_in",
    "strategies",
]

_HOME = {
    "AllocationHistory": "histories",
    "AllocationStatus": "scheduler_machine",
    "Counterexample": "counterexamples",
    "Deviation": "deviations",
    "DriverContract": "drivers",
    "DriverProcess": "drivers",
    "FaultyLog": "faults",
    "FoldAdapter": "lifecycle_machine",
    "INVARIANTS": "invariants",
    "LifecycleMachine": "lifecycle_machine",
    "LogContract": "logs",
    "Run": "worlds",
    "SchedulerAdapter": "scheduler_machine",
    "SchedulerMachine": "scheduler_machine",
    "Simulation": "simulation",
    "StoryError": "stories",
    "Summary": "simulation",
    "TaskDriver": "drivers",
    "TaskStatus": "scheduler_machine",
    "Violation": "invariants",
    "World": "worlds",
    "check_story": "stories",
    "counterexample_of": "counterexamples",
    "history_of": "histories",
    "stories_in": "stories",
    "strategies": "strategies",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
