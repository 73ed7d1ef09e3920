"""Several sources of one cluster: what each spells and tells in its own way folds to the same allocation."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import recordings
from support.command_line import run
from support.recordings import Scenario
from taskfold import Engine, ingest, verify
from taskfold.errors import AppendRefused, DecodeError, SourceError
from taskfold.events import Driver
from taskfold.fold.task import TaskState
from taskfold.model.dialect import DIALECTS
from taskfold.model.go.timestamps import ZERO_TIME_NS, parse_time_ns
from taskfold.model.record import Placed, Record, Updated, Write
from taskfold.nomad.events import event_from_object
from taskfold.nomad.fields import fields_to_json, zero_fields
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import Observation, Statement, mismatches, observation_from_json
from taskfold.nomad.importing.writes import write_type
from taskfold.nomad.snapshot import Snapshot
from taskfold.nomad.task_states import WireTask, task_state_to_json, task_states_to_json
from taskfold.sources.replay import Replay, replay
from taskfold.sources.source import statements_of_line

REPORTS = recordings.DATA / "reports"
"""Small inputs made after public bug reports."""


def report(name: str) -> Path:
    """Return the one file of a report."""
    (path,) = (REPORTS / name).iterdir()
    return path


def written_types(records: list[Record]) -> list[tuple[str, str]]:
    return [(record.task, type(record.event).__name__) for record in records]


# --- events that are spelled in another way ---


def with_null_details(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"Details": event.get("Details") or None}


def with_a_new_field(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"NewField": "", "Another": 0}


def without_what_follows(event: dict[str, Any]) -> dict[str, Any]:
    """Leave out what follows from the annotations; a text of its own is what tells an event from another."""
    if event_from_object(event).extras is not None:
        return event
    return event | {"Details": None, "DisplayMessage": ""}


def without_what_is_zero(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if value or name in {"Details", "DisplayMessage"}}


SPELLINGS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    with_null_details,
    with_a_new_field,
    without_what_follows,
    without_what_is_zero,
]


def spelled(text: str, spelling: Callable[[dict[str, Any]], dict[str, Any]]) -> Observation:
    """Return what a body tells, each of its events spelled in another way."""
    body = json.loads(text)
    for task in (body.get("TaskStates") or {}).values():
        task["Events"] = [spelling(event) for event in task["Events"] or ()]
    return observation_from_json(json.dumps(body).encode())


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_an_event_is_the_same_however_a_source_spells_it(
    version: str, spelling: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    compared = 0
    for scenario in recordings.scenarios(version)[::4]:
        texts = [answer.body for answer in recordings.bodies(scenario)]
        plain, mixed = Importer(version), Importer(version)
        for place, text in enumerate(texts):
            expected = plain.observe(observation_from_json(text.encode()))
            is_other = place % 2 == 1
            other = spelled(text, spelling) if is_other else observation_from_json(text.encode())
            assert written_types(mixed.observe(other)) == written_types(expected), (str(scenario), place)
            compared += is_other
    assert compared > 10


@pytest.mark.parametrize("name", ["new-event-field-after-upgrade", "details-null"])
def test_a_ring_that_another_server_writes_belongs_to_the_same_task(name: str) -> None:
    records = [record for record in replay(report(name)) if record.task]

    types = [type(record.event).__name__ for record in records]
    assert types == ["Received", "TaskSetup", "Started", "Updated", "Terminated", "Finished"]
    assert verify(report(name)).agrees


# --- bodies, the stream and lists of one story ---

BODIES, STREAM, LIST = "bodies", "stream", "list"
Story = tuple[Statement, ...]


@functools.cache
def told(scenario: Scenario, source: str) -> Story:
    """Return what a source tells of the allocations of a story, in its order."""
    if source == BODIES:
        return tuple(observation_from_json(answer.body.encode()) for answer in recordings.bodies(scenario))
    if source == STREAM:
        path = scenario.path / "stream.ndjson.gz"
        return tuple(Replay(path).statements()) if path.exists() else ()
    stubs = [msgspec.json.decode(text, type=list[msgspec.Raw]) for text in recordings.list_bodies(scenario)]
    return tuple(observation_from_json(bytes(stub)) for stub in itertools.chain(*stubs))


def one_after_the_other(stories: Iterable[Story]) -> list[Statement]:
    return list(itertools.chain(*stories))


def by_index(stories: Iterable[Story]) -> list[Statement]:
    return sorted(one_after_the_other(stories), key=lambda statement: statement.index)


def interleaved(stories: Iterable[Story], rng: random.Random) -> list[Statement]:
    """Return the observations as they may arrive: each source in its own order."""
    waiting = [list(reversed(story)) for story in stories if story]
    found = []
    while waiting:
        source = rng.choice(waiting)
        found.append(source.pop())
        waiting = [rest for rest in waiting if rest]
    return found


def arrivals(stories: tuple[Story, ...], rng: random.Random) -> Iterator[list[Statement]]:
    """Yield orders in which the observations may arrive."""
    for order in itertools.permutations(stories):
        yield one_after_the_other(order)
        yield by_index(order)
        yield interleaved(order, rng)


def shown(version: str, statements: Iterable[Statement]) -> dict[str, tuple[Any, Any]]:
    """Return each allocation as a body and a list show it after all this was said."""
    importer = Importer(version)
    for statement in statements:
        importer.observe(statement)
    assert importer.conflicts_total == 0
    snapshots = {alloc: Snapshot.of(importer.fold[alloc], version) for alloc in importer.fold}
    return {
        alloc: (json.loads(snapshot.to_json()), json.loads(snapshot.to_stub_json(resources=True)))
        for alloc, snapshot in snapshots.items()
    }


SOURCES_TOLD = [
    (scenario, tuple(source for source in (BODIES, STREAM, LIST) if told(scenario, source)))
    for scenario in recordings.scenarios()
]
PAIRS = [(story, pair) for story, sources in SOURCES_TOLD for pair in itertools.combinations(sources, 2)]
TRIPLES = [(story, sources) for story, sources in SOURCES_TOLD if len(sources) == 3]
_SEED = 20_261_129
_TRIPLES_TRIED = int(os.environ.get("TASKFOLD_TRIPLES", "8"))
"""Of how many stories all orders of three sources are tried."""
SAMPLED = random.Random(_SEED).sample(TRIPLES, min(_TRIPLES_TRIED, len(TRIPLES)))


@pytest.mark.parametrize(("scenario", "sources"), [*PAIRS, *SAMPLED], ids=str)
def test_sources_of_one_story_fold_to_the_same_in_any_order(scenario: Scenario, sources: tuple[str, ...]) -> None:
    stories = tuple(told(scenario, source) for source in sources)
    found = [shown(scenario.version, order) for order in arrivals(stories, random.Random(_SEED))]
    assert all(each == found[0] for each in found)
    # And to what the fullest of them told last.
    for observation in stories[0] if sources[0] == BODIES else ():
        body, _ = found[0][observation.alloc]
        assert body["Job"] is not None
        if body["ModifyIndex"] == observation.index:
            assert {name: json.loads(text) for name, text in observation.fields.items()} == {
                name: value for name, value in body.items() if name in observation.fields
            }


@pytest.mark.parametrize("suffix", ["jsonl", "db"])
@pytest.mark.parametrize("order", [(BODIES, STREAM), (STREAM, BODIES), (LIST, STREAM, BODIES)])
def test_a_log_takes_what_another_source_adds_once(tmp_path: Path, suffix: str, order: tuple[str, ...]) -> None:
    for scenario in [story for story, sources in TRIPLES if story.name.startswith("alloc_")]:
        stories = tuple(told(scenario, source) for source in order)
        log = tmp_path / f"{scenario.name}.{suffix}"
        added = [ingest(file, into=log).records for file in files(tmp_path / scenario.name, scenario, order) * 2]
        assert added[0] > 0
        assert added[len(order) :] == [0] * len(order), "what was imported once adds nothing"
        assert verify(log).agrees
        found = {snapshot.id: json.loads(snapshot.to_json()) for snapshot in replay(log).snapshots()}
        whole = shown(scenario.version, one_after_the_other(stories))
        assert found == {alloc: body for alloc, (body, _) in whole.items()}


def files(folder: Path, scenario: Scenario, sources: Iterable[str]) -> list[Path]:
    """Write what each source tells into a file of its own: frames of a stream, else one allocation a line."""
    folder.mkdir()
    paths = []
    for place, source in enumerate(sources):
        path = folder / f"{place}.jsonl"
        is_stream = source == STREAM
        texts = recordings.stream_lines(scenario) if is_stream else map(text_of, observations(scenario, source))
        path.write_bytes(b"".join(text + b"\n" for text in texts))
        paths.append(path)
    return paths


def observations(scenario: Scenario, source: str) -> list[Observation]:
    return [statement for statement in told(scenario, source) if isinstance(statement, Observation)]


def text_of(observation: Observation) -> bytes:
    """Return an observation as a line of a file."""
    fields = dict(observation.fields)
    if observation.tasks:
        states = {name: told_state(task) for name, task in observation.tasks.items()}
        fields["TaskStates"] = task_states_to_json(states, DIALECTS["1.1.2"])
    return fields_to_json(fields)


def told_state(task: WireTask) -> TaskState:
    times = (task.last_restart_ns, task.started_at_ns, task.finished_at_ns)
    last_restart_ns, started_at_ns, finished_at_ns = (time if isinstance(time, int) else None for time in times)
    return TaskState(
        state=task.state,
        failed=task.failed,
        restarts=task.restarts if isinstance(task.restarts, int) else 0,
        last_restart_ns=last_restart_ns,
        started_at_ns=started_at_ns,
        finished_at_ns=finished_at_ns,
        events=task.events,
    )


def test_verify_compares_every_source_at_its_index(tmp_path: Path) -> None:
    (scenario,) = (story for story, _ in TRIPLES if story.name == "alloc_restart_task")
    order = (STREAM, BODIES, LIST)
    paths = files(tmp_path / "files", scenario, order)
    report = verify(*paths)
    assert report.agrees
    assert report.compared == sum(len(observations(scenario, source)) for source in order), "those of before, too"
    text = paths[1].read_bytes().rstrip().rpartition(b"\n")[2]
    paths[1].write_bytes(text.replace(b'"EvalID":"', b'"EvalID":"another') + b"\n")
    report = verify(*paths)
    assert report.conflicts == 1
    assert [divergence.path for divergence in report.divergences] == ["$.EvalID"]


# --- where no index is told, and what is no allocation ---


def test_the_index_of_the_event_stands_in_for_one_that_is_not_told() -> None:
    path = report("reduced-payload-no-index")
    records = list(replay(path))
    assert [(record.index, type(record.event).__name__) for record in records] == [
        (10, "Placed"),
        (10, "Received"),
        (10, "Updated"),  # what is seen first would be called a plan, and was told to be a report
        (11, "Started"),
    ]
    found = verify(path)
    assert (found.agrees, found.repeats, found.observed, found.compared) == (True, 0, 0, 2)


def frame(allocation: dict[str, Any], **index: int) -> bytes:
    event = {"Topic": "Allocation", "Payload": {"Allocation": allocation}}
    return json.dumps({"Events": [event | {"Index": index["event"]} if "event" in index else event], **index}).encode()


@pytest.mark.parametrize(
    ("told_index", "expected"),
    [({"event": 7, "Index": 9}, 7), ({"Index": 9}, 9), ({"event": 0, "Index": 9}, 9), ({}, 0)],
)
def test_an_index_is_told_by_the_allocation_then_the_event_then_the_frame(
    told_index: dict[str, int], expected: int
) -> None:
    for allocation, index in [({"ID": "a"}, expected), ({"ID": "a", "ModifyIndex": 0}, expected)]:
        (observation,) = statements_of_line(frame(allocation, **told_index), "x", 1)
        assert observation.index == index
    (observation,) = statements_of_line(frame({"ID": "a", "ModifyIndex": 5}, **told_index), "x", 1)
    assert observation.index == 5


def test_what_tells_no_index_is_taken_once_and_then_refused_unless_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    body = {"ID": "a", "DesiredStatus": "run", "Job": None}
    path.write_text(f"{json.dumps(body)}\n" * 2)
    assert verify(path).repeats == 1
    path.write_text(f"{json.dumps(body)}\n{json.dumps(body | {'DesiredStatus': 'stop'})}\n")
    with pytest.raises(SourceError, match=r"bodies\.jsonl, line 2: \$\.ModifyIndex: expected the index of this write"):
        verify(path)
    log = tmp_path / "log.jsonl"
    with pytest.raises(SourceError):
        ingest(path, into=log)
    assert not log.exists()


def other_objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield objects with an ID that are no allocations: of the report, and of every recording."""
    for path in sorted((REPORTS / "not-allocations").rglob("*.json")):
        found = json.loads(path.read_text())
        if path.stem not in {"allocations", "index"}:
            yield from ((path.stem, each) for each in (found if isinstance(found, list) else [found]))
    for scenario in recordings.scenarios():
        for request, answer in recordings.final(scenario).items():
            kind = request.rpartition("/")[2]
            if answer["status"] == 200 and kind not in {"allocations", "summary"}:
                found = json.loads(answer["body"])
                yield from ((kind, each) for each in (found if isinstance(found, list) else [found]))


