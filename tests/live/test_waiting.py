"""Waiting: nobody sleeps through a change, and nobody waits longer than was asked for."""

import asyncio
import random
import threading
import time

import pytest

from taskfold import Engine, ManualClock
from taskfold import events as ev

SECOND = 1_000_000_000


@pytest.fixture
def engine():
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a", "JobID": "job"})
    engine.place({"ID": "b", "JobID": "other"})
    return engine


def until(condition, *, seconds=10):
    """Wait until something is so: for threads that are on their way."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.001)


def in_thread(function):
    """Run a function in a thread; return the thread and the list that gets its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    return thread, results


def test_what_is_newer_already_is_returned_at_once(engine):
    assert engine.wait("a", after=0).modify_index == 1
    assert engine.wait_index(after=1) == 2
    assert engine.wait_job("other", after=1) == 2


def test_a_wait_ends_with_the_first_change_of_its_allocation(engine):
    thread, results = in_thread(lambda: engine.wait("a", after=1))
    until(lambda: len(engine.store.watches) == 1)

    engine.record("b", "web", ev.Received())
    assert len(engine.store.watches) == 1, "a change of another allocation woke it"
    engine.record("a", "web", ev.Received())

    thread.join(10)
    assert results[0].modify_index == 4
    assert results[0].tasks["web"].state == "pending"
    assert len(engine.store.watches) == 0


def test_a_job_and_the_list_are_waited_for_as_well(engine):
    job_thread, jobs = in_thread(lambda: engine.wait_job("job", after=2))
    list_thread, lists = in_thread(lambda: engine.wait_index(after=2))
    until(lambda: len(engine.store.watches) == 2)

    engine.record("b", "web", ev.Received())
    list_thread.join(10)
    assert lists == [3]
    assert jobs == []

    engine.record("a", "web", ev.Received())
    job_thread.join(10)
    assert jobs == [4]


def test_an_allocation_that_is_absent_counts_with_the_index_of_the_store(engine):
    assert engine.wait("new", after=1, timeout=0) is None

    thread, results = in_thread(lambda: engine.wait("new", after=2))
    until(lambda: len(engine.store.watches) == 1)
    engine.place({"ID": "new"})

    thread.join(10)
    assert results[0].id == "new"


def test_a_wait_ends_when_its_time_is_over_and_tells_what_is_known():
    clock = ManualClock()
    engine = Engine(clock=clock)
    engine.place({"ID": "a"})
    thread, results = in_thread(lambda: engine.wait("a", after=1, timeout=300))
    until(lambda: clock.waiting == 1 and len(engine.store.watches) == 1)

    clock.advance(300 * SECOND - 1)
    time.sleep(0.02)
    assert results == []
    clock.advance(1)

    thread.join(10)
    assert results[0].modify_index == 1
    assert len(engine.store.watches) == 0


def test_a_wait_by_the_system_clock_ends_too(engine):
    began = time.monotonic()

    assert engine.wait_index(after=99, timeout=0.05) == 2

    assert time.monotonic() - began >= 0.05
    assert len(engine.store.watches) == 0


def test_closing_ends_every_wait(engine):
    waits = [in_thread(lambda: engine.wait("a", after=99)), in_thread(lambda: engine.wait_index(after=99))]
    until(lambda: len(engine.store.watches) == 2)

    engine.close()

    for thread, results in waits:
        thread.join(10)
        assert len(results) == 1
    assert engine.wait_index(after=99) == 2, "a wait after the end returns at once"


def test_an_event_loop_waits_for_what_threads_write(engine):
    async def story():
        waits = [asyncio.create_task(engine.wait_async("a", after=1)) for _ in range(100)]
        waits.append(asyncio.create_task(engine.wait_job_async("job", after=1)))
        waits.append(asyncio.create_task(engine.wait_index_async(after=2)))
        while len(engine.store.watches) < len(waits):
            await asyncio.sleep(0)
        await asyncio.to_thread(engine.record, "a", "web", ev.Received())
        return await asyncio.gather(*waits)

    *snapshots, job_index, index = asyncio.run(story())

    assert {snapshot.modify_index for snapshot in snapshots} == {3}
    assert (job_index, index) == (3, 3)


