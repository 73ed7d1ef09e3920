"""The columnar fold is `Fold`: every field of every task, on every recording and on any history, in every batch cut."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.columns import (
    STATES,
    WHOLE,
    any_records,
    batches_of,
    differences,
    numbered,
    recorded,
    rows_in,
    run_of,
)
from taskfold import Fold
from taskfold import events as ev
from taskfold.columnar import ColumnarFold, kernel
from taskfold.columnar.keys import KEY_BITS
from taskfold.errors import DialectError, Gone, SourceError, UnknownAllocation
from taskfold.model.record import FORMAT, Compacted, Finished, Gap, LogHeader, Observed, Placed, Record
from taskfold.sources.replay import At
from taskfold.testing.histories import AllocationHistory
from taskfold.testing.strategies import histories

DIALECTS = ("0.5.0", "0.5.6", "1.1.2")
NOT_IDEMPOTENT = (ev.Terminated, ev.Killing, ev.Restarting, ev.RestartSignaled, ev.Started, ev.Driver)


# --- equality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [WHOLE, (7, 1, 43)])
def test_every_recording_folds_to_the_same_in_any_batches(cuts: tuple[int, ...]) -> None:
    assert sum(map(len, recorded().values())) > 3_000
    for dialect, records in recorded().items():
        assert differences(records, dialect, cuts) == []


@settings(max_examples=30)
@given(st.data(), st.sampled_from(DIALECTS), st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_histories_side_by_side_fold_to_the_same(data: Any, dialect: str, legal: bool, cuts: list[int]) -> None:
    both = [data.draw(histories(dialect, legal=legal, tasks=2)) for _ in range(2)]
    assert differences(side_by_side(both), dialect, cuts) == []


def side_by_side(several: list[AllocationHistory]) -> list[Record]:
    """Return the records of histories in turns, each as another allocation."""
    lines = []
    for place in range(max(len(each.records) for each in several)):
        for number, each in enumerate(several):
            lines += [(f"a{number}", r.task, r.event, r.time_ns) for r in each.records[place : place + 1]]
    return numbered(lines)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_records_of_any_types_fold_to_the_same(dialect: str) -> None:
    source = random.Random(f"any {dialect}")
    for size in [*range(1, 20), *[300] * 12]:
        cuts = [source.randrange(1, 1 + size // 2 + 10) for _ in range(3)]
        assert differences(any_records(source, size), dialect, cuts) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_cut_of_a_batch_folds_to_the_same(dialect: str) -> None:
    source = random.Random(f"cuts {dialect}")
    records = any_records(source, 29)
    for cut in range(1, len(records)):
        assert differences(records, dialect, (cut, len(records))) == []
    assert differences(records, dialect, (1,)) == []


@pytest.mark.parametrize("weights", [(200, 1, 1, 1, 1, 1), (50, 3, 3, 3, 0, 1), (5, 1, 1, 1, 1, 1)])
def test_a_long_run_of_maps_that_are_not_idempotent_folds_to_the_same(weights: tuple[int, ...]) -> None:
    records = run_of(random.Random(2), NOT_IDEMPOTENT, weights, 3_000)
    for cuts in (WHOLE, (777,)):
        assert differences(records, "0.5.6", cuts) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_state_that_is_corrected_is_the_one_that_events_find(dialect: str) -> None:
    for correction in [make(state=state) for make in (Observed, Gap) for state in STATES]:
        lines = []
        for cls in ev.EVENT_CLASSES:
            events = [ev.Received(time_ns=1), correction, cls(time_ns=2), Finished()]
            lines += [(cls.__name__, "web", event, time) for time, event in enumerate(events, 1)]
        for cuts in (WHOLE, (70,)):
            assert differences(numbered(lines), dialect, cuts) == []


# --- planted faults ---------------------------------------------------------------------------------------------------


def is_noticed() -> bool:
    """Tell whether some histories show a difference."""
    source = random.Random(7)
    for dialect in ("0.5.6", "1.1.2"):
        for _ in range(3):
            if differences(any_records(source, 250), dialect, (source.randrange(20, 90),)):
                return True
    return bool(differences(run_of(source, NOT_IDEMPOTENT, (4, 2, 2, 2, 0, 1), 3_000), "0.5.6"))


def overlapping(maps: Any, starts: Any, states: Any, compose: Any) -> Any:
    """Scan with windows that overlap, as one may where every map is idempotent."""
    total = maps.copy()
    total[starts] = compose[(states << 4) | maps[starts]]
    for step in (1, 2, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        rows = np.flatnonzero(total > 3)
        rows = rows[rows >= step]
        total[rows] = compose[(total[rows - step] << 4) | total[rows]]
    return total


def backwards(maps: Any, starts: Any, states: Any, compose: Any) -> Any:
    """Scan with compositions the wrong way round."""
    return maps_states(maps, starts, states, compose.reshape(16, 16).T.ravel())


maps_states = kernel.states_after
whole_step = kernel._Step


class NoRing(whole_step):
    def remember_events(self) -> None:
        self.cleared = None
        super().remember_events()


class CorrectedFirst(whole_step):
    def _write(self, name: str, rows: Any, values: Any) -> Any:
        if name in self.sets:
            self.sets[name] = (self.sets[name][0] - 1, self.sets[name][1])
        return super()._write(name, rows, values)


class NeverCorrected(whole_step):
    def _uncorrected(self, name: str, rows: Any) -> Any:
        super()._uncorrected(name, rows)
        return rows


class DiesAlways(whole_step):
    def _correct_move(self, row: int, correction: Any, moves: Any) -> None:
        if not isinstance(correction, Finished):
            super()._correct_move(row, correction, moves)


class NewestFirst(whole_step):
    def __init__(self, owner: Any, columns: Any) -> None:
        rows = np.arange(len(columns.key))[::-1]
        corrections = [(len(rows) - 1 - row, event) for row, event in columns.corrections]
        super().__init__(owner, kernel.Columns(*(each[rows] for each in columns[:6]), corrections))


class NineShown(whole_step):
    def remember_events(self) -> None:
        super().remember_events()
        self.kernel.visible = np.minimum(self.kernel.visible, 9)


def lasts(key: Any) -> Any:
    return kernel._firsts(key)


FAULTS: dict[str, tuple[str, object]] = {
    "the windows of the scan overlap": ("states_after", overlapping),
    "maps are composed the wrong way round": ("states_after", backwards),
    "a ring is not cleared": ("_Step", NoRing),
    "a correction comes before its own record": ("_Step", CorrectedFirst),
    "a correction does not end what came before": ("_Step", NeverCorrected),
    "a Finished always dies": ("_Step", DiesAlways),
    "the records of a batch are the wrong way round": ("_Step", NewestFirst),
    "the first write of a task stays": ("_lasts", lasts),
    "one event less is shown": ("_Step", NineShown),
    "an illegal event is regular": ("ILLEGAL", 5),
    "a restart is one of another type": ("_RESTARTING", 0),
    "a task that was created anew remembers what was decided": ("_MEMORY", -1),
    "nobody shows an older copy": ("_ATTRIBUTES", {n: a for n, a in kernel._ATTRIBUTES.items() if n != "older"}),
}


def test_the_kernel_without_a_fault_is_not_noticed() -> None:
    assert not is_noticed()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_is_planted_in_the_kernel_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, *FAULTS[fault])
    assert is_noticed()


# --- an end point -----------------------------------------------------------------------------------------------------


def ends(records: list[Record]) -> list[At]:
    numbers = sorted({0, 1, len(records) // 2, len(records) - 1, len(records) + 1})
    points = [At(seq=number) for number in numbers] + [At(index=number) for number in numbers]
    return [*points, *(At(time_ns=time) for time in (0, 20, 55, 60)), At(seq=30, time_ns=55, index=14)]


@pytest.mark.parametrize("cuts", [WHOLE, (17, 3)])
def test_up_to_an_end_point_it_folds_to_the_same(cuts: tuple[int, ...]) -> None:
    records = any_records(random.Random(f"at {cuts}"), 50)
    for at in ends(records):
        assert differences(records, "1.1.2", cuts, at) == [], at


def test_a_late_record_of_the_allocation_itself_ends_what_counts_of_its_tasks() -> None:
    records = numbered(
        [
            ("a", "web", ev.Started(), 5),
            ("a", "", Placed(), 9),
            ("a", "web", ev.Terminated(), 6),
            ("b", "web", ev.Received(), 6),
        ]
    )
    fold = ColumnarFold("1.1.2", at=At(time_ns=7))
    for batch in batches_of(records, "1.1.2", (2,)):
        fold.apply(batch)
    assert [(row["alloc"], row["events_total"]) for row in rows_in(fold.tasks())] == [("a", 1), ("b", 1)]


def test_an_end_point_before_the_compacted_records_end_is_gone() -> None:
    header = LogHeader(taskfold=FORMAT, dialect="1.1.2", compacted=Compacted(seq=9, index=4, time_ns=100))
    from taskfold.columnar.conversion import BatchMaker

    batch = BatchMaker(header).batch(numbered([("a", "web", ev.Started(), 5)]))
    ColumnarFold("1.1.2", at=At(seq=9)).apply(batch)
    for at in (At(seq=8), At(index=3), At(time_ns=99)):
        with pytest.raises(Gone, match="position 9, index 4"):
            ColumnarFold("1.1.2", at=at).apply(batch)


# --- keys, and what is refused ----------------------------------------------------------------------------------------


def test_batches_without_numbers_for_tasks_fold_to_the_same() -> None:
    records = any_records(random.Random(3), 60)
    with_numbers, without = ColumnarFold("1.1.2"), ColumnarFold("1.1.2")
    for batch in batches_of(records, "1.1.2", (11,)):
        with_numbers.apply(batch)
        without.apply(batch.drop_columns(["task_key"]))
    assert with_numbers.tasks() == without.tasks()


def test_numbers_of_two_files_are_never_taken_for_each_other() -> None:
    one = numbered([("a", "web", ev.Started(), 5)])
    other = numbered([("b", "web", ev.Received(), 5)])
    batches = batches_of(one, "1.1.2") + batches_of(other, "1.1.2")
    numbers = {batch.column("task_key")[0].as_py() >> KEY_BITS for batch in batches}
    assert len(numbers) == 2
    # Rows of both in one batch, and a file that has the number of another one by chance.
    (mixed,) = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
    place = mixed.schema.get_field_index("task_key")
    forged = batches[1].set_column(place, batches[1].schema.field(place), batches[0].column("task_key"))
    for parts in ([mixed], [batches[0], forged]):
        fold = ColumnarFold("1.1.2")
        for part in parts:
            fold.apply(part)
        assert [(row["alloc"], row["state"]) for row in fold.tasks().to_pylist()] == [
            ("a", "running"),
            ("b", "pending"),
        ]


def test_a_batch_of_another_dialect_or_other_columns_is_refused() -> None:
    (batch,) = batches_of(numbered([("a", "web", ev.Started(), 5)]), "1.1.2")
    with pytest.raises(DialectError, match=r"dialect 1\.1\.2, not 0\.5\.6"):
        ColumnarFold("0.5.6").apply(batch)
    with pytest.raises(SourceError, match="has no column seq, event"):
        ColumnarFold("1.1.2").apply(batch.drop_columns(["event", "seq"]))


def test_an_allocation_that_never_came_is_unknown_and_a_record_that_is_missing_is_told() -> None:
    records = numbered(("a", "web", ev.Received(time_ns=time), time) for time in (1, 2, 3))
    batches = batches_of(records, "1.1.2", (2, 1))
    fold = ColumnarFold("1.1.2")
    for batch in batches:
        fold.apply(batch)
    with pytest.raises(UnknownAllocation, match="'b'"):
        fold.fold("b", batches)
    with pytest.raises(SourceError, match="have no record 3 of allocation a"):
        fold.fold("a", batches[:1])


def test_many_tasks_of_many_allocations_fold_to_the_same() -> None:
    lines = [(f"a{n % 41}", f"t{n % 7}", ev.Received(time_ns=n), n) for n in range(900)]
    records = numbered(lines)
    fold, columnar = Fold("1.1.2", "keep"), ColumnarFold("1.1.2")
    fold.apply_all(records)
    for batch in batches_of(records, "1.1.2", (17,)):
        columnar.apply(batch)
    assert len(columnar) == 41 * 7
    whole = batches_of(records, "1.1.2")
    assert {alloc: columnar.fold(alloc, whole) for alloc in fold} == {alloc: fold[alloc] for alloc in fold}


def test_an_empty_batch_changes_nothing() -> None:
    (batch,) = batches_of(numbered([("a", "web", ev.Started(), 5)]), "1.1.2")
    fold = ColumnarFold("1.1.2")
    assert fold.apply(batch.slice(0, 0), intervals=True).num_rows == 0
    assert (len(fold), fold.tasks().num_rows, fold.open_intervals().num_rows) == (0, 0, 0)
