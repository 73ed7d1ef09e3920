"""Any Python value at every entrance of an engine: what each call is made of, and what must be true afterwards."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import Raw

from taskfold import Engine, ManualClock, Record, Snapshot, events, inputs, replay, verify
from taskfold.errors import TaskfoldError
from taskfold.events import EVENT_TYPES
from taskfold.log.check import check_log
from taskfold.model.record import Finished, Placed, Updated, Write
from taskfold.nomad.importing.observation import Observation, observation_from_json


class Mine(events.TaskEvent, frozen=True, kw_only=True, tag="Mine"):
    """A type of one's own."""

    note: str = ""


class MyStarted(events.Started, frozen=True, kw_only=True, tag="Started"):
    """A known type with one field more."""

    note: str = ""


class MyInput(inputs.Input, frozen=True, kw_only=True, tag="Started"):
    """An input of one's own."""


class Reason(str, enum.Enum):  # noqa: UP042 - a StrEnum would print as its text
    """A text that prints as something else."""

    OOM = "out of memory"


class Code(enum.IntEnum):
    """A number that is one of few."""

    LOST = 137


class Endless(dict):  # type: ignore[type-arg]
    """Has no end."""

    def __init__(self) -> None:
        super().__init__()
        self["self"] = self


def one_of_these(*values: Any) -> st.SearchStrategy[Any]:
    """Return one of these values; a strategy that has them would show all of them in each of its names."""
    return st.integers(0, len(values) - 1).map(values.__getitem__)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


RAW = one_of_these(
    *[
        Raw(b""),
        Raw(b"1"),
        Raw(b"not json"),
        Raw(b' {"a" : 1} '),
        Raw(b'{"a":\n1}'),
        Raw(b'{"a":\r1}'),
        Raw(b'{"a":"\xff"}'),
        Raw(b'{"a":"\\ud800"}'),
        Raw(b'1},"cleared":["JobID"]'),
        Raw(b'1},"Cleared":["JobID"],"Fields":{"x":2'),
        Raw(b"[" * 100 + b"]" * 100),
        Raw(b"[" * 200 + b"]" * 200),
        Raw(b"[" * 2000 + b"]" * 2000),
        Raw(b"1e400"),
        Raw(b"9" * 5000),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=20),
    one_of_these(*["a", "web", "", "\0", "\ud800", "\u2028", '"', "\\", "x" * 5000, "Started", "running", "é"]),
)
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    one_of_these(*[0, 1, -9, 2**31, 2**63, 2**64, -(2**63) - 1, 10**4000, Code.LOST, Reason.OOM]),
    st.floats(),
    st.just(1.7e18),
    TEXTS,
    st.binary(max_size=8),
    st.sampled_from(
        [
            decimal.Decimal("1.5"),
            dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
            uuid.UUID(int=7),
            object(),
            Endless(),
            events.Started,
            events.Started(),
            inputs.ProcessStarted(),
            Mine(),
            msgspec.UNSET,
        ]
    ),
    st.sampled_from([100, 300, 2000]).map(nested),
    RAW,
)
ANY = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(TEXTS | st.integers(0, 9), inner, max_size=3)
        | st.sets(st.integers(), max_size=2)
    ),
    max_leaves=6,
)


