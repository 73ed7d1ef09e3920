"""The invariants of an engine after every step, and the checker that reports violations.

The checker keeps a small model of its own of every task: what its records say, and what was owed. It takes each step
with its records, looks at what they touched, and raises `BrokenInvariant` where the engine's state is not what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from taskfold.decision.group import Group, TaskPlan
from taskfold.decision.rules import HEARS, due_of
from taskfold.fold.allocation import Allocation
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, lifecycle_of
from taskfold.fold.status import is_server_terminal
from taskfold.fold.task import Task
from taskfold.live.core import Core
from taskfold.model import events as ev
from taskfold.model import inputs
from taskfold.model.dialect import EVENTS_PER_TASK, Dialect
from taskfold.model.effects import AnyEffect, KillTask, ReleaseResources, StartTask, Step
from taskfold.model.inputs import Input
from taskfold.model.policy import DELAYED, MODE_DELAY, WITHIN_POLICY, RestartPolicy
from taskfold.model.record import Decided, Finished, Record
from taskfold.nomad.snapshot import Snapshot

__all__ = ["INVARIANTS", "BrokenInvariant", "Checker", "Invariant", "Violation"]


class Invariant(NamedTuple):
    """Something that must be true of an engine."""

    text: str
    """The invariant, in a sentence."""
    when: str
    """When it is checked."""


_RECORD: Final = "each record"
_STEP: Final = "each step"
_CRASH: Final = "each crash"
_END: Final = "the end"

INVARIANTS: Final[Mapping[str, Invariant]] = {
    "answers": Invariant("every report of a driver, a node or an operator is answered by a step", _STEP),
    "order": Invariant(
        "positions count 1, 2, 3 …; each write has an index of its own, one more than the one before; versions count "
        "1, 2, 3 … in each allocation, and its times never go back",
        _RECORD,
    ),
    "legal": Invariant("every event is one that the dialect's table allows in the state of its task", _RECORD),
    "dead": Invariant("a task that is dead stays dead", _RECORD),
    "policy": Invariant(
        "a task is started again as often in each window of its policy as the dialect allows, after the delay of the "
        "policy; what was asked for does not count; no task is given up before its attempts are used up",
        _RECORD,
    ),
    "ring": Invariant("a task shows the ten newest events of its history, and knows how many there were", _STEP),
    "fold": Invariant("state, failure, restarts, start and end of a task are what its records say", _STEP),
    "siblings": Invariant(
        "a task that failed, and a leader that is dead, end all others of the group, as the dialect has it", _STEP
    ),
    "stop": Invariant("of an allocation that has heard that it is to stop, every task is dead or being ended", _STEP),
    "hooks": Invariant("no task starts before those that have to start, or to end, before it", _STEP),
    "starts": Invariant("a task starts only where a start was owed, and none is owed to a task that is dead", _STEP),
    "owed": Invariant("every start and every kill was answered, or would be owed again after a crash", _STEP),
    "timers": Invariant("what is due later has its timer, at the time that the state tells", _STEP),
    "collect": Invariant("an allocation is to be collected once, when the last of its tasks has died", _STEP),
    "snapshot": Invariant("the JSON of an allocation says what the fold says", "some steps, and the end"),
    "restored": Invariant("what was read from checkpoint and log is what was folded", _CRASH + ", and the end"),
    "rest": Invariant("when nothing is under way, exactly the tasks that are shown as running have a process", _END),
}
"""The invariants, by name."""


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A violation of an invariant."""

    invariant: str
    """Its name among `INVARIANTS`."""
    text: str
    """The actual and the expected value."""
    alloc: str = ""
    task: str = ""
    seq: int = 0
    """How many records there were."""
    time_ns: int = 0
    """When (unix nanoseconds)."""

    def __str__(self) -> str:
        """Return it in one line."""
        where = f"{self.alloc} {self.task}".strip()
        return f"{self.invariant}: {where + ': ' if where else ''}{self.text}"


class BrokenInvariant(AssertionError):
    """An invariant is broken; the argument is the `Violation`."""

    @property
    def violation(self) -> Violation:
        """The place and the difference."""
        violation: Violation = self.args[0]
        return violation


