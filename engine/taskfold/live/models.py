"""Models bound to tasks: the questions they are asked before a write, and the calls they get after it."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Final, NamedTuple

from taskfold.fold.binding import Binding
from taskfold.live.core import Core, Prior
from taskfold.model.effects import Step
from taskfold.model.errors import Refused
from taskfold.model.events import TaskEvent
from taskfold.model.record import Finished, Record

__all__ = ["NOTHING", "Bound", "ModelQuestion", "Models"]


class Bound(NamedTuple):
    """A bound model, and the pending events of its task."""

    binding: Binding
    alloc: str
    task: str
    events: Sequence[TaskEvent | Finished]
    state: str
    """The state of the task before the events."""
    version: int
    """The version of the allocation before the events."""

    def ask(self) -> None:
        """Ask the model to approve the events. Raises Refused."""
        self.binding.ask(self.task, self.events, state=self.state)

    def calls(self) -> list[Callable[[], object]]:
        """Return the calls that run the model's callbacks, event by event, from the state before them."""
        binding = self.binding
        return [partial(binding.move, self.state), *(partial(binding.enter, self.task, event) for event in self.events)]


class ModelQuestion(NamedTuple):
    """The models that must approve a write, and the versions that must not change before it is recorded."""

    bound: Sequence[Bound] = ()
    time_ns: int = 0
    """The time of the write."""
    priors: Sequence[Prior] = ()
    """The steps to record, if it was decided: one for each input, in order."""


NOTHING: Final = ModelQuestion()


class Models:
    """The models of a core's tasks, by allocation and task."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.bindings: dict[tuple[str, str], Binding] = {}

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.bindings)

    def allocs(self) -> set[str]:
        """Return the IDs of the allocations with models. O(models)."""
        return {alloc for alloc, _ in self.bindings}

    def state(self, alloc: str, task: str) -> str:
        """Return the recorded state of a task; empty if there is none."""
        allocation = self._core.find(alloc)
        task_state = None if allocation is None else allocation.tasks.get(task)
        return "" if task_state is None else task_state.state

    def forget(self, alloc: str) -> None:
        """Unbind the models of an allocation. O(models)."""
        for key in [key for key in self.bindings if key[0] == alloc]:
            del self.bindings[key]

    def moves(self, allocs: Container[str]) -> list[Callable[[], object]]:
        """Return the calls that move the models of allocations to their tasks' states, without callbacks."""
        return [
            partial(binding.move, self.state(alloc, task))
            for (alloc, task), binding in self.bindings.items()
            if alloc in allocs
        ]

    def question_of_records(self, records: Sequence[Record], time_ns: int) -> ModelQuestion:
        """Return the question to models before records are written. Raises Refused."""
        bound: dict[tuple[str, str], Bound] = {}
        for record in records:
            task = record.alloc, record.task
            if task not in self.bindings:
                continue
            if task in bound:
                raise Refused(f"task {record.task!r} is bound to a model: one append can have one event of it")
            assert isinstance(record.event, (TaskEvent, Finished))
            bound[task] = self._bound(task, [record.event])
        return ModelQuestion(list(bound.values()), time_ns) if bound else NOTHING

    def question_of_steps(self, steps: Sequence[Step], priors: Sequence[Prior] = ()) -> ModelQuestion:
        """Return the question to models before steps are recorded."""
        events: dict[tuple[str, str], list[TaskEvent | Finished]] = {}
        for step in steps:
            for task, event in step.moves:
                if (step.alloc, task) in self.bindings:
                    events.setdefault((step.alloc, task), []).append(event)
        bound = [self._bound(key, of_task) for key, of_task in events.items()]
        if not bound:
            return NOTHING
        return ModelQuestion(bound, steps[0].time_ns, priors or [Prior(steps[0], bound[0].version)])

    def _bound(self, key: tuple[str, str], events: Sequence[TaskEvent | Finished]) -> Bound:
        """Return a model with its pending events, and the state of its task."""
        return Bound(self.bindings[key], *key, events, self.state(*key), self._core.owned(key[0]).version)
