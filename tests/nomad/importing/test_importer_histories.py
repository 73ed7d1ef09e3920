"""The importer on any history a Nomad could have: what is seen of it, now and then, is what the records fold to.

A history is a run of legal events of one task, which the testing kit makes. An observer sees the state and the ring
of the newest ten events at some moments. What the importer can know is bounded by that, and these tests say how far:
with fewer than ten events since the last look nothing is lost, with more than ten something certainly is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import UNSET

from taskfold import events as ev
from taskfold.events import TaskEvent
from taskfold.fold.allocation import Fold, client_status
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.fold.task import Task, TaskState, apply
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import Gap, Observed, Placed, Record
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import Observation, mismatches
from taskfold.nomad.importing.rings import compare
from taskfold.nomad.task_states import WireTask
from taskfold.testing import history_of
from taskfold.testing._drawing import CHOICES

RING = 10
SECOND = 1_000_000_000
FAILS = ev.Extras(fields={"FailsTask": True})


def told_of(state: TaskState, dialect: str) -> WireTask:
    """Return what an answer in this dialect tells of a task."""
    knows = DIALECTS[dialect]
    return WireTask(
        state=state.state,
        failed=state.failed,
        restarts=state.restarts if knows.has_restarts else UNSET,
        last_restart_ns=state.last_restart_ns if knows.has_restarts else UNSET,
        started_at_ns=state.started_at_ns if knows.has_times else UNSET,
        finished_at_ns=state.finished_at_ns if knows.has_times else UNSET,
        events=state.events,
    )


def body_of(told: WireTask | None, index: int, **fields: str) -> Observation:
    """Return the body of an allocation with this task at an index; its status follows unless it is given."""
    tasks = {} if told is None else {"web": told}
    status = client_status(TaskState(state=each.state, failed=each.failed) for each in tasks.values())
    said = {"ID": "a", "ClientStatus": status or "pending", "Job": None, **fields}
    texts = {name: msgspec.json.encode(value) for name, value in said.items()}
    return Observation(kind="body", alloc="a", index=index, fields=texts | {"ModifyIndex": b"%d" % index}, tasks=tasks)


class Observer:
    """An importer whose fold must be, after each look, what was seen."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.importer = Importer(dialect)
        self.read_back = Fold(dialect, on_illegal="keep")
        self.records: list[Record] = []

    def look(self, told: WireTask | None, **fields: str) -> list[Record]:
        """Import what is seen now, check the fold, and return the records."""
        observation = body_of(told, len(self.records) + 1, **fields)
        new = self.importer.observe(observation)
        for record in new:
            self.read_back.apply(msgspec.json.decode(msgspec.json.encode(record), type=Record))
        for fold in (self.importer.fold, self.read_back):
            assert list(mismatches(fold.owned("a"), observation, fold.dialect)) == []
        if told is not None:
            assert told_of(self.read_back["a"].tasks["web"], self.dialect) == told
        self.records += new
        return new

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.read_back["a"].tasks["web"].counts)


def types_of(records: Iterable[Record]) -> Counter[type]:
    return Counter(type(record.event) for record in records)


class History:
    """A task that lives: the history that numbers stand for, one part after the other."""

    def __init__(self, dialect: str, *, unique_times: bool = True, clock: int = 0) -> None:
        self.dialect = dialect
        self.numbers: list[int] = []
        self.task = Task()
        self.events: list[TaskEvent] = []
        self.clock = clock
        self.unique_times = unique_times

    def live(self, picks: Iterable[int]) -> None:
        """Let an event happen for each of these numbers."""
        begin = len(self.numbers)
        self.numbers += picks  # 0 is Received, as long as that is legal
        new = history_of(self.numbers, self.dialect).events[begin:]
        for pick, (_, event) in zip(self.numbers[begin:], new, strict=True):
            self.clock += 1
            if isinstance(event, TaskEvent):
                # Events are made before they are stored, so that their times are neither in order nor all different.
                time_ns = self.clock * SECOND if self.unique_times else pick % 3 * SECOND
                extras = FAILS if pick % 11 == 0 else None
                event = msgspec.structs.replace(event, time_ns=time_ns, extras=extras)  # noqa: PLW2901
                self.events.append(event)
            # When it is applied is another time, a little later.
            record = Record(index=1, alloc="a", version=1, task="web", time_ns=self.clock * SECOND + 7, event=event)
            apply(self.task, record, lifecycle_of(self.dialect))

    def told(self) -> WireTask:
        return told_of(self.task.freeze(), self.dialect)

    @property
    def counts(self) -> Counter[str]:
        return Counter(str(type(event).__struct_config__.tag) for event in self.events)


DIALECT_NAMES = st.sampled_from(list(DIALECTS))
PICKS = st.integers(0, CHOICES - 1)
STEPS = st.lists(st.lists(PICKS, max_size=14), min_size=1, max_size=8)
SMALL_STEPS = st.lists(st.lists(PICKS, max_size=RING - 1), min_size=1, max_size=8)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "ClientStatus": st.sampled_from(["lost", "running", "complete"]),
        "DesiredStatus": st.sampled_from(["run", "stop"]),
        "ClientDescription": st.sampled_from(["", "Tasks are running", "forced"]),
        "NodeName": st.sampled_from(["", "n1"]),
        "Zeta": st.sampled_from(["", "new"]),
    },
)


