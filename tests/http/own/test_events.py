"""Recording through HTTP, and reading every record."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.asgi import Call, ask
from taskfold import Engine, LogError, ManualClock, NdjsonLog
from taskfold import events as ev
from taskfold.http.app import App
from taskfold.http.serve.limits import Limits
from taskfold.log.seals import unsealed

ID = "aaaaaaaa-0000-0000-0000-000000000000"
POST = "POST /v1/allocations/events"
PLACED = {"Alloc": ID, "Event": {"Type": "Placed", "Body": {"JobID": "job", "Namespace": "default"}}, "ID": "p"}
RECEIVED = {"Alloc": ID, "Task": "web", "Event": {"Type": "Received"}, "ID": "r", "ExpectedVersion": 1}
STARTED = {"Alloc": ID, "Task": "web", "Event": {"Type": "Started", "Time": 5}, "ID": "s"}


def app_of(log=None, **more):
    return App(Engine(log, dialect="1.1.2", clock=ManualClock(1_000)), **more)


def lines(*writes):
    return b"".join((write if isinstance(write, bytes) else json.dumps(write).encode()) + b"\n" for write in writes)


def errors(reply):
    return {each["Line"]: each["Error"] for each in json.loads(reply.body)["Errors"]}


def test_what_happened_is_recorded_as_one_write():
    app = app_of()

    reply = ask(app, POST, body=lines(PLACED, RECEIVED) + b"\n" + lines(STARTED))

    assert reply.status == 200
    assert reply.header("X-Nomad-Index") == "1"
    assert json.loads(reply.body) == {
        "Index": 1,
        "Results": [
            {"Line": 1, "Alloc": ID, "Version": 1, "Seq": 1},
            {"Line": 2, "Alloc": ID, "Version": 2, "Seq": 2},
            {"Line": 4, "Alloc": ID, "Version": 3, "Seq": 3},
        ],
    }
    body = json.loads(ask(app, f"GET /v1/allocation/{ID}").body)
    assert (body["JobID"], body["ClientStatus"], body["TaskStates"]["web"]["State"]) == ("job", "running", "running")


def test_a_retry_changes_nothing_and_says_so():
    app = app_of()
    ask(app, POST, body=lines(PLACED, RECEIVED, STARTED))

    again = ask(app, POST, body=lines(PLACED, RECEIVED, STARTED))

    assert again.status == 200
    assert [result["Repeat"] for result in json.loads(again.body)["Results"]] == [True, True, True]
    assert app.engine.store.seq == 3


def test_every_line_that_is_wrong_is_named_and_nothing_is_recorded():
    app = app_of()
    ask(app, POST, body=lines(PLACED))
    before = app.engine.snapshot(ID)

    reply = ask(
        app,
        POST,
        body=lines(
            RECEIVED,
            b"{bad",
            {"Alloc": ID, "Task": "web", "Event": {"Type": "Nonsense"}},
            {"Alloc": ID, "Task": "web", "Event": {"Type": "Signaling"}},
            {"Alloc": ID, "Task": "web", "Event": {"Type": "Started"}, "Time": "now"},
            {"Alloc": ID, "Task": "web", "Event": {"Type": "Started"}, "Tasks": 1},
            {"Alloc": "unknown", "Task": "web", "Event": {"Type": "Started"}},
            b"\xff\xfe",
        ),
    )

    assert reply.status == 400
    told = errors(reply)
    assert sorted(told) == [2, 3, 4, 5, 6, 7, 8]
    assert "is malformed" in told[2]
    assert "Nonsense" in told[3]
    assert "'Signaling' is not legal there" in told[4]
    assert "$.Time" in told[5]
    assert "Tasks" in told[6]
    assert told[7] == "no allocation 'unknown' is known"
    assert app.engine.snapshot(ID) == before
    assert app.engine.store.seq == 1


@pytest.mark.parametrize(
    ("writes", "status"),
    [
        ([{"Alloc": "x", "Task": "t", "Event": {"Type": "Started"}}], 404),
        ([{"Alloc": "x", "Task": "t", "Event": {"Type": "Started"}}, PLACED, {**RECEIVED, "ExpectedVersion": 7}], 409),
        ([PLACED, {**PLACED, "ID": "another"}], 409),
        ([PLACED, {**RECEIVED, "Task": ""}], 409),
        ([PLACED, {"Alloc": ID, "Event": {"Type": "Updated", "Fields": {"ModifyIndex": 9}}}], 400),
        ([{"Alloc": ID, "Event": {"Type": "Placed", "Body": 5}}], 400),
        ([PLACED, {"Alloc": ID, "Event": {"Type": "Observed"}}], 400),
    ],
)
def test_a_refusal_has_the_status_of_its_reason(writes, status):
    app = app_of()

    reply = ask(app, POST, body=lines(*writes))

    assert reply.status == status
    assert app.engine.store.seq == 0


@pytest.mark.parametrize(
    ("app", "headers", "body", "status", "text"),
    [
        (app_of(is_mirror=True), {}, lines(PLACED), 409, "mirrors a Nomad"),
        (app_of(), {}, b"", 400, "found none"),
        (app_of(), {}, b"\n \n", 400, "found none"),
        (app_of(), {"Content-Encoding": "gzip"}, b"x", 415, "must not be compressed"),
        (app_of(limits=Limits(body_bytes=10)), {}, lines(PLACED), 413, "larger than 10 bytes"),
        (app_of(limits=Limits(writes_per_request=1)), {}, lines(PLACED, RECEIVED), 413, "more than 1 lines"),
    ],
)
def test_what_cannot_be_taken_is_told(app, headers, body, status, text):
    reply = ask(app, POST, headers, body)

    assert reply.status == status
    assert text in reply.text
    assert app.engine.store.seq == 0


def test_what_a_bound_model_refuses_is_told_and_not_recorded():
    class Careful:
        def before_started(self, _):
            raise RuntimeError("not today")

    app = app_of()
    ask(app, POST, body=lines(PLACED, RECEIVED))
    app.engine.bind(ID, "web", Careful())

    reply = ask(app, POST, body=lines(STARTED))

    assert reply.status == 409
    assert reply.text == "task 'web': Started was refused before it was recorded: RuntimeError: not today"
    assert app.engine.store.seq == 2
    assert ask(app, "GET /v1/agent/health").status == 200


def test_posts_at_the_same_time_are_recorded_one_after_the_other():
    app = app_of()
    ask(app, POST, body=lines(PLACED))

    async def story():
        writes = [
            {"Alloc": ID, "Task": f"t{n % 5}", "Event": {"Type": "Received"}, "ID": f"{n % 5}"} for n in range(20)
        ]
        calls = [Call(app, POST, body=lines(write)) for write in writes]
        return [json.loads((await call.finished()).body) for call in calls]

    told = asyncio.run(story())

    assert sorted(one["Results"][0].get("Seq", 0) for one in told) == [0] * 15 + [2, 3, 4, 5, 6]
    assert {one["Index"] for one in told} <= set(range(2, 7))


def test_a_log_that_cannot_be_written_is_told_by_health_until_it_can(tmp_path, monkeypatch):
    app = app_of(NdjsonLog(tmp_path / "log.jsonl", "1.1.2"))

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        reply = ask(app, POST, body=lines(PLACED))
    assert reply.status == 500
    assert "No space left on device" in reply.text
    health = ask(app, "GET /v1/agent/health")
    assert health.status == 503
    assert "No space left" in json.loads(health.body)["server"]["message"]
    assert ask(app, f"GET /v1/allocation/{ID}").status == 404

    assert ask(app, POST, body=lines(PLACED)).status == 200
    assert json.loads(ask(app, "GET /v1/agent/health").body) == {"server": {"message": "ok", "ok": True}}
    app.engine.close()


WRITES = st.fixed_dictionaries(
    {"Alloc": st.sampled_from([ID, "x", ""]), "Event": st.sampled_from([{"Type": "Started"}, {"Type": "Terminated"}])},
    optional={
        "Task": st.sampled_from(["web", "db", ""]),
        "ID": st.sampled_from(["1", "2"]),
        "ExpectedVersion": st.integers(-1, 4),
        "Time": st.one_of(st.integers(-(2**65), 2**65), st.text(max_size=2)),
    },
)


@given(st.lists(st.one_of(WRITES, st.binary(max_size=12).filter(lambda raw: b"\n" not in raw)), max_size=6))
@settings(max_examples=150, deadline=None)
def test_whatever_is_sent_is_recorded_whole_or_not_at_all(writes):
    app = app_of()
    ask(app, POST, body=lines(PLACED))
    before = app.engine.store.read(ID)

    reply = ask(app, POST, body=lines(*writes))

    assert reply.status in {200, 400, 404, 409}
    if reply.status == 200:
        results = json.loads(reply.body)["Results"]
        assert app.engine.store.seq == 1 + sum("Seq" in result for result in results)
    else:
        assert app.engine.store.read(ID) == before
        assert app.engine.store.seq == 1
    app.engine.store._check()


def history_of(app, count):
    app.engine.place({"ID": ID})
    for number in range(count - 1):
        app.engine.record(ID, f"t{number % 2}", ev.Received())


def test_every_record_is_read_page_by_page_while_more_are_written():
    app = app_of()
    history_of(app, 2_500)
    token, versions, pages = "", [], 0
    while True:
        reply = ask(app, f"GET /v1/allocation/{ID}/history?per_page=700&next_token={token}")
        assert reply.header("X-Nomad-Index") == str(app.engine.index)
        versions += [record["Version"] for record in json.loads(reply.body)]
        pages += 1
        token = reply.header("X-Nomad-NextToken")
        if token is None:
            break
        app.engine.record(ID, "t0", ev.Received())
    assert versions == list(range(1, 2_504))
    assert pages == 4


def test_a_page_ends_early_where_its_records_are_long():
    app = app_of(limits=Limits(page_bytes=500))
    history_of(app, 20)
    token, versions, pages = "", [], 0
    while token is not None:
        reply = ask(app, f"GET /v1/allocation/{ID}/history?next_token={token}")
        assert len(reply.body) < 700
        versions += [record["Version"] for record in json.loads(reply.body)]
        token = reply.header("X-Nomad-NextToken")
        pages += 1
    assert versions == list(range(1, 21))
    assert pages > 2


def test_there_is_no_next_page_after_the_last_record():
    app = app_of()
    history_of(app, 6)

    for page, more in (("per_page=6", None), ("per_page=5", "5"), ("per_page=3&task=t0", None), ("per_page=0", None)):
        assert ask(app, f"GET /v1/allocation/{ID}/history?{page}").header("X-Nomad-NextToken") == more, page
    assert ask(app, f"GET /v1/allocation/{ID}/history?next_token=6").text == "[]"


def test_a_history_has_the_records_as_the_log_has_them(tmp_path):
    file = tmp_path / "log.jsonl"
    app = app_of(NdjsonLog(file, "1.1.2"))
    ask(app, POST, body=lines(PLACED, RECEIVED, STARTED))

    reply = ask(app, f"GET /v1/allocation/{ID}/history", {"Accept-Encoding": "gzip"})

    assert reply.body == b"[%b]" % b",".join(unsealed(file.read_bytes()).splitlines()[1:])
    app.engine.close()


def test_a_log_that_cannot_be_read_is_told(monkeypatch):
    app = app_of()
    history_of(app, 2)

    def unreadable(*_):
        raise LogError("log.jsonl, line 3: not a record")

    monkeypatch.setattr(app.engine.store.log, "read", unreadable)
    reply = ask(app, f"GET /v1/allocation/{ID}/history")

    assert (reply.status, reply.text) == (500, "log.jsonl, line 3: not a record")


def test_a_history_may_be_of_one_task():
    app = app_of()
    history_of(app, 10)

    records = json.loads(ask(app, f"GET /v1/allocation/{ID}/history?task=t1").body)

    assert [record["Version"] for record in records] == [3, 5, 7, 9]
    assert {record["Task"] for record in records} == {"t1"}
    pretty = ask(app, f"GET /v1/allocation/{ID}/history?task=t1&pretty")
    assert pretty.text.startswith("[\n    {\n        ")
    assert json.loads(pretty.text) == records


def test_a_history_waits_as_the_allocation_does():
    app = app_of()
    history_of(app, 2)

    async def story():
        call = Call(app, f"GET /v1/allocation/{ID}/history?index=2")
        while not app.engine.store.watches:
            await asyncio.sleep(0)
        app.engine.record(ID, "t0", ev.Received())
        return await call.finished()

    assert len(json.loads(asyncio.run(story()).body)) == 3


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("bad/history", 500, "alloc lookup failed: index error: UUID must be 36 characters"),
        (f"{ID[:-1]}1/history", 404, "alloc not found"),
        (f"{ID}/history?per_page=x", 400, "Expect a number for `per_page` query string parameter"),
        (f"{ID}/history?next_token=-1", 400, "Expect a version for `next_token` query string parameter"),
        (f"{ID}/history?region=eu", 500, "No path to region"),
    ],
)
def test_a_wrong_question_for_a_history_is_told(target, status, text):
    app = app_of()
    history_of(app, 2)

    reply = ask(app, f"GET /v1/allocation/{target}")

    assert (reply.status, reply.text) == (status, text)


def test_an_old_dialect_has_a_history_too():
    app = App(Engine(dialect="0.5.6"))
    history_of(app, 3)

    assert len(json.loads(ask(app, f"GET /v1/allocation/{ID}/history").body)) == 3


def test_an_id_that_is_no_uuid_is_found_as_it_is():
    app = app_of()
    app.engine.place({"ID": "web-1"})
    app.engine.place({"ID": ID})

    assert json.loads(ask(app, "GET /v1/allocation/web-1").body)["ID"] == "web-1"
    assert ask(app, "GET /v1/allocation/web-2").status == 500
    for spelled in (ID.upper(), ID, ID.replace("-", "")[:32] + "----"):
        assert ask(app, f"GET /v1/allocation/{spelled}").status == 200, spelled


def test_a_long_list_is_sent_in_pieces_as_it_was_at_one_index(monkeypatch):
    monkeypatch.setattr("taskfold.http.nomad.allocations._WHOLE_BYTES", 10_000)
    app = app_of()
    for number in range(300):
        app.engine.place({"ID": f"{number:08x}-0000-0000-0000-000000000000", "JobID": "job"})

    reply = ask(app, "GET /v1/allocations")

    assert len(reply.parts) > 10
    assert len(json.loads(reply.body)) == 300
    packed = ask(app, "GET /v1/allocations", {"Accept-Encoding": "gzip"})
    assert packed.body == reply.body
    pretty = ask(app, "GET /v1/allocations?pretty")
    assert json.loads(pretty.body) == json.loads(reply.body)
    assert pretty.text == json.dumps(json.loads(reply.body), indent=4, ensure_ascii=False) + "\n"
