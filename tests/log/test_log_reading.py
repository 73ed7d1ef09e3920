"""Reading a log while it is written: a gapless run of what was there, from any position."""

import pytest

from taskfold import Append, LogError, NdjsonLog, Record
from taskfold import events as ev


def record(alloc, version, index=1, **more):
    return Record(
        index=index, alloc=alloc, version=version, task="web", time_ns=1, event=ev.Received(time_ns=1), **more
    )


def fill(log, count, allocs=7):
    for number in range(count):
        version = number // allocs
        log.append(f"a{number % allocs}", version, [record(f"a{number % allocs}", version + 1, index=number + 1)])


def test_a_log_that_is_opened_again_is_read_from_any_position(tmp_path, monkeypatch):
    monkeypatch.setattr("taskfold.log.ndjson.offsets.BLOCK_BYTES", 1_000)
    monkeypatch.setattr("taskfold.log.lines.BLOCK_BYTES", 700)
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