@given(DIALECT_NAMES, STEPS, st.booleans(), st.lists(FIELDS, min_size=8, max_size=8))
def test_the_fold_is_what_was_seen_whatever_happened(
    dialect: str, steps: list[list[int]], unique_times: bool, fields: list[dict[str, str]]
) -> None:
    history, observer = History(dialect, unique_times=unique_times), Observer(dialect)
    for picks, said in zip(steps, fields, strict=False):
        history.live(picks)
        observer.look(history.told(), **said)


@given(DIALECT_NAMES, SMALL_STEPS)
def test_nothing_is_lost_while_fewer_than_ten_events_are_new(dialect: str, steps: list[list[int]]) -> None:
    history, observer = History(dialect), Observer(dialect)
    observer.look(None)
    history.live([0])  # Received, from which on the observer saw everything
    for picks in [[], *steps]:
        history.live(picks)
        new = types_of(observer.look(history.told()))
        assert new[Gap] == new[Observed] == 0
        assert new[Placed] == 0
    assert observer.counts == history.counts
    recorded = [record.event for record in observer.records if isinstance(record.event, TaskEvent)]
    assert recorded == history.events


@given(DIALECT_NAMES, SMALL_STEPS)
def test_equal_events_are_not_lost_where_restarts_are_told(dialect: str, steps: list[list[int]]) -> None:
    history, observer = History(dialect, unique_times=False), Observer(dialect)
    history.live([0])
    observer.look(history.told())
    for picks in steps:
        history.live(picks)
        assert types_of(observer.look(history.told()))[Gap] == 0
    # Equal events beyond a full ring cannot be told apart from no event, but never is one recorded that did not happen.
    assert observer.counts <= history.counts
    if len(history.events) <= RING:
        assert observer.counts == history.counts


@given(DIALECT_NAMES, st.lists(PICKS, min_size=1, max_size=25), st.lists(PICKS, min_size=11, max_size=40))
def test_more_than_ten_new_events_are_a_gap(dialect: str, first: list[int], skipped: list[int]) -> None:
    history, observer = History(dialect), Observer(dialect)
    history.live([0, *first])
    observer.look(history.told())
    before, restarts = len(history.events), history.task.restarts
    history.live(skipped)
    assume(len(history.events) - before > RING)
    new = observer.look(history.told())
    (gap,) = (record.event for record in new if isinstance(record.event, Gap))
    assert [r.event for r in new if isinstance(r.event, TaskEvent)] == history.events[-RING:]
    if DIALECTS[dialect].has_restarts:
        assert (gap.restarts_before, gap.restarts_after) == (restarts, history.task.restarts)
    # Anchored anew, it goes on as if nothing had been.
    history.live([1, 2, 3])
    assert types_of(observer.look(history.told()))[Gap] == 0


@given(DIALECT_NAMES, st.lists(PICKS, max_size=1), st.lists(PICKS, max_size=15))
def test_a_first_sight_is_whole_only_if_it_shows_the_beginning(dialect: str, first: list[int], more: list[int]) -> None:
    history, observer = History(dialect), Observer(dialect)
    history.live([*(first or [0]), *more])
    new = types_of(observer.look(history.told()))
    events = history.told().events
    is_whole = not events or (len(events) < RING and isinstance(events[0], ev.Received))
    assert new[Gap] == (0 if is_whole else 1)
    if is_whole:
        assert observer.counts == history.counts


@given(
    DIALECT_NAMES,
    st.lists(PICKS, max_size=25),
    st.lists(PICKS, max_size=RING - 2),
    st.lists(PICKS, max_size=RING - 1),
)
def test_a_task_created_anew_is_placed_and_no_gap(
    dialect: str, first: list[int], anew: list[int], later: list[int]
) -> None:
    history, observer = History(dialect), Observer(dialect)
    history.live([0, *first])
    observer.look(history.told())
    other = History(dialect, clock=1_000)
    other.live([0, *anew])
    assert isinstance(other.events[0], ev.Received)
    new = observer.look(other.told())
    assert [r.task for r in new if isinstance(r.event, Placed)] == ["web"]
    assert types_of(new)[Gap] == types_of(new)[Observed] == 0
    other.live(later)
    assert types_of(observer.look(other.told()))[Gap] == 0
    if len(first) < RING:
        # Nothing was lost of the first life either; what was counted stays counted.
        assert observer.counts == history.counts + other.counts


