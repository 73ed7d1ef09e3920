"""A recorder has what its agents have, whatever fails on the way, and says where something was lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.agents import FakeAgent, Faults, close_agents, frames_of, until
from support.postgres import Server, server
from support.recordings import Scenario, read_bytes, scenarios, stream_lines
from taskfold import AgentSettings, Engine, Recorder
from taskfold.errors import DecodeError, DialectError, LogError, SourceError, SourceUnavailable
from taskfold.live.background import Retainer
from taskfold.live.retention import Retention
from taskfold.log.contract import kept_records
from taskfold.model.events import TaskEvent
from taskfold.model.record import Collected, Gap
from taskfold.recording.agents import Agents

CLIENTS = Path(__file__).parents[1] / "data" / "clients" / "1.1.2"
CLIENT_FRAMES = frames_of(read_bytes(CLIENTS / "stream.ndjson.gz").split(b"\n"))
SEEDS = int(os.environ.get("TASKFOLD_RECORDERS", "8"))
"""How many troubled lives are recorded."""

STREAMS: list[Scenario] = [scenario for scenario in scenarios("1.1.2") if stream_lines(scenario)]


def merged(chosen: Sequence[Scenario]) -> list[dict[str, Any]]:
    """Return the frames of several scenarios of one agent, as one stream."""
    events = sorted(
        (frame["Index"], place, event)
        for scenario in chosen
        for frame in frames_of(stream_lines(scenario))
        for place, event in enumerate(map(json.dumps, frame["Events"]))
    )
    return [
        {"Index": index, "Events": [json.loads(event) for _, _, event in dict.fromkeys(group)]}
        for index, group in groupby(events, key=lambda entry: entry[0])
    ]


@asynccontextmanager
async def recording(
    engine: Engine, *addresses: str, notes: list[str] | None = None, compare_seconds: float = 60.0, **settings: Any
) -> AsyncIterator[Recorder]:
    """Run a recorder while the block runs."""
    agents = Agents(AgentSettings(addresses=addresses, **settings), rng=random.Random(1), first_pause_seconds=0.01)
    recorder = Recorder(
        engine,
        agents,
        compare_seconds=compare_seconds,
        silence_seconds=1,
        on_note=(notes if notes is not None else []).append,
    )
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story, and close the agents that serve in it."""

    async def closing() -> None:
        try:
            await story()
        finally:
            await close_agents()

    asyncio.run(closing())


def differences(engine: Engine, agent: FakeAgent) -> dict[str, list[str]]:
    """Return where what is recorded is not what the agent has: the fields that differ, by allocation."""
    problems = {}
    for alloc in engine.reader.ids():
        if alloc not in agent.bodies:
            problems[alloc] = ["is there no more"]
    for alloc, body in agent.bodies.items():
        state = engine.reader.find(alloc)
        if state is None:
            if not engine.is_collected(alloc):
                problems[alloc] = ["was not recorded"]
            continue
        recorded = json.loads(engine.snapshot(alloc).to_json())
        names = [name for name in body.keys() | recorded.keys() if body.get(name) != recorded.get(name)]
        if names:
            problems[alloc] = names
    return problems


async def until_recorded(engine: Engine, agent: FakeAgent, recorder: Recorder) -> None:
    """Wait until the recorder has what the agent has. Raises AssertionError, which names what it has not."""
    try:
        await until(lambda: recorder.status.is_connected and not differences(engine, agent))
    except TimeoutError:
        raise AssertionError(f"{differences(engine, agent)}, {recorder.status}") from None


# --- what is recorded ---


def test_what_was_before_the_recorder_is_read_and_what_comes_is_heard():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(20)
        engine = Engine()
        async with recording(engine, await agent.serve()) as recorder:
            await until_recorded(engine, agent, recorder)
            while agent.advance():
                await asyncio.sleep(0.002)
            await until_recorded(engine, agent, recorder)
            assert recorder.status.problem == ""
            assert recorder.status.bad_frames == 0
            assert len(engine.reader) == 7

    run(story)