def test_no_other_object_of_nomad_becomes_an_allocation() -> None:
    seen: dict[str, int] = {}
    for kind, found in other_objects():
        if "ID" in found:
            with pytest.raises(DecodeError, match=r"^\$: expected an allocation, found what looks like an? "):
                observation_from_json(json.dumps(found).encode())
            seen[kind] = seen.get(kind, 0) + 1
    assert seen["evaluations"] > 100
    assert seen["deployments"] > 10
    assert {"nodes", "volume", "jobs"} <= seen.keys()


def test_a_job_is_not_placed_as_an_allocation() -> None:
    engine = Engine(dialect="1.1.2")
    (job,) = json.loads((REPORTS / "not-allocations/debug/nomad/0000/jobs.json").read_text())
    with pytest.raises(DecodeError, match="found what looks like a job"):
        engine.place(job)
    assert len(engine.store.fold) == 0


def test_what_is_no_allocation_is_passed_over_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    log = tmp_path / "log.jsonl"
    folder = REPORTS / "not-allocations"
    done = ingest(folder, into=log, on_note=notes.append)
    assert done.observations == 1
    assert [snapshot.job_id for snapshot in replay(log).snapshots()] == ["site"]
    captured = f"{folder}/debug is a capture of `nomad operator debug`: "
    assert [note for note in notes if str(folder) in note] == [
        f"{captured}its lists of allocations (1) and its event streams (0) are read, its other files (5) are not",
        f"{folder}/volume.json, line 1: looks like a volume, not an allocation: skipped",
        f"of 2 sources, these have no allocation: {folder}/volume.json",
    ]


