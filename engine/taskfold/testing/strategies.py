"""Hypothesis strategies for what taskfold speaks of: events, histories, policies, jobs, inputs, allocations, streams.

Everything is drawn from the lifecycle tables and the rules of policies, so that nothing is made and thrown away again.
Values are those of real Nomads, unless ``nasty=True`` asks for the edges: 64-bit numbers, empty and long texts, quotes,
separators of lines. With `register`, which Hypothesis calls where taskfold is installed, ``st.from_type`` and
``st.builds`` make every public struct.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, overload

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from msgspec import UNSET, Raw, structs

from taskfold.decision.decision import Decision, FoldedAllocation
from taskfold.decision.group import Group, TaskPlan
from taskfold.decision.rules import ALLOCATION_RULES, RULES, decide, place_of
from taskfold.fold.allocation import Allocation, AllocationState, Fold
from taskfold.fold.lifecycle import PENDING, STATES, lifecycle_of
from taskfold.fold.ring import EventRing
from taskfold.fold.task import TaskState
from taskfold.model.dialect import DEFAULT_DIALECT, DIALECTS, Dialect, dialect_of
from taskfold.model.effects import Step, StepWrite
from taskfold.model.errors import IllegalEvent
from taskfold.model.events import EVENT_TYPES, EventType, Extras, TaskEvent, Terminated, UnknownEvent, wire_type
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
from taskfold.model.record import (
    INTERNAL_EVENTS,
    Finished,
    InternalEvent,
    Placed,
    Record,
    Write,
)
from taskfold.nomad.groups import group_of
from taskfold.nomad.snapshot import Snapshot
from taskfold.testing._drawing import CHOICES, event_of, illegal_moves, pick, task_event_of, task_event_types
from taskfold.testing.histories import BEGIN_NS, AllocationHistory, history_of

if TYPE_CHECKING:
    from taskfold.testing.worlds import World

__all__ = [
    "IllegalStep",
    "Stream",
    "allocations",
    "decided_histories",
    "events",
    "groups",
    "histories",
    "illegal_steps",
    "inputs",
    "internal_events",
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
_EDGES: Final = (
    "", '"', "\\", "\u2028\u2029", "</script>", "\x00\x7f", "naïve ☃ 🂡", "x" * 10_000, "a\nb\r\n",
    # Those that a format, a number or a duration could be taken for.
    "%d%(delay)s", "{}{0}", "unknown", "1234567891", "1.234567891s",
)  # fmt: skip
_TEXTS = st.one_of(
    # By their place: a strategy that has them would show all of them in each of its names.
    st.integers(0, len(_EDGES) - 1).map(_EDGES.__getitem__),
    st.text(st.characters(codec="utf-8"), max_size=40),
)

_JSON = st.recursive(
    st.none() | st.booleans() | _INT64 | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
)
_EXTRAS: Final = st.none() | st.builds(
    Extras,
    display_message=st.just(UNSET) | _TEXTS,
    details=st.just(UNSET) | st.none() | st.dictionaries(_TEXTS, _TEXTS, max_size=3),
    fields=st.dictionaries(_TEXTS, _JSON, max_size=3),
)
"""Fields that an unknown, newer Nomad may send beside the annotations."""

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

    Raises ValueError for no type at all.

    >>> from taskfold import events as ev
    >>> from hypothesis import find
    >>> find(events("0.5.6", [ev.Terminated]), lambda event: event.exit_code != 0).exit_code
    1
    """
    nomad = dialect_of(dialect)
    classes = tuple(types) if types is not None else task_event_types(nomad)
    if not classes:
        raise ValueError("there is no event of no type: types is empty")
    if nasty:
        return st.sampled_from(classes).flatmap(_nasty_event)
    return st.builds(
        lambda cls, variant, time_ns: task_event_of(cls, variant, nomad, time_ns),
        st.sampled_from(classes),
        st.integers(0, CHOICES - 1),
        st.integers(1, 2**60),
    )


def _nasty_event(cls: type[TaskEvent], *, is_known: bool = False) -> SearchStrategy[TaskEvent]:
    """Events of a type with annotations at the edges of their types; a known type has no fields beside them."""
    values: dict[str, SearchStrategy[Any]] = {"extras": st.none() if is_known else _EXTRAS}
    for name, default in zip(cls.__struct_fields__, cls.__struct_defaults__, strict=True):
        if name not in values:
            values[name] = (
                st.booleans() if isinstance(default, bool) else _INT64 if isinstance(default, int) else _TEXTS
            )
    if cls is Terminated:
        values["exit_code"] = _INT64 | st.none()
    return st.builds(cls, **values)