def structs(*classes: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Return structs with any values in any of their fields."""

    def build(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
        return (
            st.dictionaries(st.sampled_from(cls.__struct_fields__), ANY, max_size=2).map(lambda values: cls(**values))
            if cls.__struct_fields__
            else st.just(cls())
        )

    return st.sampled_from(classes).flatmap(build)


KEPT = structs(events.Extras)
TASK_EVENTS = st.one_of(
    structs(*(row.cls for row in EVENT_TYPES), events.UnknownEvent, events.TaskEvent, Mine, MyStarted),
    st.builds(lambda kept: events.Started(extras=kept), KEPT | ANY),
)
EVENTS = st.one_of(TASK_EVENTS, structs(Finished, Placed, Updated), ANY)
INPUTS = st.one_of(structs(*inputs.INPUTS), st.just(MyInput()), ANY)
ALLOCS = st.one_of(st.just("a"), st.just("a"), st.just("b"), ANY)
TASKS = st.one_of(st.just("web"), st.just("web"), st.just(""), ANY)
OPTIONS = st.fixed_dictionaries({}, optional={"time_ns": ANY, "id": ANY, "expected_version": ANY})

JSON = st.one_of(
    one_of_these(
        *[
            b"",
            b"[]",
            b"5",
            b'{"ID":"c"}',
            b'{"ID":"c","Job":{"k":"\xff"}}',
            b'{"ID":"c","Job":{"k":"\\ud800"}}',
            b'{"ID":"c","ModifyIndex":7,"Job":{"Name":"' + b"x" * 300 + b'",\n  "Type": "batch"}}',
            b'{"ID":"c","Job":' + b'{"a":' * 985 + b"1" + b"}" * 986,
            b'{"ID":"c","Job":' + b'{"a":' * 126 + b"1" + b"}" * 127,
            b'{"ID":"c","ModifyIndex":7,"Job":1e400}',
            b'{"ID":"c","ModifyIndex":' + b"1" * 5000 + b"}",
            b'{"ID":"c","ModifyIndex":8,"TaskStates":{"web":{"State":"running","Events":[{"Type":"Started","Time":5}]}}}',
            b'{"ID":"c","ModifyIndex":9,"TaskStates":{"web":{"State":"x","Events":[{"Type":5,"Time":"y"}]}}}',
            b'{"ID":"","ModifyIndex":9}',
            b'{"ID":"c\\u0000","ModifyIndex":9,"JobID":5}',
        ]
    ),
    st.binary(max_size=30),
)
ALLOCATIONS = st.one_of(
    JSON,
    JSON.map(lambda text: text.decode(errors="replace")),
    ANY,
    st.builds(
        lambda name, value: {"ID": "c", name: value},
        st.sampled_from(["Job", "Name", "CreateTime", "TaskStates", "Foo", "NodeID", "ID"]),
        ANY,
    ),
)


def observed(text: bytes) -> Any:
    """Return the observation that a text tells; the text where it tells none."""
    try:
        return observation_from_json(text)
    except TaskfoldError:
        return text


OBSERVATIONS = st.one_of(
    JSON.map(observed),
    st.builds(
        Observation,
        kind=st.sampled_from(["body", "stream", "stub"]),
        alloc=st.just("d") | ANY,
        index=st.just(9) | ANY,
        fields=st.just({"ID": b'"d"'}) | st.dictionaries(TEXTS, st.binary(max_size=5), max_size=2) | ANY,
        tasks=st.none() | ANY,
    ),
    ANY,
)
WRITES = st.one_of(
    st.builds(
        lambda alloc, task, event, more: Write(alloc=alloc, task=task, event=event, **more),
        ALLOCS,
        TASKS,
        EVENTS,
        OPTIONS,
    ),
    ANY,
)

CALLS: dict[str, st.SearchStrategy[Callable[[Engine], object]]] = {
    "place": st.builds(
        lambda allocation, time_ns: lambda engine: engine.place(allocation, time_ns=time_ns),
        ALLOCATIONS,
        st.none() | ANY,
    ),
    "record": st.builds(
        lambda *a: lambda engine: engine.record(a[0], a[1], a[2], **a[3]), ALLOCS, TASKS, EVENTS, OPTIONS
    ),
    "append": st.builds(lambda writes: lambda engine: engine.append(writes), st.lists(WRITES, min_size=1, max_size=3)),
    "update": st.builds(
        lambda alloc, fields, more: lambda engine: engine.update(alloc, fields, **more),
        ALLOCS,
        st.dictionaries(st.sampled_from(["Foo", "DesiredStatus", "Job"]) | TEXTS, ANY, max_size=2) | ANY,
        OPTIONS,
    ),
    "report": st.builds(
        lambda *a: lambda engine: engine.report(a[0], a[1], a[2], **a[3]), ALLOCS, TASKS, INPUTS, OPTIONS
    ),
    "collect": st.builds(
        lambda alloc, reason, time_ns: lambda engine: engine.collect(alloc, reason=reason, time_ns=time_ns),
        st.just("ended") | ANY,
        ANY,
        st.none() | ANY,
    ),
}
OBSERVE: st.SearchStrategy[Callable[[Engine], object]] = st.builds(
    lambda observations: lambda engine: engine.observe(*observations), st.lists(OBSERVATIONS, min_size=1, max_size=2)
)
WRITING = st.lists(st.one_of(*CALLS.values()), min_size=1, max_size=6)
MIRRORING = st.lists(OBSERVE, min_size=1, max_size=6)


def begin(engine: Engine) -> None:
    """Write what is there before the calls."""
    engine.place({"ID": "a", "JobID": "example"})
    engine.place({"ID": "ended", "JobID": "example"})
    engine.record("ended", "web", events.NotRestarting())


def state_of(engine: Engine) -> tuple[int, dict[str, bytes], list[Record]]:
    """Return all that an engine shows: every allocation can be shown."""
    shown = {snapshot.id or "": snapshot.to_json() for snapshot in engine.allocations()}
    return engine.index, shown, list(engine.store.log.read_all())


def make_calls(engine: Engine, calls: list[Callable[[Engine], object]]) -> None:
    """Make every call: it is refused with a documented error, and nothing has changed, or all can be shown still."""
    for call in calls:
        before = state_of(engine)
        try:
            call(engine)
        except TaskfoldError:
            assert state_of(engine) == before
        state_of(engine)
        engine.store._check()


def clock() -> ManualClock:
    return ManualClock(1_795_422_578_000_000_000)


def check_read_again(name: str, before: tuple[int, dict[str, bytes], list[Record]]) -> None:
    """Check that a log that was closed is read as what its engine was."""
    with Engine.open(name) as engine:
        assert state_of(engine) == before
    fold = replay(name).fold()
    shown = {alloc: Snapshot.of(fold[alloc], fold.dialect).to_json() for alloc in fold if not fold[alloc].collected}
    assert shown == before[1]
    check = check_log(name)
    assert check.is_whole, check.damages
    assert verify(name).agrees
