"""The store: one writer, many readers, each of whom sees whole writes only."""

import random
import threading
from contextlib import suppress

import pytest

from taskfold import Engine, MemoryLog, TaskfoldError, UnknownAllocation
from taskfold import events as ev
from taskfold.live.cursor import Cursor
from taskfold.live.directory import Directory
from taskfold.model.record import Write


def place(engine, count):
    for number in range(count):
        engine.place({"ID": f"a{number:03}", "JobID": f"job{number % 3}", "NodeID": f"n{number % 2}"})


def test_allocations_are_found_by_job_node_status_and_prefix():
    engine = Engine(dialect="1.1.2")
    place(engine, 12)
    engine.record("a004", "web", ev.Started())

    def ids(**wanted):
        return [snapshot.id for snapshot in engine.allocations(**wanted)]

    assert ids(job="job1") == ["a001", "a004", "a007", "a010"]
    assert ids(job="job1", node="n0") == ["a004", "a010"]
    assert ids(status="running") == ["a004"]
    assert ids(job="job2", status="running") == []
    assert ids(prefix="a01") == ["a010", "a011"]
    assert len(engine.allocations()) == 12


def test_a_status_that_was_told_is_the_one_that_is_found():
    engine = Engine(dialect="1.1.2")
    place(engine, 2)
    engine.record("a000", "web", ev.Started())

    engine.update("a000", {"ClientStatus": "lost"})

    assert [s.id for s in engine.allocations(status="lost")] == ["a000"]
    engine.record("a000", "web", ev.Terminated())
    assert [s.client_status for s in engine.allocations(status="lost")] == ["lost"]


def test_a_view_stays_at_its_index_while_writers_go_on():
    engine = Engine(dialect="1.1.2")
    place(engine, 200)  # more than a listing copies at once
    before = [snapshot.to_json() for snapshot in engine.allocations()]

    listing = engine.allocations()
    shown = []
    for number, snapshot in enumerate(listing):
        shown.append(snapshot.to_json())
        engine.record(f"a{199 - number:03}", "web", ev.Received())
        if number == 50:
            engine.place({"ID": "a0500"})

    assert shown == before
    assert listing.index == 200
    assert engine.index == 401
    assert not engine.store._listings
    engine.store._check()


class Busy:
    """A lock that a writer waits for: whenever it is free again, he writes."""

    def __init__(self, lock, write):
        self.lock, self.write, self.is_writing = lock, write, False

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        if not self.is_writing:
            self.is_writing = True
            self.write()
            self.is_writing = False


def write_anything(engine, rng):
    """Place, change, move or collect some allocation."""
    alloc = f"a{rng.randrange(60):03}"
    owner = {"JobID": f"job{rng.randrange(2)}", "NodeID": f"n{rng.randrange(2)}"}
    kind = rng.randrange(4)
    if alloc not in engine.store.fold:
        with suppress(TaskfoldError):  # it was collected
            engine.place({"ID": alloc} | owner)
    elif kind == 0:
        engine.update(alloc, owner)
    elif kind == 1:
        engine.update(alloc, {"ClientStatus": rng.choice(["lost", "complete", "running"])})
    elif kind == 2:
        with suppress(TaskfoldError):  # it has not ended
            engine.collect(alloc)
    else:
        engine.record(alloc, f"task{engine.index}", ev.Started())


@pytest.mark.parametrize("seed", range(40))
def test_a_view_has_what_matched_when_it_was_taken_whatever_is_written_while_its_ids_are_collected(seed, monkeypatch):
    monkeypatch.setattr("taskfold.live.store._IDS_AT_ONCE", 3)
    monkeypatch.setattr("taskfold.live.store._VIEW_CHUNK", 2)
    rng = random.Random(seed)
    engine = Engine(dialect="1.1.2")
    for _ in range(300):
        write_anything(engine, rng)
    wanted = [
        {},
        {"prefix": "a03"},
        {"job": "job1"},
        {"node": "n0", "status": "running"},
        {"status": "running"},
        {"prefix": "a0", "job": "job0"},
    ][seed % 6]
    before = [snapshot.to_json() for snapshot in engine.allocations(**wanted)]
    index, lock = engine.index, engine.store.lock
    engine.store.lock = Busy(lock, lambda: [write_anything(engine, rng) for _ in range(rng.randrange(6))])

    listing = engine.allocations(**wanted)

    assert listing.index == index
    assert len(listing) == len(before)
    assert [snapshot.to_json() for snapshot in listing] == before
    assert engine.index > index
    engine.store.lock = lock
    engine._check()


