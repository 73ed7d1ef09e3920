"""Opening a log: a file of lines is decoded once, and the state is the one that reading it again would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.recordings import bodies, scenarios
from taskfold import Engine, ManualClock, Record, events, ingest, verify
from taskfold.live.core import Core
from taskfold.live.store import Store
from taskfold.log.contract import Ledger, new_header
from taskfold.log.ndjson import records as ndjson_records
from taskfold.log.ndjson.log import NdjsonLog
from taskfold.log.registry import open_log
from taskfold.model.record import Collected, Gap, Placed, Updated
from taskfold.testing import strategies as kit

SECOND = 1_000_000_000


def state_of(store: Store) -> tuple[Any, ...]:
    """Return all that a store has folded."""
    folded = [(alloc, found.freeze()) for alloc, found in store.fold.allocations.items()]
    listed = [(alloc, store.directory.get(alloc)) for alloc in store.directory.ids()]
    return store.seq, store.dialect.name, folded, listed, store.positions.saved()


def check_state(path: Path) -> None:
    """Check that the state of an engine that opens a log is what the log gives when it is read."""
    with NdjsonLog(path) as log:
        wanted = state_of(Store(log))
    with Engine.open(path) as engine:
        engine.store._check()
        assert state_of(engine.store) == wanted
    with Engine.open(path, read_only=True) as engine:
        engine.store._check()
        assert state_of(engine.store) == wanted


class Counting:
    """A decoder that counts the lines it decodes."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Record)
        self.lines = 0

    def decode_lines(self, text: bytes) -> list[Record]:
        found = self._decoder.decode_lines(text)
        self.lines += len(found)
        return found

    def decode(self, text: bytes) -> Record:
        self.lines += 1
        return self._decoder.decode(text)


@pytest.mark.parametrize("more", [{}, {"read_only": True}])
def test_a_file_of_lines_is_decoded_once_when_an_engine_opens_it(tmp_path, monkeypatch, more):
    path = tmp_path / "x.jsonl"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        for number in range(20):
            engine.record("a", "web", events.Driver(), id=f"id-{number}")
    counting = Counting()
    monkeypatch.setattr(ndjson_records, "decoder", lambda: counting)

    with Engine.open(path, **more) as engine:
        assert engine.store.seq == counting.lines == 21
        assert engine.task("a", "web").events_total == 20


@pytest.mark.parametrize("scenario", scenarios()[::7], ids=str)
def test_the_state_that_opening_gives_is_that_of_the_records(scenario, tmp_path):
    (tmp_path / "bodies.json").write_text("".join(f"{each.body}\n" for each in bodies(scenario)), encoding="utf-8")
    ingest(tmp_path / "bodies.json", into=tmp_path / "x.jsonl")

    check_state(tmp_path / "x.jsonl")


def test_what_was_collected_and_removed_is_no_part_of_the_state_that_opening_gives(tmp_path):
    path = tmp_path / "x.jsonl"
    with Engine.open(path, dialect="1.1.2", clock=ManualClock(SECOND)) as engine:
        for alloc in ("a", "b", "c"):
            engine.place({"ID": alloc})
            engine.record(alloc, "web", events.NotRestarting())
            if alloc != "c":
                engine.collect(alloc)
    check_state(path)
    with Engine.open(path) as engine:
        assert [snapshot.id for snapshot in engine.allocations()] == ["c"]
        engine.compact()
    check_state(path)
    assert verify(path).agrees


def test_a_log_of_an_older_format_is_folded_as_it_is_brought_to_the_present(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes((Path(__file__).parents[1] / "data" / "format-1.jsonl").read_bytes())
    with Engine.open(path, read_only=True) as engine:
        wanted = state_of(engine.store)

    with Engine.open(path) as engine:
        assert state_of(engine.store) == wanted
    check_state(path)


def test_an_empty_log_is_folded_as_its_own_dialect(tmp_path):
    for name in ("x.jsonl", "x.db"):
        for _ in range(2):
            with Engine.open(tmp_path / name, dialect="1.1.2") as engine:
                assert engine.store.fold.dialect.name == "1.1.2"


def test_what_was_folded_of_less_than_the_log_has_is_not_taken_for_its_state(tmp_path):
    core = Core()
    with open_log(tmp_path / "x.jsonl", "1.1.2", reader=core) as log:
        log.append("a", 0, [Record(index=1, alloc="a", version=1, event=Placed(body=msgspec.Raw(b'{"ID":"a"}')))])
        assert core.seq == 0
        assert "a" in Store(log, core=core).fold


TASK_EVENTS = kit.events("1.1.2")
EVENTS = TASK_EVENTS | TASK_EVENTS | kit.internal_events("1.1.2", [Placed, Collected, Updated, Gap])
STEPS = st.lists(st.tuples(st.sampled_from("abc"), EVENTS), max_size=30)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, cuts=st.lists(st.integers(0, 30), max_size=5))
def test_records_give_the_same_state_in_whatever_pieces_they_are_taken_in(steps, cuts):
    versions: dict[str, int] = {}
    records = []
    for seq, (alloc, event) in enumerate(steps, start=1):
        versions[alloc] = versions.get(alloc, 0) + 1
        if isinstance(event, Placed):
            event = Placed(body=msgspec.Raw(b'{"ID":"%b"}' % alloc.encode()))  # noqa: PLW2901
        task = "web" if isinstance(event, events.TaskEvent | Gap) else ""
        records.append(Record(seq=seq, index=seq, alloc=alloc, version=versions[alloc], task=task, event=event))
    one, other = Core("1.1.2"), Core("1.1.2")
    for record in records:
        one.take([record])
    ledger, known = Ledger(), Ledger()
    known.note_placed(records)
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), len(records)], strict=True):
        other.take(records[first:last])
        ledger.note_all(records[first:last])

    assert [one.seq, one.positions.saved()] == [other.seq, other.positions.saved()]
    frozen = [{alloc: found.freeze() for alloc, found in each.fold.allocations.items()} for each in (one, other)]
    assert frozen[0] == frozen[1]
    assert list(frozen[0]) == list(frozen[1])
    assert not any(found.collected for found in one.fold.allocations.values())
    assert (ledger.seq, ledger.versions) == (known.seq, known.versions)


def test_whoever_begins_to_read_a_log_anew_has_no_record_of_it():
    core = Core("0.5.6")
    core.take([Record(seq=1, index=1, alloc="a", version=1, task="web", event=events.Started())])

    core.begin(new_header("1.1.2"))

    assert (core.seq, core.fold.dialect.name, list(core.fold), core.positions.newest) == (0, "1.1.2", [], 0)