def test_each_kind_of_object_is_passed_over_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    paths = sorted((REPORTS / "not-allocations").rglob("*.json"))
    ingest(*(path for path in paths if path.stem != "index"), into=tmp_path / "log.jsonl", on_note=notes.append)
    told_of = [note.partition("looks like ")[2] for note in notes if "looks like" in note]
    assert told_of == [
        f"{what}, not an allocation: skipped"
        for what in ("a deployment", "an evaluation", "a job", "a node", "a volume")
    ]


# --- what is zero, and what is spelled in another way ---


def with_every_zero(text: str) -> Observation:
    """Return what a body tells with every field that is zero written, as a command of Nomad prints it."""
    told_fields = {name: json.loads(zero) for name, zero in zero_fields(DIALECTS["1.1.2"]).items()}
    return observation_from_json(json.dumps(told_fields | json.loads(text)).encode())


def test_a_known_field_at_its_zero_is_no_change() -> None:
    compared = 0
    for scenario in recordings.scenarios("1.1.2")[::3]:
        plain, mixed = Importer("1.1.2"), Importer("1.1.2")
        for place, text in enumerate(answer.body for answer in recordings.bodies(scenario)):
            expected = plain.observe(observation_from_json(text.encode()))
            is_other = place % 2 == 1
            other = with_every_zero(text) if is_other else observation_from_json(text.encode())
            found = mixed.observe(other)
            assert [record.event for record in found if not isinstance(record.event, Placed)] == [
                record.event for record in expected if not isinstance(record.event, Placed)
            ]
            compared += is_other
        assert shown_of(mixed) == shown_of(plain)
    assert compared > 20


