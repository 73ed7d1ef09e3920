"""One contract for every log, and what a file adds to it: reopening, torn lines, damage, and disks that fail."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from taskfold.errors import DialectError, LogError, SourceError, VersionConflict
from taskfold.log import EventLog, MemoryLog, NdjsonLog
from taskfold.log.registry import open_log
from taskfold.log.seals import seal, unsealed
from taskfold.log.sqlite.log import SqliteLog
from taskfold.sources.replay import replay
from taskfold.testing import LogContract
from taskfold.testing.logs import record_of, records_of


class TestMemory(LogContract):
    """A log in memory."""

    def make_log(self, dialect: str = "1.1.2", region: str = "global") -> EventLog:
        return MemoryLog(dialect, region)


class _OnDisk(LogContract):
    @pytest.fixture(autouse=True)
    def small_pieces(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a small log has many blocks."""
        self.folder = tmp_path
        monkeypatch.setattr("taskfold.log.ndjson.offsets.BLOCK_BYTES", 1_000)
        monkeypatch.setattr("taskfold.log.sqlite.tables._ROWS", 16)


class TestNdjson(_OnDisk):
    """A log as JSON lines."""

    def make_log(self, dialect: str = "1.1.2", region: str = "global") -> EventLog:
        return NdjsonLog(self.folder / "log.jsonl", dialect, region)


class TestSqlite(_OnDisk):
    """A log in a database."""

    def make_log(self, dialect: str = "1.1.2", region: str = "global") -> EventLog:
        return SqliteLog(self.folder / "log.db", dialect, region)


# --- a file -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a log of four records."""
    path = tmp_path / "tasks.jsonl"
    with_four_records(path)
    return path


def with_four_records(path: Path) -> None:
    log = NdjsonLog(path, "0.5.6", "west")
    log.append("a", 0, records_of("a", 1, 3))
    log.append("b", 0, [record_of("b", 1, index=9, id="report-7")])
    log.close()


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_log_is_opened_again_and_goes_on(path: Path) -> None:
    log = NdjsonLog(path)
    assert (log.header.dialect, log.header.region, log.seq) == ("0.5.6", "west", 4)
    assert log.knows("report-7")
    with pytest.raises(VersionConflict):
        log.append("a", 0, records_of("a", 1, 1))
    assert [r.seq for r in log.append("a", 3, records_of("a", 4, 4))] == [5]
    log.close()
    log.close()
    assert [r.seq for r in replay(path)] == [1, 2, 3, 4, 5]
    assert [r.alloc for r in replay(path)] == ["a", "a", "a", "b", "a"]


def test_a_new_log_needs_a_dialect_and_an_empty_file_is_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    with pytest.raises(LogError, match="a new one needs a dialect"):
        NdjsonLog(path)
    assert not path.exists()
    path.touch()
    NdjsonLog(path, "1.1.2").close()
    assert len(lines_of(path)) == 1


def test_two_writers_cannot_open_one_file(path: Path) -> None:
    first = NdjsonLog(path)
    before = path.read_bytes()
    with pytest.raises(LogError, match="this process has the log open already"):
        NdjsonLog(path)
    assert path.read_bytes() == before
    first.close()
    NdjsonLog(path).close()


def test_another_dialect_is_refused(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(DialectError, match=r"the log holds dialect 0\.5\.6, not 1\.1\.2: a log holds one dialect"):
        NdjsonLog(path, "1.1.2")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"{}\n",
        b'{"ID":"a","ModifyIndex":1}\n',
        b"\x00\x01",
        b'{"taskfold":99,"dialect":"0.5.6","region":"","lifecycle":""}\n',
        b'{"taskfold":1,"dialect":"7.0","region":"","lifecycle":""}\n',
        b'{"taskfold":1}\n',
        b'{"taskfold":1,"dial',
    ],
)
def test_what_is_no_log_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"other\.jsonl"):
        NdjsonLog(path, "0.5.6")
    assert path.read_bytes() == content


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"[Ii]s a directory"):
        NdjsonLog(tmp_path, "0.5.6")