def internal_events(
    dialect: str | Dialect = DEFAULT_DIALECT, types: Iterable[type[InternalEvent]] | None = None
) -> SearchStrategy[InternalEvent]:
    """Return what a log has beside task events: placements, updates, gaps, corrections, ends, memories.

    They are of some types or of all; what reads a log has to expect each of them. Raises ValueError for no type at all.

    >>> from hypothesis import find
    >>> find(internal_events(types=[Finished]), lambda event: not event.dies).dies
    False
    """
    classes = tuple(types) if types is not None else INTERNAL_EVENTS
    if not classes:
        raise ValueError("there is no event of no type: types is empty")
    nomad = dialect_of(dialect)
    return st.one_of(*(_internal_event(cls, nomad) for cls in classes))


_WIRE_FIELDS = st.sampled_from(["ClientStatus", "DesiredStatus", "NodeID", "Meta"])
_RAW = _JSON.map(lambda value: Raw(json.dumps(value).encode()))


def _internal_event(cls: type[InternalEvent], dialect: Dialect) -> SearchStrategy[InternalEvent]:
    """Events of a type with any values; a placement without the body that only the first record has."""
    values: dict[str, SearchStrategy[Any]] = {
        "cleared": st.lists(_WIRE_FIELDS, max_size=2, unique=True).map(tuple),
        "fields": st.dictionaries(_WIRE_FIELDS, _RAW, max_size=3),
        "hidden": _BOOLEANS,
        "failed": _BOOLEANS,
        "older_events": st.none() | st.lists(events(dialect), max_size=3).map(tuple),
        "reason": st.sampled_from(["it has ended", ""]),
        "restart": st.sampled_from(["", "asked", "failed"]),
        "restarts": _COUNTS,
        "state": st.sampled_from(STATES),
    }
    required: dict[str, SearchStrategy[Any]] = {}
    optional: dict[str, SearchStrategy[Any]] = {}
    for each in structs.fields(cls):
        if each.name.endswith("_ns"):
            value = st.none() | _MOMENTS
        elif isinstance(each.default, bool):
            value = _BOOLEANS
        elif isinstance(each.default, int):
            value = _COUNTS
        elif each.name in values:
            value = values[each.name]
        else:
            continue
        (required if each.required else optional)[each.name] = value
    return st.fixed_dictionaries(required, optional=optional).map(lambda drawn: cls(**drawn))


_BOOLEANS: Final = st.booleans()
_COUNTS: Final = st.integers(0, 3)
_MOMENTS: Final = st.integers(1, 2**60)


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
    names = _names(tasks)
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


def _check_word(name: str, word: str, words: Sequence[str]) -> None:
    """Raise ValueError for a word that an option does not know."""
    if word not in words:
        raise ValueError(f"{name} is {' or '.join(map(repr, words))}, not {word!r}")


def _names(tasks: int | Sequence[str]) -> list[str]:
    """Return the names of tasks: so many, or those that are given."""
    return [f"task-{number}" for number in range(1, tasks + 1)] if isinstance(tasks, int) else [*tasks]


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
    """Restart policies that Nomad finds nothing wrong with. Raises ValueError for another mode, or fewer than 0.

    >>> from hypothesis import find
    >>> find(policies(min_attempts=1), lambda policy: True).errors()
    []
    """
    _check_word("mode", mode, ["", MODE_FAIL, MODE_DELAY])
    if min_attempts < 0:
        raise ValueError(f"a policy has 0 attempts or more, not {min_attempts}")

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
    tasks: int | Sequence[str] | None = None,
    min_tasks: int = 1,
    max_tasks: int = 4,
) -> SearchStrategy[_Job]:
    """Jobs of one group in Nomad's JSON, with valid restart policies, as `Engine.place` takes them.

    `leader` and `hooks` say whether one task leads and whether tasks have lifecycle hooks: always, never, or (None) at
    times. Hooks are left out where the dialect has none; a job that has them has two tasks at least, since one is
    none's hook. `tasks` is how many tasks there are, or their names; without it there are `min_tasks` to `max_tasks`.
    Raises ValueError for fewer tasks than a job with hooks needs, and for another type.

    >>> from hypothesis import find
    >>> job = find(jobs("1.1.2", tasks=["web", "proxy"], hooks=True), lambda _: True)
    >>> [(task["Name"], "Lifecycle" in task) for task in job["TaskGroups"][0]["Tasks"]]
    [('web', False), ('proxy', True)]
    """
    _check_word("type", type, ["", "service", "batch", "system"])
    nomad = dialect_of(dialect)
    has_hooks = nomad.has_new_client and hooks is not False
    needs_hook = bool(hooks) and has_hooks
    names = _names(tasks if tasks is not None else max_tasks)
    least = len(names) if tasks is not None else max(min_tasks, 2 if needs_hook else 1)
    needs = 2 if needs_hook else 1
    if not needs <= least <= len(names):
        count = f"{needs} task{'s' * needs_hook} at least"
        raise ValueError(f"a job{' with hooks' * needs_hook} has {count}, not {least} to {len(names)}")

    # Made once: a strategy that is made for each draw takes longer to make than to draw from.
    counts, places = (
        st.integers(least, len(names)),
        [st.integers(0, count - needs) for count in range(needs, len(names) + 1)],
    )
    kinds = st.just(type) if type else st.sampled_from(["service", "batch"])
    restarts, all_hooks, some_hooks = policies(), st.sampled_from(_HOOKS), st.sampled_from(["", *_HOOKS])

    @st.composite
    def job(draw: DrawFn) -> _Job:
        count = draw(counts)
        tasks: list[_Job] = [{"Name": name} for name in names[:count]]
        if leader or (leader is None and draw(_BOOLEANS)):
            tasks[draw(places[count - needs])]["Leader"] = True
        if has_hooks and (hooks or draw(_BOOLEANS)):
            for task in tasks[1:]:  # one main task at least
                hook = draw(all_hooks if needs_hook and task is tasks[-1] else some_hooks)
                if hook and not task.get("Leader"):
                    task["Lifecycle"] = {"Hook": hook, "Sidecar": hook != "poststop" and draw(_BOOLEANS)}
        policy = draw(restarts)
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
        return {"ID": "example", "Name": "example", "Type": draw(kinds), "TaskGroups": [group]}

    return job()