def test_an_event_loop_waits_by_the_clock():
    clock = ManualClock()
    engine = Engine(clock=clock)
    engine.place({"ID": "a"})

    async def story():
        waiting = asyncio.create_task(engine.wait_async("a", after=1, timeout=300))
        while not clock.waiting:
            await asyncio.sleep(0)
        clock.advance(300 * SECOND - 1)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        clock.advance(1)
        return await waiting

    assert asyncio.run(story()).modify_index == 1
    assert len(engine.store.watches) == 0


def test_cancelling_frees_the_waiter(engine):
    async def story():
        waiting = asyncio.create_task(engine.wait_async("a", after=1, timeout=300))
        while not engine.store.watches:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(story())
    assert len(engine.store.watches) == 0


def test_a_write_after_the_loop_is_closed_hurts_nobody(engine):
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(engine.wait_async("a", after=1))
    loop.run_until_complete(asyncio.sleep(0))
    until(lambda: len(engine.store.watches) == 1)
    waiting.cancel = lambda *_: False  # so that it is still waiting when its loop is gone
    loop.close()

    engine.record("a", "web", ev.Received())

    assert engine.snapshot("a").modify_index == 3
    waiting._log_destroy_pending = False


class Reader(threading.Thread):
    """Goes from index to index with one kind of wait, up to the last; a wait that is slept through is a problem."""

    LIMIT = 60

    def __init__(self, name, ask, start, last):
        super().__init__(name=name, daemon=True)
        self.ask, self.index, self.last = ask, start, last
        self.problem = ""

    def run(self):
        while self.index < self.last and not self.problem:
            began = time.monotonic()
            index = self.ask(self.index, self.LIMIT)
            if time.monotonic() - began >= self.LIMIT:
                self.problem = f"{self.name} slept at {self.index}"
            elif index <= self.index:
                self.problem = f"{self.name} went from {self.index} to {index}"
            self.index = index


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_never_sleep_through_a_change(seed):
    """Each reader follows an allocation, a job or the list from index to index, while three threads write."""
    random_ = random.Random(seed)
    engine = Engine(dialect="1.1.2", waiters_per_key=2)  # so that some fall back to the coarse key
    jobs = {f"a{number}": f"job{number % 2}" for number in range(6)}
    for alloc, job in jobs.items():
        engine.place({"ID": alloc, "JobID": job})
    start = engine.index
    total, writers = 300, 3
    targets = [[random_.choice(list(jobs)) for _ in range(total)] for _ in range(writers)]
    # Every allocation gets a last write after all others, so that each reader knows where it must arrive.
    last = {alloc: start + total * writers + place for place, alloc in enumerate(jobs, start=1)}

    def write(allocs):
        for alloc in allocs:
            engine.record(alloc, "web", ev.Received())

    def of_allocation(alloc):
        return lambda index, limit: engine.wait(alloc, after=index, timeout=limit).modify_index

    def of_job(job):
        return lambda index, limit: engine.wait_job(job, after=index, timeout=limit)

    def of_list(index, limit):
        return engine.wait_index(after=index, timeout=limit)

    readers = [Reader(f"{alloc}/{n}", of_allocation(alloc), start, last[alloc]) for alloc in jobs for n in range(4)]
    readers += [Reader(f"list/{n}", of_list, start, max(last.values())) for n in range(4)]
    readers += [
        Reader(job, of_job(job), start, max(last[alloc] for alloc in jobs if jobs[alloc] == job))
        for job in ("job0", "job1")
    ]
    working = [threading.Thread(target=write, args=(mine,)) for mine in targets]
    for thread in (*readers, *working):
        thread.start()
    for thread in working:
        thread.join(Reader.LIMIT)
    write(jobs)
    for reader in readers:
        reader.join(2 * Reader.LIMIT)

    assert [reader.problem for reader in readers if reader.problem] == []
    assert all(reader.index == reader.last for reader in readers)
    assert len(engine.store.watches) == 0
    engine.store._check()


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_wait_of_no_time_is_over_at_once_whatever_the_clock(timeout):
    engine = Engine(dialect="1.1.2", clock=ManualClock())
    engine.place({"ID": "a"})

    assert engine.wait("a", after=99, timeout=timeout).modify_index == 1
    assert asyncio.run(engine.wait_async("a", after=99, timeout=timeout)).modify_index == 1
    assert list(engine.subscribe(after=1, timeout=timeout)) == []