def test_the_job_that_no_frame_told_is_read():
    async def story() -> None:
        frames = [
            {**frame, "Events": [event for event in frame["Events"] if event["Topic"] == "Allocation"]}
            for frame in CLIENT_FRAMES
        ]
        agent = FakeAgent([frame for frame in frames if frame["Events"]])
        agent.jobs = FakeAgent(CLIENT_FRAMES).jobs
        whole = FakeAgent(CLIENT_FRAMES)
        whole.advance(len(CLIENT_FRAMES))
        agent.jobs = whole.jobs
        engine = Engine()
        async with recording(engine, await agent.serve()) as recorder:
            await until(lambda: recorder.status.is_connected)
            while agent.advance():
                await asyncio.sleep(0.002)
            await until_recorded(engine, agent, recorder)
            assert all(engine.reader.field(alloc, "Job") for alloc in engine.reader.ids())

    run(story)


def test_events_that_the_agent_no_longer_has_are_a_gap_and_the_rest_is_there():
    async def story() -> None:
        ring = next(scenario for scenario in STREAMS if scenario.name == "service_ring_fast_raw")
        agent = FakeAgent(frames_of(stream_lines(ring)), buffer_frames=3)
        agent.advance(3)
        engine = Engine()
        async with recording(engine, await agent.serve()) as recorder:
            await until_recorded(engine, agent, recorder)
            agent.is_away = True
            agent.disconnect()
            await until(lambda: not recorder.status.is_connected)
            agent.advance(10_000)
            agent.is_away = False
            await until_recorded(engine, agent, recorder)
            assert recorder.status.gaps == 1
            assert recorder.status.reconnects == 1

    run(story)


def test_an_allocation_that_nomad_collected_is_removed_and_its_history_stays():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        engine, notes = Engine(), []
        async with recording(engine, await agent.serve(), notes=notes, compare_seconds=0.1) as recorder:
            await until_recorded(engine, agent, recorder)
            alloc = next(iter(agent.bodies))
            before = len(engine.history(alloc))
            agent.collect(alloc)
            await until_recorded(engine, agent, recorder)
            *history, last = engine.history(alloc)
            assert len(history) == before
            assert isinstance(last.event, Collected)
            assert last.event.reason == "collected by Nomad"
            assert last.index == agent.index
            await until(lambda: f"{alloc}: collected by Nomad" in notes)
            assert recorder.status.removed == 1

    run(story)


def test_a_proxy_that_has_lost_its_agent_removes_nothing():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        engine = Engine()
        async with recording(engine, await agent.serve(), compare_seconds=0.05) as recorder:
            await until_recorded(engine, agent, recorder)
            agent.is_proxy_alone = True
            await until(lambda: recorder.status.problem)
            assert "is it an agent of Nomad?" in recorder.status.problem
            assert len(engine.reader) == len(agent.bodies)
            agent.is_proxy_alone = False
            await until_recorded(engine, agent, recorder)
            assert (recorder.status.removed, recorder.status.epochs) == (0, 0)

    run(story)


def test_what_a_token_may_not_see_any_more_is_not_removed():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        engine = Engine()
        async with recording(engine, await agent.serve(), compare_seconds=0.05) as recorder:
            await until_recorded(engine, agent, recorder)
            agent.hidden = frozenset(list(agent.bodies)[:2])
            await until(
                lambda: any("prefix" not in path and alloc in path for path in agent.requests for alloc in agent.hidden)
            )
            requests = len(agent.requests)
            await until(lambda: len(agent.requests) > requests + 6)
            assert not differences(engine, agent)
            assert (recorder.status.is_connected, recorder.status.removed) == (True, 0)

    run(story)


def test_a_listener_that_raises_does_not_end_the_recorder():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        engine, notes = Engine(), []

        def listener(*_: object) -> None:
            raise ValueError("of a listener")

        engine.on_collect(listener)
        async with recording(engine, await agent.serve(), notes=notes, compare_seconds=0.05) as recorder:
            await until_recorded(engine, agent, recorder)
            agent.collect(next(iter(agent.bodies)))
            await until_recorded(engine, agent, recorder)
            await until(lambda: recorder.status.removed == 1)
            assert any("of a listener" in note for note in notes)

    run(story)


def test_a_job_that_was_deregistered_is_the_reason_why_its_allocation_is_gone():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(20)
        engine = Engine()
        async with recording(engine, await agent.serve(), compare_seconds=0.1) as recorder:
            await until_recorded(engine, agent, recorder)
            while agent.advance():
                pass
            await until_recorded(engine, agent, recorder)
            await until(lambda: recorder.status.frames >= len(CLIENT_FRAMES) - 20)
            job = "svc"
            for alloc in [alloc for alloc, body in agent.bodies.items() if body["JobID"] == job]:
                agent.collect(alloc)
            await until(lambda: recorder.status.removed == 4)
            collected = [record for record in engine.subscribe(timeout=0) if isinstance(record.event, Collected)]
            assert {record.event.reason for record in collected} == {
                "collected by Nomad; its job was deregistered at index 67"
            }

    run(story)


