"""Hypothesis strategies for what taskfold speaks of: events, histories, policies, jobs, inputs, allocations, streams.

Everything is drawn from the lifecycle tables and the rules of policies, so that nothing is made and thrown away again.
Values are those of real Nomads, unless ``nasty=True`` asks for the edges: 64-bit numbers, empty and long texts, quotes,
separators of lines. With `register`, which Hypothesis calls where taskfold is installed, ``st.from_type`` and
``st.builds`` make every public struct.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from taskfold.fold.allocation import Fold
from taskfold.fold.lifecycle import PENDING, STATES, lifecycle_of
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect, dialect_of
from taskfold.model.errors import IllegalEvent
from taskfold.model.events import EVENT_TYPES, Extras, TaskEvent, UnknownEvent, wire_type
from taskfold.model.inputs import (
    INPUTS,
    NEW_CLIENT_ONLY,
    OF_ALLOCATION,
    OF_EITHER,
    Input,
    NodeLost,
    RestartRequested,
    SignalRequested,
    StopRequested,
    TimerDue,
)
from taskfold.model.policy import MINIMUM_INTERVAL_NS, MODE_DELAY, MODE_FAIL, RestartPolicy
from taskfold.model.record import Finished, Placed, Record, Write
from taskfold.nomad.snapshot import Snapshot
from taskfold.testing._drawing import CHOICES, event_of, illegal_moves, pick, task_event_of, task_event_types
from taskfold.testing.histories import AllocationHistory, history_of

if TYPE_CHECKING:
    from taskfold.testing.worlds import World

__all__ = [
    "IllegalStep",
    "Stream",
    "allocations",
    "decided_histories",
    "events",
    "histories",
    "illegal_steps",
    "inputs",
    "jobs",
    "policies",
    "register",
    "streams",
    "worlds",
]

T = TypeVar("T")
_Job = dict[str, Any]

_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND

_INT64 = st.integers(-(2**63), 2**63 - 1)
_TEXTS = st.one_of(
    st.sampled_from(["", '"', "\\", "\u2028\u2029", "</script>", "\x00\x7f", "naïve ☃ 🂡", "x" * 10_000, "a\nb\r\n"]),
    st.text(st.characters(codec="utf-8"), max_size=40),
)

# One character is one choice: a text is drawn, and shrunk, many times as fast as a list of numbers.
_FIRST: Final = ord("0")
_CHOICES = st.characters(min_codepoint=_FIRST, max_codepoint=_FIRST + CHOICES - 1)


def _numbers(text: str) -> list[int]:
    """Return the choices that a text stands for."""
    return [ord(character) - _FIRST for character in text]


# --- events and histories ---


def events(
    dialect: str | Dialect = DEFAULT_DIALECT, types: Iterable[type[TaskEvent]] | None = None, *, nasty: bool = False
) -> SearchStrategy[TaskEvent]:
    """Task events of a dialect, of some types or of all that it has, with the annotations that apply to them.

    >>> from taskfold import events as ev
    >>> from hypothesis import find
    >>> find(events("0.5.6", [ev.Terminated]), lambda event: event.exit_code != 0).exit_code
    1
    """
    nomad = dialect_of(dialect)
    classes = tuple(types) if types is not None else task_event_types(nomad)
    if nasty:
        return st.sampled_from(classes).flatmap(_nasty_event)
    return st.builds(
        lambda cls, variant, time_ns: task_event_of(cls, variant, nomad, time_ns),
        st.sampled_from(classes),
        st.integers(0, CHOICES - 1),
        st.integers(1, 2**60),
    )


def _nasty_event(cls: type[TaskEvent]) -> SearchStrategy[TaskEvent]:
    """Events of a type whose annotations are at the edges of what their types can hold."""
    values: dict[str, SearchStrategy[Any]] = {}
    for name, default in zip(cls.__struct_fields__, cls.__struct_defaults__, strict=True):
        if name == "extras":
            continue
        values[name] = st.booleans() if isinstance(default, bool) else _INT64 if isinstance(default, int) else _TEXTS
    return st.builds(cls, **values)


def histories(
    dialect: str | Dialect = DEFAULT_DIALECT,
    *,
    legal: bool = True,
    min_size: int = 0,
    max_size: int = 40,
    tasks: int | Sequence[str] = 1,
) -> SearchStrategy[AllocationHistory]:
    """Histories of one allocation, each event one that the lifecycle table allows where it comes.

    With ``legal=False`` any event of the dialect comes anywhere. `tasks` is how many tasks there are at most (four), or
    their names. A history that fails shrinks to the fewest and plainest events. Raises ValueError for too many.

    >>> from hypothesis import find
    >>> find(histories("1.1.2"), lambda history: history.fold().tasks.get("web", None) is not None
    ...     and history.fold().tasks["web"].restarts == 2)
    <AllocationHistory 1.1.2: Restarting, Restarting>
    """
    name = dialect_of(dialect).name
    names = [f"task-{number}" for number in range(1, tasks + 1)] if isinstance(tasks, int) else [*tasks]
    if names == ["task-1"]:
        names = ["web"]
    if not 1 <= len(names) <= _MOST_TASKS:
        raise ValueError(f"a history has 1 to {_MOST_TASKS} tasks, not {len(names)}")
    texts = st.text(_CHOICES, min_size=min_size, max_size=max_size)

    @st.composite  # what fails is shown by its repr then, and not by how it was made
    def history(draw: DrawFn) -> AllocationHistory:
        return history_of(_numbers(draw(texts)), name, tasks=names, legal=legal)

    return history()


_MOST_TASKS: Final = 4


class IllegalStep(NamedTuple):
    """A history, an event that is refused after it, and the error that says so."""

    history: AllocationHistory
    event: TaskEvent | Finished
    error: IllegalEvent


def illegal_steps(dialect: str | Dialect = DEFAULT_DIALECT, *, max_size: int = 20) -> SearchStrategy[IllegalStep]:
    """Histories with an event that the lifecycle table refuses after them, and the `IllegalEvent` to expect."""
    nomad = dialect_of(dialect)
    lifecycle = lifecycle_of(nomad)

    def step(text: str, number: int) -> IllegalStep:
        history = history_of(_numbers(text), nomad.name)
        task = history.fold().tasks.get("web")
        state = task.state if task is not None else PENDING
        cls = pick(illegal_moves(nomad, state), number)
        event = event_of(cls, 0, nomad, history.records[-1].time_ns)
        error = IllegalEvent(
            task="web", state=state, event=wire_type(event), allowed=lifecycle.allowed(state), dialect=nomad.name
        )
        return IllegalStep(history, event, error)

    refusing = [state for state in STATES if illegal_moves(nomad, state)]
    assert refusing == [*STATES], "every state of every dialect refuses something"
    return st.builds(step, st.text(_CHOICES, max_size=max_size), st.integers(0, 255))


# --- policies and jobs ---


def policies(*, mode: Literal["", "fail", "delay"] = "", min_attempts: int = 0) -> SearchStrategy[RestartPolicy]:
    """Restart policies that Nomad finds nothing wrong with.

    >>> from hypothesis import find
    >>> find(policies(min_attempts=1), lambda policy: True).errors()
    []
    """

    def policy(mode: str, attempts: int, delay_ns: int, spare_ns: int) -> RestartPolicy:
        if mode == MODE_DELAY:
            attempts = max(attempts, 1)
        interval_ns = max(attempts * delay_ns, MINIMUM_INTERVAL_NS) + spare_ns
        return RestartPolicy(attempts=attempts, interval_ns=interval_ns, delay_ns=delay_ns, mode=mode)

    modes = st.just(mode) if mode else st.sampled_from([MODE_FAIL, MODE_DELAY])
    delays = st.sampled_from([_SECOND, 0, 15 * _SECOND, 25 * _SECOND]) | st.integers(0, 60 * _SECOND)
    return st.builds(policy, modes, st.integers(min_attempts, max(10, min_attempts)), delays, st.integers(0, _HOUR))


def jobs(
    dialect: str | Dialect = DEFAULT_DIALECT,
    *,
    type: Literal["", "service", "batch", "system"] = "",
    leader: bool | None = None,
    hooks: bool | None = None,
    min_tasks: int = 1,
    max_tasks: int = 4,
) -> SearchStrategy[_Job]:
    """Jobs of one group in Nomad's JSON, with valid restart policies, as `Engine.place` takes them.

    `leader` and `hooks` say whether one task leads and whether tasks have lifecycle hooks: always, never, or (None) at
    times. Hooks are left out where the dialect has none.
    """
    nomad = dialect_of(dialect)
    has_hooks = nomad.has_new_client and hooks is not False

    @st.composite
    def job(draw: DrawFn) -> _Job:
        count = draw(st.integers(min_tasks, max_tasks))
        tasks: list[_Job] = [{"Name": f"task-{number}"} for number in range(1, count + 1)]
        if leader or (leader is None and draw(st.booleans())):
            tasks[draw(st.integers(0, count - 1))]["Leader"] = True
        if has_hooks and (hooks or draw(st.booleans())):
            for task in tasks[1:]:  # one main task at least
                hook = draw(st.sampled_from(["", "prestart", "poststart", "poststop"]))
                if hook and not task.get("Leader"):
                    task["Lifecycle"] = {"Hook": hook, "Sidecar": hook != "poststop" and draw(st.booleans())}
        policy = draw(policies())
        group = {
            "Name": "group",
            "RestartPolicy": {
                "Attempts": policy.attempts,
                "Interval": policy.interval_ns,
                "Delay": policy.delay_ns,
                "Mode": policy.mode,
            },
            "Tasks": tasks,
        }
        kind = type or draw(st.sampled_from(["service", "batch"]))
        return {"ID": "example", "Name": "example", "Type": kind, "TaskGroups": [group]}

    return job()


# --- inputs and what is decided of them ---

_INPUT_VALUES: Final[dict[str, Sequence[Any]]] = {
    "change_mode": ("restart", "signal", "noop"),
    "description": ("alloc not needed due to job update", ""),
    "desired": ("stop", "evict"),
    "error": ("", "no such file or directory", "connection refused"),
    "exit_code": (0, 1, 2, 137, None),
    "failure": (False, True),
    "fails_task": (False, True),
    "hook": ("", "template", "artifacts"),
    "kind": ("start", "kill"),
    "message": ("", "Downloading image redis:3.2"),
    "migrate": (False, True),
    "missing": ((), ("consul.key(config)",)),
    "oom_killed": (False, True),
    "reason": ("", "healthcheck: check is unhealthy"),
    "reattached": (True, False),
    "recoverable": (True, False),
    "signal": (0, 9, 15),
}
_SIGNAL_NAMES: Final = ("SIGHUP", "SIGUSR1", "")


def inputs(
    dialect: str | Dialect = DEFAULT_DIALECT, *, of: Literal["task", "allocation"] = "task"
) -> SearchStrategy[Input]:
    """Return inputs that a dialect knows, of a task or of an allocation as a whole; `TimerDue` is left out.

    >>> from hypothesis import find
    >>> find(inputs("0.5.6", of="allocation"), lambda _: True)
    PlacementReceived()
    """
    nomad = dialect_of(dialect)
    classes = [cls for cls in INPUTS if cls is not TimerDue and (nomad.has_new_client or cls not in NEW_CLIENT_ONLY)]
    if of == "task":
        classes = [cls for cls in classes if cls not in OF_ALLOCATION]
    else:
        classes = [cls for cls in classes if cls in OF_ALLOCATION or cls in OF_EITHER]
    return st.sampled_from(classes).flatmap(lambda cls: input_of(cls, nomad))


def input_of(cls: type[Input], dialect: Dialect) -> SearchStrategy[Input]:
    """Return inputs of one type."""
    fields = {name: st.sampled_from(_INPUT_VALUES[name]) for name in cls.__struct_fields__}
    if not dialect.has_new_client:
        fields.pop("failure", None)  # that a failure asks for a restart is the new client's
    defaults = dict(zip(cls.__struct_fields__, cls.__struct_defaults__, strict=True))
    if defaults.get("signal") == "":
        fields["signal"] = st.sampled_from(_SIGNAL_NAMES)
    return st.builds(cls, **fields)


def worlds(
    dialect: str | Dialect = DEFAULT_DIALECT, *, job: SearchStrategy[_Job] | None = None, max_actions: int = 6
) -> SearchStrategy[World]:
    """Worlds in which something has happened: tasks that failed, wishes of operators, crashes, lost nodes.

    Time has passed after each action, so that the world is somewhere in the middle of its life.
    """
    # Who draws no world does not wait until an engine is imported.
    from taskfold.testing.worlds import World

    nomad = dialect_of(dialect)

    @st.composite
    def world(draw: DrawFn) -> World:
        placed_job = draw(jobs(nomad) if job is None else job)
        lived = World(placed_job, dialect=nomad, seed=draw(st.integers(0, 2**16)), failure_rate=draw(_RATES))
        for action, seconds in draw(st.lists(st.tuples(st.sampled_from(_ACTIONS), _SECONDS), max_size=max_actions)):
            action(lived)
            lived.run_for(seconds * _SECOND)
        return lived

    return world()


_RATES = st.sampled_from([0.0, 0.2, 0.5, 1.0])
_SECONDS = st.sampled_from([1, 0, 15, 600, 86_400])


def _ask(event: Input) -> Callable[[World], object]:
    """Return an action that reports something of every allocation that lives."""
    return lambda world: [world.report(alloc, "", event) for alloc in world.allocs if alloc not in world.collected]


_ACTIONS: Final[Sequence[Callable[[World], object]]] = (
    lambda _: None,
    _ask(RestartRequested()),
    _ask(SignalRequested(signal="SIGHUP")),
    _ask(StopRequested()),
    _ask(NodeLost()),
    lambda world: world.crash(),
    lambda world: world.crash(processes_survive=False),
    lambda world: world.lose(),
)


def decided_histories(
    dialect: str | Dialect = DEFAULT_DIALECT, *, job: SearchStrategy[_Job] | None = None, max_actions: int = 6
) -> SearchStrategy[AllocationHistory]:
    """Histories that taskfold itself decided, in a world of simulated drivers: restarts, siblings, leaders, hooks.

    What is in them can have happened on a real Nomad of the dialect, in this order.
    """

    def history(world: World) -> AllocationHistory:
        records = tuple(world.engine.history(world.allocs[0]))
        return AllocationHistory(dialect=world.dialect.name, records=records)

    return worlds(dialect, job=job, max_actions=max_actions).map(history)


# --- what clients read ---


def allocations(
    dialect: str | Dialect = DEFAULT_DIALECT, *, legal: bool = True, max_size: int = 20
) -> SearchStrategy[Snapshot]:
    """Allocations as the API shows them: `Snapshot.to_json` gives the body, which is valid by the dialect's schema."""
    nomad = dialect_of(dialect)
    return histories(nomad, legal=legal, max_size=max_size, tasks=2).map(
        lambda history: Snapshot.of(history.fold(), nomad)
    )


