"""A log in PostgreSQL: the contract, several writers and processes, and servers and connections that are lost.

The server is a real one, which these tests start on loopback (tests/support/postgres.py).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from support.any_values import WRITING, begin, check_read_again, clock, make_calls, state_of
from support.command_line import refused, run
from support.forking import RECORDS, run_forks
from support.killing import kill_writers
from support.postgres import Server, server
from support.recordings import bodies, scenarios
from support.servers import LATEST_S, served, until
from taskfold import Engine, Record, events, ingest, inputs, replay, verify
from taskfold.errors import DialectError, Gone, LogError, ReadOnly, SourceError, VersionConflict
from taskfold.live.background import LogListener
from taskfold.log import EventLog
from taskfold.log.check import check_log
from taskfold.log.postgres.log import PostgresLog
from taskfold.model.clock import ManualClock
from taskfold.model.record import FORMAT, Collected
from taskfold.testing import LogContract
from taskfold.testing.logs import record_of, records_of

BY_NAME = {str(scenario): scenario for scenario in scenarios()}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def url(postgres: Server) -> str:
    """Return the URL of a schema that is empty."""
    return postgres.new_schema()


def asked(url: str, query: str) -> list[tuple[Any, ...]]:
    """Ask the database behind the log's back."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


class TestPostgres(LogContract):
    """A log in a database of a server."""

    writes = 200

    @pytest.fixture(autouse=True)
    def database(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        monkeypatch.setattr("taskfold.log.postgres.tables._ROWS", 16)

    def make_log(self, dialect: str = "1.1.2", region: str = "global") -> EventLog:
        return PostgresLog(self.url, dialect, region)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_log_is_opened_again_and_goes_on(url):
    with PostgresLog(url, "0.5.6", "west") as log:
        log.append("a", 0, records_of("a", 1, 3))
        log.append("b", 0, [record_of("b", 1, index=9, id="report-7")])
        log.append("c", 0, [record_of("c", 1, index=10, id=0), record_of("c", 2, index=10, id=1)])

    log = PostgresLog(url)

    assert (log.header.dialect, log.header.region, log.seq) == ("0.5.6", "west", 6)
    assert log.knows("report-7")
    assert not log.knows("report-8")
    with pytest.raises(VersionConflict, match="is at version 3, not 0"):
        log.append("a", 0, [record_of("a", 1)])
    assert log.append("b", 1, [record_of("b", 1, id="report-7")]) == []
    assert log.append("c", 2, [record_of("c", 3, index=10, id=1)]) == []
    assert [r.seq for r in log.append("c", 2, [record_of("c", 3, index=10, id=2)])] == [7]
    log.close()
    log.close()
    assert [r.alloc for r in replay(url)] == ["a", "a", "a", "b", "c", "c", "c"]


def test_of_many_who_begin_a_log_at_the_same_time_all_have_the_same(url):
    logs: list[PostgresLog] = []
    threads = [threading.Thread(target=lambda: logs.append(PostgresLog(url, "1.1.2"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number, log in enumerate(logs):
        log.append("a", number, [record_of("a", number + 1)])
    assert [r.version for r in logs[0].read_all()] == [1, 2, 3, 4, 5, 6]
    assert len(asked(url, "SELECT * FROM taskfold_head")) == 1
    for log in logs:
        log.close()


def test_a_new_log_needs_a_dialect(url):
    with pytest.raises(LogError, match="there is no log, and a new one needs a dialect"):
        PostgresLog(url)

    assert asked(url, "SELECT to_regclass('taskfold_head')") == [(None,)]


def test_another_dialect_is_refused(url):
    PostgresLog(url, "0.5.6").close()

    with pytest.raises(DialectError, match=r"the log holds dialect 0\.5\.6, not 1\.1\.2"):
        PostgresLog(url, "1.1.2")


def test_two_schemas_of_a_database_are_two_logs(postgres):
    first, second = (PostgresLog(postgres.new_schema(), "1.1.2") for _ in range(2))

    first.append("a", 0, [record_of("a", 1)])

    assert list(second.read_all()) == []
    first.close()
    second.close()


def test_a_password_is_never_shown(postgres):
    bad = postgres.url.replace("taskfold@", "taskfold:hunter2@").replace("/postgres", "/nowhere")

    with pytest.raises(LogError) as caught:
        PostgresLog(bad, "1.1.2")
    told = [str(caught.value), *(refused(run(command, bad)) for command in ("replay", "serve"))]

    assert all("nowhere" in one for one in told)
    assert "hunter2" not in "".join(told)


@pytest.mark.parametrize("command", [["replay"], ["log"], ["verify"], ["history"], ["serve"]])
def test_what_cannot_be_read_is_told_in_a_sentence(url, command):
    gone = "postgresql://127.0.0.1:1/nothing"
    more = ["x"] if command == ["history"] else []

    assert "postgresql://127.0.0.1:1/nothing: cannot be read (PostgreSQL): " in refused(run(*command, gone, *more))
    if command != ["serve"]:
        assert refused(run(*command, url, *more)).endswith(": there is no log, and a new one needs a dialect")


# --- several writers --------------------------------------------------------------------------------------------------


def test_a_commit_that_comes_late_is_never_passed_over(url):
    with PostgresLog(url, "1.1.2") as first, PostgresLog(url) as second, PostgresLog(url) as reader:
        first.append("a", 0, [record_of("a", 1)])
        # Inserted, and not committed.
        first.append("a", 1, [record_of("a", 2)], sync=False)
        first._send()
        done: list[int] = []
        writer = threading.Thread(target=lambda: done.extend(r.seq for r in second.append("b", 0, [record_of("b", 1)])))
        writer.start()
        time.sleep(0.2)

        assert [r.seq for r in reader.read_all()] == [1]
        assert done == []
        first.sync()
        writer.join(10)

        assert done == [3]
        assert [(r.seq, r.alloc) for r in reader.read_all(1)] == [(2, "a"), (3, "b")]


WRITER = """
import sys
from taskfold.errors import VersionConflict
from taskfold.log.postgres.log import PostgresLog
from taskfold.testing.logs import record_of
log, mine = PostgresLog(sys.argv[1]), 0
for line in sys.stdin:
    version = int(line)
    try:
        log.append("a", version, [record_of("a", version + 1)])
    except VersionConflict as conflict:
        print("lost", conflict.actual_version - version, flush=True)
    else:
        mine += 1
        log.append(sys.argv[2], mine - 1, [record_of(sys.argv[2], mine)])
        print("won", flush=True)
log.close()
"""


def test_of_eight_processes_who_saw_the_same_version_exactly_one_wins(url):
    rounds = 15
    PostgresLog(url, "1.1.2").close()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, f"own-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for version in range(rounds):
        for writer in writers:
            writer.stdin.write(f"{version}\n")
            writer.stdin.flush()
        told = [writer.stdout.readline().split() for writer in writers]
        assert sorted(told) == [["lost", "1"]] * 7 + [["won"]]
    for writer in writers:
        writer.communicate()

    with PostgresLog(url) as log:
        assert [r.seq for r in log.read_all()] == list(range(1, 2 * rounds + 1))
        assert [r.version for r in log.read("a")] == list(range(1, rounds + 1))


def test_who_waits_too_long_for_another_is_told(url, monkeypatch):
    with PostgresLog(url, "1.1.2") as first:
        monkeypatch.setattr("taskfold.log.postgres.tables.LOCK_SECONDS", 0.2)
        with PostgresLog(url) as second:
            first.begin_turn()
            with pytest.raises(
                LogError, match=r"another process has held the log for 0\.2 seconds, and holds it still"
            ):
                second.append("a", 0, [record_of("a", 1)])
            first.end_turn()

            assert [r.seq for r in second.append("a", 0, [record_of("a", 1)])] == [1]


def test_what_is_not_acknowledged_can_be_taken_back(url):
    log = PostgresLog(url, "1.1.2")
    log.append("a", 0, [record_of("a", 1)])
    log.append("a", 1, [record_of("a", 2, id="x")], sync=False)
    assert asked(url, "SELECT count(*) FROM taskfold_records") == [(1,)]

    log.roll_back()

    assert [r.seq for r in replay(url)] == [1]


def test_a_log_that_was_begun_for_nothing_is_gone(url):
    log = PostgresLog(url, "1.1.2")
    log.append("a", 0, [record_of("a", 1)], sync=False)

    log.roll_back()

    assert asked(url, "SELECT to_regclass('taskfold_head')") == [(None,)]


# --- failures ---------------------------------------------------------------------------------------------------------


def terminate(url: str) -> None:
    """End every other connection to the database."""
    asked(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()",
    )


def test_a_connection_that_is_lost_between_appends_is_made_anew(url):
    with PostgresLog(url, "1.1.2") as log:
        log.append("a", 0, [record_of("a", 1)])
        list(log.read_all())
        terminate(url)

        assert [r.seq for r in log.append("a", 1, [record_of("a", 2)])] == [2]
        with pytest.raises(LogError, match="cannot be read"):
            list(log.read_all())
        assert [r.seq for r in log.read_all()] == [1, 2]


def test_a_connection_that_is_lost_before_a_commit_is_told_and_nothing_is_written(url):
    with PostgresLog(url, "1.1.2") as log:
        log.append("a", 0, [record_of("a", 1)])
        log.append("a", 1, [record_of("a", 2, id="x")], sync=False)
        log._send()
        terminate(url)

        with pytest.raises(LogError, match="it is unknown whether it was committed: read the log again"):
            log.sync()

        assert not log.knows("x")
        assert log.seq == 1
        assert [r.seq for r in log.append("a", 1, [record_of("a", 2, id="x")])] == [2]


def test_what_the_database_cannot_hold_is_told_and_nothing_is_left_open(url):
    with PostgresLog(url, "1.1.2") as log:
        with pytest.raises(LogError, match="NUL"):
            log.append("a\0b", 0, [record_of("a\0b", 1)])

        assert log.seq == 0
        assert [r.seq for r in log.append("a", 0, [record_of("a", 1)])] == [1]


def test_a_damaged_record_is_named_and_what_is_before_it_is_read(url):
    with PostgresLog(url, "1.1.2") as log:
        log.append("a", 0, records_of("a", 1, 4))
        asked(url, "UPDATE taskfold_records SET body = replace(body, 'Started', 'Startex') WHERE seq = 3")
        found = []

        with pytest.raises(SourceError, match="Seq 3: the record is damaged: its checksum does not match"):
            found.extend(r.seq for r in replay(url))
        reading = log.read_all()
        assert [next(reading).seq, next(reading).seq] == [1, 2]
        with pytest.raises(LogError, match="Seq 3"):
            next(reading)


ODD_TEXTS = ["'", "E'\\\\'", "%s %(a)s %%", "$1 {} ;--", "\\", "\u2028é\U0001f600", '"; COMMIT; "']


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_few_records_and_many_are_written_as_the_same_rows(url, count):
    by_allocation = {
        text: [
            msgspec.structs.replace(
                record_of(text, version, id=f"{text}{version}" if version % 2 else version),
                event=events.Driver(driver_message=text),
            )
            for version in range(1, count + 1)
        ]
        for text in ODD_TEXTS
    }
    with PostgresLog(url, "1.1.2") as log:
        for text, found in by_allocation.items():
            log.append(text, 0, found)
        for text, found in by_allocation.items():
            assert [msgspec.structs.replace(record, seq=0) for record in log.read(text)] == found
            assert log.append(text, 0, found[:1]) == []
    assert check_log(url).is_whole


def write(log: PostgresLog, alloc: str, records: list[Record], *, sync: bool) -> None:
    """Append records to a new allocation, and have them acknowledged, at once or later."""
    log.append(alloc, 0, records, sync=sync)
    log.sync()


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("is_acknowledged", [True, False])
def test_what_postgres_cannot_hold_is_told_in_one_way_and_nothing_of_it_is_there(url, count, is_acknowledged):
    with PostgresLog(url, "1.1.2") as log:
        log.append("a", 0, [record_of("a", 1)])
        for alloc, more, message in (
            ("b", {"id": 2**70}, "a number has more than 64 bits"),
            ("\0", {}, "cannot contain NUL"),
        ):
            wrong = [*(record_of(alloc, version) for version in range(1, count)), record_of(alloc, count, **more)]
            with pytest.raises(LogError, match=rf"cannot be written \(PostgreSQL\): .*{message}"):
                write(log, alloc, wrong, sync=is_acknowledged)
        assert log.seq == 1
        assert [record.alloc for record in log.append("b", 0, [record_of("b", 1)])] == ["b"]
        assert [record.seq for record in log.read_all()] == [1, 2]


def test_what_was_acknowledged_is_there_after_a_kill_at_any_moment(url):
    def kept():
        with PostgresLog(url) as log:
            return list(log.read_all())

    kill_writers(url, kept, seed=13)


def test_what_was_acknowledged_is_there_after_the_server_died(url, postgres):
    with PostgresLog(url, "1.1.2") as log:
        for version in range(50):
            log.append("a", version, [record_of("a", version + 1)])
        log.append("a", 50, [record_of("a", 51)], sync=False)
        log._send()
        postgres.stop(signal.SIGQUIT)
        with pytest.raises(LogError):
            log.sync()
        with pytest.raises(LogError, match="cannot be written"):
            log.append("a", 50, [record_of("a", 51)])
        postgres.start()

        assert [r.seq for r in log.append("a", 50, [record_of("a", 51)])] == [51]
        assert [r.version for r in log.read_all()] == list(range(1, 52))


# --- engines ----------------------------------------------------------------------------------------------------------


def test_two_engines_write_one_log_and_see_the_same(url):
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        first.place({"ID": "a", "JobID": "job"})
        second.place({"ID": "b", "JobID": "job"})
        for number in range(20):
            engine = (first, second)[number % 2]
            engine.record("a", f"task-{number}", events.Received())
            engine.report(
                "b", "web", inputs.PlacementReceived() if not number else inputs.ProcessStarted(), id=f"said-{number}"
            )
        first.catch_up()
        second.catch_up()

        assert first.index == second.index
        assert [r.index for r in first.store.log.read_all()] == sorted(r.index for r in second.store.log.read_all())
        for alloc in "ab":
            assert first.snapshot(alloc).to_json() == second.snapshot(alloc).to_json()
        first.store._check()
        second.store._check()
        assert replay(url).fold().allocations.keys() == {"a", "b"}


def test_a_version_that_another_process_has_passed_is_a_conflict(url):
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        first.place({"ID": "a"})
        second.record("a", "web", events.Received(), expected_version=1)

        with pytest.raises(VersionConflict, match="is at version 2, not 1"):
            first.record("a", "web", events.Received(), expected_version=1)
        assert first.record("a", "web", events.Started(), expected_version=2).seq == 3


def test_an_input_that_another_process_was_told_is_a_repeat(url):
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        first.place({"ID": "a"})
        first.report("a", "web", inputs.PlacementReceived(), id="placed")

        assert second.report("a", "web", inputs.PlacementReceived(), id="placed").outcome == "repeated"


def test_what_another_process_has_settled_is_not_due_any_more(url):
    clock = ManualClock(1_000)
    with Engine.open(url, dialect="1.1.2", clock=clock) as first, Engine.open(url, clock=clock) as second:
        first.place({"ID": "a"})
        for said in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.Exited(exit_code=1)):
            first.report("a", "web", said)
        due_ns = first.next_due()
        assert due_ns is not None
        second.report("a", "", inputs.StopRequested())

        assert first.due(due_ns) == []
        assert first.task("a", "web").state == "dead"
        assert first.next_due() is None


def test_a_model_is_moved_by_what_another_process_records(url):
    class Model:
        state = ""

    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        first.place({"ID": "a"})
        model = Model()
        first.bind("a", "web", model)
        second.record("a", "web", events.Received())
        second.record("a", "web", events.Started())

        first.catch_up()

        assert model.state == "running"


def test_eight_threads_of_two_engines_lose_nothing(url):
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        first.place({"ID": "a"})

        def write(number: int) -> None:
            engine = (first, second)[number % 2]
            for _ in range(15):
                engine.record("a", f"task-{number}", events.Received())

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first.catch_up()
        second.catch_up()

        assert first.store.seq == second.store.seq == 1 + 8 * 15
        assert [r.index for r in first.store.log.read_all()] == list(range(1, 2 + 8 * 15))


def test_a_wait_ends_with_what_another_process_writes(url):
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        first.place({"ID": "a"})
        with LogListener(second, poll_seconds=10 * LATEST_S):  # only a notification is that fast
            until(lambda: "a" in second.store.fold)
            answers: list[Any] = []
            waiter = threading.Thread(target=lambda: answers.append(second.wait("a", after=1, timeout=10 * LATEST_S)))
            waiter.start()
            time.sleep(0.1)
            first.record("a", "web", events.Received())
            waiter.join(LATEST_S)

            assert answers[0].modify_index == 2
            first.record("a", "web", events.Started())  # ends the wait of the listener
            first.record("a", "web", events.Terminated())


def test_a_listener_tells_of_a_server_that_is_gone_and_of_its_return(url, postgres):
    told: list[str] = []
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        first.place({"ID": "a"})
        with LogListener(second, on_problem=told.append, poll_seconds=0.1):
            until(lambda: "a" in second.store.fold)
            postgres.stop()
            until(lambda: told)
            with pytest.raises(LogError, match="cannot be written"):
                first.record("a", "web", events.Received())
            assert second.snapshot("a").id == "a", "reading needs no server"
            postgres.start()
            until(lambda: told[-1] == "")
            first.record("a", "web", events.Received())
            until(lambda: second.index == first.index)
    assert "cannot be read (PostgreSQL)" in told[0]


def test_a_checkpoint_is_kept_and_spares_the_records_before_it(url, monkeypatch):
    monkeypatch.setattr("taskfold.live.engine._RECORDS_PER_CHECKPOINT", 5)
    with Engine.open(url, dialect="1.1.2") as engine:
        for alloc in "abcdef":
            engine.place({"ID": alloc})
    asked(url, "UPDATE taskfold_records SET body = '{}', checksum = 0")  # they are not read again

    with Engine.open(url) as engine:
        assert sorted(engine.store.fold) == list("abcdef")
        engine.record("a", "web", events.Received())
    asked(url, "UPDATE taskfold_checkpoint SET checksum = checksum + 1 WHERE part = 1")
    with pytest.raises(LogError, match="Seq 1: the record is damaged"):
        Engine.open(url)


# --- the command line, and servers ------------------------------------------------------------------------------------


def test_an_import_into_a_database_is_that_into_lines(url, tmp_path):
    source = tmp_path / "bodies.jsonl"
    source.write_text(
        "".join(answer.body + "\n" for answer in bodies(BY_NAME["1.1.2/lifecycle_all"])), encoding="utf-8"
    )
    lines = tmp_path / "x.jsonl"
    ingest(source, into=lines)

    done = run("import", source, "--into", url)
    again = run("import", source, "--into", url)

    count = len(list(replay(lines)))
    assert done.stdout.startswith(f"imported {count} records from")
    assert f"into {url.partition('?')[0]}" in done.stdout
    assert again.stdout.startswith("imported 0 records")
    assert list(replay(url)) == list(replay(lines))
    for command in (["replay"], ["log"], ["diff", "--from", "@3"], ["verify"]):
        name, *more = command
        assert run(name, url, *more).stdout.replace(url.partition("?")[0], "X") == run(
            name, lines, *more
        ).stdout.replace(str(lines), "X")
    alloc = next(iter(replay(lines))).alloc
    assert run("history", url, alloc).stdout == run("history", lines, alloc).stdout
    assert run("import", url, "--into", tmp_path / "back.jsonl").stdout.startswith(f"imported {count} records into")
    assert list(replay(tmp_path / "back.jsonl")) == list(replay(lines))


def test_an_import_that_fails_leaves_no_log(url, tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"ID": "a", "ModifyIndex": 1}\n{"ID": 7, "ModifyIndex": 2}\n', encoding="utf-8")

    assert "line 2" in refused(run("import", source, "--into", url))

    assert asked(url, "SELECT to_regclass('taskfold_head')") == [(None,)]


def body_of(url: str) -> Callable[[], Any]:
    def get() -> Any:
        return httpx.get(url, timeout=LATEST_S).json()

    return get


def test_a_write_through_one_server_wakes_a_blocked_query_on_the_other(url):
    with Engine.open(url, dialect="1.1.2") as engine:
        engine.place({"ID": "a", "JobID": "job"})
        engine.report("a", "web", inputs.PlacementReceived())
        engine.report("a", "web", inputs.ProcessStarted())
        index = engine.index
    with served(url) as (_, first), served(url) as (_, second):
        answers: list[Any] = []
        ask = body_of(f"{second}/v1/allocation/a?index={index}&wait=10m")
        waiter = threading.Thread(target=lambda: answers.append(ask()))
        waiter.start()
        time.sleep(0.3)

        httpx.post(f"{first}/v1/client/allocation/a/restart", json={}).raise_for_status()
        waiter.join(LATEST_S)

        assert answers[0]["TaskStates"]["web"]["Events"][-1]["Type"] == "Restart Signaled"
        assert answers[0] == body_of(f"{first}/v1/allocation/a")()


def test_a_log_that_is_compacted_by_two_processes_has_holes_up_to_the_later_one(url):
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        for alloc in "abc":
            first.place({"ID": alloc})
            first.record(alloc, "web", events.NotRestarting())
        second.collect("a")
        assert first.compact() == 2
        assert "a" not in first.store.fold or first.catch_up()
        second.collect("c")
        assert second.compact() == 2
        first.catch_up()

        assert [snapshot.id for snapshot in first.allocations()] == ["b"]
        assert [r.seq for r in first.store.log.read_kept()] == [3, 4, 7, 8]
        with pytest.raises(Gone) as caught:
            list(first.store.log.read_all())
        assert caught.value.oldest == 6
        assert [r.seq for r in first.subscribe(after=6, timeout=0)] == [7, 8]
    with Engine.open(url) as again:
        assert [snapshot.id for snapshot in again.allocations()] == ["b"]
        assert check_log(url).is_whole
        assert verify(url).agrees


def test_a_log_of_an_older_format_is_brought_to_the_present(url):
    with PostgresLog(url, "1.1.2") as log:
        log.append("a", 0, records_of("a", 1, 2))
        log.append("a", 2, [Record(index=3, alloc="a", version=3, event=Collected(reason=""))])
    header = """regexp_replace(replace(header, '"taskfold":3', '"taskfold":1'), ',"Seal":"[0-9a-f]+"', '')"""
    asked(url, f"UPDATE taskfold_head SET header = {header}")  # noqa: S608 - our own
    old = """replace(body, ',"Reason":""', '')"""
    asked(url, f"UPDATE taskfold_records SET body = {old} WHERE seq = 3")  # noqa: S608 - our own
    body = asked(url, "SELECT body FROM taskfold_records WHERE seq = 3")[0][0]
    asked(url, f"UPDATE taskfold_records SET checksum = {zlib.crc32(body.encode())} WHERE seq = 3")  # noqa: S608
    assert "Reason" not in body
    before = list(replay(url))

    with PostgresLog(url) as log:
        assert log.header.taskfold == FORMAT
        assert list(log.read_all()) == before
    assert "Reason" in asked(url, "SELECT body FROM taskfold_records WHERE seq = 3")[0][0]


def test_a_damaged_row_is_found_and_the_rest_is_copied(url, tmp_path):
    with PostgresLog(url, "1.1.2") as log:
        log.append("a", 0, records_of("a", 1, 4))
        log.append("b", 0, records_of("b", 1, 2))
    asked(url, "UPDATE taskfold_records SET body = replace(body, 'Started', 'Startex') WHERE seq = 3")

    found = run("log", url, "--check")
    done = run("log", url, "--repair", tmp_path / "good.db")

    assert found.exit_code == done.exit_code == 1
    assert "Seq 3: the record is damaged" in found.stderr
    assert [(r.alloc, r.version) for r in replay(tmp_path / "good.db")] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_where_no_notification_comes_through_a_poll_does(url, monkeypatch):
    with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
        with monkeypatch.context() as patch:
            patch.setattr("taskfold.log.postgres.log._CHANNEL", "elsewhere")
            second.store.log.listen()
        with LogListener(second, poll_seconds=0.05):
            first.place({"ID": "a"})
            until(lambda: "a" in second.store.fold)


# --- whatever is handed over ------------------------------------------------------------------------------------------


@settings(max_examples=settings().max_examples // 10, suppress_health_check=[HealthCheck.too_slow])
@given(calls=WRITING)
def test_any_value_that_is_acknowledged_is_read_again(
    postgres: Server, calls: list[Callable[[Engine], object]]
) -> None:
    url = postgres.new_schema()
    with Engine.open(url, dialect="1.1.2", clock=clock()) as engine:
        begin(engine)
        make_calls(engine, calls)
        before = state_of(engine)
    check_read_again(url, before)


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_fork_is_refused_whatever_it_tries_and_the_connections_of_its_parent_last(url):
    written = run_forks(url)

    assert written >= RECORDS
    found = check_log(url)
    assert found.is_whole
    assert found.records == found.newest == written


# --- backups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", ["copy.db", "copy.jsonl", "server"])
def test_a_backup_beside_writers_is_the_log_at_a_moment_and_can_be_brought_back(postgres, url, tmp_path, copy):
    into = postgres.new_schema() if copy == "server" else str(tmp_path / copy)
    with Engine.open(url, dialect="1.1.2") as engine:
        engine.place({"ID": "old"})
        engine.record("old", "web", events.NotRestarting())
        engine.collect("old")
        engine.place({"ID": "a"})
        engine.compact()
        # Somebody else writes, and the copy has all that was acknowledged before it began.
        is_over = threading.Event()

        def write() -> None:
            with Engine.open(url) as other:
                other.record("a", "web", events.Started())
                while not is_over.is_set():
                    other.record("a", "web", events.Signaling())

        writer = threading.Thread(target=write)
        writer.start()
        until(engine.catch_up)
        acknowledged = engine.store.seq
        newest = engine.backup(into)
        is_over.set()
        writer.join()
        kept = list(engine.store.log.read_kept())
    assert newest >= acknowledged
    found = check_log(into)
    assert found.is_whole
    assert found.newest == newest
    with Engine.open(into) as copied, Engine.open(url) as engine:
        log = copied.store.log
        assert list(log.read_kept()) == [record for record in kept if record.seq <= newest]
        assert log.header.compacted == engine.store.log.header.compacted
        with pytest.raises(LogError, match="exists already, and is never overwritten"):
            engine.backup(into)
        again = postgres.new_schema()
        assert run("backup", into, again).exit_code == 0
        with Engine.open(again) as restored:
            assert list(restored.store.log.read_kept()) == list(log.read_kept())
            assert restored.record("a", "web", events.Signaling()).seq == newest + 1


# --- read only --------------------------------------------------------------------------------------------------------


def test_a_log_that_is_opened_to_be_read_only_is_followed_and_not_written(url):
    with Engine.open(url, dialect="1.1.2") as writer:
        writer.place({"ID": "a"})
        with Engine.open(url, read_only=True) as reader:
            writer.record("a", "web", events.NotRestarting())
            assert reader.wait("a", after=1, timeout=30).client_status == "failed"
            for write in (
                lambda: reader.record("a", "web", events.Started()),
                lambda: reader.collect("a"),
                reader.compact,
                reader.checkpoint,
                reader.due,
                reader.restore,
            ):
                with pytest.raises(ReadOnly, match="was opened to be read only"):
                    write()
            # Removed before the reader looks: its state does not need it.
            with reader._turns.lock:
                writer.collect("a")
                writer.compact()
                writer.place({"ID": "b"})
            assert reader.wait_index(after=3, timeout=30) == 4
            assert [snapshot.id for snapshot in reader.allocations()] == ["b"]
            with pytest.raises(Gone):
                next(reader.subscribe())
            assert reader.history("b") == writer.history("b")
    with pytest.raises(LogError, match="there is no log"):
        Engine.open(f"{url}x", read_only=True)


def test_who_may_only_read_the_tables_can_follow_a_log(url):
    with Engine.open(url, dialect="1.1.2") as writer:
        writer.place({"ID": "a"})
        schema = url.rpartition("%3D")[2]
        asked(url, f"CREATE ROLE reader_{schema} LOGIN; GRANT USAGE ON SCHEMA {schema} TO reader_{schema}")
        asked(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader_{schema}")
        with Engine.open(url.replace("taskfold@", f"reader_{schema}@"), read_only=True) as reader:
            writer.record("a", "web", events.Started())
            assert reader.wait("a", after=1, timeout=30).client_status == "running"
