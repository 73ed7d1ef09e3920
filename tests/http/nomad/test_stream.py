"""The event stream: everything from the log, nothing twice, nothing left out silently."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from support.asgi import Call, ask
from support.recordings import scenarios, stream_lines
from taskfold import Engine, ManualClock, MemoryLog, observation_from_json
from taskfold import events as ev
from taskfold.http.app import App
from taskfold.http.serve.limits import Limits
from taskfold.nomad.importing.observation import observation_from_fields

SECOND = 1_000_000_000
STREAM = "GET /v1/event/stream"


def engine_of(count=3, **more):
    engine = Engine(dialect="1.1.2", clock=ManualClock(), **more)
    for number in range(count):
        engine.place({"ID": f"a{number}", "JobID": f"job{number}", "Namespace": "default"})
    return engine


def frames(reply):
    return [json.loads(line) for line in b"".join(reply.parts).split(b"\n")[:-1]]


def indexes(reply):
    return [frame["Index"] for frame in frames(reply) if "Index" in frame]


def read(app, request, *, until):
    """Read a stream until it has so many frames, heartbeats among them, then go away."""

    async def story():
        call = Call(app, request)
        await call.until(lambda reply: len(frames(reply)) >= until)
        await asyncio.sleep(0.01)
        if not call.task.done():
            call.disconnect()
        return await call.finished()

    return asyncio.run(story())


def recorded_frames(scenario):
    """Return the frames that tell of allocations, without the other topics."""
    told = []
    for line in stream_lines(scenario):
        frame = json.loads(line)
        events = [event for event in frame.get("Events") or () if event["Topic"] == "Allocation"]
        if events:
            told.append({"Events": events, "Index": frame["Index"]})
    return told


def mirror(scenario):
    engine = Engine(MemoryLog("1.1.2"))
    for frame in recorded_frames(scenario):
        engine.observe(
            *[
                observation_from_fields(
                    {name: msgspec.json.encode(value) for name, value in event["Payload"]["Allocation"].items()},
                    "stream",
                )
                for event in frame["Events"]
            ]
        )
    return App(engine)


def by_key(told):
    return [(frame["Index"], sorted(frame["Events"], key=lambda event: event["Key"])) for frame in told]


@pytest.mark.parametrize("scenario", [s for s in scenarios("1.1.2") if stream_lines(s)], ids=str)
def test_a_recorded_stream_is_sent_again_as_it_was(scenario):
    recorded = recorded_frames(scenario)
    # A stream may repeat an index; what is known already is no change.
    seen, expected = {}, []
    for frame in recorded:
        new = [e for e in frame["Events"] if e["Payload"]["Allocation"]["ModifyIndex"] > seen.get(e["Key"], 0)]
        seen |= {e["Key"]: e["Payload"]["Allocation"]["ModifyIndex"] for e in new}
        if new:
            expected.append({"Events": new, "Index": frame["Index"]})

    reply = read(mirror(scenario), f"{STREAM}?topic=Allocation", until=len(expected) + 1)

    sent = [frame for frame in frames(reply) if frame]
    assert by_key(sent) == by_key(expected)


def test_a_stream_begins_with_a_heartbeat_and_has_one_every_30_seconds():
    app = App(engine_of(1))

    async def story():
        call = Call(app, STREAM)
        await call.until(lambda reply: len(frames(reply)) == 2)
        for _ in range(3):
            before = len(frames(call.reply))
            while not app.context.clock.waiting:
                await asyncio.sleep(0)
            app.context.clock.advance(30 * SECOND - 1)
            await asyncio.sleep(0.005)
            assert len(frames(call.reply)) == before
            app.context.clock.advance(1)
            await call.until(lambda reply, before=before: len(frames(reply)) == before + 1)
        call.disconnect()
        return await call.finished()

    told = frames(asyncio.run(story()))
    assert told[0] == {}
    assert told[2:] == [{}, {}, {}]


def test_what_is_written_later_is_sent_as_it_is_written():
    app = App(engine_of())

    async def story():
        call = Call(app, f"{STREAM}?from=now")
        await call.until(lambda reply: len(frames(reply)) == 1)
        for number in range(20):
            await asyncio.to_thread(app.engine.record, f"a{number % 3}", "web", ev.Received())
        await call.until(lambda reply: len(frames(reply)) == 21)
        call.disconnect()
        return await call.finished()

    reply = asyncio.run(story())
    assert indexes(reply) == list(range(4, 24))
    last = frames(reply)[-1]["Events"][0]
    assert (last["Topic"], last["Type"], last["Key"]) == ("Allocation", "AllocationUpdated", "a1")
    assert last["FilterKeys"] == ["job1", ""]
    assert "Job" not in last["Payload"]["Allocation"]
    assert app.context.streams.count == 0
    assert not app.engine.store._recent.followers


@pytest.mark.parametrize("start", range(1, 8))
def test_an_index_resumes_without_repeat_or_gap(start):
    engine = engine_of()
    for number in range(3):
        engine.record(f"a{number}", "web", ev.Received())

    reply = read(App(engine), f"{STREAM}?index={start}", until=1 + 7 - start)

    assert indexes(reply) == list(range(start, 7))


@pytest.mark.parametrize("start", [1, 5, 776, 777])
def test_an_index_before_the_first_begins_with_the_oldest_where_nothing_was_removed(start):
    engine = Engine(MemoryLog("1.1.2"))
    engine.observe(observation_from_json(b'{"ID":"a","ModifyIndex":777}'))
    engine.observe(observation_from_json(b'{"ID":"b","ModifyIndex":790}'))

    reply = read(App(engine), f"{STREAM}?index={start}", until=3)

    assert indexes(reply) == [777, 790]


def test_a_start_that_was_never_there_is_told():
    engine = Engine(MemoryLog("1.1.2"))
    engine.observe(observation_from_json(b'{"ID":"a","ModifyIndex":777}'))
    app = App(engine)

    ahead = read(app, f"{STREAM}?index=779", until=2)
    position = read(app, f"{STREAM}?from=2", until=2)

    assert frames(ahead)[1]["Error"]["Reason"] == "ahead"
    assert frames(position)[1]["Error"]["Reason"] == "ahead"
    assert indexes(read(app, f"{STREAM}?index=777", until=2)) == [777]
    assert indexes(read(app, f"{STREAM}?index=778", until=1)) == []


def test_what_was_removed_is_gone_up_to_its_last_index_and_no_further():
    engine = Engine(MemoryLog("1.1.2"))
    for alloc, index in (("a", 777), ("b", 790), ("c", 800)):
        told = {"ID": alloc, "ModifyIndex": index, "DesiredStatus": "stop", "ClientStatus": "complete"}
        engine.observe(observation_from_json(json.dumps(told).encode()))
    engine.collect("b")
    engine.compact()
    app = App(engine)

    for start in (1, 777, 790):
        gone = ask(app, f"{STREAM}?index={start}")
        assert gone.is_done
        assert frames(gone)[1]["Error"] == {
            "Reason": "gone",
            "Message": "the log begins with index 791",
            "Oldest": 791,
            "Newest": engine.index,
        }
    assert indexes(read(app, f"{STREAM}?index=791", until=2))[0] == 800


def test_a_mirror_is_asked_for_an_index_that_its_nomad_gave_to_something_else():
    engine = Engine(MemoryLog("1.1.2"))
    engine.observe(observation_from_json(b'{"ID":"a","ModifyIndex":777}'))
    app = App(engine, is_mirror=True)

    async def story():
        call = Call(app, f"{STREAM}?index=900")
        await call.until(lambda reply: len(frames(reply)) == 1)
        for index in (850, 901):
            engine.observe(observation_from_json(b'{"ID":"a","ModifyIndex":%d}' % index))
        await call.until(lambda reply: len(frames(reply)) == 2)
        call.disconnect()
        return await call.finished()

    assert indexes(asyncio.run(story())) == [901]


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("index=abc", 400, 'Unable to parse index: strconv.Atoi: parsing "abc": invalid syntax'),
        ("index=-1", 400, "Invalid index"),
        (
            "topic=a:b:c",
            400,
            "Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: a:b:c",
        ),
        ("from=then", 400, 'from must be now, oldest or a position such as 1042, not "then"'),
        ("from=now&index=4", 400, "from and index exclude each other"),
        ("region=elsewhere", 500, "No path to region"),
    ],
)
def test_a_wrong_parameter_is_told(query, status, text):
    reply = ask(App(engine_of()), f"{STREAM}?{query}")

    assert (reply.status, reply.text) == (status, text)


def test_filters_choose_by_topic_key_job_and_namespace():
    engine = engine_of()
    engine.place({"ID": "b", "JobID": "job0", "Namespace": "special"})
    app = App(engine)

    def keys(query, count):
        reply = read(app, f"{STREAM}?{query}", until=count + 1)
        return [event["Key"] for frame in frames(reply) for event in frame.get("Events", ())]

    assert keys("topic=Allocation:a1", 1) == ["a1"]
    assert keys("topic=Allocation:job0&namespace=*", 2) == ["a0", "b"]
    assert keys("topic=Allocation:a0&topic=Allocation:job0", 1) == ["a0"], "an event that two keys match comes once"
    assert keys("topic=Job", 0) == []
    assert keys("namespace=special", 1) == ["b"]


def test_an_old_nomad_has_no_stream_but_who_asks_our_way_gets_one():
    engine = Engine(dialect="0.5.6")
    engine.place({"ID": "a"})
    app = App(engine)

    assert ask(app, f"{STREAM}?index=1").text == "404 page not found\n"
    assert indexes(read(app, f"{STREAM}?from=oldest", until=2)) == [1]


def test_one_that_falls_behind_is_told_and_the_others_are_not_hurt():
    app = App(engine_of(), limits=Limits(slow_records=5))

    async def story():
        slow, fast = Call(app, f"{STREAM}?from=now"), Call(app, f"{STREAM}?from=now")
        for call in (slow, fast):
            await call.until(lambda reply: len(frames(reply)) == 1)
        slow.takes.clear()
        for number in range(20):
            app.engine.record(f"a{number % 3}", "web", ev.Received())
            await fast.until(lambda reply, number=number: len(frames(reply)) == number + 2)
        slow.takes.set()
        told = await slow.finished()
        fast.disconnect()
        await fast.finished()
        return told

    reply = asyncio.run(story())
    *sent, last = frames(reply)
    assert last["Error"]["Reason"] == "slow"
    position = last["Error"]["Position"]
    assert position == 3 + len(sent) - 1
    rest = read(app, f"{STREAM}?from={position}", until=1 + 23 - position)
    assert indexes(reply) + indexes(rest) == list(range(4, 24)), "it goes on where it was, and has missed nothing"


def test_one_that_takes_nothing_is_left():
    app = App(engine_of(), limits=Limits(send_timeout=0.05))

    async def story():
        call = Call(app, f"{STREAM}?from=now")
        await call.until(lambda reply: len(frames(reply)) == 1)
        call.takes.clear()
        app.engine.record("a1", "web", ev.Received())
        while not call.takes._waiters:  # somebody waits for it to be taken
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        call.takes.set()
        return await call.finished()

    assert frames(asyncio.run(story()))[-1]["Error"]["Reason"] == "slow"
    assert app.context.streams.count == 0


def test_a_stop_ends_streams_cleanly():
    app = App(engine_of())

    async def story():
        call = Call(app, STREAM)
        await call.until(lambda reply: len(frames(reply)) == 4)
        app.close()
        return await call.finished()

    reply = asyncio.run(story())
    assert reply.is_done
    assert indexes(reply) == [1, 2, 3]


def test_there_are_so_many_streams_at_most():
    app = App(engine_of(), limits=Limits(streams=1))

    async def story():
        first = Call(app, STREAM)
        await first.until(frames)
        second = await Call(app, STREAM).finished()
        first.disconnect()
        await first.finished()
        third = Call(app, STREAM)
        await third.until(frames)
        third.disconnect()
        await third.finished()
        return second

    reply = asyncio.run(story())
    assert (reply.status, reply.text) == (429, "too many streams: 1 at most")


def test_the_last_event_of_what_was_collected_says_so_and_what_was_removed_is_gone():
    engine = engine_of(1)
    engine.record("a0", "web", ev.NotRestarting())
    engine.collect("a0")
    app = App(engine)

    types = [
        event["Type"]
        for frame in frames(read(app, f"{STREAM}?from=oldest", until=4))
        for event in frame.get("Events", ())
    ]
    assert types == ["PlanResult", "AllocationUpdated", "AllocationCollected"]
    engine.compact()
    (rest,) = (frame for frame in frames(read(app, f"{STREAM}?from=oldest", until=2)) if frame.get("Events"))
    assert rest["Events"][0]["Type"] == "AllocationCollected"
    assert rest["Events"][0]["Payload"]["Allocation"]["ClientStatus"] == "failed"
    for asked in ("index=1", "from=1"):
        (*_, last) = frames(read(app, f"{STREAM}?{asked}", until=2))
        assert last["Error"]["Reason"] == "gone"
        assert last["Error"]["Oldest"] == 3
