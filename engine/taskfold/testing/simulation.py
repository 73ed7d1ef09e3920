"""A simulated cluster: thousands of allocations on nodes that fail, from one integer.

A `Simulation` drives a real `taskfold.Core`. Around it are agents with processes, and a network between them and the
scheduler which loses, delays, reorders and repeats what they report. Agents are restarted, nodes are lost or cut off,
operators stop, restart and signal, and the scheduler itself crashes and restarts from its log. After every step the
invariants of `taskfold.testing.invariants` are checked. Nothing depends on anything but the arguments: the same seed
gives the same records, byte for byte, in any process.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, NamedTuple

from msgspec import Struct

from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING
from taskfold.live.core import Core
from taskfold.log.checkpoint import from_parts, to_parts
from taskfold.log.contract import Append, EventLog
from taskfold.log.entries import event_digest
from taskfold.model import inputs
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect, dialect_of
from taskfold.model.effects import KillTask, ReleaseResources, SignalTask, StartTask, Step
from taskfold.model.inputs import Input
from taskfold.model.record import Collected, Record
from taskfold.testing._agents import SimulatedAllocation, SimulatedNode, SimulatedPlace, SimulatedProcess, SimulatedTask
from taskfold.testing._plan import GROUP, HOUR_NS, SECOND_NS, Operation, job_of, operations_of, request_of
from taskfold.testing.histories import BEGIN_NS
from taskfold.testing.invariants import BrokenInvariant, Checker, Violation

__all__ = ["Moment", "Simulation", "Summary"]

_MS: Final = 1_000_000
_PLACES_A_NODE: Final = 20
_PLACES_A_JOB: Final = 25
_GRACE_NS: Final = 30 * SECOND_NS
"""How long the scheduler cannot reach a node until it takes it for lost."""
_KEPT_NS: Final = HOUR_NS
"""How long an allocation that has ended is kept."""
_APPENDED_AT_ONCE: Final = 2_000
_CHECKPOINT_AFTER: Final = 50_000
"""After so many records a checkpoint is taken, or when there are some for each allocation."""

# How likely what goes wrong is, of a report or of a start.
_LOSS_RATE: Final = 0.02
_LATE_RATE: Final = 0.05
_REPEAT_RATE: Final = 0.02
_FAILURES: Final[tuple[tuple[float, Input], ...]] = (
    (0.015, inputs.StartFailed(error="failed to start container: image not found", recoverable=True)),
    (0.016, inputs.StartFailed(error="exec: no such file or directory")),
    (0.024, inputs.DownloadFailed(error="dial tcp: i/o timeout")),
    (0.0245, inputs.ValidationFailed(error="task configuration is not valid")),
    (0.025, inputs.SetupFailed(error="failed to build task directory")),
)
_HOOK_FAILURE: Final = (0.028, inputs.HookFailed(hook="template", error="missing key", recoverable=True))
_OUT_OF_MEMORY: Final = inputs.Exited(exit_code=137, signal=9, oom_killed=True)
_END: Final = inputs.Exited(exit_code=143, signal=15)
_SUCCESS: Final = inputs.Exited()
_UNKNOWN: Final = inputs.Exited(exit_code=None)
_START: Final = inputs.ProcessStarted()
_PLACEMENT: Final = inputs.PlacementReceived()


class Summary(Struct, frozen=True, kw_only=True):
    """The result of a simulation."""

    seed: int
    dialect: str
    simulated_ns: int
    """How much time passed in it (nanoseconds)."""
    allocations: int
    """How many were placed."""
    reports: int
    """How many inputs the engine was given."""
    records: int
    restarts: int
    deaths: int
    failures: int
    """How many of the tasks that died had failed."""
    crashes: int
    """How often the scheduler went on from its log."""
    operations: int
    """How much else happened to the cluster from outside."""
    lost: int
    """How many reports got lost, and were sent again or never."""
    repeated: int
    """How many reports came twice."""
    violations: tuple[Violation, ...] = ()
    """Empty, or the first invariant that was broken: there the simulation ends."""


class Moment(NamedTuple):
    """A step of a simulation, for watchers."""

    time_ns: int
    """From the beginning (nanoseconds)."""
    task: str
    input: Input
    step: Step


class _Ids:
    """The IDs of the records, as a log knows them."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def digest_of(self, id: str) -> int | None:
        """Return the digest of the record of an ID; None where there is none."""
        record = self.records.get(id)
        return None if record is None else event_digest(record.alloc, record.task, record.event)