def test_what_was_collected_here_stays_so_though_nomad_lists_it():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        engine = Engine()
        async with recording(engine, await agent.serve(), compare_seconds=0.05) as recorder:
            await until_recorded(engine, agent, recorder)
            alloc = next(a for a, body in agent.bodies.items() if body["ClientStatus"] == "complete")
            engine.collect(alloc)
            requests = len(agent.requests)
            await until(lambda: len(agent.requests) > requests + 3)
            assert engine.is_collected(alloc)
            assert recorder.status.behind == 0

    run(story)


def test_a_log_is_collected_and_compacted_while_it_is_recorded(tmp_path: Path):
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(10)
        with Engine.open(tmp_path / "cluster.db", dialect="1.1.2") as engine:
            retainer = Retainer(engine, Retention(dead_for_ns=0), every_seconds=0.01, compact_every_seconds=0.01)
            async with recording(engine, await agent.serve(), compare_seconds=0.05) as recorder:
                with retainer:
                    while agent.advance():
                        await asyncio.sleep(0.005)
                    await until_recorded(engine, agent, recorder)
                    ended = [a for a, body in agent.bodies.items() if body["ClientStatus"] in {"complete", "failed"}]
                    await until(lambda: all(map(engine.is_collected, ended)))
                    await until(lambda: all(len(kept(engine, alloc)) == 1 for alloc in ended))
                assert ended
                assert recorder.status.reconnects == 0

    def kept(engine: Engine, alloc: str) -> list[int]:
        return [record.version for record in kept_records(engine.store.log) if record.alloc == alloc]

    run(story)


def test_servers_that_begin_anew_are_another_epoch():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        engine, notes = Engine(), []
        async with recording(engine, await agent.serve(), notes=notes) as recorder:
            await until_recorded(engine, agent, recorder)
            text = json.dumps(CLIENT_FRAMES)
            for alloc in agent.bodies:
                text = text.replace(alloc, f"{alloc[:-4]}0000")
            agent.frames = json.loads(text)
            waiting = asyncio.create_task(engine.wait_index_async(after=engine.index, timeout=20))
            agent.begin_anew()
            agent.advance(25)
            await until_recorded(engine, agent, recorder)
            assert recorder.status.epochs == 1
            await until(lambda: engine.index == 72 + agent.index)
            assert any("the index went back from 72 to" in note for note in notes)
            assert await waiting > 72
            assert engine.index == 72 + agent.index

    run(story)


# --- agents that fail ---


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_the_log_has_the_truth_except_where_it_says_so(seed: int):
    run(lambda: trouble(seed))


async def trouble(seed: int) -> None:
    """Record a life in which agents fail, and compare what was recorded with the whole stream."""
    rng = random.Random(seed)
    frames = merged(rng.sample(STREAMS, 3)) if seed % 3 else CLIENT_FRAMES
    faults = Faults(error=0.1, busy=0.1, cut=0.1, stream_cut=0.1, silence=0.02)
    agent = FakeAgent(
        frames, seed=seed, buffer_frames=rng.choice([3, 10, 100]), faults=faults, has_stream=seed % 5 != 4
    )
    engine, notes = Engine(), []
    removed: set[str] = set()
    async with recording(engine, await agent.serve(), notes=notes, compare_seconds=rng.choice([0.05, 5])) as recorder:
        while agent.advance(rng.choice([1, 1, 1, 5, 20])):
            await asyncio.sleep(rng.choice([0, 0, 0.005, 0.02]))
            match rng.randrange(30):
                case 0:
                    agent.disconnect()
                case 1:
                    ended = [a for a, body in agent.bodies.items() if body["ClientStatus"] in {"complete", "failed"}]
                    for alloc in ended[:1] if rng.random() < 0.3 else ():
                        agent.frames = [
                            frame
                            for place, frame in enumerate(agent.frames)
                            if place < agent.place or not _tells(frame, alloc)
                        ]
                        agent.collect(alloc)
                        removed.add(alloc)
        agent.faults = Faults()
        agent.disconnect()  # a silent stream would take its time
        await until_recorded(engine, agent, recorder)

    truth, recorded = events_of(import_of(agent.frames)), events_of(engine)
    assert recorded.keys() <= truth.keys()
    for key, events in recorded.items():
        has_gap = any(isinstance(record.event, Gap) for record in engine.history(key[0], key[1]))
        assert events == truth[key] or has_gap or key[0] in removed, key
        assert is_part(events, truth[key]), key
    assert {alloc for alloc, _ in truth} - removed <= {alloc for alloc, _ in recorded}


