"""What has ended, or is to be stopped, begins nothing new: every input in every state that an allocation can get to."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from support.jobs import POLICY, SECOND, hooked, job
from taskfold import Engine, inputs
from taskfold.decision.group import Group
from taskfold.decision.rules import HEARS, decide, owed
from taskfold.effects import KillTask, StartTask, Step
from taskfold.errors import InputRefused
from taskfold.fold.allocation import Allocation, apply_record
from taskfold.fold.lifecycle import DEAD, lifecycle_of
from taskfold.fold.status import is_client_terminal, is_server_terminal
from taskfold.inputs import INPUTS, NEW_CLIENT_ONLY, OF_ALLOCATION, OF_EITHER, Input
from taskfold.model.dialect import DIALECTS, dialect_of
from taskfold.model.record import Placed, Record
from taskfold.nomad.groups import group_of

STATES: Final = int(os.environ.get("TASKFOLD_STATES", "60"))
"""How many states of each group are explored; `make torture` explores many more."""

GROUPS: Final[dict[str, tuple[Any, ...]]] = {
    "of no job": (),
    "of one task": ("web",),
    "of two tasks": ("web", "db"),
    "of a leader": ({"Name": "web", "Leader": True}, "db"),
    "with hooks": (hooked("first", "prestart"), "web", hooked("last", "poststop")),
}
MORE: Final = (
    inputs.Exited(exit_code=1),
    inputs.StartFailed(recoverable=True),
    inputs.DownloadFailed(recoverable=False),
    inputs.Restored(reattached=False),
    inputs.TimerDue(kind="kill"),
    inputs.TemplateChanged(change_mode="signal", signal="SIGHUP"),
    inputs.KillRequested(reason="why", fails_task=True),
)
"""Inputs whose fields decide otherwise than their defaults."""


class Decision(NamedTuple):
    """What followed from an input in a state."""

    before: Allocation
    group: Group
    task: str
    said: Input
    step: Step
    after: Allocation
    now_ns: int

    @property
    def starts(self) -> set[str]:
        """The tasks that are owed a start, now or later."""
        later = {timer.task for timer in self.step.timers if timer.kind == "start"}
        return later | {effect.task for effect in self.step.effects if isinstance(effect, StartTask)}


def decisions(dialect: str, group_name: str) -> Iterator[Decision]:
    """Yield what follows from each input in each state, from that after the placement on, breadth first."""
    fields: dict[str, Any] = {"ID": "a", "DesiredStatus": "run"}
    if tasks := GROUPS[group_name]:
        told = job(*tasks, policy=POLICY | {"Attempts": 1})
        fields |= {"TaskGroup": "group", "JobID": "example", "Job": told}
    body = msgspec.json.encode(fields)
    group = group_of(body, None, dialect_of(dialect))
    first = written(Allocation("a"), dialect, SECOND, ("", Placed(body=msgspec.Raw(body))))
    known, to_explore = {essence(first)}, deque([(first, SECOND)])
    names = list(group.tasks) or ["web", "typo"]
    for _ in range(STATES):
        if not to_explore:
            return
        before, now_ns = to_explore.popleft()
        for said, task in inputs_of(dialect, names):
            step = decide(before, group, said, task=task, now_ns=now_ns, rng=random.Random(1))
            after = written(before.copy(), dialect, now_ns, *((found.task, found.event) for found in step.writes))
            yield Decision(before, group, task, said, step, after, now_ns)
            if essence(after) not in known:
                known.add(essence(after))
                to_explore.append((after, now_ns + 200 * SECOND))


def inputs_of(dialect: str, names: list[str]) -> Iterator[tuple[Input, str]]:
    """Yield every input that a dialect has, of each task that it may be of."""
    # What is said of an allocation comes first: that leads to its end by the shortest ways.
    for said in (*(kind() for kind in sorted(INPUTS, key=OF_ALLOCATION.__contains__, reverse=True)), *MORE):
        kind = type(said)
        if kind in NEW_CLIENT_ONLY and not dialect_of(dialect).has_new_client:
            continue
        if kind in OF_ALLOCATION | OF_EITHER and not (kind is inputs.PlacementReceived and "typo" in names):
            yield said, ""
        if kind not in OF_ALLOCATION:
            yield from ((said, name) for name in names)


def written(allocation: Allocation, dialect: str, now_ns: int, *found: tuple[str, Any]) -> Allocation:
    """Have records written to an allocation."""
    for task, event in found:
        version = allocation.version + 1
        record = Record(seq=0, index=version, alloc="a", version=version, task=task, time_ns=now_ns, event=event)
        apply_record(allocation, record, lifecycle_of(dialect_of(dialect)))
    return allocation


def essence(allocation: Allocation) -> object:
    """Return what decides of a state: not its times."""
    tasks = []
    for name, task in sorted(allocation.tasks.items()):
        held = task.memory
        if held is not None:
            planned = [time_ns and 1 for time_ns in (held.window_start_ns, held.start_at_ns, held.kill_at_ns)]
            held = msgspec.structs.replace(
                held, window_start_ns=planned[0], start_at_ns=planned[1], kill_at_ns=planned[2]
            )
        tasks.append((name, task.state, task.failed, held))
    return tuple(tasks), field(allocation, "DesiredStatus"), field(allocation, "ClientStatus"), allocation.memory


def field(allocation: Allocation, name: str) -> str:
    """Return a status that was told since the placement."""
    text = (allocation.updates or {}).get(name)
    return msgspec.json.decode(text) if text else ""


def living(allocation: Allocation) -> set[str]:
    """Return the tasks that are not dead."""
    return {name for name, task in allocation.tasks.items() if task.state != DEAD}


def is_stopped(allocation: Allocation) -> bool:
    return is_server_terminal(field(allocation, "DesiredStatus"))


def has_ended(allocation: Allocation) -> bool:
    """Tell whether nothing lives of an allocation that was begun, was to be stopped, or could not be set up."""
    is_told = is_stopped(allocation) or is_client_terminal(field(allocation, "ClientStatus"))
    return not living(allocation) and (bool(allocation.tasks) or is_told)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("group_name", GROUPS)
def test_what_has_ended_begins_nothing_and_what_is_to_be_stopped_nothing_new(group_name, dialect):
    ended = stopped = heard = 0
    for found in decisions(dialect, group_name):
        what = (found.task, found.said, found.before)
        if has_ended(found.before):
            ended += 1
            assert not found.starts, what
            assert not living(found.after), what
            assert not owed(found.before, found.group, now_ns=found.now_ns, rng=random.Random(1)).effects, what
        elif is_stopped(found.before):
            stopped += 1
            assert found.starts <= found.before.tasks.keys(), what
            assert living(found.after) <= found.before.tasks.keys(), what
            if type(found.said) in HEARS and found.step.outcome == "decided":
                heard += 1
                assert not found.starts & wanted_no_more(found), what
                assert not unended(found), what
    assert min(ended, stopped) > 50, "too few states to hold anything"
    assert heard > 5, "too few states in which a client hears of a stop"


def wanted_no_more(found: Decision) -> set[str]:
    """Return the tasks that a stop ends: all but those that run after the others."""
    return {name for name in found.after.tasks if not found.group.plan(name).is_poststop}


def unended(found: Decision) -> set[str]:
    """Return the tasks that live on after a client has heard of a stop: nobody ends them, now or after the leader."""
    held = {name: task.memory for name, task in found.after.tasks.items()}
    doomed = {name for name, decided in held.items() if decided is not None and decided.killed}
    if found.after.memory is not None and found.group.leader in doomed:
        doomed |= held.keys() if found.after.memory.stop_waits or found.after.memory.group_waits else set()
    return (living(found.after) - doomed) & wanted_no_more(found)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_task_of_a_name_that_nobody_knows_begins_in_no_allocation_that_was_stopped(dialect):
    engine = Engine(dialect=dialect)
    engine.place({"ID": "a"})
    for task, said in (
        ("web", inputs.PlacementReceived()),
        ("web", inputs.ProcessStarted()),
        ("", inputs.StopRequested()),
    ):
        engine.report("a", task, said)
    engine.report("a", "web", inputs.Exited(exit_code=None))
    before = engine.store.read("a")

    step = engine.report("a", "typo", inputs.PlacementReceived())

    assert (step.outcome, step.writes, step.effects, step.timers) == ("late", (), (), ())
    assert step.notes == (("typo", "the allocation has ended, or is to be stopped: nothing new begins in it"),)
    assert engine.store.read("a") == before
    assert engine.restore() == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_process_that_nobody_knew_of_in_an_allocation_that_was_stopped_is_to_end(dialect):
    engine = Engine(dialect=dialect, seed=1)
    engine.place({"ID": "a"})
    engine.report("a", "web", inputs.PlacementReceived())
    engine.report("a", "web", inputs.ProcessStarted())
    engine.report("a", "web", inputs.Exited(exit_code=1))  # so that there is a timer
    engine.report("a", "", inputs.StopRequested())

    step = engine.report("a", "typo", inputs.ProcessStarted())

    assert step.outcome == "late"
    assert [type(effect) for effect in step.effects] == [KillTask]
    assert engine.report("a", "typo", inputs.Exited()).outcome == "late"


@pytest.mark.parametrize("dialect", [name for name, found in DIALECTS.items() if not found.has_new_client])
def test_tasks_that_were_placed_end_with_an_allocation_that_cannot_be_set_up(dialect):
    engine = Engine(dialect=dialect)
    engine.place({"ID": "a", "TaskGroup": "group", "Job": job("web", "db")})
    engine.report("a", "", inputs.PlacementReceived())
    engine.report("a", "db", inputs.ProcessStarted())

    step = engine.report("a", "", inputs.SetupFailed(error="no room"))

    assert [effect.task for effect in step.effects if isinstance(effect, KillTask)] == ["db"]
    engine.report("a", "db", inputs.Exited(exit_code=None))
    assert engine.snapshot("a").client_status == "failed"
    assert {task.state for task in engine.snapshot("a").tasks.values()} == {"dead"}


def test_every_input_is_explored():
    reached = {type(said) for dialect in DIALECTS for said, _ in inputs_of(dialect, ["web"])}

    assert reached == set(INPUTS)


def test_what_names_a_task_of_an_allocation_without_a_job_is_refused_as_before():
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})

    with pytest.raises(InputRefused, match="name the task that is placed"):
        engine.report("a", "", inputs.PlacementReceived())