class Stream(NamedTuple):
    """The frames of an agent's event stream, and the resulting states."""

    lines: bytes
    """NDJSON, as ``/v1/event/stream`` answers it."""
    truth: Snapshot
    """The final allocation, if nothing is missed."""
    is_complete: bool
    """Every write is in it once at least, in order."""


def streams(
    dialect: str | Dialect = DEFAULT_DIALECT,
    *,
    gaps: bool = False,
    repeats: bool = False,
    reorder: bool = False,
    heartbeats: bool = False,
    cut: bool = False,
    max_size: int = 20,
) -> SearchStrategy[Stream]:
    """Event streams of an agent with one allocation, whole or damaged in the ways that are asked for.

    `gaps` leaves frames out, `repeats` sends some again, `reorder` swaps neighbours, `heartbeats` puts empty frames
    between them, and `cut` ends the last line too early.
    """
    nomad = dialect_of(dialect)

    @st.composite
    def stream(draw: DrawFn) -> Stream:
        history = draw(histories(nomad, min_size=1, max_size=max_size))
        frames = _frames(history, nomad)
        newest = frames[-1][1]
        lines = [line for line, _ in frames]
        is_complete = True
        if gaps and len(lines) > 1:
            keep = draw(st.lists(st.booleans(), min_size=len(lines) - 1, max_size=len(lines) - 1))
            remaining = [line for line, stays in zip(lines, [*keep, True], strict=True) if stays]
            is_complete, lines = len(remaining) == len(lines), remaining
        if reorder and len(lines) > 1:
            place = draw(st.integers(0, len(lines) - 2))
            lines[place : place + 2] = reversed(lines[place : place + 2])
            is_complete = False
        if repeats:
            place = draw(st.integers(0, len(lines) - 1))
            lines.insert(draw(st.integers(place + 1, len(lines))), lines[place])
        if heartbeats:
            lines.insert(draw(st.integers(0, len(lines))), b"{}")
        text = b"".join(line + b"\n" for line in lines)
        if cut:
            short = draw(st.integers(1, len(lines[-1])))
            text, is_complete = text[: -1 - short], False
        return Stream(text, newest, is_complete)

    return stream()


