"""Collecting what has ended, and compacting the log: the live state forgets, and nobody is silently told less."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.asgi import ask
from support.command_line import refused, run
from support.recordings import bodies, scenarios
from support.servers import until
from taskfold import Engine, ManualClock, diff, ingest, inputs, observation_from_json, replay, verify
from taskfold.errors import Gone, LogError, Refused, UnknownAllocation, VersionConflict
from taskfold.http.app import App
from taskfold.live.background import Retainer
from taskfold.live.retention import Retention, candidates
from taskfold.model.record import Collected

BY_NAME = {str(scenario): scenario for scenario in scenarios()}
SECOND = 1_000_000_000
STORES = ["", "x.db", "x.jsonl"]


@pytest.fixture(params=STORES)
def engine(request, tmp_path):
    """Return an engine with three allocations that ended, a second apart, and one that runs."""
    clock = ManualClock(1_000 * SECOND)
    made = (
        Engine.open(tmp_path / request.param, dialect="1.1.2", clock=clock)
        if request.param
        else Engine(dialect="1.1.2", clock=clock)
    )
    for alloc, said in (("a", 0), ("b", 1), ("c", 0), ("live", None)):
        clock.advance(SECOND)
        end(made, alloc, said)
    yield made
    made.close()


def end(engine, alloc, exit_code):
    """Place a batch allocation, and have its task end so; None lets it run."""
    policy = {"Attempts": 0, "Interval": 10 * SECOND, "Delay": SECOND, "Mode": "fail"}
    group = {"Name": "g", "RestartPolicy": policy, "Tasks": [{"Name": "web"}]}
    job = {"ID": "job", "Type": "batch", "TaskGroups": [group]}
    engine.place({"ID": alloc, "JobID": "job", "TaskGroup": "g", "Job": job, "NodeID": "n"})
    engine.report(alloc, "web", inputs.PlacementReceived())
    engine.report(alloc, "web", inputs.ProcessStarted())
    if exit_code is not None:
        engine.report(alloc, "web", inputs.Exited(exit_code=exit_code))


def ids(engine):
    return [snapshot.id for snapshot in engine.allocations()]


def test_what_is_collected_is_known_no_more_and_its_last_record_says_what_it_was(engine):
    version = engine.store.read("b").version

    record = engine.collect("b", reason="asked for by its owner")

    assert ids(engine) == ["a", "c", "live"]
    assert (record.version, record.index, record.seq) == (version + 1, engine.index, engine.store.seq)
    assert isinstance(record.event, Collected)
    assert record.event.reason == "asked for by its owner"
    body = json.loads(bytes(record.event.body))
    assert (body["ID"], body["JobID"], body["ClientStatus"], body["NodeID"]) == ("b", "job", "failed", "n")
    assert "Job" not in body
    states = json.loads(bytes(record.event.task_states))
    assert (states["web"]["State"], states["web"]["Failed"]) == ("dead", True)
    assert [event["Type"] for event in states["web"]["Events"]][-1] == "Not Restarting"
    with pytest.raises(UnknownAllocation, match="'b'"):
        engine.task("b", "web")
    with pytest.raises(UnknownAllocation):
        engine.collect("b")
    engine.store._check()


def test_its_history_can_be_asked_until_the_log_is_compacted(engine):
    before = engine.history("b")
    last = engine.collect("b")

    assert engine.history("b") == [*before, last]
    assert engine.history("b", "web") == [record for record in before if record.task == "web"]
    assert engine.compact() == len(before)
    with pytest.raises(Gone) as caught:
        engine.history("b")
    assert caught.value.oldest == last.version - 1
    assert engine.history("b", after_version=caught.value.oldest) == [last]
    with pytest.raises(UnknownAllocation):
        engine.history("nobody")


@pytest.mark.parametrize("status", ["running", "pending"])
def test_what_has_not_ended_is_not_collected(engine, status):
    if status == "pending":
        engine.place({"ID": "new"})
    alloc = "live" if status == "running" else "new"

    with pytest.raises(Refused, match=f"allocation {alloc} is {status}: only an ended allocation can be collected"):
        engine.collect(alloc)

    assert alloc in ids(engine)


def test_the_id_of_what_was_collected_is_never_given_again(engine):
    engine.collect("b")
    for _ in range(2):
        with pytest.raises(VersionConflict, match="allocation b is at version"):
            engine.place({"ID": "b"})
        engine.compact()


def test_who_waits_for_it_is_told_that_it_is_gone(engine):
    index = engine.store.read("a").modify_index
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(engine.wait("a", after=index)))
    waiter.start()
    until(lambda: len(engine.store.watches))

    engine.collect("a")
    waiter.join(10)

    assert answers == [None]


def test_who_listens_is_told_what_it_was_and_why(engine):
    told = []
    stop = engine.on_collect(lambda snapshot, reason: told.append((snapshot.id, snapshot.client_status, reason)))

    engine.collect("b", reason="x")
    engine.retain(Retention(keep=1))
    stop()
    stop()
    engine.collect("c")

    assert told == [("b", "failed", "x"), ("a", "complete", "more than 1 have ended")]


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(), ["a", "b", "c", "live"]),
        (Retention(keep=3), ["a", "b", "c", "live"]),
        (Retention(keep=2), ["b", "c", "live"]),
        (Retention(keep=0), ["live"]),
        (Retention(keep=1, statuses=("complete",)), ["b", "c", "live"]),
        (Retention(keep=0, statuses=("failed", "lost")), ["a", "c", "live"]),
        (Retention(dead_for_ns=10 * SECOND), ["a", "b", "c", "live"]),
        (Retention(dead_for_ns=2 * SECOND), ["b", "c", "live"]),
        (Retention(dead_for_ns=int(1.5 * SECOND), statuses=("complete",)), ["b", "c", "live"]),
        (Retention(dead_for_ns=0), ["live"]),
        (Retention(dead_for_ns=2 * SECOND, keep=1), ["c", "live"]),
    ],
    ids=str,
)
def test_what_is_kept_is_told_by_age_number_and_status(engine, retention, kept):
    collected = engine.retain(retention)

    assert ids(engine) == kept
    assert sorted([*collected, *kept]) == ["a", "b", "c", "live"]
    assert engine.retain(retention) == []
    engine.store._check()


def test_the_oldest_go_first_and_each_with_its_reason(engine):
    found = candidates(engine.store, Retention(keep=0, dead_for_ns=2 * SECOND), engine.clock.time_ns())

    assert [one.alloc for one in found] == ["a", "b", "c"]
    assert [one.reason for one in found] == ["ended more than 2s ago", *["more than 0 have ended"] * 2]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"statuses": ("running",)}, "'running' is no terminal"),
        ({"keep": -1}, "negative"),
        ({"dead_for_ns": -1}, "negative"),
    ],
)
def test_a_retention_that_makes_no_sense_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Retention(**wrong)


def test_many_are_collected_in_several_writes(monkeypatch):
    monkeypatch.setattr("taskfold.live.engine._COLLECTED_AT_ONCE", 4)
    engine = Engine(dialect="1.1.2", clock=ManualClock(SECOND))
    for number in range(10):
        end(engine, f"{number}", 0)
    index = engine.index

    assert engine.retain(Retention(keep=0)) == [f"{number}" for number in range(10)]

    assert engine.index == index + 3
    assert len(engine.allocations()) == 0


def test_nothing_is_collected_when_the_log_cannot_be_written(engine, monkeypatch):
    def fail(*_, **__):
        raise LogError("the disk is full")

    monkeypatch.setattr(engine.store.log, "append_all", fail)

    with pytest.raises(LogError, match="the disk is full"):
        engine.retain(Retention(keep=0))

    assert ids(engine) == ["a", "b", "c", "live"]


def test_timers_and_models_of_what_was_collected_are_dropped(engine):
    class Model:
        state = ""

    engine.place({"ID": "d", "JobID": "job"})
    for said in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.Exited(exit_code=1)):
        engine.report("d", "web", said)
    engine.update("d", {"ClientStatus": "lost"})
    assert engine.next_due() is not None
    engine.bind("d", "web", Model())

    engine.collect("d")

    assert engine.due(2**62) == []
    assert engine.next_due() is None
    assert engine._turns.models.bindings == {}


# --- a log that is opened, read and compacted -------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORES[1:])
@pytest.mark.parametrize("has_checkpoint", [False, True])
@pytest.mark.parametrize("is_compacted", [False, True])
def test_an_engine_that_is_opened_again_knows_what_was_kept(tmp_path, name, has_checkpoint, is_compacted):
    with Engine.open(tmp_path / name, dialect="1.1.2", clock=ManualClock(SECOND)) as engine:
        for alloc in "abc":
            end(engine, alloc, 0)
        if has_checkpoint:
            engine.checkpoint()
        engine.collect("b")
        if is_compacted:
            engine.compact()
        end(engine, "d", 1)
        bodies_before = [snapshot.to_json() for snapshot in engine.allocations()]
        index = engine.index

    with Engine.open(tmp_path / name) as engine:
        assert [snapshot.to_json() for snapshot in engine.allocations()] == bodies_before
        assert engine.index == index
        with pytest.raises(VersionConflict):
            engine.place({"ID": "b"})
        engine.place({"ID": "e"})
        engine.store._check()


@given(
    ended=st.lists(st.sampled_from([0, 1, None]), max_size=6),
    steps=st.lists(st.sampled_from(["collect", "compact", "more"]), max_size=8),
)
def test_the_state_of_a_compacted_log_is_that_of_the_whole_one(ended, steps):
    whole, compacted = (Engine(dialect="1.1.2", clock=ManualClock(SECOND), seed=1) for _ in range(2))
    for engine in (whole, compacted):
        for number, exit_code in enumerate(ended):
            end(engine, f"{number}", exit_code)
        for place, step in enumerate(steps):
            if step == "compact" and engine is compacted:
                engine.compact()
            elif step == "more":
                end(engine, f"more-{place}", place % 2)
            elif step == "collect":
                engine.retain(Retention(keep=1))
    again = Engine(compacted.store.log)

    states = [[snapshot.to_json() for snapshot in engine.allocations()] for engine in (whole, compacted, again)]
    assert states[0] == states[1] == states[2]
    assert whole.index == compacted.index == again.index
    after = compacted.store.oldest_seq
    assert list(compacted.store.log.read_all(after)) == list(whole.store.log.read_all(after))


def test_readers_of_what_was_removed_are_told_where_to_begin(engine):
    engine.collect("a")
    engine.compact()

    with pytest.raises(Gone) as caught:
        next(engine.subscribe(after=0))
    oldest = caught.value.oldest
    assert oldest == engine.store.oldest_seq > 0
    records = list(engine.subscribe(after=oldest, timeout=0))
    assert [record.seq for record in records] == list(range(oldest + 1, engine.store.seq + 1))


@pytest.mark.parametrize("name", STORES[1:])
def test_a_compacted_log_is_read_by_every_command(tmp_path, name):
    path = tmp_path / name
    with Engine.open(path, dialect="1.1.2", clock=ManualClock(SECOND)) as engine:
        for alloc in ("aaaa", "bbbb"):
            end(engine, alloc, 0)
        position = engine.store.seq
        engine.collect("aaaa", reason="too old")
        engine.compact()
        end(engine, "cccc", 1)
        oldest = engine.store.oldest_seq
        index = engine.index

    assert [json.loads(s.to_json())["ID"] for s in replay(path).snapshots()] == ["aaaa", "bbbb", "cccc"]
    assert verify(path).agrees
    assert "collected" in run("replay", path).stdout
    assert "too old" in run("history", path, "aaaa").stdout
    assert run("log", path).exit_code == 0
    assert [found.alloc for found in diff(path, index, index)] == []
    assert run("replay", path, "--at", f"@{position}").exit_code == 0
    for at in (f"@{oldest - 1}", "1", "1970-01-01T00:00:00Z"):
        sentence = refused(run("replay", path, "--at", at))
        assert (
            f"records were removed when the log was compacted: there is no state before position {oldest}" in sentence
        )
    if name.endswith(".db"):
        done = ingest(path, into=tmp_path / "copy.jsonl")
        assert done.records > 0


def test_what_was_collected_stays_so_whatever_a_nomad_says_later(tmp_path):
    told = [answer.body for answer in bodies(BY_NAME["1.1.2/batch_ok_raw"])]
    source = tmp_path / "bodies.jsonl"
    source.write_text("".join(body + "\n" for body in told), encoding="utf-8")
    path = tmp_path / "x.db"
    ingest(source, into=path)
    with Engine.open(path) as engine:
        (alloc,) = engine.store.fold
        index = engine.index
        assert engine.collect(alloc).index == engine.index == index, "the indexes are the Nomad's"
        later = json.loads(told[-1])
        later["ModifyIndex"] = index + 50
        assert engine.observe(observation_from_json(json.dumps(later))) == []
        assert len(engine.allocations()) == 0
        engine.compact()
        assert engine.observe(observation_from_json(json.dumps(later))) == []
    source.write_text(json.dumps(later) + "\n", encoding="utf-8")

    assert ingest(source, into=path).records == 0


# --- HTTP -------------------------------------------------------------------------------------------------------------

ALLOC = "203266e5-e0d6-9486-5e05-397ed2b184af"


@pytest.fixture
def app():
    engine = Engine(dialect="1.1.2", clock=ManualClock(1_000 * SECOND))
    end(engine, ALLOC, 0)
    end(engine, "live", None)
    return App(engine)


def test_what_was_collected_is_a_404_and_has_a_history(app):
    records = app.engine.history(ALLOC)
    app.engine.collect(ALLOC)

    assert ask(app, f"GET /v1/allocation/{ALLOC}").status == 404
    assert [entry["ID"] for entry in json.loads(ask(app, "GET /v1/allocations").body)] == ["live"]
    history = ask(app, f"GET /v1/allocation/{ALLOC}/history")
    assert [record["Version"] for record in json.loads(history.body)] == [r.version for r in records] + [
        records[-1].version + 1
    ]
    app.engine.compact()
    gone = ask(app, f"GET /v1/allocation/{ALLOC}/history")
    assert gone.status == 410
    assert gone.text.endswith(f"next_token={records[-1].version} has the rest")
    rest = ask(app, f"GET /v1/allocation/{ALLOC}/history?next_token={records[-1].version}")
    assert [record["Event"]["Type"] for record in json.loads(rest.body)] == ["Collected"]
    other = "0" + ALLOC[1:]
    assert ask(app, f"GET /v1/allocation/{other}/history").status == 404


# --- the command, and a server that collects --------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    """Return the path of a log with two allocations that ended, and one that runs."""
    path = tmp_path / "x.db"
    with Engine.open(path, dialect="1.1.2", clock=ManualClock(SECOND)) as made:
        for alloc, said in (("a", 0), ("b", 1), ("live", None)):
            end(made, alloc, said)
    return path


def test_the_command_collects_and_compacts(path):
    dry = run("collect", path, "--collect-after", "24h", "--dry-run")
    assert dry.stdout.splitlines() == [
        "a  ended more than 24h0m0s ago",
        "b  ended more than 24h0m0s ago",
        "2 allocations would be collected, 1 other kept",
    ]
    assert run("collect", path, "--collect-beyond", "1").stdout == "1 allocation collected, 2 others kept\n"
    assert run("collect", path, "--collect-after", "1s", "--collect-status", "complete").exit_code == 1
    done = run("collect", path, "--collect-after", "1s", "--compact")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "1 allocation collected, 1 other kept"
    assert done.stdout.splitlines()[1].endswith(f"records removed from {path}")
    assert run("collect", path, "--compact").stdout == f"0 records removed from {path}\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "nothing to do"),
        (["--collect-status", "failed"], "needs --collect-after or --collect-beyond"),
        (["--collect-after", "-1s"], "negative"),
        (["--collect-after", "soon"], "soon"),
        (["--collect-beyond", "-1"], "-1"),
        (["--collect-after", "1s", "--collect-status", "running"], "running"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(path, given, told):
    refused(run("collect", path, *given), told)


def test_the_command_begins_no_log(tmp_path):
    refused(run("collect", tmp_path / "new.db", "--compact"), "there is no such log")

    assert list(tmp_path.iterdir()) == []


def test_a_retainer_collects_again_and_again():
    clock = ManualClock(SECOND)
    engine = Engine(dialect="1.1.2", clock=clock)
    end(engine, "a", 0)
    with Retainer(engine, Retention(keep=0), every_seconds=0.01):
        until(lambda: not len(engine.allocations()))
        end(engine, "b", 0)
        until(lambda: not len(engine.allocations()))
