"""A failing seed made small: as few places and operations as break the same invariant (delta debugging)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from taskfold.model.effects import KillTask, StartTask
from taskfold.model.events import wire_type
from taskfold.model.record import Finished
from taskfold.testing.invariants import Violation
from taskfold.testing.simulation import Moment, Simulation

__all__ = ["Counterexample", "counterexample_of", "smallest"]

_MOST_RUNS: Final = 400
"""After so many smaller simulations the smallest that was found is shown."""
_MOST_LINES: Final = 40


class Counterexample(Struct, frozen=True, kw_only=True):
    """A failing seed, and the least of it that breaks the same invariant."""

    command: str
    """The command that runs the seed."""
    smallest: str
    """The command that runs the least of it."""
    places: tuple[int, ...]
    """The places of allocations that are needed, by their numbers."""
    operations: tuple[int, ...]
    """The external incidents that are needed, by number."""
    violation: Violation
    """The broken invariant."""
    moments: tuple[Moment, ...] = ()
    """The events of the violation's allocation."""

    def lines(self) -> Iterator[str]:
        """Yield what a person needs to see it again."""
        yield f"violation of {self.violation}"
        yield f"it is seen with: {self.command}"
        parts = f"{_count(self.places, 'place')} and {_count(self.operations, 'operation')}"
        yield f"its least part has {parts}: {self.smallest}"
        left_out = len(self.moments) - _MOST_LINES
        if left_out > 0:
            yield f"  … {left_out} steps before"
        yield from map(moment_text, self.moments[-_MOST_LINES:])


def moment_text(moment: Moment) -> str:
    """Return a step in one line: when, what was reported, what happened to tasks, and what is owed."""
    report = moment.input
    fields = {name: value for name, value in asdict(report).items() if value != getattr(type(report)(), name)}
    values = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    step = moment.step
    moves = [f"{task}: {'dead' if isinstance(event, Finished) else wire_type(event)}" for task, event in step.moves]
    owed = [
        f"{'start' if isinstance(effect, StartTask) else 'kill'} {effect.task}"
        for effect in step.effects
        if isinstance(effect, (StartTask, KillTask))
    ]
    answer = "; ".join((*moves, *owed)) or step.outcome
    what = f"{moment.task or 'allocation'}  {type(report).__name__}({values})"
    return f"{moment.time_ns / 1e9:12.3f} s  {what}  ->  {answer}"


def _count(items: Sequence[int], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def counterexample_of(simulation: Simulation, violation: Violation) -> Counterexample:
    """Return the least of a simulation that breaks the invariant of a violation. O(simulations of the parts)."""
    runs = 0

    def breaks(places: Sequence[int], operations: Sequence[int]) -> bool:
        nonlocal runs
        runs += 1
        if runs > _MOST_RUNS:
            return False
        violations = simulation.part(places, operations).run().violations
        return any(one.invariant == violation.invariant for one in violations)

    every = [operation.number for operation in simulation.operations]
    places = list(range(simulation.allocations)) if simulation.only is None else sorted(simulation.only)
    own = [int(violation.alloc[:8], 16)] if violation.alloc else places[:1]
    places = own if breaks(own, every) else smallest(places, lambda some: breaks(some, every))
    operations = smallest(every, lambda some: breaks(places, some))
    moments: list[tuple[str, Moment]] = []
    least = simulation.part(places, operations, on_moment=lambda alloc, moment: moments.append((alloc, moment)))
    (violation,) = least.run().violations or (violation,)
    return Counterexample(
        command=simulation.command(),
        smallest=least.command(),
        places=tuple(places),
        operations=tuple(operations),
        violation=violation,
        moments=tuple(moment for alloc, moment in moments if alloc == violation.alloc),
    )


def smallest(items: list[int], breaks: Callable[[list[int]], bool]) -> list[int]:
    """Return a part of the items that still breaks, and of which none can be left out.

    >>> smallest(list(range(100)), lambda some: {7, 41} <= set(some))
    [7, 41]
    """
    if not items or breaks([]):
        return []
    size = (len(items) + 1) // 2
    while True:
        start = 0
        while start < len(items):
            rest = items[:start] + items[start + size :]
            if rest and breaks(rest):
                items = rest
            else:
                start += size
        if size == 1:
            return items
        size = (size + 1) // 2 if size > 2 else 1