def shown_of(importer: Importer) -> dict[str, bytes]:
    return {alloc: Snapshot.of(importer.fold[alloc], "1.1.2").to_json() for alloc in importer.fold}


def test_an_empty_description_is_what_a_stub_tells() -> None:
    path = report("empty-description-in-stub")
    assert verify(path).agrees
    (snapshot,) = replay(path).snapshots()
    assert json.loads(snapshot.to_stub_json())["ClientDescription"] == ""


def test_the_zero_time_is_no_time() -> None:
    path = report("zero-time-driver-event")
    drivers = [record for record in replay(path) if isinstance(record.event, Driver)]
    assert [record.event.time_ns for record in drivers] == [ZERO_TIME_NS] * 2
    assert all(record.time_ns > 0 for record in replay(path)), "the newest time before stands in"
    assert "99020d" not in run("replay", path).stdout
    assert "1754" not in run("history", path, "0a1b").stdout
    assert json.loads(run("replay", "--format", "jsonl", path).stdout)["TaskStates"]["web"]["Events"][2]["Time"] == (
        ZERO_TIME_NS
    )


def test_an_instant_comes_back_as_it_was_written() -> None:
    path = report("zone-offset")
    told_task = json.loads(path.read_text())["TaskStates"]["web"]
    assert told_task["LastRestart"].endswith("+08:00")
    (snapshot,) = replay(path).snapshots()
    task = json.loads(snapshot.to_json())["TaskStates"]["web"]
    assert {name: task[name] for name in told_task} == told_task
    assert snapshot.tasks["web"].last_restart_ns == parse_time_ns(told_task["LastRestart"])
    # Where the dialect has no such field, it is not written.
    assert "LastRestart" not in json.loads(snapshot.to_json("0.5.6"))["TaskStates"]["web"]