def test_a_view_looks_at_so_many_ids_under_one_lock_and_no_more(monkeypatch):
    engine = Engine(dialect="1.1.2")
    place(engine, 100)
    monkeypatch.setattr("taskfold.live.store._IDS_AT_ONCE", 10)
    pages = []
    page = Directory.page

    def counting(self, *arguments):
        found = page(self, *arguments)
        pages.append(len(found.ids))
        return found

    monkeypatch.setattr(Directory, "page", counting)

    assert len(engine.allocations()) == 100
    assert len(pages) == 11
    assert max(pages) == 10


def test_a_view_is_read_once():
    engine = Engine()
    place(engine, 1)
    listing = engine.allocations()
    assert len(list(listing)) == 1

    with pytest.raises(RuntimeError, match="take another one"):
        list(listing)


def test_readers_never_see_half_of_a_write():
    engine = Engine(dialect="1.1.2")
    place(engine, 4)
    rounds, problems = 150, []

    def read():
        while engine.index < 4 + rounds:
            listing = engine.allocations()
            counts = {snapshot.tasks["web"].events_total if snapshot.tasks else 0 for snapshot in listing}
            if len(counts) != 1:
                problems.append(counts)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(rounds):
        engine.append(Write(alloc=f"a{n:03}", task="web", event=ev.Received()) for n in range(4))
    for reader in readers:
        reader.join(30)

    assert problems == []
    assert engine.index == 4 + rounds


def test_an_unknown_allocation_is_told():
    store = Engine().store

    with pytest.raises(UnknownAllocation):
        store.read("x")


def test_every_record_is_subscribed_to_once_from_any_position():
    engine = Engine(dialect="1.1.2")
    place(engine, 5)

    assert [record.seq for record in engine.subscribe(after=2, timeout=0)] == [3, 4, 5]

    got = []
    thread = threading.Thread(target=lambda: got.extend(engine.subscribe()))
    thread.start()
    for number in range(50):
        engine.record(f"a{number % 5:03}", "web", ev.Received())
    while len(got) < 55:
        pass
    engine.close()
    thread.join(10)
    assert [record.seq for record in got] == list(range(1, 56))


def told(changes):
    """Return what changes tell, in a form that compares."""
    return [
        (c.first_seq, c.last_seq, c.index, [(state, len(records)) for state, records in c.allocations]) for c in changes
    ]


def read_all(reader):
    """Read to the end, by whatever way the reader asks for."""
    changes = []
    while reader.behind:
        recent = reader.recent()
        changes += reader.read() if recent is None else recent
    return changes


@pytest.mark.parametrize("seed", range(5))
def test_changes_are_the_same_from_the_log_and_from_what_is_kept(seed, monkeypatch):
    monkeypatch.setattr("taskfold.live.cursor._ALLOCATIONS_REMEMBERED", 3)
    monkeypatch.setattr("taskfold.live.cursor._RECORDS_AT_ONCE", 7)
    random_ = random.Random(seed)
    engine = Engine(dialect="1.1.2")
    live = Cursor(engine.reader, 0)
    place(engine, 8)
    for _ in range(60):
        chosen = random_.sample(range(8), random_.choice([1, 1, 2, 5]))
        engine.append(Write(alloc=f"a{n:03}", task="web", event=ev.Received()) for n in chosen)
    kept = read_all(live)
    live.close()

    from_log = Cursor(engine.reader, 0)
    everything = read_all(from_log)
    from_log.close()
    assert told(everything) == told(kept)
    assert [change.index for change in kept] == list(range(1, 69))

    # From the end of any write on, and with writes going on meanwhile.
    start = random_.choice(everything)
    late = Cursor(engine.reader, start.last_seq)
    first = late.read()
    engine.append([Write(alloc="a000", task="web", event=ev.Received())])
    rest = read_all(late)
    late.close()
    assert told(first + rest)[:-1] == [change for change in told(everything) if change[0] > start.last_seq]
    assert not engine.store._recent.followers
    assert not engine.store._recent


def test_what_is_kept_for_followers_is_limited(monkeypatch):
    monkeypatch.setattr("taskfold.live.changes._STATES", 4)
    engine = Engine(dialect="1.1.2")
    place(engine, 3)
    reader = Cursor(engine.reader, engine.store.seq)
    for _ in range(3):
        engine.append(Write(alloc=f"a{n:03}", task="web", event=ev.Received()) for n in range(3))

    assert len(engine.store._recent) <= 4
    assert reader.recent() is None, "it must read the log, and is told so"
    assert [change.index for change in read_all(reader)] == [4, 5, 6]
    reader.close()


def test_a_store_goes_on_from_its_log():
    log = MemoryLog("1.1.2")
    engine = Engine(log)
    place(engine, 5)
    engine.record("a001", "web", ev.Started())

    again = Engine(log)

    again.store._check()
    assert again.index == engine.index == 6
    assert [s.to_json() for s in again.allocations()] == [s.to_json() for s in engine.allocations()]
