"""The plan of a simulated cluster: its jobs, its nodes, and what happens to them from outside.

All of it follows from one integer. What belongs to one place of an allocation is drawn from a generator of its own, so
that it is the same whatever else there is: a failure can be made smaller by leaving others out.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from taskfold.model import inputs
from taskfold.model.dialect import Dialect
from taskfold.model.inputs import Input

__all__ = [
    "GROUP",
    "HOUR_NS",
    "SECOND_NS",
    "Behaviour",
    "Operation",
    "OperationKind",
    "PlannedJob",
    "job_of",
    "operations_of",
    "request_of",
]

SECOND_NS: Final = 1_000_000_000
HOUR_NS: Final = 3600 * SECOND_NS

GROUP: Final = "group"
"""The name of the task group of every job."""

OperationKind: TypeAlias = Literal[
    "scheduler crash", "agent restart", "partition", "node loss",
    "stop", "evict", "kill", "restart", "signal", "template", "health",
]  # fmt: skip


class Behaviour(Struct, frozen=True):
    """How a task behaves: how long its processes run, and how often they fail."""

    name: str
    run_ns: int
    """How long a process runs at least (nanoseconds); at most it is three times as long."""
    failure_rate: float
    """The fraction of failures among processes that end by themselves."""


class PlannedJob(Struct, frozen=True):
    """A job, with what its tasks do when they run."""

    id: str
    type: str
    text: Raw
    """The job in Nomad's JSON."""
    tasks: dict[str, Behaviour]


class Operation(Struct, frozen=True):
    """Something that happens to the cluster from outside."""

    number: int
    """Its place among the operations of the seed, from 1: it stays the same when others are left out."""
    time_ns: int
    """When, from the beginning (nanoseconds)."""
    kind: OperationKind
    target: int = 0
    """The node, or the place of an allocation, that it happens to."""
    duration_ns: int = 0
    """How long it lasts (nanoseconds)."""


# --- jobs ---

_SHAPES: Final = ("one", "two", "leader", "sidecar", "hooks")


def job_of(seed: int, number: int, dialect: Dialect) -> PlannedJob:
    """Return one of the jobs of a seed; it is the same whatever other jobs there are.

    >>> from taskfold.model.dialect import dialect_of
    >>> job_of(7, 0, dialect_of("1.1.2")) == job_of(7, 0, dialect_of("1.1.2"))
    True
    """
    rng = Random(f"{seed}/job/{number}")
    kind = rng.choices(("service", "batch", "system"), (7, 2, 1))[0]
    # Each shape, and each type, is there among a few jobs.
    tasks = _tasks(_SHAPES[number % len(_SHAPES)], dialect, rng)
    behaviours: dict[str, Behaviour] = {}
    for task in tasks:
        if rng.random() < 0.3:
            task["KillTimeout"] = rng.choice((1, 20, 40)) * SECOND_NS
        if dialect.has_new_client and rng.random() < 0.15:
            task["ShutdownDelay"] = rng.choice((1, 10)) * SECOND_NS
        is_short = "Lifecycle" in task and not task["Lifecycle"]["Sidecar"]
        minutes = rng.choice((0.1, 0.2) if is_short else (3, 6, 12) if kind == "batch" else (0.5, 1, 2, 5))
        rate = rng.choice((0.02, 0.1) if is_short else (0.2, 0.5, 0.9))
        behaviours[task["Name"]] = Behaviour(task["Name"], int(minutes * 60 * SECOND_NS), rate)
    name = f"job-{number}"
    group = {"Name": GROUP, "RestartPolicy": _policy(rng), "Tasks": tasks}
    job = {"ID": name, "Name": name, "Type": kind, "TaskGroups": [group]}
    return PlannedJob(id=name, type=kind, text=Raw(msgspec.json.encode(job)), tasks=behaviours)


def _tasks(shape: str, dialect: Dialect, rng: Random) -> list[dict[str, Any]]:
    """Return the tasks of a group; hooks are left out where the dialect has none."""
    main: dict[str, Any] = {"Name": "web"}
    if shape == "one":
        return [main]
    if shape == "leader":
        return [main | {"Leader": True}, {"Name": "follower"}, {"Name": "logger"}]
    if shape == "two" or not dialect.has_new_client:
        return [main, {"Name": "db"}, *([{"Name": "cache"}] if rng.random() < 0.3 else [])]
    sidecar = {"Name": "proxy", "Lifecycle": {"Hook": "prestart", "Sidecar": True}}
    if shape == "sidecar":
        return [sidecar, main | ({"Leader": True} if rng.random() < 0.3 else {})]
    return [
        {"Name": "init", "Lifecycle": {"Hook": "prestart", "Sidecar": False}},
        main,
        {"Name": "announce", "Lifecycle": {"Hook": "poststart", "Sidecar": False}},
        {"Name": "cleanup", "Lifecycle": {"Hook": "poststop", "Sidecar": False}},
    ]


