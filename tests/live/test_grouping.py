"""Grouping: what threads and tasks write at the same time is written by one append, as if one had come after the other.

No test measures time: a log that waits at a gate has everybody come before it goes on.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.interrupting import interrupted
from support.postgres import Server, server
from support.worlds import HOW_MANY, JOB, SEED, World, goes_on, told, wrong_with
from taskfold import Engine, ManualClock, MemoryLog, events, inputs
from taskfold.errors import (
    AppendRefused,
    InputRefused,
    ListenerError,
    LogError,
    TaskfoldError,
    UnknownAllocation,
    VersionConflict,
)
from taskfold.inputs import PostedInput
from taskfold.live.grouping import WriteRequest
from taskfold.log.contract import Append
from taskfold.log.registry import open_log
from taskfold.model.record import Record, Write
from taskfold.testing import strategies as kit

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Have the interpreter close what was left open here, and not in the middle of somebody else's test."""
    yield
    gc.collect()


STORES: Final = ["memory", "x.jsonl", "x.db", "postgresql"]
PATIENCE: Final = 60.0
"""After how long a test gives up (seconds)."""


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=STORES)
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("database").new_schema())
    return str(request.param if request.param == "memory" else tmp_path / request.param)


class Gated:
    """A log that waits for a disk: its appends wait at a gate, and may fail."""

    def __init__(self, log: Any = None) -> None:
        self._log = MemoryLog("1.1.2") if log is None else log
        self.gate = threading.Event()
        self.gate.set()
        self.is_waiting = threading.Event()
        self.appends = 0
        self.fails_at: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def sync(self) -> None:
        """Do nothing: what was appended is stored."""

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        self.appends += 1
        number = self.appends
        self.is_waiting.set()
        assert self.gate.wait(PATIENCE)
        if number in self.fails_at:
            raise LogError("the disk is full")
        return list(self._log.append_all(appends))