class Simulation:
    """A cluster of nodes with `allocations` places, for some `hours`.

    `seed` says all that happens. Records go into `log`, too, if there is one; it has to be empty. `only` and
    `operations` name the places and the operations that are to be left, by their numbers, in place of all of them; what
    happens to those is the same as among all.

    >>> summary = Simulation(allocations=5, seed=7, hours=0.5).run()
    >>> summary.violations, summary == Simulation(allocations=5, seed=7, hours=0.5).run()
    ((), True)
    """

    def __init__(
        self,
        *,
        allocations: int = 100,
        seed: int = 0,
        hours: float = 1.0,
        dialect: str | Dialect = DEFAULT_DIALECT,
        log: EventLog | None = None,
        only: Collection[int] | None = None,
        operations: Collection[int] | None = None,
        on_moment: Callable[[str, Moment], object] | None = None,
    ) -> None:
        if allocations < 1:
            raise ValueError(f"there is at least one allocation, not {allocations}")
        if only is not None and not all(0 <= number < allocations for number in only):
            others = ", ".join(str(number) for number in sorted(only) if not 0 <= number < allocations)
            raise ValueError(f"there are the places 0 to {allocations - 1}, not {others}")
        if not 0 < hours < 1e6:
            raise ValueError(f"it takes more than 0 hours, and fewer than a million, not {hours}")
        if log is not None and log.seq:
            raise ValueError(f"the log has {log.seq:,} records already: begin another one")
        self.dialect = dialect_of(dialect)
        if log is not None and log.header.dialect != self.dialect.name:
            raise ValueError(f"the log is of dialect {log.header.dialect}, not {self.dialect.name}")
        self.seed = seed
        self.allocations = allocations
        self.hours = hours
        self.only = None if only is None else frozenset(only)
        self.log = log
        self.duration_ns = int(hours * HOUR_NS)
        every = operations_of(seed, nodes=self._node_count, places=allocations, duration_ns=self.duration_ns)
        self._choice = None if operations is None else frozenset(operations)
        self.operations = every if operations is None else [one for one in every if one.number in operations]
        """An external incident of the cluster."""
        self.now_ns = BEGIN_NS
        self._on_moment = on_moment
        self._ids = _Ids()
        self.core = Core(self.dialect, ids=self._ids)
        self.checker = Checker(self.core)
        self._rng = Random(f"{seed}/due")
        self._agenda: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._turn = 0
        self._due_ns: int | None = None
        self._outages = 0
        """Why the scheduler is down: so many reasons."""
        self._waiting: list[tuple[Callable[[Any], None], Any]] = []
        """The action once it is up again."""
        self._is_calm = False
        self._allocations: dict[str, SimulatedAllocation] = {}
        self._nodes = [SimulatedNode(number) for number in range(self._node_count)]
        self._places: list[SimulatedPlace] = []
        self._tail: list[Record] = []
        """The records since the checkpoint."""
        self._checkpoint: list[bytes] = []
        self._pending: list[Record] = []
        """The records that are not in the log yet."""
        self._placements = self._reports = self._crashes = self._happened = self._lost = self._repeats = 0

    def part(
        self,
        places: Collection[int],
        operations: Collection[int],
        *,
        on_moment: Callable[[str, Moment], object] | None = None,
    ) -> Simulation:
        """Return the same simulation of only these places and operations, by their numbers; it has no log."""
        return Simulation(
            allocations=self.allocations,
            seed=self.seed,
            hours=self.hours,
            dialect=self.dialect,
            only=places,
            operations=operations,
            on_moment=on_moment,
        )

    def command(self) -> str:
        """Return the command that runs this simulation."""
        words = [
            f"taskfold simulate --allocations {self.allocations} --seed {self.seed} --hours {self.hours:g}",
            f"--dialect {self.dialect.name}",
        ]
        if self.only is not None:
            words.append(f"--only {_numbers_text(self.only)}")
        if self._choice is not None:
            words.append(f"--operations {_numbers_text(self._choice)}")
        return " ".join(words)

    @property
    def _node_count(self) -> int:
        return max(3, self.allocations // _PLACES_A_NODE)

    # --- the run ---

    def run(self) -> Summary:
        """Let it happen, all of it or up to the first violation; return what did. Raises LogError of a log."""
        violations: tuple[Violation, ...] = ()
        with _collector_paused():
            try:
                self._prepare()
                self._run_until(BEGIN_NS + self.duration_ns)
                self._come_to_rest()
                self._flush()
            except BrokenInvariant as broken:
                violations = (broken.violation,)
        checker = self.checker
        return Summary(
            seed=self.seed,
            dialect=self.dialect.name,
            simulated_ns=min(self.now_ns - BEGIN_NS, self.duration_ns),
            allocations=self._placements,
            reports=self._reports,
            records=self.core.seq,
            restarts=checker.restarts,
            deaths=checker.deaths,
            failures=checker.failures,
            crashes=self._crashes,
            operations=self._happened,
            lost=self._lost,
            repeated=self._repeats,
            violations=violations,
        )

    def _prepare(self) -> None:
        """Plan the placements, and what happens from outside."""
        jobs = max(5, self.allocations // _PLACES_A_JOB)
        planned = {}
        for number in range(self.allocations):
            if self.only is not None and number not in self.only:
                continue
            kind = number % jobs
            if kind not in planned:
                planned[kind] = job_of(self.seed, kind, self.dialect)
            place = SimulatedPlace(self.seed, number, planned[kind], self._nodes[number % len(self._nodes)])
            self._places.append(place)
            self._at(BEGIN_NS + int(place.chance() * 60 * SECOND_NS), self._place, place)
        for operation in self.operations:
            self._at(BEGIN_NS + operation.time_ns, self._operate, operation)
        self._by_number = {place.number: place for place in self._places}

    def _at(self, time_ns: int, action: Callable[[Any], None], argument: Any) -> None:
        self._turn += 1
        heappush(self._agenda, (time_ns, self._turn, action, argument))

    def _run_until(self, end_ns: int) -> None:
        """Let everything happen that is planned up to a time."""
        agenda = self._agenda
        while True:
            due_ns = None if self._outages else self._due_ns
            if agenda and (due_ns is None or agenda[0][0] <= due_ns):
                if agenda[0][0] > end_ns:
                    break
                self.now_ns, _, action, argument = heappop(agenda)
                action(argument)
            elif due_ns is not None and due_ns <= end_ns:
                self.now_ns = max(due_ns, self.now_ns)
                self._report_due()
            else:
                break
        self.now_ns = end_ns

    # --- the scheduler ---

    def _report(
        self, allocation: SimulatedAllocation, pairs: Sequence[tuple[str, Input]], id: str | None = None
    ) -> Step | None:
        """Report to the engine, check what it did, and have it carried out; None where the allocation is gone."""
        if allocation.is_collected:
            return None
        self._reports += 1
        core = self.core
        try:
            if len(pairs) == 1:
                ((task, report),) = pairs
                step = core.report(allocation.id, task, report, now_ns=self.now_ns, rng=allocation.place.rng, id=id)
            else:
                step = core.report_all(allocation.id, pairs, now_ns=self.now_ns, rng=allocation.place.rng, id=id)
        except Exception as error:  # noqa: BLE001 - whatever a report raises, it was not answered
            self.checker.fail("answers", f"{pairs} was answered by {error!r}", allocation.id, pairs[0][0])
        records = core.ready()
        if self._on_moment is not None:
            for task, report in pairs:
                self._on_moment(allocation.id, Moment(self.now_ns - BEGIN_NS, task, report, step))
        self._keep(records)
        self.checker.step(step, records, pairs)
        if id is not None and records:
            self._ids.records[id] = records[0]
            allocation.ids.append(id)
        if step.effects:
            self._carry_out(allocation, step)
        self._due_ns = core.timers.next_ns
        return step

    def _report_due(self) -> None:
        """Have the engine decide what is due."""
        core = self.core
        steps = core.due(self.now_ns, rng=self._rng)
        self._reports += len(steps)
        records = core.ready()
        self._keep(records)
        start = 0
        for step in steps:
            allocation = self._allocations[step.alloc]
            end = start + len(step.writes)
            if self._on_moment is not None:
                moment = Moment(self.now_ns - BEGIN_NS, "", inputs.TimerDue(), step)
                self._on_moment(allocation.id, moment)
            if step.outcome != "decided":
                self.checker.fail("answers", f"what was due is {step.outcome}: {step.notes}", step.alloc)
            self.checker.step(step, records[start:end])
            start = end
            self._carry_out(allocation, step)
        self._due_ns = core.timers.next_ns
        if self._due_ns is not None and self._due_ns <= self.now_ns:
            self.checker.fail("timers", f"what was due at {self._due_ns} is due still at {self.now_ns}")

    def _keep(self, records: Sequence[Record]) -> None:
        """Have records in the log before anything follows from them.

        A log is given some thousand at once; what the simulated scheduler finds after a crash is all of them.
        """
        self._tail += records
        if self.log is not None:
            self._pending += records
            if len(self._pending) >= _APPENDED_AT_ONCE:
                self._flush()

    def _flush(self) -> None:
        if self.log is None or not self._pending:
            return
        appends: list[Append] = []
        newest: list[Record] = []
        index = 0
        for record in self._pending:
            if not newest or newest[-1].alloc != record.alloc or index != record.index:
                newest = []
                appends.append(Append(record.alloc, record.version - 1, newest))
                index = record.index
            newest.append(record)
        self._pending = []
        self.log.append_all(appends)

    def _carry_out(self, allocation: SimulatedAllocation, step: Step) -> None:
        """Send what is owed to the agent; it gets the orders of an allocation in their order, each of them."""
        for effect in step.effects:
            if type(effect) is ReleaseResources:
                self._end(allocation)
            else:
                self._send_order(allocation, effect)

    def _send_order(self, allocation: SimulatedAllocation, order: object) -> None:
        due_ns = self.now_ns + 2 * _MS + int(allocation.place.chance() * 40 * _MS)
        if due_ns <= allocation.last_order_ns:
            due_ns = allocation.last_order_ns + 1
        allocation.last_order_ns = due_ns
        self._at(due_ns, self._deliver_order, (allocation, order))

    def _end(self, allocation: SimulatedAllocation) -> None:
        """All tasks of an allocation are dead: its place is free, and it is collected some time later."""
        allocation.is_ended = True
        allocation.node.allocations.pop(allocation.id, None)
        self._at(self.now_ns + _KEPT_NS, self._collect, allocation)
        self._free(allocation)

    def _free(self, allocation: SimulatedAllocation) -> None:
        """Plan the next allocation in the place of this one."""
        place = allocation.place
        if place.allocation is allocation:
            place.allocation = None
            self._at(self.now_ns + int((1 + 20 * place.chance()) * SECOND_NS), self._place, place)

    def _place(self, place: SimulatedPlace) -> None:
        """SimulatedPlace the next allocation of a place."""
        if self._is_calm:
            return
        if self._outages:
            self._waiting.append((self._place, place))
            return
        if place.node.is_lost and place.job.type != "system":
            place.node = self._next_node(place.node)
        node = place.node
        place.generation += 1
        alloc = f"{place.number:08x}-{place.generation:04x}-4000-8000-{self.seed % 2**48:012x}"
        job = place.job
        allocation = SimulatedAllocation(alloc, place, node)
        body = {
            "ID": alloc,
            "Name": f"{job.id}.{GROUP}[{place.number}]",
            "NodeID": f"node-{node.number}",
            "JobID": job.id,
            "TaskGroup": GROUP,
            "DesiredStatus": "run",
            "Job": job.text,
        }
        self.core.place(body, time_ns=self.now_ns)
        records = self.core.ready()
        self._keep(records)
        self.checker.records(records)
        self._placements += 1
        place.allocation = allocation
        self._allocations[alloc] = allocation
        node.allocations[alloc] = allocation
        self._send_order(allocation, _PLACEMENT)

    def _next_node(self, node: SimulatedNode) -> SimulatedNode:
        """Return the next node that is not lost; the same one where all are."""
        nodes, place = self._nodes, node.number + 1
        return next((other for other in (*nodes[place:], *nodes[:place]) if not other.is_lost), node)

    def _collect(self, allocation: SimulatedAllocation) -> None:
        """Write the last record of an allocation, and forget it."""
        if self._outages:
            self._waiting.append((self._collect, allocation))
            return
        core = self.core
        state = core.owned(allocation.id)
        record = Record(
            seq=core.seq + 1,
            index=core.index + 1,
            alloc=allocation.id,
            version=state.version + 1,
            time_ns=self.now_ns,
            event=Collected(reason="it has ended"),
        )
        core.apply([record])
        self._keep([record])
        self.checker.collected(record)
        self._due_ns = core.timers.next_ns
        allocation.is_collected = True
        for name in allocation.ids:
            del self._ids.records[name]
        del self._allocations[allocation.id]

    # --- the crash of the scheduler ---

    def _crash(self, lasting_ns: int) -> None:
        """Let the scheduler die; what it had not sent is lost."""
        self._outages += 1
        self._at(self.now_ns + lasting_ns, self._come_up, None)
        for allocation in self._allocations.values():
            allocation.orders = []

    def _come_up(self, _: None) -> None:
        """Restart the scheduler from checkpoint and log."""
        self._outages -= 1
        if self._outages:
            return
        self._crashes += 1
        self._restore()
        steps = self.core.restore(self.now_ns, rng=self._rng)
        self._keep(self.core.ready())
        self.checker.owed_again(steps, now_ns=self.now_ns)
        for step in steps:
            self._carry_out(self._allocations[step.alloc], step)
        for allocation in self._allocations.values():
            if not self.core.owned(allocation.id).tasks and not allocation.is_ended:
                self._send_order(allocation, _PLACEMENT)
        self._due_ns = self.core.timers.next_ns
        self._take_up(self._waiting)
        self._waiting = []

    def _take_up(self, waiting: Sequence[tuple[Callable[[Any], None], Any]]) -> None:
        """Plan what had to wait, some of it later than other."""
        for action, argument in waiting:
            self._at(self.now_ns + _MS, action, argument)

    def _restore(self) -> None:
        """Make an engine of what is kept, see that it is the one that there was, and go on with it."""
        self._flush()
        core = Core(self.dialect, ids=self._ids)
        if self._checkpoint:
            checkpoint = from_parts(iter(self._checkpoint), self.dialect)
            if checkpoint is None:
                self.checker.fail("restored", "its own checkpoint does not fit")
            core.load(checkpoint)
        core.take(self._tail)
        core.plan_all()
        self.checker.restored(core, now_ns=self.now_ns)
        self.core = core
        self._checkpoint = list(to_parts(core.seq, core.fold, core.positions))
        self._tail = []

    # --- the network ---

    def _send(
        self,
        allocation: SimulatedAllocation,
        task: str,
        report: Input,
        id: str | None,
        process: SimulatedProcess | None = None,
    ) -> None:
        """Send a report to the scheduler, over a network that loses, delays and repeats."""
        chance = allocation.place.chance
        luck, delay = chance(), chance()
        delay_ns = 2 * _MS + int(delay * 50 * _MS)
        if not self._is_calm:
            if luck < _LOSS_RATE:
                # The agent sends it again when nobody has answered.
                self._lost += 1
                delay_ns += SECOND_NS + int(delay * 9 * SECOND_NS)
            elif luck < _LATE_RATE:
                delay_ns += int(delay * 3 * SECOND_NS)
        node = allocation.node
        message = (allocation, task, report, id, node.epoch, process)
        self._at(self.now_ns + delay_ns, self._deliver, message)
        if luck > 1 - _REPEAT_RATE and not self._is_calm and id is not None:
            self._repeats += 1
            self._at(self.now_ns + delay_ns + int(delay * 20 * SECOND_NS), self._deliver, message)

    def _deliver(self, message: Any) -> None:
        """Have a report arrive at the scheduler, unless its agent is gone; else it waits."""
        allocation, task, report, name, epoch, process = message
        node = allocation.node
        if node.epoch != epoch:
            self._lost += 1
        elif node.partitions:
            node.reports.append((self._deliver, message))
        elif self._outages:
            self._waiting.append((self._deliver, message))
        elif process is None:
            self._report(allocation, ((task, report),), name)
        else:
            if not process.is_start_delivered and process.was_alive:
                # Whatever is reported of a process tells that it was started.
                process.is_start_delivered = True
                self._report(allocation, ((task, _START),), f"{process.name}started")
            if report is process.end:
                process.is_end_delivered = True
            if report is not _START:
                step = self._report(allocation, ((task, report),), name)
                if type(report) is inputs.KillFailed and step is not None and step.outcome == "late":
                    # It was started after the end of its task: nobody but its agent tries that again.
                    simulated = allocation.tasks[task]
                    self._at(self.now_ns + 5 * SECOND_NS, self._die, (simulated, process, _UNKNOWN))

    def _deliver_order(self, delivery: tuple[SimulatedAllocation, object]) -> None:
        allocation, order = delivery
        node = allocation.node
        if node.partitions or node.outages or allocation.is_restoring or allocation.orders:
            allocation.orders.append(order)
        else:
            self._obey(allocation, order)

    def _deliver_held(self, allocation: SimulatedAllocation) -> None:
        """Have an agent do what it could not be told before."""
        node = allocation.node
        if node.partitions or node.outages or allocation.is_restoring:
            return
        orders, allocation.orders = allocation.orders, []
        for order in orders:
            self._obey(allocation, order)

    # --- the agents ---

    def _obey(self, allocation: SimulatedAllocation, order: Any) -> None:
        """Do what the scheduler wants."""
        kind = type(order)
        if kind is StartTask:
            self._start(allocation.tasks[order.task], order)
        elif kind is KillTask:
            self._kill(allocation.tasks[order.task], order)
        elif kind is SignalTask:
            self._signal(allocation.tasks[order.task])
        else:
            allocation.has_arrived = True
            self._send(allocation, "", _PLACEMENT, f"{allocation.id}/placed")

    def _start(self, task: SimulatedTask, order: StartTask) -> None:
        """Start a process, unless that was done."""
        process, allocation = task.process, task.allocation
        is_known = order.at_ns <= task.ordered_ns
        task.ordered_ns = max(order.at_ns, task.ordered_ns)
        if process is not None and process.is_starting:
            return
        if process is not None and process.is_alive:
            self._send_started(task, process)
            return
        if process is not None and process.end is not None and (is_known or not process.is_end_delivered):
            self._send_end(task, process)
            return
        if is_known:
            return
        task.processes += 1
        process = task.process = SimulatedProcess(f"{task.prefix}{task.processes}/")
        chance = allocation.place.chance
        luck, delay = chance(), chance()
        if task.processes == 1:
            self._send(allocation, task.name, inputs.SetUp(), f"{process.name}set-up")
        if luck > 0.95:
            message = inputs.DriverMessage(message="Downloading image redis:3.2")
            self._send(allocation, task.name, message, f"{process.name}message")
        if not self._is_calm and luck < _HOOK_FAILURE[0]:
            failures = (*_FAILURES, _HOOK_FAILURE) if self.dialect.has_new_client else _FAILURES
            process.failure = next((failure for limit, failure in failures if luck < limit), None)
        self._at(self.now_ns + 50 * _MS + int(delay * 2 * SECOND_NS), self._begin, (task, process))

    def _begin(self, start: tuple[SimulatedTask, SimulatedProcess]) -> None:
        """Have a start be over: the process runs, or could not be started."""
        task, process = start
        if not process.is_starting:
            return
        process.is_starting = False
        allocation = task.allocation
        if process.failure is not None:
            if not allocation.node.outages:
                self._send(allocation, task.name, process.failure, f"{process.name}failed")
            return
        process.is_alive = process.was_alive = True
        behaviour = task.behaviour
        run_ns = int(behaviour.run_ns * (1 + 2 * allocation.place.chance()))
        self._at(self.now_ns + run_ns, self._exit, (task, process))
        self._send_started(task, process)

    def _send_started(self, task: SimulatedTask, process: SimulatedProcess) -> None:
        self._send(task.allocation, task.name, _START, f"{process.name}started", process)

    def _exit(self, exit: tuple[SimulatedTask, SimulatedProcess]) -> None:
        """Have a process end by itself."""
        task, process = exit
        if process.is_alive and not self._is_calm:
            chance = task.allocation.place.chance
            end = _SUCCESS
            if chance() < task.behaviour.failure_rate:
                luck = chance()
                end = _OUT_OF_MEMORY if luck < 0.1 else inputs.Exited(exit_code=1 if luck < 0.8 else 2)
            self._end_process(task, process, end)

    def _end_process(self, task: SimulatedTask, process: SimulatedProcess, end: inputs.Exited) -> None:
        process.is_alive = False
        process.end = end
        if not task.allocation.node.outages:
            self._send_end(task, process)

    def _send_end(self, task: SimulatedTask, process: SimulatedProcess) -> None:
        assert process.end is not None
        self._send(task.allocation, task.name, process.end, f"{process.name}exited", process)

    def _kill(self, task: SimulatedTask, order: KillTask) -> None:
        """End the process of a task, or the start of one."""
        process, allocation = task.process, task.allocation
        if process is None or (process.end is None and not process.is_starting and not process.is_alive):
            # Nothing is there whose exit code could be known.
            self._send(allocation, task.name, _UNKNOWN, None)
        elif process.is_starting:
            process.is_starting = False
            process.end = _UNKNOWN
            self._send_end(task, process)
        elif not process.is_alive:
            self._send_end(task, process)
        elif not process.is_dying:
            luck, delay = allocation.place.chance(), allocation.place.chance()
            process.is_dying = True
            if luck < 0.06 and not self._is_calm:
                self._fail_to_kill(task, process, order)
                return
            end, in_ns = _END, int(delay * 2 * SECOND_NS)
            if luck > 0.9 or in_ns > order.timeout_ns:
                end, in_ns = inputs.Exited(exit_code=137, signal=9), order.timeout_ns
            elif luck > 0.8:
                end = _SUCCESS
            self._at(self.now_ns + in_ns, self._die, (task, process, end))

    def _fail_to_kill(self, task: SimulatedTask, process: SimulatedProcess, order: KillTask) -> None:
        """Have the driver fail to end a process; when it is given up, the process ends by itself some time later."""
        process.kills_failed += 1
        process.is_dying = False
        failure = inputs.KillFailed(error="container is not running")
        self._send(task.allocation, task.name, failure, f"{process.name}kill/{process.kills_failed}", process)
        if order.attempt >= 5:
            process.is_dying = True
            self._at(self.now_ns + 60 * SECOND_NS, self._die, (task, process, _UNKNOWN))

    def _die(self, death: tuple[SimulatedTask, SimulatedProcess, inputs.Exited]) -> None:
        task, process, end = death
        if process.is_alive:
            self._end_process(task, process, end)

    def _signal(self, task: SimulatedTask) -> None:
        """Send a process a signal, which it may die of."""
        process = task.process
        if process is not None and process.is_alive and task.allocation.place.chance() < 0.1:
            self._end_process(task, process, inputs.Exited(exit_code=129, signal=1))

    # --- what happens from outside ---

    def _operate(self, operation: Operation) -> None:
        if self._is_calm:
            return
        self._happened += 1
        kind, target, lasting_ns = operation.kind, operation.target, operation.duration_ns
        if kind == "scheduler crash":
            self._crash(lasting_ns)
        elif kind == "agent restart":
            self._lose_agent(self._nodes[target], lasting_ns, survival=0.8)
        elif kind == "node loss":
            self._lose_agent(self._nodes[target], lasting_ns, survival=0.0)
            self._at(self.now_ns + min(_GRACE_NS, lasting_ns + SECOND_NS), self._miss, self._nodes[target])
        elif kind == "partition":
            node = self._nodes[target]
            node.partitions += 1
            self._at(self.now_ns + lasting_ns, self._heal, node)
            self._at(self.now_ns + min(_GRACE_NS, lasting_ns + SECOND_NS), self._miss, node)
        else:
            self._ask(operation)

    def _ask(self, operation: Operation) -> None:
        """Have an operator, a template or a health check ask for something."""
        place = self._by_number.get(operation.target)
        allocation = None if place is None else place.allocation
        if allocation is None:
            return
        if self._outages:
            self._waiting.append((self._ask, operation))
            return
        request = request_of(operation, self.dialect)
        if request is None:
            return
        of_all, report = request
        task = "" if of_all else next(name for name in ("web", "db") if name in allocation.tasks)
        if not task or task in self.core.owned(allocation.id).tasks:
            self._report(allocation, ((task, report),))

    def _lose_agent(self, node: SimulatedNode, lasting_ns: int, *, survival: float) -> None:
        """Let an agent die, with some of the processes on its node; it comes again later."""
        node.outages += 1
        node.epoch += 1
        node.reports = []
        for allocation in node.allocations.values():
            chance = allocation.place.chance
            for task in allocation.tasks.values():
                process = task.process
                if process is None:
                    continue
                if process.is_starting or (process.is_alive and chance() >= survival):
                    process.is_starting = process.is_alive = False
        self._at(self.now_ns + lasting_ns, self._return_agent, node)

    def _return_agent(self, node: SimulatedNode) -> None:
        """Let an agent come again, and say how it found its allocations."""
        node.outages -= 1
        if node.outages:
            return
        node.epoch += 1
        node.is_lost = False
        for allocation in list(node.allocations.values()):
            if allocation.has_arrived:
                self._find_again(allocation)
            else:
                self._deliver_held(allocation)

    def _find_again(self, allocation: SimulatedAllocation) -> None:
        """Report which processes of an allocation were found again, and how those ended that nobody heard of."""
        restored: list[tuple[str, Input]] = []
        for task in allocation.tasks.values():
            process = task.process
            if process is not None and process.end is not None and not process.is_end_delivered:
                self._send_end(task, process)
                continue
            is_alive = process is not None and process.is_alive
            if is_alive and process is not None and not process.is_start_delivered:
                self._send_started(task, process)
            restored.append((task.name, inputs.Restored(reattached=is_alive)))
        if not self.core.owned(allocation.id).tasks:
            self._send(allocation, "", _PLACEMENT, f"{allocation.id}/placed")
        allocation.is_restoring = True
        delay_ns = _MS + int(allocation.place.chance() * SECOND_NS)
        self._at(self.now_ns + delay_ns, self._restored, (allocation, restored, allocation.node.epoch))

    def _restored(self, message: tuple[SimulatedAllocation, list[tuple[str, Input]], int]) -> None:
        """Have a restarted agent tell how it found an allocation; only then it is given orders again."""
        allocation, restored, epoch = message
        node = allocation.node
        if node.epoch != epoch:
            return
        if node.partitions:
            node.reports.append((self._restored, message))
            return
        if self._outages:
            self._waiting.append((self._restored, message))
            return
        allocation.is_restoring = False
        tasks = self.core.owned(allocation.id).tasks
        pairs = [pair for pair in restored if pair[0] in tasks]
        if pairs:
            self._report(allocation, pairs)
        if self.dialect.has_new_client:
            self._report(allocation, (("", inputs.ServerContacted()),))
        self._deliver_held(allocation)

    def _miss(self, node: SimulatedNode) -> None:
        """Have the scheduler take a node for lost that it could not reach for long."""
        if not (node.partitions or node.outages):
            return
        if self._outages:
            self._waiting.append((self._miss, node))
            return
        node.is_lost = True
        for allocation in list(node.allocations.values()):
            if self.dialect.has_new_client and node.partitions and allocation.place.chance() < 0.5:
                self._report(allocation, (("", inputs.NodeDisconnected()),))
            else:
                self._report(allocation, (("", inputs.NodeLost()),))
                self._free(allocation)

    def _heal(self, node: SimulatedNode) -> None:
        """Have the scheduler reach a node again."""
        node.partitions -= 1
        if node.partitions:
            return
        if not node.outages:
            node.is_lost = False
        reports, node.reports = node.reports, []
        for action, argument in reports:
            # In any order, as they happen to arrive.
            allocation = argument[0]
            self._at(self.now_ns + _MS + int(allocation.place.chance() * SECOND_NS), action, argument)
        for allocation in list(node.allocations.values()):
            self._at(self.now_ns + 2 * SECOND_NS, self._meet, allocation)

    def _meet(self, allocation: SimulatedAllocation) -> None:
        """Have the agent and the scheduler say what the other has not heard."""
        if self._outages:
            self._waiting.append((self._meet, allocation))
            return
        node = allocation.node
        if allocation.is_ended or node.partitions or node.outages:
            return
        if self.dialect.has_new_client:
            self._report(allocation, (("", inputs.NodeReconnected()),))
        elif self.core.snapshot(allocation.id).desired_status != "run":
            self._report(allocation, (("", inputs.StopRequested()),))
        self._deliver_held(allocation)

    # --- the end ---

    def _come_to_rest(self) -> None:
        """Let nothing more go wrong and no process end by itself, until nothing is under way; then check everything."""
        self._is_calm = True
        for node in self._nodes:
            while node.partitions:
                self._heal(node)
            while node.outages:
                self._return_agent(node)
        while self._outages:
            self._come_up(None)
        over = {self._come_up, self._heal, self._return_agent, self._collect}
        self._agenda = sorted(entry for entry in self._agenda if entry[2] not in over)
        self._run_until(self.now_ns + 48 * HOUR_NS)
        self.checker.all()
        self._check_rest()
        self._restore()

    def _check_rest(self) -> None:
        """Check that the tasks that run, and no others, have a process, and nothing is owed."""
        fail = self.checker.fail
        for allocation in self._allocations.values():
            tasks = self.core.owned(allocation.id).tasks
            for name, task in allocation.tasks.items():
                state = tasks.get(name)
                if state is None:
                    fail("rest", "it was never placed", allocation.id, name)
                process = task.process
                is_alive = process is not None and process.is_alive
                if is_alive != (state.state == RUNNING):
                    text = f"it is {state.state}, and has {'a' if is_alive else 'no'} process"
                    fail("rest", text, allocation.id, name)
                memory = state.memory
                if state.state == DEAD or memory is None:
                    continue
                if memory.killed or memory.restart:
                    fail("rest", "it is being ended for ever", allocation.id, name)
                if state.state == PENDING and (memory.start_at_ns is not None or memory.awaits_server):
                    fail("rest", f"it waits for ever to be started, since {memory.start_at_ns}", allocation.id, name)


def _numbers_text(numbers: Collection[int]) -> str:
    return ",".join(map(str, sorted(numbers))) or "none"


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's collector out: next to nothing here is in a cycle, and there is much to look at."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