def _policy(rng: Random) -> dict[str, Any]:
    """Return a restart policy that every Nomad takes."""
    attempts = rng.choice((1, 2, 3, 5))
    delay_ns = rng.choice((0, 1, 5, 15)) * SECOND_NS
    interval_ns = max(attempts * delay_ns, rng.choice((5, 60, 300, 1800)) * SECOND_NS)
    mode = rng.choice(("fail", "delay", "delay", "delay"))
    if mode == "fail" and rng.random() < 0.1:
        attempts = 0
    return {"Attempts": attempts, "Interval": interval_ns, "Delay": delay_ns, "Mode": mode}


# --- operations ---

_OF_NODES: Final[dict[OperationKind, tuple[float, tuple[float, float]]]] = {
    "agent restart": (0.5, (2, 60)),
    "partition": (0.4, (1, 600)),
    "node loss": (0.1, (60, 3600)),
}
"""How often it happens to a node in an hour, and how long it lasts (seconds)."""

_OF_PLACES: Final[dict[OperationKind, float]] = {
    "stop": 0.15,
    "evict": 0.03,
    "kill": 0.03,
    "restart": 0.2,
    "signal": 0.2,
    "template": 0.1,
    "health": 0.05,
}
"""How often it happens to a place in an hour."""

_CRASHES_AN_HOUR: Final = 2.0
_CRASH_SECONDS: Final = (0.1, 30.0)


def operations_of(seed: int, *, nodes: int, places: int, duration_ns: int) -> list[Operation]:
    """Return what happens from outside in a time (nanoseconds), in order."""
    drafts: list[tuple[int, OperationKind, int, int]] = []
    rng = Random(f"{seed}/scheduler")
    drafts += _occurrences("scheduler crash", 0, _CRASHES_AN_HOUR, _CRASH_SECONDS, duration_ns, rng)
    for node in range(nodes):
        rng = Random(f"{seed}/node/{node}")
        for kind, (rate, lasting) in _OF_NODES.items():
            drafts += _occurrences(kind, node, rate, lasting, duration_ns, rng)
    for place in range(places):
        rng = Random(f"{seed}/place/{place}")
        for kind, rate in _OF_PLACES.items():
            drafts += _occurrences(kind, place, rate, (0, 0), duration_ns, rng)
    return [
        Operation(number, time_ns, kind, target, lasting_ns)
        for number, (time_ns, kind, target, lasting_ns) in enumerate(sorted(drafts), 1)
    ]


def _occurrences(
    kind: OperationKind, target: int, rate: float, lasting: tuple[float, float], duration_ns: int, rng: Random
) -> Iterable[tuple[int, OperationKind, int, int]]:
    """Yield when something happens: so many times an hour, one as likely at any time as at any other."""
    time_ns = 0
    while (time_ns := time_ns + int(rng.expovariate(rate) * HOUR_NS)) < duration_ns:
        yield time_ns, kind, target, int(rng.uniform(*lasting) * SECOND_NS)


def request_of(operation: Operation, dialect: Dialect) -> tuple[bool, Input] | None:
    """Return what somebody asks for, and whether of all tasks of an allocation; None where the dialect lacks it."""
    is_new, variant = dialect.has_new_client, operation.number % 4
    of_all = variant > 1
    request: Input | None = None
    match operation.kind:
        case "stop":
            of_all, request = True, inputs.StopRequested(migrate=variant == 0)
        case "evict":
            of_all, request = True, inputs.StopRequested(desired="evict", description="it had to make room")
        case "kill":
            request = inputs.KillRequested(reason="a secret has expired", fails_task=variant % 2 == 0)
        case "restart":
            request = inputs.RestartRequested(failure=is_new and variant == 1)
        case "signal":
            request = inputs.SignalRequested(signal="SIGHUP")
        case "template":
            mode: Literal["restart", "signal"] = "signal" if variant == 0 else "restart"
            of_all, request = False, inputs.TemplateChanged(change_mode=mode, signal="SIGHUP")
        case "health" if is_new:
            of_all, request = True, inputs.HealthFailed()
    return None if request is None else (of_all, request)
