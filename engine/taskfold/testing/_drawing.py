"""Numbers become events: what the strategies and the simulator make of a choice, by the lifecycle table.

A choice is a number of 14 bits: the lowest six say what happens, two more to which task, the others what the event
says beside its type. A number with its high bits cleared is the same event, said plainly; so Hypothesis shrinks a
history to few and plain events, and a seeded source of numbers gives the same histories without Hypothesis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import cycle, islice
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from taskfold.fold.lifecycle import PENDING, STATES, lifecycle_of
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.events import TaskEvent
from taskfold.model.policy import SUCCEEDED, UNRECOVERABLE, WITHIN_POLICY
from taskfold.model.record import Finished
from taskfold.nomad.events import event_fields

__all__ = [
    "CHOICES",
    "Draw",
    "Move",
    "MoveOutcome",
    "draw_of",
    "event_of",
    "illegal_moves",
    "moves",
    "outcomes",
    "pick",
    "task_event_of",
    "task_event_types",
]

T = TypeVar("T")
Move: TypeAlias = type[TaskEvent] | type[Finished]

_MOVES: Final = 64
_TASKS: Final = 4
_VARIANTS: Final = 64
CHOICES: Final = _MOVES * _TASKS * _VARIANTS
"""How many choices there are for one event."""

_SECOND: Final = 1_000_000_000

VALUES: Final[Mapping[str, Sequence[Any]]] = {
    "disk_limit": (0, 300 * 2**20),
    "download_error": ("", "error downloading artifact: unexpected status 404", "dial tcp: i/o timeout"),
    "driver_error": ("", "failed to start container: image not found", "exec: no such file or directory"),
    "driver_message": ("", "Downloading image redis:3.2"),
    "exit_code": (0, 1, 2, 126, 127, 137, 143),
    "failed_sibling": ("", "web", "sidecar"),
    "fails_task": (False, True),
    "generic_source": ("", "Template"),
    "kill_error": ("", "container not running"),
    "kill_reason": ("", "alloc is being stopped", "healthcheck: check is unhealthy"),
    "kill_timeout_ns": (5 * _SECOND, 0, 30 * _SECOND),
    "message": ("", "Building Task Directory", "exit status 1"),
    "oom_killed": (False, True),
    "restart_reason": (WITHIN_POLICY, "", SUCCEEDED, UNRECOVERABLE),
    "setup_error": ("", "failed to build task directory"),
    "signal": (0, 9, 15),
    "start_delay_ns": (15 * _SECOND, 0, 16_234_567_890),
    "task_signal": ("", "hangup", "user defined signal 1"),
    "task_signal_reason": ("", "Template re-rendered"),
    "validation_error": ("", "task configuration is not valid"),
}
"""Values of annotations on real Nomads, by attribute; the first is the plain one."""


class Draw(NamedTuple):
    """The meaning of one number."""

    move: int
    task: int
    variant: int


def draw_of(number: int) -> Draw:
    """Return what a number below `CHOICES` stands for."""
    rest, move = divmod(number, _MOVES)
    variant, task = divmod(rest, _TASKS)
    return Draw(move, task, variant)


def pick(options: Sequence[T], number: int) -> T:
    """Return one of the options; the first for 0."""
    return options[number % len(options)]


@cache
def _every(dialect: Dialect) -> tuple[Move, ...]:
    """Return a move of a dialect for each choice, in the order of its table, again and again."""
    return tuple(islice(cycle(lifecycle_of(dialect).rules), _MOVES))


@cache
def _legal(dialect: Dialect, state: str) -> tuple[Move, ...]:
    """Return a move for each choice in a state: the one of `_every` where that is its first place and it is legal.

    So a choice means the same event in every state that allows it, and a history stays one when an event is taken out.
    The other places have the legal moves in turn; every fourth of them leads on, to the state after the first in which
    most is legal. So a hundred short histories reach what there is to reach: without that, most of them would stay in
    the state in which they begin.
    """
    rules = lifecycle_of(dialect).rules
    legal = {each: [cls for cls, rule in rules.items() if rule.targets.get(each) is not None] for each in STATES}
    targets = {cls: rules[cls].targets[state] for cls in legal[state]}
    onward = [each for each in STATES if each not in {state, PENDING} and each in targets.values()]
    most = max(onward, key=lambda each: len(legal[each]), default=state)
    leading = cycle([cls for cls in legal[state] if targets[cls] == most])
    in_turn = cycle(legal[state])
    places: list[Move] = []
    free = 0
    for number, move in enumerate(_every(dialect)):
        if number < len(rules) and move in targets:
            places.append(move)
        else:
            free += 1
            places.append(next(in_turn if free % 4 else leading))
    return tuple(places)


def moves(dialect: str | Dialect, state: str | None) -> Sequence[Move]:
    """Return what is legal in a state, `Finished` among it, some of it more than once; in None, whatever there is.

    >>> from taskfold import events
    >>> events.Started in moves("1.1.2", "pending"), events.Received in moves("1.1.2", "running")
    (True, False)
    """
    nomad = dialect_of(dialect)
    return _every(nomad) if state is None else _legal(nomad, state)


class MoveOutcome(NamedTuple):
    """The outcome of a choice in a state."""

    cls: type[Any]
    variants: Sequence[Mapping[str, Any]]
    """The annotations of the event, for each variant; nothing for `Finished`."""
    state: str
    """The state of the task after it."""


@cache
def outcomes(dialect: Dialect, state: str, *, legal: bool) -> Sequence[MoveOutcome]:
    """Return what each choice does in a state, in the order of `moves`; made once, since each event asks for it."""
    rules = lifecycle_of(dialect).rules
    return tuple(
        MoveOutcome(
            cls,
            () if issubclass(cls, Finished) else _variants(cls, dialect),
            # With `get`, which is not noted as reached.
            rules[cls].targets.get(state) or state,
        )
        for cls in moves(dialect, state if legal else None)
    )


@cache
def illegal_moves(dialect: str | Dialect, state: str) -> Sequence[Move]:
    """Return what the dialect knows and refuses in a state; an event that it does not know is never refused."""
    rules = lifecycle_of(dialect).rules
    return tuple(cls for cls, rule in rules.items() if rule.targets.get(state) is None)


@cache
def task_event_types(dialect: Dialect) -> tuple[type[TaskEvent], ...]:
    """Return the types of task events that a dialect has, in the order of its table."""
    return tuple(cls for cls in lifecycle_of(dialect).rules if issubclass(cls, TaskEvent))


@cache
def _annotations(cls: type[TaskEvent], dialect: Dialect) -> tuple[tuple[str, Sequence[Any]], ...]:
    """Return the annotations of a type that the dialect's wire has, each with what it may say."""
    wire = {*event_fields(dialect)}
    # What only Details carries is there where they are.
    names = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    return tuple(
        (name, VALUES[name])
        for name, wire_name in names.items()
        if name in VALUES and (wire_name in wire or (name == "oom_killed" and "Details" in wire))
    )