def _frames(history: AllocationHistory, dialect: Dialect) -> list[tuple[bytes, Snapshot]]:
    """Return a frame for every write of a history, with the allocation after it."""
    frames = []
    fold = Fold(dialect)
    for record in history.records:
        fold.apply(record)
        snapshot, index = Snapshot.of(fold[history.alloc], dialect), record.index
        body = json.loads(snapshot.to_json()) | {"CreateIndex": 1, "ModifyIndex": index}
        body.pop("Job", None)
        event = {
            "Topic": "Allocation",
            "Type": "AllocationUpdated" if record.version > 1 else "PlanResult",
            "Key": history.alloc,
            "Namespace": "default",
            "Index": index,
            "Payload": {"Allocation": body},
        }
        frames.append((json.dumps({"Index": index, "Events": [event]}).encode(), snapshot))
    return frames


# --- types ---


def register() -> None:
    """Have ``st.from_type`` and ``st.builds`` make every public struct; installed, Hypothesis calls it."""
    for row in EVENT_TYPES:
        st.register_type_strategy(row.cls, events(types=[row.cls]))
    st.register_type_strategy(TaskEvent, events())
    st.register_type_strategy(Extras, st.just(Extras()))
    st.register_type_strategy(
        UnknownEvent, st.builds(UnknownEvent, wire_type=st.just("Something New"), extras=st.none())
    )
    for cls in INPUTS:
        st.register_type_strategy(cls, input_of(cls, dialect_of(DEFAULT_DIALECT)))
    st.register_type_strategy(Input, inputs() | inputs(of="allocation"))
    st.register_type_strategy(RestartPolicy, policies())
    st.register_type_strategy(AllocationHistory, histories())
    st.register_type_strategy(Record, histories().flatmap(lambda history: st.sampled_from(history.records)))
    st.register_type_strategy(Write, histories().flatmap(lambda history: st.sampled_from(history.writes)))
    st.register_type_strategy(Placed, histories(max_size=0).map(lambda history: history.records[0].event))
    st.register_type_strategy(Snapshot, allocations())


register()