def test_a_compressed_log_can_be_read_but_not_appended_to(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    before = packed.read_bytes()
    assert list(replay(packed)) == list(replay(path))
    with pytest.raises(LogError, match="a compressed log can be read, not appended to"):
        NdjsonLog(packed)
    assert packed.read_bytes() == before


def test_a_torn_last_line_is_not_read_and_its_place_is_taken(path: Path) -> None:
    whole = lines_of(path)
    for torn in [*(whole[-1][:size] for size in range(1, len(whole[-1]))), b"{" + b"x" * 2_000]:
        path.write_bytes(b"".join(whole[:-1]) + torn)
        assert [r.seq for r in replay(path)] == [1, 2, 3]
        log = NdjsonLog(path)
        assert log.seq == 3
        assert not log.knows("report-7")
        assert [r.seq for r in log.read_all()] == [1, 2, 3]
        log.append("a", 3, records_of("a", 4, 4))
        log.append("a", 4, records_of("a", 5, 5))
        assert len(lines_of(path)) == 6
        assert [r.seq for r in log.read_all()] == [1, 2, 3, 4, 5]
        log.close()
        assert [r.version for r in replay(path)] == [1, 2, 3, 4, 5]
        log = NdjsonLog(path)
        assert log.seq == 5
        log.close()


def test_a_damaged_line_in_the_middle_is_named(path: Path) -> None:
    whole = path.read_bytes()
    lines = lines_of(path)
    start = sum(len(line) for line in lines[:2])
    for offset in range(len(lines[2])):  # every byte of the third line, its newline too
        path.write_bytes(whole[: start + offset] + b"\x01" + whole[start + offset + 1 :])
        with pytest.raises(LogError, match=r"tasks\.jsonl, line [23]: the log is damaged at byte \d+: "):
            NdjsonLog(path)
        with pytest.raises(SourceError, match="the log is damaged at byte") as caught:
            list(replay(path))
        # What is no record is named itself; what could be one, the first line that was written together with it.
        assert caught.value.line in {2, 3}


def test_a_line_that_is_missing_or_twice_is_named(path: Path) -> None:
    header, *lines = lines_of(path)
    for wrong in ([lines[0], *lines[2:]], [*lines[:2], *lines[1:]], [lines[0], lines[2], lines[1], lines[3]]):
        path.write_bytes(header + b"".join(wrong))
        with pytest.raises(LogError, match=r"tasks\.jsonl, line 2: the log is damaged at byte "):
            NdjsonLog(path)
        # Also where somebody has sealed it so.
        path.write_bytes(header + seal(unsealed(b"".join(wrong))))
        with pytest.raises(LogError, match=r"tasks\.jsonl, line [34]: expected Seq [23] "):
            NdjsonLog(path)


def test_rolling_back_takes_back_what_was_not_acknowledged(path: Path, tmp_path: Path) -> None:
    log = NdjsonLog(path)
    log.append("a", 3, records_of("a", 4, 9))
    before = path.read_bytes()
    for version in range(1, 2_000):  # more than is kept in memory
        log.append("c", version - 1, [record_of("c", version)], sync=False)
    assert len(list(log.read("c"))) == 1_999
    assert path.read_bytes() == before
    log.roll_back()
    assert path.read_bytes() == before
    new = NdjsonLog(tmp_path / "new.jsonl", "0.5.6")
    new.append("a", 0, records_of("a", 1, 2))
    new.roll_back()
    assert not (tmp_path / "new.jsonl").exists()


def test_what_was_not_acknowledged_at_once_is_with_the_next_sync(path: Path) -> None:
    log = NdjsonLog(path)
    log.append("a", 3, records_of("a", 4, 5), sync=False)
    assert [r.version for r in log.read("a", after_version=3)] == [4, 5]
    log.sync()
    assert len(lines_of(path)) == 7
    log.close()


# --- a disk that fails ------------------------------------------------------------------------------------------------


class Disk:
    """What stands between a log and its file: writes only half of what it is given, and fails at one call."""

    def __init__(self, file: BinaryIO, fails_at: int) -> None:
        self.file = file
        self.fails_at = fails_at
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def called(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fsync(self, _: int) -> None:
        self.called()

    def write(self, data: bytes) -> int:
        self.called()
        return self.file.write(data[: max(len(data) // 2, 1)])


def test_a_write_that_fails_at_any_call_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 0
    for fails_at in itertools.count(1):
        path.unlink()
        with_four_records(path)
        before = path.read_bytes()
        log = NdjsonLog(path)
        disk = Disk(log._file, fails_at)
        with monkeypatch.context() as patch:
            patch.setattr(log, "_file", disk)
            patch.setattr(os, "fsync", disk.fsync)
            try:
                log.append("a", 3, records_of("a", 4, 6))
            except LogError as error:
                failure = str(error)
            else:
                break
        failures += 1
        assert failure == f"{path}: cannot be written: No space left on device"
        assert path.read_bytes() == before
        # Nothing was appended, so that the same may be tried again; and then it is there once.
        assert [r.seq for r in log.read_all()] == [1, 2, 3, 4]
        assert [r.seq for r in log.append("a", 3, records_of("a", 4, 6))] == [5, 6, 7]
        log.close()
        assert [r.seq for r in replay(path)] == [1, 2, 3, 4, 5, 6, 7]
    log.close()
    assert failures > 5, "a short write is gone on with, and each part may fail"


def test_what_is_pending_when_a_sync_fails_at_any_call_is_pending_still(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0
    for fails_at in itertools.count(1):
        path.unlink()
        with_four_records(path)
        log = NdjsonLog(path)
        disk = Disk(log._file, fails_at)
        with monkeypatch.context() as patch:
            patch.setattr(log, "_file", disk)
            patch.setattr(os, "fsync", disk.fsync)
            log.append("a", 3, records_of("a", 4, 6), sync=False)
            try:
                log.sync()
            except LogError as error:
                failure = str(error)
            else:
                break
        failures += 1
        assert failure == f"{path}: cannot be written: No space left on device"
        assert [r.seq for r in log.read_all()] == [1, 2, 3, 4, 5, 6, 7]
        assert len(list(replay(path))) in {4, 7}
        log.append("b", 1, [record_of("b", 2)])
        log.close()
        assert [r.seq for r in replay(path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    log.close()
    assert failures > 5


@pytest.mark.parametrize("name", ["x.jsonl", "x.db"])
def test_who_has_a_log_open_is_told_also_after_it_was_closed_once(name, tmp_path):
    path = tmp_path / name
    NdjsonLog(path, "1.1.2").close() if name == "x.jsonl" else SqliteLog(path, "1.1.2").close()
    script = "import sys\nfrom taskfold.log.registry import open_log\nwith open_log(sys.argv[1]): print(); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(LogError, match="another process is writing this log"):
            open_log(path)
    finally:
        other.communicate("\n")
    with open_log(path), pytest.raises(LogError, match="this process has the log open already"):
        open_log(path)
    open_log(path).close()