@given(
    st.lists(PICKS, max_size=20),
    st.lists(PICKS, min_size=1, max_size=RING - 2),
    st.lists(PICKS, max_size=4),
    st.booleans(),
)
def test_an_older_copy_is_shown_and_its_events_are_not_recorded_again(
    before: list[int], since: list[int], later: list[int], comes_back_alone: bool
) -> None:
    history, observer = History("0.5.6"), Observer("0.5.6")
    history.live([0, *before[:8]])
    observer.look(history.told())
    history.live(before[8:16])
    older = history.told()
    observer.look(older)
    history.live(since)
    newer = history.told()
    assume(older.events != newer.events)
    observer.look(newer)
    recorded = observer.counts
    rolled_back = observer.look(older)
    (observed,) = (record.event for record in rolled_back if isinstance(record.event, Observed))
    assert observed.older_events == older.events
    assert types_of(rolled_back)[Gap] == 0
    assert observer.counts == recorded
    assert observer.read_back["a"].tasks["web"].events == older.events
    assert observer.read_back["a"].tasks["web"].newest_events == newer.events
    if comes_back_alone:
        assert observer.look(newer)
        assert observer.counts == recorded
    history.live(later)
    assert types_of(observer.look(history.told()))[Gap] == 0
    assert observer.counts == history.counts


def test_of_several_starts_and_ends_in_one_step_the_last_takes_the_time_that_is_told() -> None:
    observer = Observer("1.1.2")
    events = tuple(
        cls(time_ns=second * SECOND)
        for second, cls in enumerate([ev.Received, ev.Started, ev.Restarting, ev.Started, ev.NotRestarting], start=1)
    )
    told = WireTask(
        state="dead",
        failed=True,
        restarts=1,
        last_restart_ns=3 * SECOND,
        started_at_ns=4 * SECOND + 21,
        finished_at_ns=5 * SECOND + 22,
        events=events,
    )
    records = [record for record in observer.look(told) if record.task]
    assert [record.event for record in records] == list(events), "nothing else is needed to explain what is seen"
    assert [record.time_ns for record in records] == [SECOND, 2 * SECOND, 3 * SECOND, 4 * SECOND + 21, 5 * SECOND + 22]


# --- two rings --------------------------------------------------------------------------------------------------------


def ring(*seconds: int) -> tuple[TaskEvent, ...]:
    return tuple(ev.Terminated(time_ns=second) for second in seconds)


RECEIVED = ev.Received(time_ns=99)
RESTARTING = ev.Restarting(time_ns=7)
FULL = ring(*range(RING))
RINGS = [
    ("nothing new", ring(1, 2), ring(1, 2), None, "grown", ()),
    ("the first events", (), ring(1, 2), None, "grown", ring(1, 2)),
    ("one more", ring(1), ring(1, 2), None, "grown", ring(2)),
    ("one more in a full ring", FULL, (*FULL[1:], *ring(10)), None, "grown", ring(10)),
    ("nine more in a full ring", FULL, (FULL[-1], *ring(*range(10, 19))), None, "grown", ring(*range(10, 19))),
    ("ten more in a full ring", FULL, ring(*range(10, 20)), None, "gap", ring(*range(10, 20))),
    ("equal full rings", ring(*[1] * RING), ring(*[1] * RING), None, "grown", ()),
    ("an equal event in a ring that is not full", ring(1), ring(1, 1), None, "grown", ring(1)),
    ("the start of what is known", ring(1, 2, 3), ring(1, 2), None, "rolled back", ring(1, 2)),
    ("it begins anew", ring(1, 2), (RECEIVED,), None, "anew", (RECEIVED,)),
    ("other events, without a beginning", ring(1, 2), ring(3), None, "gap", ring(3)),
    ("a full ring that begins anew", FULL, (RECEIVED, *ring(*range(10, 19))), None, "gap", None),
    ("equal full rings, whatever restarts tell", FULL, FULL, 3, "grown", ()),
    ("a restart that is told", ring(1), (*ring(1), RESTARTING), 1, "grown", (RESTARTING,)),
    ("fewer restarts than shown", ring(1), (*ring(1), RESTARTING), 0, "gap", (*ring(1), RESTARTING)),
]


@pytest.mark.parametrize(
    ("old", "new", "restarts", "kind", "events"), [r[1:] for r in RINGS], ids=[r[0] for r in RINGS]
)
def test_how_a_ring_grew(
    old: tuple[TaskEvent, ...],
    new: tuple[TaskEvent, ...],
    restarts: int | None,
    kind: str,
    events: tuple[TaskEvent, ...] | None,
) -> None:
    found = compare(old, new, restarts)
    assert found.kind == kind
    assert found.new == (new if events is None else events)


OLDER = [
    # what was known, how many events came before it, what is seen again
    ("a full ring that shares events", (*FULL[2:], *ring(10, 11)), 2, FULL),
    ("a full ring that shares one event", (FULL[-1], *ring(*range(10, 19))), 9, FULL),
    ("a ring that was not full yet", (*FULL[2:], *ring(10, 11)), 2, FULL[:5]),
    ("the very first event", (*FULL[2:], *ring(10, 11)), 2, FULL[:1]),
    ("nothing at all", FULL, 0, ()),
]


@pytest.mark.parametrize(("old", "dropped", "new"), [row[1:] for row in OLDER], ids=[row[0] for row in OLDER])
def test_a_ring_of_before_is_known_by_how_many_events_there_were(
    old: tuple[TaskEvent, ...], dropped: int, new: tuple[TaskEvent, ...]
) -> None:
    assert compare(old, new, None, dropped) == ("rolled back", new)