def test_how_an_instant_was_written_is_forgotten_when_it_moves() -> None:
    def told_at(index: int, started: str) -> Observation:
        task = {"State": "running", "StartedAt": started, "Events": [{"Type": "Started", "Time": 5}]}
        return observation_from_json(
            json.dumps({"ID": "a", "ModifyIndex": index, "Job": None, "TaskStates": {"web": task}}).encode()
        )

    importer = Importer("1.1.2")
    texts = ("2026-11-23T03:34:10.5-05:00", "2026-11-23T08:34:11Z", "2026-11-23T03:34:12-05:00", "2026-11-23T08:34:12Z")
    for index, text in enumerate(texts, start=1):
        importer.observe(told_at(index, text))
        assert json.loads(shown_of(importer)["a"])["TaskStates"]["web"]["StartedAt"] == text
    # An event of this engine moves the instant, and nobody has written it in another way.
    state = importer.fold["a"].tasks["web"]
    moved = msgspec.structs.replace(state, fields={"StartedAt": b'"2026-11-23T03:34:10-05:00"'}, started_at_ns=5)
    assert json.loads(task_state_to_json(moved, DIALECTS["1.1.2"]))["StartedAt"] == "1970-01-01T00:00:00.000000005Z"


def test_a_history_says_what_the_status_was_before_it_was_told(tmp_path: Path) -> None:
    task = {"State": "running", "Events": [{"Type": "Received", "Time": 1}, {"Type": "Started", "Time": 2}]}
    body = {"ID": "abcd", "Job": None, "TaskStates": {"web": task}, "ClientStatus": "running", "ModifyIndex": 5}
    path = tmp_path / "bodies.jsonl"
    path.write_text(f"{json.dumps(body)}\n{json.dumps(body | {'ClientStatus': 'unknown', 'ModifyIndex': 6})}\n")
    assert "ClientStatus running -> unknown" in run("history", path, "abcd").stdout


# --- what an allocation was placed with, and what was updated since ---


def test_decisions_lists_and_answers_see_the_same_fields() -> None:
    job = {
        "ID": "j",
        "Type": "service",
        "TaskGroups": [{"Name": name, "Tasks": [{"Name": f"{name}-task"}]} for name in ("g1", "g2")],
    }
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a", "JobID": "j", "TaskGroup": "g1", "Job": job, "DesiredStatus": "run"})
    assert groups_of(engine) == ("g1", ["g1-task"])
    engine.update("a", {"TaskGroup": "g2", "JobID": "k"})
    assert groups_of(engine) == ("g2", ["g2-task"])
    listed = engine.store.directory.get("a")
    assert listed is not None
    assert listed.job == "k"
    engine.append([Write(alloc="a", event=Updated(cleared=("Job", "JobID")))])
    assert groups_of(engine) == ("g2", [])
    listed = engine.store.directory.get("a")
    assert listed is not None
    assert listed.job == ""


def groups_of(engine: Engine) -> tuple[str | None, list[str]]:
    """Return which group an answer shows, and the tasks that decisions are made for."""
    return engine.snapshot("a").task_group, list(engine.group("a").tasks)


