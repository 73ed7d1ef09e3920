"""Reading a log while it is written: a gapless run of what was there, from any position."""

import threading

import pytest

from taskfold import Append, LogError, MemoryLog, NdjsonLog, Record, VersionConflict
from taskfold import events as ev
from taskfold.log.sqlite import SqliteLog


def record(alloc, version, index=1, **more):
    return Record(
        index=index, alloc=alloc, version=version, task="web", time_ns=1, event=ev.Received(time_ns=1), **more
    )


@pytest.fixture(params=["memory", "ndjson", "sqlite"])
def log(request, tmp_path, monkeypatch):
    monkeypatch.setattr("taskfold.log.sparse.BLOCK_BYTES", 1_000)  # so that a small log has many blocks
    monkeypatch.setattr("taskfold.log.sqlite._ROWS", 16)
    makers = {
        "memory": lambda: MemoryLog("1.1.2"),
        "ndjson": lambda: NdjsonLog(tmp_path / "log.jsonl", "1.1.2"),
        "sqlite": lambda: SqliteLog(tmp_path / "log.db", "1.1.2"),
    }
    log = makers[request.param]()
    yield log
    log.close()


def fill(log, count, allocs=7):
    for number in range(count):
        version = number // allocs
        log.append(f"a{number % allocs}", version, [record(f"a{number % allocs}", version + 1, index=number + 1)])


def test_a_log_is_read_from_any_position(log):
    fill(log, 200)

    assert log.seq == 200
    for after in (0, 1, 5, 6, 7, 99, 150, 198, 199, 200, 201):
        assert [r.seq for r in log.read_all(after)] == list(range(after + 1, 201))


def test_one_allocation_is_read_from_any_version(log):
    fill(log, 200)
    log.append("late", 0, [record("late", 1)])

    assert [r.version for r in log.read("a3")] == list(range(1, 30))
    assert [r.version for r in log.read("a3", after_version=27)] == [28, 29]
    assert [r.seq for r in log.read("late")] == [201]
    assert list(log.read("a")) == []
    assert list(log.read("nobody")) == []


def test_a_log_that_is_opened_again_is_read_from_any_position(tmp_path, monkeypatch):
    monkeypatch.setattr("taskfold.log.sparse.BLOCK_BYTES", 1_000)
    monkeypatch.setattr("taskfold.lines.BLOCK_BYTES", 700)
    path = tmp_path / "log.jsonl"
    with NdjsonLog(path, "1.1.2") as log:
        fill(log, 100)
    with path.open("ab") as file:
        file.write(b'{"Seq":101,"Index":1,"Al')  # cut off by a crash

    with NdjsonLog(path) as log:
        log.append("b", 0, [record("b", version) for version in range(1, 31)])
        for after in (0, 50, 99, 100, 101, 129):
            assert [r.seq for r in log.read_all(after)] == list(range(after + 1, 131))
        assert [r.version for r in log.read("b")] == list(range(1, 31))
        assert [r.version for r in log.read("a6")] == list(range(1, 15))


def test_several_allocations_are_appended_together_or_not_at_all(log):
    fill(log, 7)
    before = list(log.read_all())

    with pytest.raises(VersionConflict):
        log.append_all([Append("a0", 1, [record("a0", 2)]), Append("a1", 5, [record("a1", 6)])])
    with pytest.raises(LogError, match="named twice"):
        log.append_all([Append("a0", 1, [record("a0", 2)]), Append("a0", 2, [record("a0", 3)])])
    assert list(log.read_all()) == before

    placed = log.append_all(
        [Append("a0", 1, [record("a0", 2, id="x"), record("a0", 3)]), Append("b", 0, [record("b", 1, id="y")])]
    )
    assert [(r.seq, r.alloc, r.version) for r in placed] == [(8, "a0", 2), (9, "a0", 3), (10, "b", 1)]
    again = log.append_all([Append("c", 0, [record("c", 1, id="x")]), Append("b", 1, [record("b", 2, id="y")])])
    assert again == []


def test_readers_get_a_gapless_run_while_a_writer_goes_on(log):
    total, problems = 2_000, []
    is_done = threading.Event()

    def read(start):
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
            append = [Append(alloc, version, [record(alloc, version + 1)])]
            if isinstance(log, NdjsonLog):
                log.append_all(append, sync=False)
            else:
                log.append_all(append)
    finally:
        is_done.set()
    for reader in readers:
        reader.join(30)

    assert problems == []


def test_what_a_failing_append_leaves_for_a_moment_is_not_read(tmp_path, monkeypatch):
    with NdjsonLog(tmp_path / "log.jsonl", "1.1.2") as log:
        log.append("a", 0, [record("a", 1)])
        seen = []

        def full(_descriptor):
            seen.append([r.seq for r in log.read_all()])  # another thread would see the file as it is now
            seen.append([r.version for r in log.read("a")])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(LogError, match="No space left"):
                log.append_all([Append("a", 1, [record("a", 2)]), Append("b", 0, [record("b", 1)])])

        assert seen == [[1], [1]]
        assert [r.seq for r in log.read_all()] == [1]


def test_a_file_that_cannot_be_locked_is_closed(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    NdjsonLog(path, "1.1.2").close()
    opened = []

    def refuse(file, _):
        opened.append(file)
        raise BlockingIOError

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(LogError, match="another process is writing"):
        NdjsonLog(path)

    assert opened[0].closed
