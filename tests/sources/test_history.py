"""Histories: of the one allocation that is meant, the same from every store, and from a database by its index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.command_line import run
from support.postgres import Server, server
from taskfold import Engine, NotFound, Record, Replay, UnknownAllocation, Write, events, history
from taskfold.log.postgres import tables as postgres_tables
from taskfold.log.sqlite import tables as sqlite_tables
from taskfold.model.record import Placed
from taskfold.sources.history import unique_id

STORES = ["x.jsonl", "x.db", "postgresql"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return what names a new log of a store."""
    made: list[str] = []

    def begin(store: str) -> str:
        made.append(store)
        if store == "postgresql":
            name: str = request.getfixturevalue("postgres").new_schema()
            return name
        return str(tmp_path / f"{len(made)}-{store}")

    return begin


@pytest.fixture(params=STORES)
def path(request: pytest.FixtureRequest, begin: Callable[[str], str]) -> str:
    """Return where a log of each store is to be."""
    return begin(request.param)


def test_a_history_tells_of_every_record_what_it_changed(path: str) -> None:
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a", "JobID": "job"})
        engine.place({"ID": "b"})
        for event in (events.Received(), events.Started(), events.Terminated(exit_code=1), events.Restarting()):
            engine.record("a", "web", event)
        engine.record("a", "db", events.Received())
        engine.update("a", {"DesiredStatus": "stop"})

    entries = list(history(path, "a"))

    assert [entry.record.version for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
    told = [{(one.task, one.field): (one.before, one.after) for one in entry.changes} for entry in entries]
    assert told[0]["", "JobID"] == (None, "job")
    assert told[2]["web", "State"] == ("pending", "running")
    assert told[3] == {("web", "EventsTotal"): (2, 3)}
    assert told[4]["web", "Restarts"] == (0, 1)
    assert told[6] == {("", "DesiredStatus"): (None, "stop")}
    assert [type(entry.record.event) for entry in history(path, "a", "db")] == [events.Received]


@pytest.mark.parametrize(
    ("alloc", "task", "found"),
    [
        ("ab", None, "abcd"),
        ("abcd", "web", "abcd"),
        ("a", None, "2 allocations begin with 'a': abcd, ac"),
        ("", None, "9 allocations begin with '': abcd, ac, b, m0, m1 …"),
        ("m", None, "6 allocations begin with 'm': m0, m1, m2, m3, m4 …"),
        ("nobody", None, "no allocation begins with 'nobody'"),
        ("%", None, "no allocation begins with '%'"),
        ("a_", None, "no allocation begins with 'a_'"),
        ("a\0", None, "no allocation begins with 'a\\x00'"),
        ("\ud800", None, "no allocation begins with '\\ud800'"),
        ("\U0010ffff", None, "no allocation begins with '\\U0010ffff'"),
        ("b", "web", "allocation b has no task 'web'; it has none"),
        ("ab", "typo", "allocation abcd has no task 'typo'; it has web"),
    ],
)
def test_a_history_is_of_the_one_allocation_that_is_meant_or_refused(
    path: str, alloc: str, task: str | None, found: str
) -> None:
    with Engine.open(path, dialect="1.1.2") as engine:
        for placed in ("abcd", "ac", "b", *(f"m{number}" for number in range(6))):
            engine.place({"ID": placed})
        engine.record("abcd", "web", events.Received())

    if " " in found:
        with pytest.raises(NotFound) as refused:
            list(history(path, alloc, task))
        assert str(refused.value) == found
    else:
        assert {entry.record.alloc for entry in history(path, alloc, task)} == {found}


@pytest.mark.parametrize("alloc", ["a", "nobody", ""])
def test_the_command_line_refuses_in_the_same_words(path: str, alloc: str) -> None:
    with Engine.open(path, dialect="1.1.2") as engine:
        for placed in ("abcd", "ac"):
            engine.place({"ID": placed})
    with pytest.raises(NotFound) as refused:
        list(history(path, alloc))
    assert str(refused.value) in run("history", path, alloc).stderr


def test_an_id_that_begins_another_is_meant_itself(path: str) -> None:
    with Engine.open(path, dialect="1.1.2") as engine:
        for placed in ("a", "ab", "\N{LATIN SMALL LETTER A WITH DIAERESIS}"):
            engine.place({"ID": placed})

    assert {entry.record.alloc for entry in history(path, "a")} == {"a"}


@pytest.mark.parametrize(("store", "tables"), [("x.db", sqlite_tables), ("postgresql", postgres_tables)])
def test_a_history_of_a_log_in_a_database_reads_that_allocation_alone(
    begin: Callable[[str], str], store: str, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begin(store)
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.append([Write(alloc=f"a{number}", event=Placed()) for number in range(200)])
    read: list[bytes] = []
    decoder = tables.record_decoder

    def counting(source: int) -> Callable[[bytes], Record]:
        decode = decoder(source)
        return lambda body: read.append(body) or decode(body)

    monkeypatch.setattr(tables, "record_decoder", counting)

    assert len(list(history(path, "a77"))) == len(read) == 1


def test_the_next_id_is_found_in_postgresql_by_the_index(begin: Callable[[str], str]) -> None:
    import psycopg

    path = begin("postgresql")
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.append([Write(alloc=f"a{number}", event=Placed()) for number in range(3_000)])
    with psycopg.connect(path, autocommit=True) as connection:
        connection.execute("ANALYZE taskfold_records")
        for query, asked in (
            (postgres_tables._NEXT_ID, ["a7", "a70"]),
            (postgres_tables.OF_ALLOCATION, {"alloc": "a7", "after": 0, "newest": 9, "rows": 9}),
        ):
            plan = connection.execute("EXPLAIN " + query, asked).fetchall()  # type: ignore[arg-type,call-overload]
            assert "taskfold_records_alloc_version_key" in str(plan)
            assert "Seq Scan" not in str(plan)


def test_what_was_collected_and_removed_has_the_same_history_in_every_store(begin: Callable[[str], str]) -> None:
    told = []
    for path in map(begin, STORES):
        with Engine.open(path, dialect="1.1.2") as engine:
            for alloc in ("a", "b"):
                engine.place({"ID": alloc})
                for event in (events.Started(), events.NotRestarting()):
                    engine.record(alloc, "web", event)
                engine.collect(alloc)
                if alloc == "a":
                    engine.compact()
        found: list[Any] = []
        for alloc in ("a", "b", "c"):
            try:
                found.append([(one.record.seq, type(one.record.event)) for one in history(path, alloc)])
            except UnknownAllocation as error:
                found.append(str(error))
        told.append(found)
    assert told[0] == told[1] == told[2]
    assert [len(found) for found in told[0][:2]] == [1, 4]


TEXTS = st.text(st.sampled_from("ab%_\\'\"é\U0001f600-"), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(ids=st.lists(TEXTS, min_size=1, max_size=8, unique=True), prefixes=st.lists(TEXTS, min_size=1, max_size=8))
def test_what_begins_alike_is_the_same_in_every_store(
    begin: Callable[[str], str], ids: list[str], prefixes: list[str]
) -> None:
    for store in STORES:
        path = begin(store)
        with Engine.open(path, dialect="1.1.2") as engine:
            engine.append([Write(alloc=alloc, event=Placed()) for alloc in ids])
        for prefix in prefixes:
            assert meant(Replay(path).matching(prefix), prefix) == meant(ids, prefix)


def meant(ids: Iterable[str], prefix: str) -> str | None:
    """Return the one that is meant, or why none is."""
    try:
        return unique_id(ids, prefix)
    except UnknownAllocation as error:
        return str(error)
