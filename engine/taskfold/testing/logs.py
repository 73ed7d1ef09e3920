"""The contract of every log, as tests: inherit from `LogContract`, say how a log is made, and let pytest find it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import pytest
from msgspec import UNSET, Raw

from taskfold.fold.lifecycle import lifecycle_of
from taskfold.log.check import check_log
from taskfold.log.contract import Append, CompactableLog, EventLog, RecoverableLog
from taskfold.log.memory import MemoryLog
from taskfold.log.registry import kind_of
from taskfold.log.store_kind import StoreKind
from taskfold.model import events as ev
from taskfold.model.errors import DecodeError, Gone, IdConflict, LogError, ReadOnly, VersionConflict
from taskfold.model.record import FORMAT, Collected, Compacted, Event, Placed, Record, Updated

__all__ = ["LogContract", "record_of", "records_of", "unreadable_records"]


def record_of(alloc: str, version: int, *, index: int = 1, id: Any = UNSET) -> Record:
    """Return a record of an allocation: it is placed, and then its task is started again and again."""
    event = Placed() if version == 1 else ev.Started(time_ns=version)
    return Record(index=index, alloc=alloc, version=version, task="" if version == 1 else "web", id=id, event=event)


def records_of(alloc: str, first: int, last: int) -> list[Record]:
    """Return the records of an allocation from one version to another, each with an index of its own."""
    return [record_of(alloc, version, index=version) for version in range(first, last + 1)]


def unreadable_records(alloc: str, version: int) -> Iterator[Record]:
    """Yield records that Python allows, and that no reader of a log would read back as they are."""
    values: list[tuple[str, Any]] = [
        ("time_ns", 1.5),
        ("time_ns", 2**70),
        ("index", -1),
        ("index", 2**63),
        ("task", 5),
        ("id", 5.5),
        ("id", b"x"),
        ("event", ev.TaskEvent()),
        ("event", ev.Terminated(exit_code="1")),  # type: ignore[arg-type]  # what it is about
        ("event", ev.Terminated(exit_code=True)),
        ("event", ev.Terminated(message="\ud800")),
        ("event", ev.Started(extras=ev.Extras(fields={"x": (1, 2)}))),
        ("event", ev.Started(extras=ev.Extras(fields={"x": float("nan")}))),
        ("event", ev.Started(extras=ev.Extras(fields={"x": object()}))),
        ("event", Updated(fields={"Foo": Raw(b"")})),
        ("event", Updated(fields={"Foo": Raw(b"1} ")})),
        ("event", Updated(fields={"Foo": Raw(b"[\n1]")})),
        ("event", Updated(fields={"Foo": Raw(b'"\xff"')})),
        ("event", Updated(fields={"Foo": Raw(b'1},"Cleared":["Job"],"Fields":{"Foo":2')})),
        ("event", Updated(fields={"Foo": Raw(b"[" * 128 + b"]" * 128)})),
    ]
    for name, value in values:
        record = Record(index=9, alloc=alloc, version=version, task="web", event=ev.Started())
        yield msgspec.structs.replace(record, **{name: value})


def _at_seq(record: Record, seq: int) -> Record:
    return msgspec.structs.replace(record, seq=seq)


def _fill(log: EventLog, count: int, allocs: int = 7) -> None:
    for number in range(count):
        version = number // allocs
        log.append(f"a{number % allocs}", version, [record_of(f"a{number % allocs}", version + 1, index=number + 1)])


def _store_of(log: EventLog) -> tuple[str, StoreKind]:
    """Return the name of a log, and its kind of store. Skips the test of a log that has no name."""
    name = getattr(log, "location", "")
    if not name:
        pytest.skip("this log has no name")
    kind = kind_of(name)
    assert kind is not None, f"{name}: no kind of store that is registered recognises it"
    return name, kind


class LogContract:
    """The contract of every log (see `taskfold.log.contract.EventLog`), as tests.

    A test class that inherits from it has a method `make_log`; pytest runs the rest:

    ```python
    class TestMyLog(LogContract):
        @pytest.fixture(autouse=True)
        def folder(self, tmp_path):
            self.path = tmp_path / "log"

        def make_log(self, dialect="1.1.2", region="global"):
            return MyLog(self.path, dialect, region)
    ```

    A log that is made is closed when its test is over; a test makes one. One that has a ``location``, its path or URL,
    is looked for by that name, too: its `taskfold.log.StoreKind` is registered by then.
    """

    writes: ClassVar[int] = 500
    """How many records are appended while others read."""

    def make_log(self, dialect: str = "1.1.2", region: str = "global") -> EventLog:
        """Return a new, empty log."""
        raise NotImplementedError

    @pytest.fixture
    def log(self) -> Iterator[EventLog]:
        """Return a new, empty log, which is closed in the end."""
        log = self.make_log()
        yield log
        log.close()

    def test_what_is_appended_is_read_back_in_order_with_its_place(self, log: EventLog) -> None:
        """Appended records are read back in order, with their positions."""
        assert list(log.read_all()) == list(log.read("a")) == []
        assert log.append("a", 0, records_of("a", 1, 3)) == [_at_seq(r, r.version) for r in records_of("a", 1, 3)]
        assert log.append("b", 0, records_of("b", 1, 1)) == [_at_seq(record_of("b", 1), 4)]
        log.append("a", 3, records_of("a", 4, 4))
        assert [(r.seq, r.alloc, r.version) for r in log.read_all()] == [
            (1, "a", 1),
            (2, "a", 2),
            (3, "a", 3),
            (4, "b", 1),
            (5, "a", 4),
        ]
        assert [r.seq for r in log.read_all(after_seq=3)] == [4, 5]
        assert list(log.read_all(after_seq=5)) == []
        assert [r.version for r in log.read("a", after_version=2)] == [3, 4]
        assert list(log.read("a", after_version=4)) == list(log.read("nobody")) == []
        assert [msgspec.structs.replace(r, seq=0) for r in log.read("a")] == records_of("a", 1, 4)

    def test_appending_nothing_is_nothing(self, log: EventLog) -> None:
        """Appending nothing is nothing."""
        assert log.append("a", 0, []) == []
        assert log.append("a", 7, []) == []
        assert list(log.read_all()) == []

    def test_the_header_says_what_the_log_holds(self) -> None:
        """The header says what the log holds."""
        log = self.make_log("0.5.6", "west")
        header = log.header
        assert (header.taskfold, header.dialect, header.region) == (FORMAT, "0.5.6", "west")
        assert header.lifecycle == lifecycle_of("0.5.6").fingerprint
        log.close()

    def test_of_two_writers_who_saw_the_same_version_one_wins(self, log: EventLog) -> None:
        """Of two writers who saw the same version one wins."""
        log.append("a", 0, records_of("a", 1, 2))
        before = list(log.read_all())
        for version in (0, 1, 3):
            with pytest.raises(VersionConflict, match=f"allocation a is at version 2, not {version}") as caught:
                log.append("a", version, records_of("a", version + 1, version + 2))
            conflict = caught.value
            assert (conflict.allocation, conflict.expected_version, conflict.actual_version) == ("a", version, 2)
        with pytest.raises(VersionConflict):
            log.append("new", 1, records_of("new", 2, 2))
        assert list(log.read_all()) == before
        assert [r.seq for r in log.append("a", 2, records_of("a", 3, 3))] == [3]

    @pytest.mark.parametrize(
        "wrong",
        [
            [record_of("a", 1), record_of("b", 2)],
            [record_of("a", 2)],
            [record_of("a", 1), record_of("a", 3)],
            [record_of("a", 1), record_of("a", 1)],
        ],
    )
    def test_records_that_do_not_follow_are_refused_all_together(self, log: EventLog, wrong: list[Record]) -> None:
        """Records that do not follow are refused all together."""
        with pytest.raises(LogError, match="must be its version"):
            log.append("a", 0, wrong)
        assert list(log.read_all()) == []
        assert [r.seq for r in log.append("a", 0, records_of("a", 1, 1))] == [1]

    def test_a_text_id_is_appended_once(self, log: EventLog) -> None:
        """A text id is appended once."""
        first = [record_of("a", 1), record_of("a", 2, id="report-7")]
        log.append("a", 0, first)
        assert log.knows("report-7")
        assert not log.knows("report-8")
        # Whatever version the repeat claims: it was said before.
        assert log.append("a", 1, [record_of("a", 2, id="report-7")]) == []
        assert log.append("a", 7, [record_of("a", 8, id="report-7")]) == []
        assert len(list(log.read_all())) == 2
        again = [record_of("a", 2, id="report-7"), record_of("a", 3, id="report-8")]
        assert [(r.seq, r.id) for r in log.append("a", 2, again)] == [(3, "report-8")]

    def test_an_id_names_one_event(self, log: EventLog) -> None:
        """An id names one event."""
        log.append("a", 0, [record_of("a", 1, id="first"), record_of("a", 2, id="second")])
        digests = log.digest_of("first"), log.digest_of("second"), log.digest_of("third")
        assert len(set(digests)) == 3
        assert digests[2] is None
        others: list[tuple[str, int, list[Event]]] = [
            ("b", 1, [Placed()]),
            ("a", 3, [ev.Killed()]),
            ("a", 3, [ev.Killed(), ev.Started()]),
        ]
        for alloc, version, events in others:
            records = [
                Record(index=9, alloc=alloc, version=version + place, task="web", id="second", event=event)
                for place, event in enumerate(events)
            ]
            with pytest.raises(IdConflict, match="ID 'second' was recorded before"):
                log.append(alloc, version - 1, records)
        assert len(list(log.read_all())) == 2

    def test_what_no_reader_could_read_back_is_refused(self, log: EventLog) -> None:
        """Records that no reader could decode are refused."""
        log.append("a", 0, records_of("a", 1, 2))
        before = list(log.read_all())
        for record in unreadable_records("a", 4):
            with pytest.raises(DecodeError):
                log.append("a", 2, [record_of("a", 3), record])
        assert list(log.read_all()) == before
        assert [r.seq for r in log.append("a", 2, records_of("a", 3, 3))] == [3]

    def test_a_text_id_is_appended_once_also_within_one_append(self, log: EventLog) -> None:
        """A text id is appended once also within one append."""
        repeated = [record_of("a", 1), record_of("a", 2, id="x"), record_of("a", 3, id="x")]
        assert [r.seq for r in log.append("a", 0, repeated)] == [1, 2]

    def test_an_imported_record_is_known_by_its_index_and_ordinal(self, log: EventLog) -> None:
        """An imported record is known by its index and ordinal."""
        step = [record_of("a", n + 1, index=10, id=n) for n in range(3)]
        assert len(log.append("a", 0, step)) == 3
        assert log.append("a", 0, step) == []
        assert log.append("a", 3, [record_of("a", 4, index=9, id=5)]) == [], "an older index was imported before"
        assert len(log.append("a", 3, [*step, record_of("a", 4, index=10, id=3)])) == 1
        assert len(log.append("a", 4, [record_of("a", 5, index=11, id=0)])) == 1
        assert len(log.append("b", 0, [record_of("b", 1, index=2, id=0)])) == 1, (
            "another allocation has its own indexes"
        )
        assert [r.seq for r in log.read_all()] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("seed", range(3))
    def test_seq_has_no_hole_and_versions_count_whatever_is_tried(self, log: EventLog, seed: int) -> None:
        """Seq has no hole and versions count whatever is tried."""
        chance = random.Random(seed)
        model: list[Record] = []
        versions = dict.fromkeys("abc", 0)
        for n in range(150):
            alloc = chance.choice("abc")
            version = max(versions[alloc] + chance.choice([0, 0, 0, -1, 1]), 0)
            new = records_of(alloc, version + 1, version + chance.randrange(1, 4))
            new[-1] = msgspec.structs.replace(new[-1], id=f"id-{n}" if chance.random() < 0.5 else UNSET)
            if version != versions[alloc]:
                with pytest.raises(VersionConflict):
                    log.append(alloc, version, new)
                continue
            model += [_at_seq(record, len(model) + place) for place, record in enumerate(new, start=1)]
            assert log.append(alloc, version, new) == model[-len(new) :]
            versions[alloc] += len(new)
        assert list(log.read_all()) == model
        assert [record.seq for record in model] == list(range(1, len(model) + 1))
        for alloc in "abc":
            assert list(log.read(alloc)) == [record for record in model if record.alloc == alloc]

    def test_a_log_is_read_from_any_position(self, log: EventLog) -> None:
        """A log is read from any position."""
        _fill(log, 200)

        assert log.seq == 200
        for after in (0, 1, 5, 6, 7, 99, 150, 198, 199, 200, 201):
            assert [r.seq for r in log.read_all(after)] == list(range(after + 1, 201))

    def test_one_allocation_is_read_from_any_version(self, log: EventLog) -> None:
        """One allocation is read from any version."""
        _fill(log, 200)
        log.append("late", 0, [record_of("late", 1)])

        assert [r.version for r in log.read("a3")] == list(range(1, 30))
        assert [r.version for r in log.read("a3", after_version=27)] == [28, 29]
        assert [r.seq for r in log.read("late")] == [201]
        assert list(log.read("a")) == []
        assert list(log.read("nobody")) == []

    def test_an_allocation_that_is_named_again_goes_on_from_what_came_before_it(self, log: EventLog) -> None:
        """An allocation that occurs again in an append continues its earlier records, with other indexes."""
        _fill(log, 7)
        records = log.append_all(
            [
                Append("a0", 1, [record_of("a0", 2, index=8, id="x")]),
                Append("a1", 1, [record_of("a1", 2, index=9)]),
                Append("a0", 2, [record_of("a0", 3, index=10)]),
                Append("a1", 2, [record_of("a1", 3, index=11, id="x2"), record_of("a1", 4, index=11)]),
            ]
        )
        places = [(8, "a0", 2, 8), (9, "a1", 2, 9), (10, "a0", 3, 10), (11, "a1", 3, 11), (12, "a1", 4, 11)]
        assert [(r.seq, r.alloc, r.version, r.index) for r in records] == places
        assert list(log.read_all(7)) == records
        assert [r.version for r in log.read("a0")] == [1, 2, 3]
        with pytest.raises(VersionConflict):
            log.append("a0", 2, [record_of("a0", 3)])
        assert [r.seq for r in log.append("a0", 3, [record_of("a0", 4, index=12)])] == [13]

    def test_several_allocations_are_appended_together_or_not_at_all(self, log: EventLog) -> None:
        """Several allocations are appended together or not at all."""
        _fill(log, 7)
        before = list(log.read_all())

        with pytest.raises(VersionConflict):
            log.append_all([Append("a0", 1, [record_of("a0", 2)]), Append("a1", 5, [record_of("a1", 6)])])
        with pytest.raises(VersionConflict, match="allocation a0 is at version 2, not 1"):
            log.append_all([Append("a0", 1, [record_of("a0", 2)]), Append("a0", 1, [record_of("a0", 2)])])
        assert list(log.read_all()) == before

        records = log.append_all(
            [
                Append("a0", 1, [record_of("a0", 2, id="x"), record_of("a0", 3)]),
                Append("b", 0, [record_of("b", 1, id="y")]),
            ]
        )
        assert [(r.seq, r.alloc, r.version) for r in records] == [(8, "a0", 2), (9, "a0", 3), (10, "b", 1)]
        again = log.append_all(
            [Append("a0", 3, [record_of("a0", 2, id="x")]), Append("b", 1, [record_of("b", 1, id="y")])]
        )
        assert again == []

    def test_recovering_changes_nothing_where_nothing_was_interrupted(self, log: EventLog) -> None:
        """A log that can be gone on with after an interruption has nothing to do without one."""
        if not isinstance(log, RecoverableLog):
            pytest.skip("this log does not recover")
        _fill(log, 20)
        before = list(log.read_all())
        log.recover()
        assert list(log.read_all()) == before
        (record,) = log.append("z", 0, [record_of("z", 1)])
        assert record.seq == log.seq == 21

    def test_a_compaction_leaves_the_last_record_of_what_was_collected(self, log: EventLog) -> None:
        """A compaction leaves the last record of a collected allocation; reading the others raises Gone."""
        if not isinstance(log, CompactableLog):
            pytest.skip("the log cannot be compacted")
        for version in range(1, 4):
            for alloc in "abc":
                log.append(alloc, version - 1, [record_of(alloc, version, index=version)])
        assert log.compact() == 0, "nothing was collected"
        for place, alloc in enumerate("ab"):
            collected = Collected(reason="old", body=msgspec.Raw(b"{}"))
            last = Record(index=4 + place, alloc=alloc, version=4, time_ns=100 + place, event=collected)
            log.append(alloc, 3, [last])
        log.append("c", 3, [record_of("c", 4, index=6)])
        assert log.compact(before_ns=100) == 0, "nothing was collected so early"
        assert log.compact(before_ns=101) == 3
        assert log.header.compacted == Compacted(seq=7, index=3, time_ns=0)

        live = [(2, "b", 1), (3, "c", 1), (5, "b", 2), (6, "c", 2), (8, "b", 3), (9, "c", 3)]
        rest = [(10, "a", 4), (11, "b", 4), (12, "c", 4)]
        assert [(r.seq, r.alloc, r.version) for r in log.read_kept()] == live + rest
        assert [r.seq for r in log.read_kept(9)] == [10, 11, 12]
        assert [r.seq for r in log.read_all(7)] == [8, 9, 10, 11, 12]
        for after in (0, 6):
            with pytest.raises(Gone, match="records up to position 7 were removed") as caught:
                list(log.read_all(after))
            assert caught.value.oldest == 7
        with pytest.raises(Gone, match="the records of allocation a before version 4 were removed") as caught:
            list(log.read("a"))
        assert caught.value.oldest == 3
        assert [r.version for r in log.read("a", 3)] == [4]
        assert [r.version for r in log.read("b")] == [1, 2, 3, 4]

        with pytest.raises(VersionConflict, match="is at version 4, not 0"):
            log.append("a", 0, [record_of("a", 1)])
        assert [r.seq for r in log.append("c", 4, [record_of("c", 5, index=7)])] == [13]
        assert log.compact() == 3
        assert [r.seq for r in log.read_all(8)] == [9, 10, 11, 12, 13]
        assert log.compact() == 0

    def test_a_stored_log_is_recognised_and_read_by_its_name(self, log: EventLog) -> None:
        """A stored log is recognised and read by its name, whole and by allocation, and nothing is written by that."""
        name, kind = _store_of(log)
        _fill(log, 20)
        records = list(log.read_all())

        assert not kind.is_new(name)
        header, blocks = kind.read(name)
        assert header == log.header
        assert [record for block in blocks for record in block] == records
        assert kind.matching(name, "a3") == (header, {"a3": list(log.read("a3"))})
        assert kind.newest(name) in {20, None}
        with kind.snapshot(name) as (_, copied):
            assert [record for block in copied for record in block] == records
        reader = kind.open_reader(name)
        assert (reader.header, list(reader.read_all())) == (header, records)
        with pytest.raises(ReadOnly):
            reader.append("a0", 3, [record_of("a0", 4)])
        reader.close()
        assert list(log.read_all()) == records

    def test_a_stored_log_is_checked_by_its_name(self, log: EventLog) -> None:
        """A stored log is scanned by its name: its records, and nothing that is damaged."""
        name, kind = _store_of(log)
        _fill(log, 20)
        check, scanned = kind.scan(name, is_thorough=True)

        assert check.header == log.header
        assert list(scanned) == list(log.read_all())
        assert check_log(name).is_whole
        assert kind.size(name) != 0

    def test_a_stored_log_takes_the_records_of_another_at_their_places(self, log: EventLog) -> None:
        """A stored log takes the records of another, each at its place; so backups are made."""
        _, _ = _store_of(log)
        other = MemoryLog(log.header.dialect)
        _fill(other, 20)
        copy: Any = log
        copy.take(other.header, other.read_all())

        assert list(log.read_all()) == list(other.read_all())
        assert log.header.uuid == other.header.uuid

    def test_readers_get_a_gapless_run_while_a_writer_goes_on(self, log: EventLog) -> None:
        """Readers get a gapless run while a writer goes on."""
        total = self.writes
        problems: list[object] = []
        is_done = threading.Event()

        def read(start: int) -> None:
            after = start
            while not is_done.is_set():
                seqs = [r.seq for r in log.read_all(after)]
                if seqs != list(range(after + 1, after + 1 + len(seqs))):
                    problems.append((after, seqs[:5]))
                versions = [r.version for r in log.read("a3")]
                if versions != list(range(1, len(versions) + 1)):
                    problems.append(versions)
                after = max(log.seq - 10, 0)

        readers = [threading.Thread(target=read, args=(start,)) for start in (0, 0)]
        for reader in readers:
            reader.start()
        try:
            for number in range(total):
                version = number // 7
                alloc = f"a{number % 7}"
                append = [Append(alloc, version, [record_of(alloc, version + 1)])]
                log.append_all(append)
        finally:
            is_done.set()
        for reader in readers:
            reader.join(30)

        assert problems == []