class _Model:
    """The state of a task according to records and steps so far."""

    __slots__ = (
        "count",
        "failed",
        "finished_ns",
        "is_asked",
        "kill_owed",
        "plan",
        "restarts",
        "ring",
        "start_ns",
        "started_ns",
        "state",
        "total",
        "was_started",
        "window_ns",
    )

    def __init__(self, plan: TaskPlan, now_ns: int) -> None:
        self.plan = plan
        self.state = PENDING
        self.ring: tuple[Any, ...] = ()
        self.total = 0
        self.failed = False
        self.restarts = 0
        self.started_ns: int | None = None
        self.finished_ns: int | None = None
        self.was_started = False
        self.window_ns = now_ns
        """When the window of its policy began."""
        self.count = 0
        """How many failures count in it."""
        self.is_asked = False
        """Somebody asked for the restart that is to come."""
        self.start_ns: int | None = None
        """Since when a start is owed that nobody has answered."""
        self.kill_owed = False


class _Facts:
    """The expected state of an allocation."""

    __slots__ = ("group", "is_collectable", "models", "must_stop", "time_ns", "version")

    def __init__(self) -> None:
        self.version = 0
        self.time_ns = 0
        self.models: dict[str, _Model] = {}
        self.group: Group | None = None
        self.must_stop = False
        self.is_collectable = False


_HEARS: Final = {*HEARS, inputs.StopRequested}
"""The inputs by which the client of an allocation hears that it is to stop."""
_ANSWERS: Final = frozenset(
    (inputs.ProcessStarted, inputs.StartFailed, inputs.DownloadFailed, inputs.ValidationFailed, inputs.SetupFailed)
)
"""The inputs that answer a start."""
_SAMPLED: Final = 1_009
"""Every so many steps a snapshot is looked at."""
_SNAPSHOTS: Final = 300
"""So many are looked at in the end."""