def _tells(frame: dict[str, Any], alloc: str) -> bool:
    return any(event["Key"] == alloc for event in frame["Events"])


def import_of(frames: Sequence[dict[str, Any]]) -> Engine:
    """Return an engine that was told the whole stream."""
    from taskfold.sources.source import statements_of_line

    engine = Engine()
    for number, frame in enumerate(frames):
        engine.observe(*statements_of_line(json.dumps(frame).encode(), "truth", number))
    return engine


def events_of(engine: Engine) -> dict[tuple[str, str], list[TaskEvent]]:
    """Return the events of every task, ever."""
    events: dict[tuple[str, str], list[TaskEvent]] = {}
    for record in engine.subscribe(timeout=0):
        if isinstance(record.event, TaskEvent):
            events.setdefault((record.alloc, record.task), []).append(record.event)
    return events


def is_part(part: Sequence[TaskEvent], whole: Sequence[TaskEvent]) -> bool:
    """Return whether all of a part is in the whole, in the same order."""
    rest = iter(map(msgspec.json.encode, whole))
    return all(event in rest for event in map(msgspec.json.encode, part))


def test_an_agent_is_asked_no_more_at_once_than_it_bears():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        template = next(iter(agent.bodies.values()))
        for number in range(200):
            alloc = f"00000000-0000-0000-0000-{number:012}"
            agent.bodies[alloc] = {**template, "ID": alloc}
        engine = Engine()
        async with recording(engine, await agent.serve()) as recorder:
            await until_recorded(engine, agent, recorder)
            assert len(engine.reader) == 207
            assert agent.most_answering <= 5
            await until(lambda: agent.streams == 1)

    run(story)


def test_the_next_agent_of_the_region_is_asked_where_one_is_gone():
    async def story() -> None:
        agents = [FakeAgent(CLIENT_FRAMES), FakeAgent(CLIENT_FRAMES)]
        engine = Engine()
        addresses = [await agent.serve() for agent in agents]
        for agent in agents:
            agent.advance(30)
        async with recording(engine, *addresses) as recorder:
            await until_recorded(engine, agents[0], recorder)
            await agents[0].close()
            agents[1].advance(10_000)
            await until_recorded(engine, agents[1], recorder)
            assert recorder.status.agent == addresses[1]

    run(story)


def test_an_agent_without_an_event_stream_is_followed_by_its_list():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES, has_stream=False)
        agent.advance(20)
        engine = Engine()
        async with recording(engine, await agent.serve()) as recorder:
            await until_recorded(engine, agent, recorder)
            while agent.advance():
                await asyncio.sleep(0.002)
            await until_recorded(engine, agent, recorder)
            assert any("wait=" in request for request in agent.requests)
            requests = len(agent.requests)
            await asyncio.sleep(0.2)
            assert len(agent.requests) <= requests + 5, "it asks again and again"

    run(story)


def test_a_token_that_expires_is_told_and_the_next_one_is_taken_from_its_file(tmp_path: Path):
    async def story() -> None:
        file = tmp_path / "token"
        file.write_text("first\n")
        agent = FakeAgent(CLIENT_FRAMES, token="first")
        agent.advance(20)
        engine, notes = Engine(), []
        async with recording(engine, await agent.serve(), notes=notes, token_file=str(file)) as recorder:
            await until_recorded(engine, agent, recorder)
            agent.token = "second"
            agent.disconnect()
            await until(lambda: "403: Permission denied" in recorder.status.problem)
            agent.advance(10)
            file.write_text("second, and longer\n".replace(", and longer", ""))
            await until_recorded(engine, agent, recorder)
        assert not any("first" in note or "second" in note for note in notes)

    run(story)


def test_an_agent_at_a_socket_of_the_file_system_is_followed(tmp_path: Path):
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(20)
        engine = Engine()
        async with recording(engine, await agent.serve(path=str(tmp_path / "agent.sock"))) as recorder:
            await until_recorded(engine, agent, recorder)

    run(story)