_HOOKS: Final = ("prestart", "poststart", "poststop")


def groups(
    dialect: str | Dialect = DEFAULT_DIALECT,
    *,
    type: Literal["", "service", "batch", "system"] = "",
    leader: bool | None = None,
    hooks: bool | None = None,
    tasks: int | Sequence[str] | None = None,
) -> SearchStrategy[Group]:
    """Return groups as `taskfold.decide` takes them; `jobs` has what the options mean.

    >>> from hypothesis import find
    >>> [*find(groups("1.1.2", tasks=2), lambda group: group.leader != "").tasks]
    ['task-1', 'task-2']
    """
    nomad = dialect_of(dialect)

    def group(job: _Job) -> Group:
        return group_of(json.dumps({"Job": job, "TaskGroup": "group"}).encode(), None, nomad)

    return jobs(nomad, type=type, leader=leader, hooks=hooks, tasks=tasks).map(group)


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


@overload
def inputs(
    subject: str | Dialect = ..., state: None = None, *, of: Literal["task", "allocation"] = ...
) -> SearchStrategy[Input]: ...
@overload
def inputs(subject: Group, state: FoldedAllocation | None = None) -> SearchStrategy[tuple[str, Input]]: ...
def inputs(
    subject: str | Dialect | Group = DEFAULT_DIALECT,
    state: FoldedAllocation | None = None,
    *,
    of: Literal["task", "allocation"] = "task",
) -> SearchStrategy[Any]:
    """Return inputs that a dialect knows, of a task or of an allocation as a whole; `TimerDue` is left out.

    For a group, and the state of its allocation (without one, nothing has happened yet), return a task and an input
    that fits where the task stands by the table of deciding: what can be reported next. No task is the allocation.

    >>> from hypothesis import find
    >>> find(inputs("0.5.6", of="allocation"), lambda _: True)
    PlacementReceived()
    >>> group = find(groups("1.1.2", tasks=["web"]), lambda _: True)
    >>> find(inputs(group), lambda report: report[0] == "web")
    ('web', PlacementReceived())
    """
    if isinstance(subject, Group):
        fitting = _fitting(subject, Allocation("") if state is None else state)
        return st.sampled_from(fitting).flatmap(
            lambda pair: st.tuples(st.just(pair[0]), input_of(pair[1], subject.dialect))
        )
    _check_word("of", of, ["task", "allocation"])
    nomad = dialect_of(subject)
    if of == "task":
        classes = [cls for cls in _input_types(nomad) if cls not in OF_ALLOCATION]
    else:
        classes = [cls for cls in _input_types(nomad) if cls in OF_ALLOCATION or cls in OF_EITHER]
    return st.sampled_from(classes).flatmap(lambda cls: input_of(cls, nomad))


def _input_types(dialect: Dialect) -> list[type[Input]]:
    """Return the types of inputs that a dialect knows, but what only a clock can say."""
    return [cls for cls in INPUTS if cls is not TimerDue and (dialect.has_new_client or cls not in NEW_CLIENT_ONLY)]