class Checker:
    """Checks an engine after every step: `records` and `step` for what it did, `all` for everything that there is.

    O(records and tasks that the step touched).
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.dialect: Dialect = core.dialect
        self._rules: Mapping[type[Any], Any] = lifecycle_of(self.dialect).rules
        self._is_new = self.dialect.has_new_client
        self._allocations: dict[str, _Facts] = {}
        self._seq = core.seq
        self._index = core.index
        self._steps = 0
        self._special: Mapping[type[Any], Callable[[_Model, Record], None]] = {
            ev.Started: self._on_started,
            ev.RestartSignaled: self._on_asked,
            ev.FailedRestoringTask: self._on_gone,
            ev.Restarting: self._on_restarting,
            ev.NotRestarting: self._on_not_restarting,
        }
        self.restarts = 0
        self.deaths = 0
        self.failures = 0

    def fail(self, invariant: str, text: str, alloc: str = "", task: str = "") -> NoReturn:
        """Raise that an invariant is broken."""
        assert invariant in INVARIANTS
        facts = self._allocations.get(alloc)
        raise BrokenInvariant(
            Violation(
                invariant=invariant,
                text=text,
                alloc=alloc,
                task=task,
                seq=self._seq,
                time_ns=0 if facts is None else facts.time_ns,
            )
        )

    # --- records ---

    def records(self, records: Sequence[Record]) -> tuple[set[str], bool]:
        """Take the records of one write; return the tasks that they touched, and whether one of them has died."""
        names: set[str] = set()
        has_death = False
        if not records:
            return names, has_death
        self._index += 1
        facts = self._facts_of(records[0].alloc)
        for record in records:
            self._seq += 1
            facts.version += 1
            if (
                record.seq != self._seq
                or record.index != self._index
                or record.version != facts.version
                or record.time_ns < facts.time_ns
            ):
                self._misplaced(record, facts)
            facts.time_ns = record.time_ns
            if record.task:
                names.add(record.task)
                if type(record.event) is not Decided and self._moves(facts, record):
                    has_death = True
        return names, has_death

    def _moves(self, facts: _Facts, record: Record) -> bool:
        """Take what happened to a task; tell whether it died of it."""
        event: Any = record.event
        cls = type(event)
        model = facts.models.get(record.task) or self._new_model(facts, record)
        rule = self._rules.get(cls)
        if rule is None:
            return False
        before = model.state
        after = rule.targets.get(before)
        if after is None:
            self.fail("legal", f"{cls.__name__} was recorded of a task that is {before}", record.alloc, record.task)
        if before is DEAD and after is not DEAD:
            self.fail("dead", f"{cls.__name__} makes a dead task {after}", record.alloc, record.task)
        if cls is not Finished:
            model.ring = (*model.ring[1 - EVENTS_PER_TASK :], event)
            model.total += 1
            if event.fails_task:
                model.failed = True
        special = self._special.get(cls)
        if special is not None:
            special(model, record)
        if after is DEAD:
            self._ended(model, record.time_ns)
        return after is not before and self._move(model, after, record.time_ns)

    def _move(self, model: _Model, state: str, time_ns: int) -> bool:
        """Take the state that a task has from now on; tell whether it died."""
        model.state = state
        if state is RUNNING:
            model.started_ns = time_ns
        if state is not DEAD:
            return False
        self.deaths += 1
        self.failures += model.failed
        return True

    def _facts_of(self, alloc: str) -> _Facts:
        facts = self._allocations.get(alloc)
        if facts is None:
            facts = self._allocations[alloc] = _Facts()
        return facts

    def _new_model(self, facts: _Facts, record: Record) -> _Model:
        if facts.group is None:
            facts.group = self.core.group(record.alloc)
        model = facts.models[record.task] = _Model(facts.group.plan(record.task), record.time_ns)
        return model

    def _misplaced(self, record: Record, facts: _Facts) -> NoReturn:
        right = f"position {self._seq}, index {self._index}, version {facts.version}, time from {facts.time_ns}"
        actual = f"position {record.seq}, index {record.index}, version {record.version}, time {record.time_ns}"
        self.fail("order", f"right {right}; found {actual}", record.alloc, record.task)

    def _ended(self, model: _Model, time_ns: int) -> None:
        """Note when it ended, as the dialect shows it."""
        if self.dialect.finished_at_moves:
            if model.started_ns is not None:
                model.finished_ns = time_ns
        elif model.finished_ns is None:
            model.finished_ns = time_ns

    def _on_started(self, model: _Model, record: Record) -> None:
        if model.start_ns is None:
            self.fail("starts", "it was started, and no start was owed", record.alloc, record.task)
        model.start_ns = None
        model.was_started = True

    def _on_asked(self, model: _Model, _: Record) -> None:
        model.is_asked = True

    def _on_gone(self, model: _Model, _: Record) -> None:
        model.is_asked = False
        model.kill_owed = False

    def _on_restarting(self, model: _Model, record: Record) -> None:
        self.restarts += 1
        model.restarts += 1
        model.start_ns = None
        model.kill_owed = False
        is_asked, model.is_asked = model.is_asked, False
        event: Any = record.event
        reason, delay_ns = event.restart_reason, event.start_delay_ns
        policy = model.plan.policy
        if reason not in {WITHIN_POLICY, DELAYED}:
            if not is_asked or delay_ns:
                self.fail(
                    "policy", f"it starts again in {delay_ns} ns, and nobody asked for it", record.alloc, record.task
                )
            return
        self._count(model, policy, record.time_ns)
        if reason == WITHIN_POLICY:
            least_ns = policy.delay_ns
            if not policy.attempts or model.count > policy.attempts:
                text = f"it starts again for the {model.count}. time of {policy.attempts} in a window"
                self.fail("policy", text, record.alloc, record.task)
            if not least_ns <= delay_ns <= (least_ns or 1) * 5 // 4:
                text = f"it starts again in {delay_ns} ns, where the delay is {least_ns} ns, and a quarter more at most"
                self.fail("policy", text, record.alloc, record.task)
        elif (
            policy.mode != MODE_DELAY
            or model.count <= policy.attempts
            or record.time_ns + delay_ns != model.window_ns + policy.interval_ns
        ):
            text = f"it waits {delay_ns} ns for the next window: {model.count} of {policy.attempts} are used up"
            self.fail("policy", text, record.alloc, record.task)

    def _count(self, model: _Model, policy: RestartPolicy, now_ns: int) -> None:
        """Count a failure in the window that it falls into."""
        if now_ns <= model.window_ns + policy.interval_ns:
            model.count += 1
        else:
            model.window_ns = now_ns
            model.count = 1 if self.dialect.window_before_count else 0

    def _on_not_restarting(self, model: _Model, record: Record) -> None:
        event: Any = record.event
        policy = model.plan.policy
        if event.restart_reason == policy.exceeded:
            self._count(model, policy, record.time_ns)
            if model.count <= policy.attempts or policy.mode == MODE_DELAY:
                text = f"it was given up at the {model.count}. failure of {policy.attempts} in a window"
                self.fail("policy", text, record.alloc, record.task)

    # --- steps ---

    def step(self, step: Step, records: Sequence[Record], reports: Sequence[tuple[str, Input]] = ()) -> None:
        """Check what one step did: its records, and what was reported, each with its task."""
        names, has_death = self.records(records)
        alloc = step.alloc
        facts = self._facts_of(alloc)
        allocation = self.core.fold.allocations[alloc]
        if reports and step.outcome != "repeated":
            self._note_reports(facts, allocation, reports)
        has_collect = bool(step.effects) and self._note_effects(facts, allocation, step.effects, names)
        tasks, models = allocation.tasks, facts.models
        for name in names:
            task, model = tasks[name], models[name]
            self._check_task(alloc, name, task, model)
            self._check_owed(alloc, name, task, model, step.time_ns)
        if has_death:
            self._check_siblings(facts, allocation)
        if facts.must_stop:
            self._check_stop(facts, allocation)
        if has_death or has_collect:
            self._check_collect(facts, allocation, has_collect=has_collect)
        self._steps += 1
        if self._steps % _SAMPLED == 0:
            self.snapshot(alloc)

    def _note_reports(self, facts: _Facts, allocation: Allocation, reports: Sequence[tuple[str, Input]]) -> None:
        """Note what was answered, and whether the client has heard of a stop."""
        for name, report in reports:
            kind = type(report)
            if kind in _HEARS:
                wish = (allocation.updates or {}).get("DesiredStatus")
                facts.must_stop = wish is not None and is_server_terminal(msgspec.json.decode(wish))
            model = facts.models.get(name)
            if model is None:
                continue
            if isinstance(report, inputs.Restored) and facts.must_stop and model.state is PENDING:
                model.start_ns = None  # it is withdrawn: its allocation ends, and its client found no process
            elif model.state is RUNNING and (
                kind in _ANSWERS or (isinstance(report, inputs.Restored) and report.reattached)
            ):
                model.start_ns = None

    def _note_effects(
        self, facts: _Facts, allocation: Allocation, effects: Sequence[AnyEffect], names: set[str]
    ) -> bool:
        """Note what is owed from now on; tell whether the allocation is to be collected."""
        has_collect = False
        for effect in effects:
            if isinstance(effect, StartTask):
                self._owe_start(facts, allocation, effect)
                names.add(effect.task)
            elif isinstance(effect, KillTask):
                model = facts.models.get(effect.task)
                if model is not None and model.state is not DEAD:
                    model.kill_owed = True
                    names.add(effect.task)
            elif isinstance(effect, ReleaseResources):
                has_collect = True
        return has_collect

    def _check_task(self, alloc: str, name: str, task: Task, model: _Model) -> None:
        """Check that a task is what its records say."""
        if task.slots != model.ring or task.total != model.total:
            text = (
                f"it shows {_types(task.slots)} of {task.total}, where {_types(model.ring)} of {model.total} is right"
            )
            self.fail("ring", text, alloc, name)
        if (
            task.state != model.state
            or task.restarts != model.restarts
            or task.failed != model.failed
            or task.started_at_ns != model.started_ns
            or task.finished_at_ns != model.finished_ns
            or (task.rest is not None and task.rest.irregular)
        ):
            actual = (task.state, task.restarts, task.failed, task.started_at_ns, task.finished_at_ns)
            right = (model.state, model.restarts, model.failed, model.started_ns, model.finished_ns)
            self.fail("fold", f"it is {actual}, where its records say {right}", alloc, name)

    def _check_owed(self, alloc: str, name: str, task: Task, model: _Model, now_ns: int) -> None:
        """Check that what nobody has answered yet is remembered, and what is due later has a timer."""
        state, memory = model.state, task.memory
        if state is DEAD:
            model.start_ns = None
            model.kill_owed = False
            return
        if memory is None:
            self.fail("owed", "nothing is remembered of a task that lives", alloc, name)
        due_ns = memory.kill_at_ns
        if state is PENDING:
            due_ns = memory.start_at_ns
            is_due = due_ns is not None and due_ns <= now_ns
            if (model.start_ns is not None) != is_due and not memory.killed:
                text = f"a start is owed since {model.start_ns}, and after a crash one would be owed since {due_ns}"
                self.fail("owed", text, alloc, name)
        elif (
            model.start_ns is not None
            and not (memory.killed or memory.restart)
            and (memory.start_at_ns or 0) <= (task.started_at_ns or 0)
        ):
            # The old client starts a process that it has not found again, and shows the task as running meanwhile.
            self.fail("owed", "its process is started anew, and would not be owed again", alloc, name)
        if model.kill_owed and not (memory.killed or memory.restart):
            self.fail("owed", "a kill is owed, and would not be owed again", alloc, name)
        if due_ns is not None and due_ns > now_ns:
            timer_ns = self.core.timers.get(alloc, name)
            if timer_ns != due_ns:
                self.fail("timers", f"it is due at {due_ns}, and its timer is at {timer_ns}", alloc, name)

    def _owe_start(self, facts: _Facts, allocation: Allocation, effect: StartTask) -> None:
        alloc, name = allocation.id, effect.task
        model = facts.models.get(name)
        if model is None or model.state is DEAD:
            self.fail("starts", "a start is owed to a task that is dead, or was never placed", alloc, name)
        if facts.must_stop and not model.plan.is_poststop and not self._waits_for_leader(facts, allocation):
            self.fail("stop", "a start is owed in an allocation that is to stop", alloc, name)
        if self._is_new and not model.was_started and facts.group is not None and facts.group.has_hooks:
            self._check_hooks(facts, alloc, name, model)
        model.start_ns = effect.at_ns

    def _check_hooks(self, facts: _Facts, alloc: str, name: str, model: _Model) -> None:
        """Check that a task that starts for the first time has its turn."""
        stage = model.plan.stage
        for other_name, other in facts.models.items():
            plan = other.plan
            if other is model:
                continue
            if stage == "poststop":
                waits = not plan.is_poststop and other.state is not DEAD
            elif plan.hook == "prestart" and not stage.startswith("prestart"):
                waits = not other.was_started if plan.sidecar else other.state is not DEAD or other.failed
            else:
                waits = (
                    plan.stage == "main"
                    and stage.startswith("poststart")
                    and not (other.was_started or other.state is DEAD)
                )
            if waits:
                self.fail("hooks", f"it starts ({stage}) while {other_name} is {other.state}", alloc, name)

    # --- groups ---

    def _waits_for_leader(self, facts: _Facts, allocation: Allocation) -> bool:
        """Tell whether the leader is being ended, and the others go on until it is dead, as the new client has it."""
        coordinated = allocation.memory
        if coordinated is None or not (coordinated.stop_waits or coordinated.group_waits):
            return False
        leader = facts.models.get(facts.group.leader if facts.group else "")
        if leader is None or leader.state is DEAD:
            return False
        memory = allocation.tasks[leader.plan.name].memory
        return memory is not None and memory.killed

    def _live(self, facts: _Facts, allocation: Allocation) -> Iterable[str]:
        """Yield the tasks that live and that nothing ends; none where they wait for the end of their leader."""
        if self._waits_for_leader(facts, allocation):
            return
        for name, model in facts.models.items():
            if model.state is DEAD or (self._is_new and model.plan.is_poststop):
                continue
            memory = allocation.tasks[name].memory
            if memory is None or not memory.killed:
                yield name

    def _check_siblings(self, facts: _Facts, allocation: Allocation) -> None:
        """Check that nothing lives on beside a task that failed, or without its leader."""
        causes: list[tuple[type[ev.TaskEvent], str]] = []
        for name, model in facts.models.items():
            if model.state is not DEAD or (self._is_new and model.plan.is_poststop):
                continue
            if model.failed:
                causes.append((ev.SiblingTaskFailed, f"{name} has failed"))
            elif model.plan.leader:
                causes.append((ev.LeaderTaskDead, f"the leader {name} is dead"))
        if not self._is_new:
            causes = [cause for cause in causes if cause[0] in self._rules]
        if causes:
            for name in self._live(facts, allocation):
                self.fail("siblings", f"{causes[0][1]}, and this task lives on", allocation.id, name)

    def _check_stop(self, facts: _Facts, allocation: Allocation) -> None:
        for name in self._live(facts, allocation):
            self.fail("stop", "the allocation is to stop, and this task lives on", allocation.id, name)

    def _check_collect(self, facts: _Facts, allocation: Allocation, *, has_collect: bool) -> None:
        is_over = all(model.state is DEAD for model in facts.models.values())
        if has_collect and (not is_over or facts.is_collectable):
            self.fail("collect", "it is to be collected again, or while a task lives", allocation.id)
        if is_over and not has_collect and not facts.is_collectable:
            self.fail("collect", "all tasks are dead, and nobody was told to collect it", allocation.id)
        facts.is_collectable = facts.is_collectable or has_collect

    def collected(self, record: Record) -> None:
        """Check the last record of an allocation."""
        facts = self._facts_of(record.alloc)
        self.records([record])
        if not facts.is_collectable:
            self.fail("collect", "it was collected while a task lived", record.alloc)
        del self._allocations[record.alloc]

    # --- everything ---

    def snapshot(self, alloc: str) -> None:
        """Check that the JSON of an allocation says what the fold says. O(length)."""
        state = self.core.read(alloc)
        snapshot = Snapshot.of(state, self.dialect)
        back = Snapshot.from_json(snapshot.to_json(self.dialect))
        for name, task in state.tasks.items():
            wire = back.tasks.get(name)
            if wire is None or wire.state != task.state or wire.failed != task.failed:
                self.fail("snapshot", f"the JSON says {wire}, where the fold says {task.state}", alloc, name)
            if [type(event) for event in wire.events] != [type(event) for event in task.events]:
                self.fail("snapshot", f"the JSON shows {_types(wire.events)}", alloc, name)
        right = state.client_status
        if "ClientStatus" not in state.updates and right is not None and back.client_status != right:
            self.fail("snapshot", f"the JSON says {back.client_status}, where the tasks say {right}", alloc)

    def restored(self, core: Core, *, now_ns: int) -> None:
        """Check that another core, made from checkpoint and log, is what this one is; go on with that one. O(tasks)."""
        before = self.core
        if (core.seq, core.index, len(core)) != (before.seq, before.index, len(before)):
            text = f"it has {core!r} at {core.seq}, where there was {before!r} at {before.seq}"
            self.fail("restored", text)
        for alloc, allocation in before.fold.allocations.items():
            one = core.find(alloc)
            if one is None or one.freeze() != allocation.freeze():
                self.fail("restored", "it is another one than the one that was folded", alloc)
            for name in allocation.tasks:
                due_ns = before.timers.get(alloc, name)
                if due_ns is not None and due_ns > now_ns and core.timers.get(alloc, name) != due_ns:
                    text = f"it was due at {due_ns}, and is due at {core.timers.get(alloc, name)}"
                    self.fail("restored", text, alloc, name)
        self.core = core
        for alloc, facts in self._allocations.items():
            for name, model in facts.models.items():
                model.ring = core.owned(alloc).tasks[name].slots

    def owed_again(self, steps: Iterable[Step], *, now_ns: int) -> None:
        """Check that, after a crash, the engine owes again what nobody has answered. O(tasks)."""
        owed = set()
        for step in steps:
            models = self._allocations[step.alloc].models
            for effect in step.effects:
                if isinstance(effect, StartTask):
                    models[effect.task].start_ns = effect.at_ns
                elif isinstance(effect, KillTask):
                    models[effect.task].kill_owed = True
                else:
                    continue
                owed.add((step.alloc, effect.task, type(effect)))
        for alloc, facts in self._allocations.items():
            tasks = self.core.owned(alloc).tasks
            for name, model in facts.models.items():
                if model.state is not DEAD:
                    self._check_owed_again(alloc, name, tasks[name], model, owed, now_ns)

    def _check_owed_again(
        self, alloc: str, name: str, task: Task, model: _Model, owed: set[tuple[str, str, type[Any]]], now_ns: int
    ) -> None:
        due_ns, timer_ns = due_of(task), self.core.timers.get(alloc, name)
        if due_ns is not None and due_ns > now_ns:
            if timer_ns != due_ns:
                self.fail("timers", f"it is due at {due_ns}, and after a crash at {timer_ns}", alloc, name)
            return
        is_killed = task.memory is not None and task.memory.killed
        if model.start_ns is not None and not is_killed and (alloc, name, StartTask) not in owed:
            self.fail("owed", f"its start is owed since {model.start_ns}, and not after a crash", alloc, name)
        if model.kill_owed and (alloc, name, KillTask) not in owed:
            self.fail("owed", "its kill was owed, and is not owed after a crash", alloc, name)

    def all(self) -> None:
        """Check every allocation, and the JSON of some hundred of them. O(tasks)."""
        apart = 1 + len(self._allocations) // _SNAPSHOTS
        for place, (alloc, facts) in enumerate(self._allocations.items()):
            allocation = self.core.fold.allocations[alloc]
            for name, model in facts.models.items():
                self._check_task(alloc, name, allocation.tasks[name], model)
            self._check_siblings(facts, allocation)
            if place % apart == 0:
                self.snapshot(alloc)


def _types(events: Iterable[Any]) -> str:
    return "[" + ", ".join(type(event).__name__ for event in events) + "]"