# --- what the stream calls a write ---


def renamed(line: bytes, name: str) -> bytes:
    """Return a frame whose events of allocations are of another Type."""
    frame = json.loads(line)
    for event in frame.get("Events") or ():
        if event["Topic"] == "Allocation":
            event["Type"] = name
    return json.dumps(frame).encode()


@pytest.mark.parametrize("name", [None, "DeploymentPromotion", "SomethingNewer"])
def test_a_write_is_called_what_the_stream_calls_it(name: str | None) -> None:
    compared = kept = 0
    for scenario in recordings.scenarios("1.1.2")[::4]:
        importer = Importer("1.1.2")
        for line in recordings.stream_lines(scenario):
            for observation in statements_of_line(line if name is None else renamed(line, name), "x", 1):
                records = importer.observe(observation)
                if not isinstance(observation, Observation):
                    continue
                read_back = [msgspec.json.decode(msgspec.json.encode(record), type=Record) for record in records]
                assert write_type(read_back) == observation.write_type
                compared += 1
                kept += sum(isinstance(record.event, Updated) and record.event.write_type != "" for record in records)
                known = importer.fold.owned(observation.alloc)
                assert list(mismatches(known, observation, importer.fold.dialect)) == []
    assert compared > 50
    assert kept == (0 if name is None else compared), "it is stored only where it does not follow"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"DeploymentStatus": {"Healthy": True}}, "DeploymentAllocHealth"),
        ({"DeploymentStatus": {"Healthy": None}, "AllocModifyIndex": 9}, "DeploymentPromotion"),
        ({"DeploymentStatus": {"Healthy": True}, "ModifyTime": 6}, "AllocationUpdated"),
        ({"DeploymentStatus": {"Healthy": True}, "ModifyTime": 6, "AllocModifyIndex": 9}, "PlanResult"),
        ({"DesiredTransition": {"Migrate": True}}, "AllocationUpdateDesiredStatus"),
        ({}, "PlanResult"),
    ],
)
def test_what_a_write_is_called_follows_from_what_it_changed(changed: dict[str, Any], expected: str) -> None:
    body = {"ID": "a", "ModifyIndex": 8, "AllocModifyIndex": 8, "ModifyTime": 5, "Job": None}
    importer = Importer("1.1.2")
    assert write_type(importer.observe(observation_from_json(json.dumps(body).encode()))) == "PlanResult"
    other = observation_from_json(json.dumps(body | changed | {"ModifyIndex": 9}).encode())
    assert write_type(importer.observe(other)) == expected


def test_nobody_but_an_observed_nomad_names_a_write() -> None:
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    event = Updated(fields={"NodeName": msgspec.Raw(b'"n"')}, write_type="PlanResult")
    with pytest.raises(AppendRefused, match=r"\$\.WriteType"):
        engine.append([Write(alloc="a", event=event)])


# --- an engine that mirrors, and an import that goes on ---


def test_a_mirror_takes_what_another_source_adds() -> None:
    for scenario in [story for story, _ in TRIPLES if story.name.startswith("alloc_")]:
        engine = Engine(dialect="1.1.2")
        order = by_index(told(scenario, source) for source in (LIST, STREAM, BODIES))
        for observation in order:
            engine.observe(observation)
        assert engine.observe(*order) == [], "what is known already adds nothing"
        found = {alloc: json.loads(engine.snapshot(alloc).to_json()) for alloc in engine.store.fold.allocations}
        assert found == {alloc: body for alloc, (body, _) in shown("1.1.2", order).items()}


def test_an_import_tells_of_a_contradiction_and_keeps_what_was_told_first(tmp_path: Path) -> None:
    body = {"ID": "a", "ModifyIndex": 5, "DesiredStatus": "run", "Job": None}
    log, notes = tmp_path / "log.db", list[str]()
    for name, explicit_status in (("first", "run"), ("second", "stop"), ("third", "run")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(body | {"DesiredStatus": explicit_status}) + "\n")
        ingest(path, into=log, on_note=notes.append)
    assert [note.partition(": index 5 of a contradicts an earlier observation")[0] for note in notes] == [
        f"{tmp_path}/second.jsonl, line 1"
    ]
    (snapshot,) = replay(log).snapshots()
    assert snapshot.desired_status == "run"
