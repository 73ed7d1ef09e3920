"""Histories of an allocation: what a lifecycle allows, made of numbers; Hypothesis or a seeded source gives them.

A `History` has the records of one allocation in order. It goes into a fold, a log or an engine as it is, and its
`repr` is short enough to be read where a test fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from msgspec import Raw, Struct

from taskfold.fold.allocation import AllocationState, Fold
from taskfold.fold.lifecycle import PENDING
from taskfold.model.dialect import dialect_of
from taskfold.model.events import AnyTaskEvent, TaskEvent, wire_type
from taskfold.model.record import Finished, Placed, Record, Updated, Write
from taskfold.testing._drawing import CHOICES, draw_of, outcomes

__all__ = ["BEGIN_NS", "AllocationHistory", "history_of"]

BEGIN_NS: Final = 1_600_000_000_000_000_000
"""When the histories begin (unix nanoseconds)."""

_GAPS_NS: Final = (1_000_000_000, 0, 137_000_000, 15_000_000_000, 3_600_000_000_000)
"""How long after the event before an event may come."""


class AllocationHistory(Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """The events of one allocation, in order."""

    dialect: str
    records: tuple[Record, ...]

    @property
    def alloc(self) -> str:
        """The ID of the allocation."""
        return self.records[0].alloc

    @property
    def events(self) -> tuple[tuple[str, AnyTaskEvent | Finished], ...]:
        """The events of tasks, each with its task."""
        return tuple((each.task, each.event) for each in self.records if isinstance(each.event, (TaskEvent, Finished)))

    @property
    def writes(self) -> list[Write]:
        """The same as writes, for `Engine.append`; what decisions remember is left out."""
        return [
            Write(alloc=each.alloc, task=each.task, time_ns=each.time_ns, event=each.event)
            for each in self.records
            if isinstance(each.event, (TaskEvent, Placed, Updated, Finished))
        ]

    def fold(self) -> AllocationState:
        """Return the state that the history folds to; what is illegal is kept, and moves nothing. O(records)."""
        fold = Fold(self.dialect, on_illegal="keep")
        fold.apply_all(self.records)
        return fold[self.alloc]

    def __repr__(self) -> str:
        """Return what happened, in Nomad's words."""
        tasks = {task for task, _ in self.events}
        names = (f"{task}: {wire_type(event)}" if len(tasks) > 1 else wire_type(event) for task, event in self.events)
        return f"<AllocationHistory {self.dialect}: {', '.join(names) or 'placed'}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002, FBT001 - as Hypothesis and IPython call it
        """Print what happened, and not how Hypothesis drew it."""
        printer.text(repr(self))

    def __len__(self) -> int:
        """Return how many events of tasks there are."""
        return len(self.records) - 1


def history_of(
    numbers: Iterable[int],
    dialect: str,
    *,
    tasks: Sequence[str] = ("web",),
    legal: bool = True,
    alloc: str = "203266e5-e0d6-9486-5e05-397ed2b184af",
    first_index: int = 1,
) -> AllocationHistory:
    """Return the history that numbers below `CHOICES` stand for. O(numbers).

    Where it is to be legal, each event is one that the lifecycle table allows in the state its task is in by then;
    else any that the dialect has. Raises ValueError without a task, and for a number that stands for nothing.

    >>> history_of([9, 10, 11], "1.1.2")
    <AllocationHistory 1.1.2: Started, Terminated, Restarting>
    """
    if not tasks:
        raise ValueError("a history has one task at least: tasks is empty")
    nomad = dialect_of(dialect)
    states = dict.fromkeys(tasks, PENDING)
    time_ns = BEGIN_NS
    records = [
        Record(index=first_index, alloc=alloc, version=1, time_ns=time_ns, event=_placement(alloc, tuple(tasks)))
    ]
    for version, number in enumerate(numbers, 2):
        if not 0 <= number < CHOICES:
            raise ValueError(f"a choice is a number from 0 to {CHOICES - 1}, not {number}")
        move, task_number, variant = draw_of(number)
        task = tasks[task_number % len(tasks)]
        cls, variants, states[task] = outcomes(nomad, states[task], legal=legal)[move]
        time_ns += _GAPS_NS[variant % len(_GAPS_NS)]
        event = cls(time_ns=time_ns, **variants[variant % len(variants)]) if variants else Finished()
        records.append(
            Record(
                index=first_index + version - 1, alloc=alloc, version=version, task=task, time_ns=time_ns, event=event
            )
        )
    return AllocationHistory(dialect=nomad.name, records=tuple(records))


@cache
def _placement(alloc: str, tasks: tuple[str, ...]) -> Placed:
    """Return how the allocation is placed."""
    body = {
        "ID": alloc,
        "Name": "example.group[0]",
        "NodeID": "fb2170a8-257d-3c64-b14d-bc06cc94e34c",
        "JobID": "example",
        "TaskGroup": "group",
        "DesiredStatus": "run",
        "Job": {
            "ID": "example",
            "Type": "service",
            "TaskGroups": [{"Name": "group", "Tasks": [{"Name": task} for task in tasks]}],
        },
    }
    return Placed(body=Raw(json.dumps(body).encode()))