def _fitting(group: Group, state: FoldedAllocation) -> list[tuple[str, type[Input]]]:
    """Return each task with the inputs that fit where it stands, then those of the allocation. O(tasks)."""
    decision = Decision(state, group, 0, Random(0))
    places = {name: place_of(decision.task(name)) for name in decision.names()}
    kinds = _input_types(group.dialect)
    of_tasks = [
        (name, cls) for name, place in places.items() for cls in kinds if cls in RULES and place in RULES[cls].fits
    ]
    return [*of_tasks, *(("", cls) for cls in kinds if cls in ALLOCATION_RULES)]


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
    dialect: str | Dialect = DEFAULT_DIALECT, *, legal: bool = True, max_size: int = 20, nasty: bool = False
) -> SearchStrategy[Snapshot]:
    """Allocations as the API shows them: `Snapshot.to_json` gives the body, which is valid by the dialect's schema.

    With ``nasty=True`` a name of a task, and what the events say, are at the edges of what a Nomad could send.
    """
    nomad = dialect_of(dialect)
    if nasty:
        drawn = _nasty_histories(nomad, legal=legal, max_size=max_size)
    else:
        drawn = histories(nomad, legal=legal, max_size=max_size, tasks=2)
    return drawn.map(lambda history: Snapshot.of(history.fold(), nomad))


def _nasty_histories(dialect: Dialect, *, legal: bool, max_size: int) -> SearchStrategy[AllocationHistory]:
    """Histories whose events have any values that their types can hold; the time is one of a real Nomad."""

    @st.composite
    def history(draw: DrawFn) -> AllocationHistory:
        tasks = ["web", draw(st.sampled_from(["db", "naïve ☃", 'a "task"', "<b>", "x" * 200]))]
        plain = draw(histories(dialect, legal=legal, max_size=max_size, tasks=tasks))
        records = [record if not record.task else _nasty_record(draw, record) for record in plain.records]
        return structs.replace(plain, records=tuple(records))

    return history()


def _nasty_record(draw: DrawFn, record: Record) -> Record:
    """Return a record of an event of the same type, with values at the edges."""
    event = record.event
    if not isinstance(event, TaskEvent):
        return record
    nasty = draw(_nasty_event(type(event), is_known=True))
    return structs.replace(record, event=structs.replace(nasty, time_ns=event.time_ns))


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
    """Have ``st.from_type`` and ``st.builds`` make every public struct; installed, Hypothesis calls it.

    What comparisons and exports answer (`Verification`, `HistoryEntry`, `ExportSummary` and their parts), and the
    settings `Retention` and `AgentSettings`, are left out: an import of Hypothesis would wait for the modules that they
    are in.
    """
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
    st.register_type_strategy(Group, groups())
    st.register_type_strategy(TaskPlan, groups().flatmap(lambda group: st.sampled_from([*group.tasks.values()])))
    st.register_type_strategy(Dialect, st.sampled_from([*DIALECTS.values()]))
    st.register_type_strategy(EventType, st.sampled_from(EVENT_TYPES))
    st.register_type_strategy(AllocationHistory, histories())
    some = histories(min_size=1)
    st.register_type_strategy(Record, histories().flatmap(lambda history: st.sampled_from(history.records)))
    st.register_type_strategy(Write, histories().flatmap(lambda history: st.sampled_from(history.writes)))
    st.register_type_strategy(Placed, histories(max_size=0).map(lambda history: history.records[0].event))
    st.register_type_strategy(AllocationState, some.map(lambda history: history.fold()))
    st.register_type_strategy(TaskState, some.map(lambda history: history.fold().tasks["web"]))
    st.register_type_strategy(EventRing, some.map(_ring))
    st.register_type_strategy(Snapshot, allocations())
    st.register_type_strategy(Step, _steps())
    st.register_type_strategy(
        StepWrite, _steps().filter(_has_writes).flatmap(lambda step: st.sampled_from(step.writes))
    )
    for internal in INTERNAL_EVENTS:
        if internal is not Placed:
            st.register_type_strategy(internal, internal_events(types=[internal]))


def _ring(history: AllocationHistory) -> EventRing:
    """Return the ring of the task of a history."""
    ring = EventRing()
    for _, event in history.events:
        if isinstance(event, TaskEvent):
            ring.append(event)
    return ring


def _has_writes(step: Step) -> bool:
    return bool(step.writes)


def _steps() -> SearchStrategy[Step]:
    """Return what taskfold decides of an input to an allocation on which nothing has happened yet."""

    @st.composite
    def step(draw: DrawFn) -> Step:
        group = draw(groups())
        task, report = draw(inputs(group))
        return decide(Allocation("a"), group, report, task=task, now_ns=BEGIN_NS, rng=Random(0))

    return step()


register()