class Calls:
    """Calls in threads of their own, and what came of each."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        self.threads: list[threading.Thread] = []

    def begin(self, call: Callable[[], Any]) -> None:
        place = len(self.threads)

        def run() -> None:
            try:
                self.results[place] = call()
            except Exception as error:  # noqa: BLE001 - it is the result
                self.results[place] = error

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def end(self) -> list[Any]:
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return [self.results[place] for place in range(len(self.threads))]


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    moment = threading.Event()
    for _ in range(int(PATIENCE * 1_000)):
        if condition():
            return
        moment.wait(0.001)
    raise AssertionError("it does not come")


def placed(engine: Engine, *allocs: str) -> None:
    for alloc in allocs:
        engine.place({"ID": alloc, "JobID": "example", "TaskGroup": "group", "Job": JOB})
        engine.report(alloc, "", inputs.PlacementReceived())


def gathered(engine: Engine, log: Gated, first: Callable[[], Any], *others: Callable[[], Any]) -> list[Any]:
    """Have others come, in this order, while a first one waits for the disk; return what came of each."""
    calls = Calls()
    log.is_waiting.clear()
    log.gate.clear()
    calls.begin(first)
    assert log.is_waiting.wait(PATIENCE)
    for count, call in enumerate(others, start=1 + len(engine._groups.requests)):
        calls.begin(call)
        until(lambda count=count: len(engine._groups.requests) == count)  # type: ignore[misc]
    log.gate.set()
    return calls.end()


@pytest.fixture
def log() -> Gated:
    return Gated()


@pytest.fixture
def engine(log: Gated) -> Engine:
    engine = Engine(log, clock=ManualClock(1_000), seed=1)
    placed(engine, "a", "b", "c")
    return engine


# --- what is written together ---


def test_who_come_while_somebody_writes_share_one_append(engine: Engine, log: Gated) -> None:
    before, index = log.appends, engine.index
    steps = gathered(
        engine, log, *[lambda a=a: engine.report(a, "web", inputs.ProcessStarted()) for a in ("a", "b", "c")]
    )
    assert log.appends == before + 2
    assert [(step.alloc, step.outcome) for step in steps] == [(a, "decided") for a in ("a", "b", "c")]
    assert engine.index == index + 3, "each write has its index"
    assert [engine.snapshot(a).modify_index for a in ("a", "b", "c")] == [index + 1, index + 2, index + 3]
    assert not engine._groups.requests
    engine._check()


def test_with_durability_each_every_write_is_an_append() -> None:
    log = Gated()
    engine = Engine(log, seed=1, durability="each")
    placed(engine, "a", "b", "c")
    before = log.appends
    calls = Calls()
    for a in ("a", "b", "c"):
        calls.begin(lambda a=a: engine.report(a, "web", inputs.ProcessStarted()))  # type: ignore[misc]
    calls.end()
    assert log.appends == before + 3


def test_another_durability_is_refused() -> None:
    with pytest.raises(TaskfoldError, match="expected a durability of 'batch' or 'each', found 'never'"):
        Engine(durability="never")  # type: ignore[arg-type]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_log_is_not_begun_for_a_durability_that_is_refused(tmp_path: Path, read_only: bool) -> None:
    for name in ("x.db", "x.jsonl"):
        with pytest.raises(TaskfoldError, match="expected a durability"):
            Engine.open(tmp_path / name, durability="never", read_only=read_only)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_reports_records_and_appends_of_one_allocation_are_written_in_the_order_they_came(
    engine: Engine, log: Gated
) -> None:
    before, seq = log.appends, engine.store.seq
    found = gathered(
        engine,
        log,
        lambda: engine.record("b", "web", events.Received()),
        lambda: engine.report("a", "web", inputs.ProcessStarted()),
        lambda: engine.record("a", "web", events.Signaling()),
        lambda: engine.append([Write(alloc=a, task="web", event=events.Terminated(exit_code=1)) for a in ("a", "b")]),
        lambda: engine.update("a", {"NodeID": "n"}),
        lambda: engine.place({"ID": "new"}),
        lambda: engine.report_all("c", [("web", inputs.ProcessStarted())]),
        lambda: engine.report_batch(
            [PostedInput(alloc=a, task="web", input=inputs.KillRequested()) for a in ("c", "c")]
        ),
    )
    assert not [one for one in found if isinstance(one, Exception)]
    assert log.appends == before + 2
    written = list(log.read_all(seq))
    assert [record.index for record in written] == sorted(record.index for record in written)
    assert [type(r.event).__name__ for r in written if r.alloc == "a"] == [
        "Started",
        "Signaling",
        "Terminated",
        "Updated",
    ]
    assert [record in written for record in (found[2], *found[3], found[4])] == [True] * 4
    engine._check()


def test_what_refuses_one_is_for_that_one_alone(engine: Engine, log: Gated) -> None:
    version = engine.store.fold["a"].version
    found = gathered(
        engine,
        log,
        lambda: engine.report("b", "web", inputs.ProcessStarted()),
        lambda: engine.report("a", "web", inputs.ProcessStarted(), expected_version=version),
        lambda: engine.report("a", "web", inputs.Exited(exit_code=0), expected_version=version),
        lambda: engine.report("nobody", "web", inputs.ProcessStarted()),
        lambda: engine.record("c", "web", events.Restarting(), expected_version=99),
        lambda: engine.report("c", "web", "started"),  # type: ignore[arg-type]
        lambda: engine.report("c", "web", inputs.ProcessStarted()),
    )
    kinds = [type(one) for one in found]
    assert kinds[2:6] == [VersionConflict, UnknownAllocation, VersionConflict, InputRefused]
    assert (found[2].expected_version, found[2].actual_version) == (version, version + 1)
    assert [found[n].outcome for n in (0, 1, 6)] == ["decided"] * 3
    engine._check()


def test_an_id_that_comes_twice_at_the_same_time_is_recorded_once(engine: Engine, log: Gated) -> None:
    seq = engine.store.seq
    found = gathered(
        engine,
        log,
        lambda: engine.report("b", "web", inputs.ProcessStarted()),
        *[lambda: engine.report("a", "web", inputs.ProcessStarted(), id="x")] * 3,
        *[lambda: engine.record("c", "web", events.Received(), id="y")] * 2,
        lambda: engine.report("b", "web", inputs.Exited(exit_code=0), id="x"),
    )
    assert [step.outcome for step in found[1:4]] == ["decided", "repeated", "repeated"]
    assert isinstance(found[4], Record)
    assert found[5] is None
    assert "IdConflict" in type(found[6]).__name__
    assert Counter(record.id for record in log.read_all(seq))["x"] == 1


def test_where_the_disk_fails_everybody_is_told_and_nothing_changed(engine: Engine, log: Gated) -> None:
    log.fails_at = {log.appends + 2}
    seq = engine.store.seq
    found = gathered(
        engine,
        log,
        lambda: engine.report("a", "web", inputs.ProcessStarted()),
        lambda: engine.report("b", "web", inputs.ProcessStarted()),
        lambda: engine.record("c", "web", events.Received()),
        lambda: engine.report("nobody", "web", inputs.ProcessStarted()),
    )
    assert found[0].outcome == "decided"
    assert [str(error) for error in found[1:]] == ["the disk is full"] * 3
    assert all(type(error) is LogError for error in found[1:])
    assert found[1] is not found[2], "each has an error of its own"
    assert engine.store.seq == seq + 1
    engine._check()
    assert engine.report("b", "web", inputs.ProcessStarted()).outcome == "decided"
    assert not engine.due()


def test_where_there_is_no_turn_everybody_who_waits_is_told(
    engine: Engine, log: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise LogError("somebody else holds the log")

    monkeypatch.setattr(engine._groups, "_write_all", refuse)
    found = gathered(
        engine, log, *[lambda a=a: engine.report(a, "web", inputs.ProcessStarted()) for a in ("a", "b", "c")]
    )
    assert found[0].outcome == "decided"
    assert [str(error) for error in found[1:]] == ["somebody else holds the log"] * 2
    assert not engine._groups.requests
    assert not engine._groups.roles


def test_who_waits_for_an_engine_that_is_closed_meanwhile_waits_not_for_ever(engine: Engine, log: Gated) -> None:
    calls = Calls()
    log.is_waiting.clear()
    log.gate.clear()
    calls.begin(lambda: engine.report("a", "web", inputs.ProcessStarted()))
    assert log.is_waiting.wait(PATIENCE)
    calls.begin(engine.close)
    calls.begin(lambda: engine.report("b", "web", inputs.ProcessStarted()))
    until(lambda: bool(engine._groups.requests))
    log.gate.set()
    step, _, found = calls.end()
    assert step.outcome == "decided"
    assert "the engine is closed" in str(found) or found.outcome == "decided"
    with pytest.raises(LogError, match="the engine is closed"):
        engine.report("c", "web", inputs.ProcessStarted())


def test_what_a_bound_model_hears_of_is_written_by_itself(engine: Engine, log: Gated) -> None:
    class Model:
        heard: list[str]

        def before_started(self, _: Any) -> None:
            self.heard.append("asked")

        def on_enter_running(self, _: Any) -> None:
            self.heard.append("running")

    model = Model()
    model.heard = []
    engine.bind("a", "web", model)
    found = gathered(
        engine,
        log,
        lambda: engine.report("b", "web", inputs.ProcessStarted()),
        lambda: engine.report("a", "web", inputs.ProcessStarted()),
        lambda: engine.report("c", "web", inputs.ProcessStarted()),
    )
    assert [step.outcome for step in found] == ["decided"] * 3
    assert model.heard == ["asked", "running"]


# --- who listens ---


def test_listeners_hear_of_every_step_in_the_order_of_the_records(engine: Engine, log: Gated) -> None:
    seq = engine.store.seq
    heard: list[str] = []
    engine.on_step(lambda step: heard.append(step.alloc))
    gathered(engine, log, *[lambda a=a: engine.report(a, "web", inputs.ProcessStarted()) for a in ("b", "a", "c")])
    assert heard == [record.alloc for record in log.read_all(seq)] == ["b", "a", "c"]


def test_a_listener_may_wait_for_another_thread_that_reports(engine: Engine, log: Gated) -> None:
    waits = [True]

    def listen(_: Any) -> None:
        if waits and waits.pop():
            calls = Calls()
            calls.begin(lambda: engine.report("c", "web", inputs.Exited(exit_code=0)))
            calls.begin(lambda: engine.report("b", "web", inputs.Exited(exit_code=0)))
            calls.end()

    calls = [lambda a=a: engine.report(a, "web", inputs.ProcessStarted()) for a in ("a", "b", "c")]
    engine.on_step(listen)
    assert [step.alloc for step in gathered(engine, log, *calls)] == ["a", "b", "c"]


def test_what_a_listener_raises_reaches_who_tells_with_his_own_step(engine: Engine, log: Gated) -> None:
    def listen(step: Any) -> None:
        if step.alloc != "a":
            raise ValueError(step.alloc)

    engine.on_step(listen)
    found = gathered(
        engine, log, *[lambda a=a: engine.report(a, "web", inputs.ProcessStarted()) for a in ("a", "b", "c")]
    )
    errors = [one for one in found if isinstance(one, ListenerError)]
    assert len(errors) == 1
    assert [str(problem) for problem in errors[0].exceptions] == ["b", "c"]
    place = found.index(errors[0])
    assert [step.alloc for step in errors[0].steps] == [("a", "b", "c")[place]]
    assert [one.alloc for one in found if one is not errors[0]] == [a for a in "abc" if a != "abc"[place]]


# --- several reports by one call ---


def test_a_batch_is_written_by_one_append_and_each_report_is_a_write(engine: Engine, log: Gated) -> None:
    before, index = log.appends, engine.index
    said = [inputs.ProcessStarted(), inputs.Exited(exit_code=1)]
    steps = engine.report_batch([PostedInput(alloc=a, task="web", input=one) for one in said for a in ("a", "b")])
    assert log.appends == before + 1
    assert engine.index == index + 4
    assert [step.alloc for step in steps] == ["a", "b", "a", "b"]
    assert engine.task("a", "web").restarts == 1
    assert engine.report_batch([]) == []
    assert not engine.due(), "the steps were returned"


def test_a_batch_with_a_refusal_names_all_of_them_and_records_nothing(engine: Engine, log: Gated) -> None:
    before = log.appends
    version = engine.store.fold["a"].version
    reports: list[Any] = [
        PostedInput(alloc="a", task="web", input=inputs.ProcessStarted(), expected_version=version),
        PostedInput(alloc="a", task="web", input=inputs.Exited(), expected_version=version),
        PostedInput(alloc="nobody", task="web", input=inputs.ProcessStarted()),
        PostedInput(alloc="b", task="web", input=inputs.ProcessStarted(), expected_version=version),
        "b",
    ]
    with pytest.raises(AppendRefused) as caught:
        engine.report_batch(reports)
    kinds = [(place, type(error)) for place, error in caught.value.refusals]
    assert kinds == [(1, VersionConflict), (2, UnknownAllocation), (4, InputRefused)]
    assert log.appends == before
    assert not engine.due()
    engine._check()
    for wrong in ("a", 5, reports[0]):
        with pytest.raises(InputRefused, match="expected a list of reports, such as"):
            engine.report_batch(wrong)


def test_a_batch_asks_a_bound_model_first_and_tells_it_of_each_event() -> None:
    class Model:
        def __init__(self) -> None:
            self.heard: list[str] = []
            self.refuses = True

        def before_started(self, _: Any) -> None:
            if self.refuses:
                raise ValueError("not now")

        def on_enter_running(self, _: Any) -> None:
            self.heard.append("running")

        def on_enter_pending(self, _: Any) -> None:
            self.heard.append("pending")

    engine = Engine(Gated(), seed=1)
    placed(engine, "a", "b")
    model = Model()
    engine.bind("a", "web", model)
    said = [inputs.ProcessStarted(), inputs.Exited(exit_code=1)]
    reports = [PostedInput(alloc=a, task="web", input=one) for one in said for a in ("a", "b")]
    seq = engine.store.seq
    with pytest.raises(TaskfoldError, match="not now"):
        engine.report_batch(reports)
    assert engine.store.seq == seq
    model.refuses = False
    steps = engine.report_batch(reports)
    assert [step.outcome for step in steps] == ["decided"] * 4
    assert model.heard[0] == "running"
    assert model.heard[-1] == model.state == "pending"  # type: ignore[attr-defined]
    engine._check()


REPORTED: Final = kit.inputs("1.1.2") | st.sampled_from(
    [
        # What leads on, so that the others meet a task in each of its states.
        inputs.PlacementReceived(),
        inputs.ProcessStarted(),
        inputs.Exited(exit_code=1),
        inputs.TimerDue(kind="start"),
    ]
)
REPORTS: Final = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "nobody"]),
        st.sampled_from(["web", "web", "db"]),
        REPORTED,
        st.sampled_from([None, None, "x", "y"]),
        st.sampled_from([None, None, None, 3]),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(first=REPORTS, reports=REPORTS)
def test_reports_that_are_written_together_are_as_if_one_had_come_after_the_other(
    first: list[Any], reports: list[Any]
) -> None:
    worlds = []
    for _ in range(2):
        engine = Engine(Gated(), clock=ManualClock(1_000), seed=1)
        placed(engine, "a", "b")
        for alloc, task, said, name, expected in first:
            with suppress(TaskfoldError):
                engine.report(alloc, task, said, id=name, expected_version=expected)
        worlds.append(engine)
    alone, together = worlds
    results: list[Any] = []
    for alloc, task, said, name, expected in reports:
        try:
            results.append(alone.report(alloc, task, said, id=name, expected_version=expected))
        except TaskfoldError as error:
            results.append(error)
    found = asked_together(together, reports)
    assert [str(one) for one in found] == [str(one) for one in results]
    same(alone, together)
    # What is not refused can be reported by one call, too.
    accepted = [r for r, one in zip(reports, results, strict=True) if not isinstance(one, Exception)]
    third = Engine(Gated(), clock=ManualClock(1_000), seed=1)
    placed(third, "a", "b")
    for alloc, task, said, name, expected in first:
        with suppress(TaskfoldError):
            third.report(alloc, task, said, id=name, expected_version=expected)
    steps = third.report_batch(
        [PostedInput(alloc=a, task=t, input=said, id=name, expected_version=e) for a, t, said, name, e in accepted]
    )
    assert steps == [one for one in results if not isinstance(one, Exception)]
    same(alone, third)


def asked_together(engine: Engine, reports: list[Any]) -> list[Any]:
    """Have all of these reported as if each had a thread that waits; return what came of each."""
    requests = [
        WriteRequest(lambda state, r=r: engine._drafter.report(state, r[0], ((r[1], r[2]),), None, r[3], r[4]))
        for r in reports
    ]
    engine._groups.requests.update(dict.fromkeys(requests))
    for request in requests:
        engine._groups.wait_for(request)
    engine._groups.requests.clear()
    outcomes = [request.outcome for request in requests]
    return [one.drafted.result if one and one.drafted else one and one.error for one in outcomes]


def same(one: Engine, other: Engine) -> None:
    """Compare the logs, the states and the timers of two engines."""
    assert list(one.store.log.read_all()) == list(other.store.log.read_all())
    assert one.index == other.index
    for alloc in one.store.fold:
        assert one.store.fold[alloc] == other.store.fold[alloc]
    assert set(one._core.timers) == set(other._core.timers)
    assert one.next_due() == other.next_due()
    one._check()
    other._check()


def test_a_change_is_told_for_each_write_of_an_append(engine: Engine) -> None:
    from taskfold.live.cursor import Cursor

    reader = Cursor(engine.reader, engine.store.seq)
    engine.report_batch([PostedInput(alloc=a, task="web", input=inputs.ProcessStarted()) for a in ("a", "b")])
    changes = reader.recent()
    assert changes is not None
    assert [(change.index, change.first_seq) for change in changes] == [
        (engine.index - 1, engine.store.seq - 1),
        (engine.index, engine.store.seq),
    ]
    reader.close()


# --- many at the same time ---

THREADS: Final = 8
REPORTS_EACH: Final = 12


def test_what_many_threads_report_is_in_the_log_once_and_in_the_order_of_each(name: str) -> None:
    memory = MemoryLog("1.1.2")
    engine = Engine(memory, seed=1) if name == "memory" else Engine.open(name, dialect="1.1.2", seed=1)
    for number in range(THREADS):
        placed(engine, f"own-{number}")
    placed(engine, "shared")
    calls = Calls()

    def work(number: int) -> list[Any]:
        acknowledged: list[Any] = []
        for count in range(REPORTS_EACH):
            said = inputs.Exited(exit_code=1) if count % 2 else inputs.ProcessStarted()
            acknowledged.append(engine.report(f"own-{number}", "web", said, id=f"{number}/{count}"))
            record = engine.record("shared", f"task-{number}", events.Received(), id=f"record-{number}/{count}")
            assert record is not None
            acknowledged.append(record)
        return acknowledged

    for number in range(THREADS):
        calls.begin(lambda number=number: work(number))  # type: ignore[misc]
    results = calls.end()
    engine._check()
    engine.close()
    reopened = Engine(memory) if name == "memory" else Engine.open(name)
    records = list(reopened.store.log.read_all())
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert [record.index for record in records] == sorted(record.index for record in records)
    ids = Counter(record.id for record in records if isinstance(record.id, str))
    assert set(ids.values()) == {1}
    assert len(ids) == 2 * THREADS * REPORTS_EACH
    by_place = {(record.alloc, record.version): record for record in records}
    for number, acknowledged in enumerate(results):
        assert not isinstance(acknowledged, Exception), acknowledged
        own = [record.event for record in records if record.alloc == f"own-{number}" and record.task == "web"]
        steps = [one for one in acknowledged if not isinstance(one, Record)]
        told_events = [found.event for step in steps for found in step.writes if found.task == "web"]
        assert own[-len(told_events) :] == told_events
        assert all(by_place[one.alloc, one.version] == one for one in acknowledged if isinstance(one, Record))
    reopened._check()
    reopened.close()


@pytest.mark.parametrize("kind", ["x.db", "x.jsonl"])
def test_many_threads_wait_for_the_disk_together(tmp_path: Path, kind: str) -> None:
    log = Gated(open_log(tmp_path / kind, "1.1.2"))
    engine = Engine(log, seed=1)
    allocs = [f"a{number}" for number in range(THREADS)]
    placed(engine, *allocs)
    before = log.appends
    rounds = 5
    for count in range(rounds):
        said = inputs.Exited(exit_code=1) if count % 2 else inputs.ProcessStarted()
        gathered(engine, log, *[lambda a=a, said=said: engine.report(a, "web", said) for a in allocs])
    assert log.appends == before + 2 * rounds
    engine.close()


def test_two_engines_on_a_shared_log_see_what_each_other_wrote_together(database: Server) -> None:
    name = database.new_schema()
    engines = [Engine.open(name, dialect="1.1.2", seed=1) for _ in range(2)]
    placed(engines[0], "a", "b")
    engines[1].catch_up()
    calls = Calls()

    def work(engine: Engine, number: int) -> None:
        for count in range(10):
            engine.record("ab"[number % 2], f"task-{number}", events.Received(), id=f"{number}/{count}")

    for number in range(6):
        calls.begin(lambda number=number: work(engines[number % 2], number))  # type: ignore[misc]
    assert calls.end() == [None] * 6
    for engine in engines:
        engine.catch_up()
        engine._check()
    records = list(engines[0].store.log.read_all())
    assert len([r for r in records if isinstance(r.id, str)]) == 60
    assert [record.index for record in records] == sorted(record.index for record in records)
    assert engines[0].store.fold["a"] == engines[1].store.fold["a"]
    for engine in engines:
        engine.close()


# --- on an event loop ---


def test_tasks_of_an_event_loop_wait_for_the_disk_together(engine: Engine, log: Gated) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(
            *(engine.report_async(a, "web", inputs.ProcessStarted()) for a in ("a", "b", "c", "no")),
            return_exceptions=True,
        )

    before = log.appends
    found = asyncio.run(main())
    assert [type(one).__name__ for one in found] == ["Step", "Step", "Step", "UnknownAllocation"]
    assert log.appends < before + 3
    assert not engine._groups.requests
    assert not engine.due()
    engine._check()


@pytest.mark.parametrize("durability", ["batch", "each"])
def test_a_task_that_is_cancelled_leaves_its_step_to_due(durability: Any) -> None:
    log = Gated()
    engine = Engine(log, seed=1, durability=durability)
    placed(engine, "a", "b")

    async def main() -> None:
        log.gate.clear()
        log.is_waiting.clear()
        task = asyncio.create_task(engine.report_async("a", "web", inputs.ProcessStarted()))
        await asyncio.to_thread(log.is_waiting.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        log.gate.set()
        await engine.report_async("b", "web", inputs.ProcessStarted())

    asyncio.run(main())
    assert [step.alloc for step in engine.due()] == ["a"]
    assert not engine._groups.requests


def test_what_a_task_reports_that_is_cancelled_before_it_is_taken_up_is_not_recorded(
    engine: Engine, log: Gated
) -> None:
    async def main() -> None:
        log.is_waiting.clear()
        log.gate.clear()
        first = asyncio.create_task(engine.report_async("a", "web", inputs.ProcessStarted()))
        await asyncio.to_thread(log.is_waiting.wait, PATIENCE)
        others = [asyncio.create_task(engine.report_async(a, "web", inputs.ProcessStarted())) for a in ("b", "c")]
        await asyncio.sleep(0)
        others[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await others[0]
        log.gate.set()
        assert (await first).alloc == "a"
        assert (await others[1]).alloc == "c"

    asyncio.run(main())
    assert engine.task("b", "web").state == "pending"
    assert not engine.due()
    assert not engine._groups.roles


def test_a_task_whose_wake_up_was_lost_is_woken_by_who_leads_for_tasks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake, lost = WriteRequest.wake, ["once"]

    def wake_not(request: WriteRequest) -> None:
        if request.notify is not None and lost and lost.pop():
            return
        wake(request)

    monkeypatch.setattr(WriteRequest, "wake", wake_not)

    async def main() -> list[Any]:
        return await asyncio.gather(*(engine.report_async(a, "web", inputs.ProcessStarted()) for a in ("a", "b")))

    assert [step.alloc for step in asyncio.run(main())] == ["a", "b"]


def test_a_clock_that_raises_is_told_to_every_task_and_thread(engine: Engine) -> None:
    class Broken(ManualClock):
        def time_ns(self) -> int:
            raise ValueError("no time")

    engine.clock = Broken(1)

    async def main() -> list[Any]:
        reports = (engine.report_async(a, "web", inputs.ProcessStarted()) for a in ("a", "b", "c"))
        return await asyncio.gather(*reports, return_exceptions=True)

    assert [str(error) for error in asyncio.run(main())] == ["no time"] * 3
    with pytest.raises(ValueError, match="no time"):
        engine.report("a", "web", inputs.ProcessStarted())
    assert not engine._groups.requests
    assert not engine._groups.roles


def test_a_model_that_may_refuse_is_asked_for_a_task_too(engine: Engine) -> None:
    class Model:
        def before_started(self, _: Any) -> None:
            raise ValueError("not now")

    engine.bind("a", "web", Model())
    with pytest.raises(TaskfoldError, match="not now"):
        asyncio.run(engine.report_async("a", "web", inputs.ProcessStarted()))
    assert engine.task("a", "web").state == "pending"


def test_what_a_listener_raises_for_tasks_is_told_to_the_event_loop(engine: Engine) -> None:
    def listen(_: Any) -> None:
        raise ValueError("deaf")

    engine.on_step(listen)
    told_errors: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told_errors.append(str(context["exception"])))
        step = await engine.report_async("a", "web", inputs.ProcessStarted())
        assert step.outcome == "decided"
        while not told_errors:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert told_errors == ["deaf"]


# --- interruptions ---


@pytest.mark.parametrize("store", ["memory", "x.jsonl", "x.db"])
def test_who_leads_and_is_interrupted_leaves_nobody_waiting_and_nothing_twice(tmp_path: Path, store: str) -> None:
    made = 0

    def begin() -> World:
        nonlocal made
        made += 1
        world = World("memory" if store == "memory" else str(tmp_path / f"{made}-{store}"))
        world.engine._is_grouping = True
        return world

    def prepare(world: World) -> tuple[Callable[[], object], list[Any], str, str, WriteRequest]:
        own = world.new(inputs.PlacementReceived(), inputs.ProcessStarted())
        other = world.new(inputs.PlacementReceived(), inputs.ProcessStarted())
        engine, said = world.engine, ((("web", inputs.Exited(exit_code=1))),)
        request = WriteRequest(lambda state: engine._drafter.report(state, other, said, None, None, None))
        engine._groups.requests[request] = None
        results: list[Any] = []
        return lambda: results.append(engine.report(own, "web", said[0][1])), results, own, other, request

    world = begin()
    places = interrupted(prepare(world)[0], 0)[1]
    world.engine._groups.requests.clear()
    chance = random.Random(f"{SEED} {store}")
    chosen = range(1, places + 1) if HOW_MANY == "all" else chance.sample(range(1, places + 1), 12)
    for count, n in enumerate(chosen):
        if count % 20 == 19:
            world.engine.close()
            world = begin()
        call, results, own, other, request = prepare(world)
        again = chance.choice([0, 0, chance.randrange(1, 60)])
        engine = world.engine
        versions = {alloc: engine.store.fold[alloc].version for alloc in (own, other)}
        interrupted(call, n, again)
        where = f"at {n} of {places}, and {again} later: TASKFOLD_SEED={SEED}"
        assert list(engine._groups.requests) == [request], where
        assert not engine._groups.roles, where
        engine._groups.wait_for(request)  # as its thread does
        del engine._groups.requests[request]
        assert request.outcome is not None, where
        assert request.outcome.drafted is not None, where
        written = {
            alloc: [r for r in told(world) if r.alloc == alloc and r.version > versions[alloc]] for alloc in versions
        }
        assert len(written[other]) == 3, where
        assert len(written[own]) in {0, 3}, where
        assert bool(results) <= bool(written[own]), where
        if not again:
            owed = [step for step in engine._turns.owed.values() if step.alloc == own]
            assert len(owed) + len(results) == bool(written[own]), where
            assert not [step for step in engine._turns.owed.values() if step.alloc == other], where
            heard = {step.alloc for step in world.heard if step.writes[0].task}
            assert other in heard, where
        assert not wrong_with(world), where
        engine.due()
    assert not goes_on(world)
    world.engine.close()


def test_who_waits_and_is_interrupted_leaves_what_was_recorded_to_due(engine: Engine) -> None:
    request = WriteRequest(
        lambda state: engine._drafter.report(state, "a", (("web", inputs.ProcessStarted()),), None, None, None)
    )
    engine._groups.requests[request] = None
    request.is_abandoned = True  # as by an interruption, when another thread has taken it up
    assert engine.report("b", "web", inputs.ProcessStarted()).outcome == "decided"
    assert request.outcome is None, "what nobody waits for any more is not begun"
    request.is_abandoned = False
    drafted = request.draft

    def leave(state: Any) -> Any:
        request.is_abandoned = True
        return drafted(state)

    request.draft = leave
    engine.report("b", "web", inputs.Exited(exit_code=0))
    del engine._groups.requests[request]
    assert [step.alloc for step in engine.due()] == ["a"]
    engine._check()