def test_a_frame_that_cannot_be_read_is_told_and_what_it_said_is_read_elsewhere():
    async def story() -> None:
        frames: list[dict[str, Any]] = json.loads(json.dumps(CLIENT_FRAMES))
        bad = next(frame for frame in frames[25:] if frame["Events"][0]["Topic"] == "Allocation")
        bodies = FakeAgent(CLIENT_FRAMES)
        bodies.advance(CLIENT_FRAMES.index(next(f for f in CLIENT_FRAMES if f["Index"] == bad["Index"])) + 1)
        agent = FakeAgent(frames)
        agent.advance(20)
        engine, notes = Engine(), []
        async with recording(engine, await agent.serve(), notes=notes) as recorder:
            await until_recorded(engine, agent, recorder)
            while agent.advance():
                if agent.place and frames[agent.place - 1] is bad:
                    agent.buffer[-1] = agent.place, {"Index": bad["Index"], "Events": [{"Topic": 7}]}
                await asyncio.sleep(0.01)
            await until_recorded(engine, agent, recorder)
            assert recorder.status.bad_frames == 1
            assert sum("passed over" in note for note in notes) == 1

    run(story)


def test_what_cannot_be_recorded_does_not_cost_what_came_with_it(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(len(CLIENT_FRAMES))
        engine, notes, bad = Engine(), [], next(iter(agent.bodies))
        observe = engine.observe

        def without_one(*statements: Any) -> Any:
            if any(getattr(statement, "alloc", "") == bad for statement in statements):
                raise DecodeError("$.ModifyIndex: expected the index of this write")
            return observe(*statements)

        monkeypatch.setattr(engine, "observe", without_one)
        async with recording(engine, await agent.serve(), notes=notes, compare_seconds=0.05) as recorder:
            await until(lambda: differences(engine, agent) == {bad: ["was not recorded"]})
            requests = sum(bad in request for request in agent.requests)
            await until(lambda: sum("allocations?task_states" in request for request in agent.requests) > 4)
            assert sum(bad in request for request in agent.requests) == requests, "it is read again and again"
            assert recorder.status.bad_frames > 0
            assert any("expected the index of this write" in note for note in notes)

    run(story)


def test_a_log_that_cannot_be_written_holds_the_recorder_back_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch):
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(20)
        engine = Engine()
        async with recording(engine, await agent.serve()) as recorder:
            await until_recorded(engine, agent, recorder)
            with monkeypatch.context() as patch:

                def full(*_: object) -> None:
                    raise LogError("No space left on device")

                patch.setattr(engine, "observe", full)
                agent.advance(10)
                await until(lambda: "No space left" in recorder.status.problem)
            await until_recorded(engine, agent, recorder)

    run(story)


# --- what ends it ---


def test_agents_of_another_dialect_than_the_log_are_refused():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(20)
        recorder = Recorder(Engine(dialect="0.5.0"), AgentSettings(addresses=(await agent.serve(),)))
        with pytest.raises(DialectError, match=r"0\.5\.0"):
            async with asyncio.timeout(30):
                await recorder.run()

    run(story)


def test_synchronising_once_reads_what_there_is_and_says_what_fails():
    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(40)
        engine, url = Engine(), await agent.serve()
        recorder = Recorder(engine, AgentSettings(addresses=(url,)))
        await recorder.synchronise()
        assert not differences(engine, agent)
        await agent.close()
        with pytest.raises(SourceUnavailable, match=f"{url}: cannot be asked"):
            await Recorder(engine, AgentSettings(addresses=(url,))).synchronise()

    run(story)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SourceError, match="the token cannot be read: No such file"):
        Recorder(Engine(), AgentSettings(token_file=str(tmp_path / "none")))


# --- several recorders ---


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


def test_recorders_of_one_log_record_everything_once(postgres: Server):
    url = postgres.new_schema()

    async def story() -> None:
        agent = FakeAgent(CLIENT_FRAMES)
        agent.advance(20)
        address = await agent.serve()
        with Engine.open(url, dialect="1.1.2") as first, Engine.open(url) as second:
            async with recording(first, address) as one, recording(second, address) as other:
                while agent.advance():
                    await asyncio.sleep(0.005)
                await until_recorded(first, agent, one)
                await until_recorded(second, agent, other)

    run(story)
    truth = events_of(import_of(CLIENT_FRAMES))
    with Engine.open(url, read_only=True) as engine:
        for key, events in events_of(engine).items():
            assert is_part(events, truth[key]), key