@cache
def _variants(cls: type[TaskEvent], dialect: Dialect) -> tuple[Mapping[str, Any], ...]:
    """Return what events of a type may say, the plain one first; every value of every annotation is among them."""
    annotations = _annotations(cls, dialect)
    count = max((len(options) for _, options in annotations), default=1)
    count = min(count * len(annotations) or 1, _VARIANTS)
    return tuple(
        # Each annotation goes on at a pace of its own, so that they are combined in many ways.
        _agreeing(
            {
                name: pick(options, number // place if number else 0)
                for place, (name, options) in enumerate(annotations, 1)
            }
        )
        for number in range(count)
    )


def _agreeing(values: dict[str, Any]) -> dict[str, Any]:
    """Return values that can be true together: the exit code of a process that a signal ended is 128 more than it."""
    if values.get("oom_killed"):
        values["signal"] = 9
    if values.get("signal"):
        values["exit_code"] = 128 + values["signal"]
    return values


def task_event_of(cls: type[TaskEvent], variant: int, dialect: Dialect, time_ns: int = 0) -> TaskEvent:
    """Return a task event of a type; variant 0 is the plain one. O(annotations)."""
    return cls(time_ns=time_ns, **pick(_variants(cls, dialect), variant))


def event_of(move: Move, variant: int, dialect: Dialect, time_ns: int = 0) -> Any:
    """Return what happens in a move: a task event, or `Finished`, which says nothing beside its type."""
    return Finished() if issubclass(move, Finished) else task_event_of(move, variant, dialect, time_ns)
