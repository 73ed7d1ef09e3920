"""Following a stream as it grows: every whole line once, whatever happens to the file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import httpx
import pytest

from support.examples import EXAMPLE, LINES
from support.servers import served, until
from taskfold import Engine, MemoryLog, SourceError, replay
from taskfold.sources.follow import Follower

WHOLE = [snapshot.to_json() for snapshot in replay(EXAMPLE).snapshots()]


def bodies(engine):
    return [snapshot.to_json() for snapshot in engine.allocations()]


@pytest.fixture
def following(tmp_path):
    """Return a file, an engine that follows it, and what was noted."""
    path = tmp_path / "stream.ndjson"
    path.touch()
    notes, problems = [], []
    engine = Engine(MemoryLog("1.1.2"))
    follower = Follower(engine, str(path), on_note=notes.append, on_problem=problems.append, poll_seconds=0.005)
    follower.start()
    yield path, engine, follower, notes, problems
    follower.stop()


def test_a_file_that_grows_by_halves_of_lines_is_followed(following):
    path, engine, follower, notes, problems = following
    data = b"".join(LINES)
    with path.open("ab", buffering=0) as file:
        for start in range(0, len(data), 50_021):
            file.write(data[start : start + 50_021])
            time.sleep(0.002)
    until(lambda: follower.lines == len(LINES) and bodies(engine) == WHOLE)

    assert bodies(engine) == WHOLE
    assert (notes, problems, follower.bad_lines) == ([], [], 0)


def test_half_a_line_waits_for_its_other_half(following):
    path, engine, follower, _, _ = following
    with path.open("ab", buffering=0) as file:
        file.write(b"".join(LINES)[:-1])
        until(lambda: follower.lines == len(LINES) - 1)
        time.sleep(0.03)
        assert bodies(engine) != WHOLE
        file.write(b"\n")
    until(lambda: bodies(engine) == WHOLE)


@pytest.mark.parametrize("way", ["truncated", "replaced"])
def test_a_file_that_begins_anew_is_read_again(following, way):
    path, engine, follower, notes, _ = following
    path.write_bytes(b"".join(LINES[:30]) + b'{"half')
    until(lambda: follower.lines == 30)
    if way == "truncated":
        path.write_bytes(b"".join(LINES[:20]))
        until(lambda: follower.lines == 20)
    else:
        other = path.with_name("other")
        other.write_bytes(b"".join(LINES[10:]))
        other.replace(path)
        until(lambda: follower.lines == len(LINES) - 10)
        until(lambda: bodies(engine) == WHOLE)  # a line is counted before it is observed
    assert notes == [f"{path} begins anew"]


def test_a_line_that_cannot_be_read_is_told_and_passed_over(following):
    path, engine, follower, notes, problems = following
    bad = [b"no json\n", b'{"ID":5}\n', b"\xff\n"]
    path.write_bytes(b"".join([*LINES[:40], *bad, b"\n", b"{}\n", *LINES[40:]]))
    until(lambda: follower.lines == len(LINES) + 5 and bodies(engine) == WHOLE)  # a line counts before it is taken

    assert follower.bad_lines == 3
    assert [f"line {line}" in note for line, note in zip((41, 42, 43), notes, strict=True)] == [True] * 3
    assert problems == []
    assert bodies(engine) == WHOLE


def test_only_the_first_bad_lines_are_told(following):
    path, _, follower, notes, _ = following
    path.write_bytes(b"bad\n" * 50)
    until(lambda: follower.bad_lines == 50 and len(notes) == 10)

    assert (follower.bad_lines, len(notes)) == (50, 10)
    assert notes[-1].endswith("later ones will only be counted")


def test_another_dialect_ends_the_following_with_a_sentence(tmp_path):
    path = tmp_path / "stream.ndjson"
    path.write_bytes(b"".join(LINES))
    problems = []
    follower = Follower(Engine(MemoryLog("0.5.6")), str(path), on_problem=problems.append)
    follower.start()
    assert follower.is_done.wait(10)
    follower.stop()

    assert problems == [f"following {path} ended: the log holds dialect 0.5.6, not 1.1.2: a log holds one dialect"]
    assert follower.error == problems[0]


def test_a_log_that_cannot_be_written_ends_it(following, monkeypatch):
    path, engine, follower, _, problems = following

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.store.log, "append_all", full)
    path.write_bytes(b"".join(LINES))
    until(follower.is_done.is_set)

    assert "No space left on device" in problems[0]


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SourceError, match="cannot be followed: No such file"):
        Follower(Engine(), str(tmp_path / "none"))


def test_a_server_mirrors_what_is_piped_into_it(tmp_path):
    path = tmp_path / "mirror.jsonl"
    command = [sys.executable, "-m", "taskfold", "serve", str(path), "--follow", "-", "--bind", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    url = ""
    while not url:
        line = process.stderr.readline().decode().strip()
        url = line.rpartition(" at ")[2] if " at http" in line else ""
    for each in LINES:
        process.stdin.write(each)
        process.stdin.flush()
    newest = max(snapshot.modify_index for snapshot in replay(EXAMPLE).snapshots())
    until(lambda: httpx.get(f"{url}/v1/allocations?namespace=*").headers["X-Nomad-Index"] == str(newest))

    for body in WHOLE[:5]:
        alloc = body.partition(b'"ID":"')[2][:36].decode()
        assert httpx.get(f"{url}/v1/allocation/{alloc}").content == body
    refused = httpx.post(f"{url}/v1/allocations/events", content=b"{}")
    assert (refused.status_code, "mirrors a Nomad" in refused.text) == (409, True)

    process.stdin.close()
    assert b"standard input has ended" in process.stderr.readline()
    health = httpx.get(f"{url}/v1/agent/health")
    assert (health.status_code, health.json()["server"]["ok"]) == (503, False)
    assert "standard input has ended" in health.json()["server"]["message"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stderr.close()
    assert [snapshot.to_json() for snapshot in replay(path).snapshots()] == WHOLE


def test_a_server_follows_a_file_and_goes_on_after_a_restart(tmp_path):
    stream, log = tmp_path / "stream.ndjson", tmp_path / "log.jsonl"
    stream.write_bytes(b"".join(LINES[:30]))
    with served(log, "--follow", stream) as (process, url):
        until(lambda: httpx.get(f"{url}/v1/allocations?namespace=*").text != "[]")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with stream.open("ab") as file:
        file.write(b"".join(LINES[30:]))
    with served(log, "--follow", stream) as (process, url):
        newest = max(snapshot.modify_index for snapshot in replay(EXAMPLE).snapshots())
        until(lambda: httpx.get(f"{url}/v1/allocations").headers["X-Nomad-Index"] == str(newest))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [snapshot.to_json() for snapshot in replay(log).snapshots()] == WHOLE
    assert log.stat().st_size < stream.stat().st_size
