"""The Job of an allocation that only a stream has told of: its version follows from Nomad's facts, or it is left out.

The recorded bodies say what is right: they have the Job of each allocation at each index.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import recordings
from support.recordings import Scenario
from taskfold import Engine, ingest, replay, verify
from taskfold.errors import AppendRefused, LogError
from taskfold.log.contract import Append
from taskfold.log.memory import MemoryLog
from taskfold.model.record import Record, Updated, Write
from taskfold.nomad.importing.facts import DeploymentWrite, EvaluationWrite, Fact, JobWrite
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.job_finder import MAX_JOBS, MOVING, Jobs, Subject
from taskfold.nomad.importing.memory import Memory
from taskfold.nomad.importing.observation import Observation, Statement, observation_from_json
from taskfold.nomad.importing.writes import write_type
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.source import statements_of_line

STREAMED = [story for story in recordings.scenarios("1.1.2") if recordings.stream_lines(story)]
_SEED = 20_261_130


@functools.cache
def said(scenario: Scenario) -> tuple[tuple[Statement, ...], ...]:
    """Return what each frame of a stream says."""
    return tuple(tuple(statements_of_line(line, "stream", 1)) for line in recordings.stream_lines(scenario))


def in_one(frames: Iterable[Iterable[Statement]]) -> list[Statement]:
    return [statement for frame in frames for statement in frame]


def statements(scenario: Scenario) -> list[Statement]:
    return in_one(said(scenario))


@functools.cache
def recorded_jobs(scenario: Scenario) -> dict[str, dict[int, Any]]:
    """Return the Job of each allocation by index, as the bodies have it."""
    found: dict[str, dict[int, Any]] = {}
    for body in (json.loads(answer.body) for answer in recordings.bodies(scenario)):
        found.setdefault(body["ID"], {})[body["ModifyIndex"]] = body["Job"]
    return found


def newest_jobs(scenario: Scenario) -> dict[str, Any]:
    return {alloc: jobs[max(jobs)] for alloc, jobs in recorded_jobs(scenario).items()}


def jobs_of(importer: Importer) -> dict[str, Any]:
    """Return the Job of each allocation, as a body shows it."""
    snapshots = (Snapshot.of(importer.fold[alloc], "1.1.2") for alloc in importer.fold)
    return {snapshot.id: json.loads(snapshot.to_json()).get("Job") for snapshot in snapshots}


def imported(told: Iterable[Statement]) -> Importer:
    importer = Importer("1.1.2")
    for statement in told:
        importer.observe(statement)
    return importer


def without_moving(job: dict[str, Any]) -> dict[str, Any]:
    """Return what stays of a job while its version does."""
    return {name: value for name, value in job.items() if name not in MOVING}


# --- every recording ---


@pytest.mark.parametrize("scenario", STREAMED, ids=str)
def test_a_stream_alone_tells_the_job_of_every_allocation_at_every_index(scenario: Scenario) -> None:
    importer, recorded = Importer("1.1.2"), recorded_jobs(scenario)
    compared = 0
    for frame in said(scenario):
        for statement in frame:
            importer.observe(statement)
        for alloc, job in jobs_of(importer).items():
            index = importer.fold.owned(alloc).modify_index
            if index in recorded.get(alloc, {}):
                # Until its evaluation ends, nobody knows when the scheduler has looked at the job.
                assert without_moving(job) == without_moving(recorded[alloc][index])
                compared += 1
    assert compared >= len(recorded)
    found = jobs_of(importer)
    assert {alloc: found[alloc] for alloc in recorded} == newest_jobs(scenario), "in all of their fields"
    assert importer.conflicts_total == 0


def in_orders(scenario: Scenario) -> Iterator[list[Statement]]:
    """Yield orders in which facts and observations may arrive; those of one index stay in theirs."""
    by_index: dict[int, list[Statement]] = {}
    for statement in statements(scenario):
        by_index.setdefault(statement.index, []).append(statement)
    frames = list(by_index.values())
    for of_facts in (frames, frames[::-1]):
        facts = [statement for statement in in_one(of_facts) if not isinstance(statement, Observation)]
        observed = [statement for statement in in_one(frames) if isinstance(statement, Observation)]
        yield [*facts, *observed]
        yield [*observed, *facts]
    rng = random.Random(_SEED)
    for _ in range(8):
        yield in_one(rng.sample(frames, len(frames)))


@pytest.mark.parametrize("scenario", STREAMED, ids=str)
def test_the_job_is_the_same_in_whatever_order_a_stream_arrives(scenario: Scenario) -> None:
    for order in in_orders(scenario):
        found = jobs_of(imported(order))
        assert {alloc: found[alloc] for alloc in newest_jobs(scenario)} == newest_jobs(scenario)


def test_a_stream_that_is_cut_at_its_beginning_tells_no_wrong_job() -> None:
    known = 0
    for scenario in STREAMED:
        frames = said(scenario)
        for begin in range(len(frames)):
            importer = imported(in_one(frames[begin:]))
            for alloc, job in jobs_of(importer).items():
                recorded = newest_jobs(scenario).get(alloc)
                known += job is not None
                if None not in (job, recorded):
                    assert without_moving(job) == without_moving(recorded), (str(scenario), begin)
    assert known > 100


@pytest.mark.parametrize(
    "topics", [("Job", "Allocation"), ("Job", "Allocation", "Deployment"), ("Allocation",)], ids=str
)
def test_a_stream_of_some_topics_tells_no_wrong_job(topics: tuple[str, ...]) -> None:
    told = {True: 0, False: 0}
    for scenario in STREAMED:
        importer = Importer("1.1.2")
        for line in recordings.stream_lines(scenario):
            frame = json.loads(line)
            frame["Events"] = [event for event in frame.get("Events") or () if event["Topic"] in topics]
            for statement in statements_of_line(json.dumps(frame).encode(), "stream", 1):
                importer.observe(statement)
            for alloc, job in jobs_of(importer).items():
                recorded = recorded_jobs(scenario).get(alloc, {}).get(importer.fold.owned(alloc).modify_index)
                if None not in (job, recorded):
                    assert without_moving(job) == without_moving(recorded), str(scenario)
        for job in jobs_of(importer).values():
            told[job is not None] += 1
    assert told[True] == 0 if topics == ("Allocation",) else told[True] > 80


@pytest.mark.parametrize("scenario", STREAMED[::6], ids=str)
def test_stubs_tell_version_and_type_of_the_job_that_a_stream_told(scenario: Scenario) -> None:
    importer = imported(statements(scenario))
    for alloc, job in newest_jobs(scenario).items():
        stub = json.loads(Snapshot.of(importer.fold[alloc], "1.1.2").to_stub_json())
        assert (stub["JobVersion"], stub["JobType"]) == (job["Version"], job["Type"])
        assert importer.fold.owned(alloc).updates is not None
        assert not {"JobVersion", "JobType"} & importer.fold.owned(alloc).updates.keys(), "which follows from the Job"


@pytest.mark.parametrize("scenario", STREAMED[::6], ids=str)
def test_a_log_says_that_the_job_was_found_out_from_the_stream(scenario: Scenario, tmp_path: Path) -> None:
    log, stream = tmp_path / "log.jsonl", scenario.path / "stream.ndjson.gz"
    assert ingest(stream, into=log).records > 0
    assert ingest(stream, into=log).records == 0, "what is known already adds nothing"
    sources = [
        record.event.job_source
        for record in replay(log)
        if isinstance(record.event, Updated) and "Job" in record.event.fields
    ]
    assert sources
    assert set(sources) == {"stream"}
    assert verify(log).agrees
    assert verify(stream).agrees
    assert {snapshot.id: json.loads(snapshot.to_json())["Job"] for snapshot in replay(log).snapshots()} == jobs_of(
        imported(statements(scenario))
    )


# --- which version: the rule, by small facts ---

KEY = ("default", "site")


def job_write(
    index: int, version: int = 0, *, created: int = 10, registered: int | None = None, **kept: Any
) -> JobWrite:
    registered = index if registered is None else registered
    fields = {
        "ID": "site",
        "Version": version,
        "CreateIndex": created,
        "ModifyIndex": index,
        "JobModifyIndex": registered,
    }
    return JobWrite(
        namespace="default",
        job="site",
        index=index,
        version=version,
        created_index=created,
        registered_index=registered,
        is_stopped=bool(kept.get("Stop")),
        text=json.dumps(fields | kept).encode(),
    )


def evaluation(index: int, created: int, *, id: str = "e", **told: Any) -> EvaluationWrite:
    told = {"job_index": 0, "snapshot_index": 0, "is_plan": False, "is_done": False} | told
    return EvaluationWrite(namespace="default", job="site", index=index, id=id, created_index=created, **told)


def deployment(version: int, *, id: str = "d", created: int = 10) -> DeploymentWrite:
    return DeploymentWrite(
        namespace="default", job="site", index=20, id=id, job_version=version, job_created_index=created
    )


def done(created: int, plan: int, snapshot: int, end: int) -> list[Fact]:
    """Return an evaluation's life: made, planned, and ended."""
    return [
        evaluation(created, created),
        evaluation(plan, created, is_plan=True),
        evaluation(end, created, is_done=True, snapshot_index=snapshot),
    ]


V0, V1, STOPPED = job_write(10), job_write(20, 1), job_write(40, 2, Stop=True)
RUNNING = job_write(12, registered=10)

CASES: dict[str, tuple[list[Fact], dict[str, Any], JobWrite | None]] = {
    "a job that was registered once": ([V0], {"planned_index": 12}, V0),
    "what was registered after the plan is not its job": ([V0, V1], {"planned_index": 12}, V0),
    "of two versions before the plan it may be either": ([V0, V1], {"planned_index": 30}, None),
    "a version whose beginning was not heard of": ([V1], {"planned_index": 30}, None),
    "nothing is placed of a job that is stopped": ([V0, STOPPED], {"planned_index": 41}, V0),
    "registered anew after it was forgotten": (
        [V0, job_write(50, created=50)],
        {"planned_index": 60},
        None,
    ),
    "an evaluation made for the new version": ([V0, V1, evaluation(20, 20)], {"planned_index": 30}, V1),
    "an evaluation made before the new version was registered": (
        [V0, V1, evaluation(15, 15)],
        {"planned_index": 30},
        None,
    ),
    "registered between its snapshot and its plan": (
        [V0, V1, *done(15, 22, 18, 23)],
        {"planned_index": 22},
        None,
    ),
    "registered between its only plan and its end": (
        [V0, V1, *done(15, 19, 18, 23)],
        {"planned_index": 25},
        None,
    ),
    "registered between its only plan and its end, and stopped since": (
        [V0, V1, *done(15, 19, 18, 23)],
        {"planned_index": 25, "is_terminal": True},
        V0,
    ),
    "its snapshot has the new version": ([V0, V1, *done(15, 22, 21, 23)], {"planned_index": 22}, V1),
    "with two plans, the snapshot is of the first": (
        [V0, V1, *done(15, 19, 18, 23), evaluation(22, 15, is_plan=True)],
        {"planned_index": 22},
        None,
    ),
    "the write as of the snapshot": ([V0, RUNNING, *done(11, 14, 13, 15)], {"planned_index": 14}, RUNNING),
    "the oldest write, where the snapshot is not told": ([V0, RUNNING, evaluation(11, 11)], {"planned_index": 14}, V0),
    "a write that the evaluation knew of is missing": (
        [V0, evaluation(25, 25, job_index=20)],
        {"planned_index": 30},
        None,
    ),
    "a later stop leaves the job": (
        [V0, V1, *done(10, 12, 10, 13)],
        {"planned_index": 30, "is_terminal": True},
        V0,
    ),
    "a later plan that moved it may have given it the new version": (
        [V0, V1, *done(10, 12, 10, 13)],
        {"planned_index": 30},
        None,
    ),
    "a deployment of the newest version": ([V0, V1, deployment(1)], {"planned_index": 30, "deployment": "d"}, V1),
    "a deployment of an older version": ([V0, V1, deployment(0)], {"planned_index": 30, "deployment": "d"}, None),
    "an older version is placed while canaries run": (
        [V0, V1, *done(25, 30, 26, 31), deployment(0)],
        {"planned_index": 30, "deployment": "d"},
        None,
    ),
    "a deployment of the job before it was forgotten": (
        [V0, deployment(0, created=5)],
        {"planned_index": 12, "deployment": "d"},
        None,
    ),
    "a deployment that nobody told of may be of an older version": (
        [V0, V1, evaluation(20, 20)],
        {"planned_index": 30, "deployment": "d"},
        None,
    ),
    "another job": ([V0], {"planned_index": 12, "job_key": ("other", "site")}, None),
    "the stream has not come so far": ([V0], {"planned_index": 1_000}, None),
}


@pytest.mark.parametrize(("facts", "asked", "expected"), CASES.values(), ids=CASES)
def test_which_version_an_allocation_has_follows_from_the_facts_or_is_not_known(
    facts: list[Fact], asked: dict[str, Any], expected: JobWrite | None
) -> None:
    subject = Subject(**{"job_key": KEY, "evaluation": "e", "deployment": "", "is_terminal": False} | asked)
    for order in (facts, facts[::-1], random.Random(_SEED).sample(facts, len(facts))):
        jobs = Jobs()
        for fact in order:
            jobs.add(fact)
        jobs.stream_index = 100
        assert jobs.job_of(subject) == expected


def test_what_is_remembered_of_jobs_is_bounded() -> None:
    importer = Importer("1.1.2")
    for number in range(MAX_JOBS * 3):
        importer.observe(msgspec.structs.replace(V0, job=f"job-{number}"))
    for number in range(1_000):
        importer.observe(job_write(100 + number, registered=10))
        importer.observe(evaluation(100 + number, 100, id=f"e{number}"))
        importer.observe(deployment(0, id=f"d{number}"))
    known = importer.memory.jobs._histories
    assert len(known) == MAX_JOBS
    of_one = known[KEY]
    assert (len(of_one.writes), len(of_one.evaluations), len(of_one.deployments)) == (16, 64, 16)


@pytest.mark.parametrize(
    "payload",
    [
        {"Job": {"ID": "site", "Stop": True, "Status": "dead"}},
        {"Job": None},
        {"Job": "site"},
        {"Job": {"ID": "site", "Version": -1, "CreateIndex": 1, "ModifyIndex": 1, "JobModifyIndex": 1}},
        {"Job": {"ID": "site", "Version": 0, "CreateIndex": 1, "ModifyIndex": 2**64, "JobModifyIndex": 1}},
        {"Evaluation": {"ID": "e", "JobID": "site"}},
        {"Deployment": [1]},
        {"Node": {"ID": "n"}},
    ],
    ids=str,
)
def test_what_has_no_index_tells_nothing_of_a_job(payload: dict[str, Any]) -> None:
    frame = {"Events": [{"Topic": "Job", "Type": "JobRegistered", "Payload": payload}], "Index": 5}
    assert list(statements_of_line(json.dumps(frame).encode(), "stream", 1)) == []


# --- what was told of the allocation itself ---


def allocation(index: int, **fields: Any) -> dict[str, Any]:
    body = {
        "ID": "a",
        "JobID": "site",
        "Namespace": "default",
        "EvalID": "e",
        "CreateIndex": 12,
        "DesiredStatus": "run",
    }
    return body | {"AllocModifyIndex": 12, "ModifyIndex": index} | fields


def body_of(index: int, **fields: Any) -> Observation:
    return observation_from_json(json.dumps({"Job": None} | allocation(index, **fields)).encode(), "body", "bodies", 7)


def payload_of(index: int, **fields: Any) -> Observation:
    return observation_from_json(json.dumps(allocation(index, **fields)).encode(), "stream", "stream", 3)


def job_of_a(importer: Importer) -> Any:
    return jobs_of(importer)["a"]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_job_that_was_told_of_the_allocation_wins_and_a_contradiction_is_told(*, is_late: bool) -> None:
    other = json.loads(V0.text) | {"Priority": 70}
    told: list[Statement] = [V0, payload_of(12), *([payload_of(13)] if is_late else []), body_of(12, Job=other)]
    for order in (told, told[::-1], [told[0], *told[:0:-1]]):
        importer = imported(order)
        assert job_of_a(importer) == other
        assert importer.conflicts_total == 1
        (conflict,) = importer.job_conflicts
        assert (conflict.alloc, json.loads(conflict.job), conflict.write) == ("a", other, V0)


def test_a_body_without_a_job_says_nothing_of_it() -> None:
    told: list[Statement] = [V0, payload_of(12), body_of(12), body_of(12)]
    for order in (told, told[::-1], [told[2], told[0], told[1], told[3]]):
        importer = imported(order)
        assert job_of_a(importer) == json.loads(V0.text)
        assert importer.conflicts_total == 0


def test_a_body_tells_a_job_at_an_index_that_another_body_told_without_it() -> None:
    importer = imported([body_of(12), body_of(12, Job={"ID": "site"}), body_of(12)])
    assert job_of_a(importer) == {"ID": "site"}
    assert importer.conflicts_total == 0


def test_what_moves_while_a_version_stays_is_no_contradiction() -> None:
    moved = {"Status": "running", "StatusDescription": "x", "Stable": True, "ModifyIndex": 11}
    other = json.loads(V0.text) | moved
    told: list[Statement] = [V0, payload_of(12), body_of(12, Job=other)]
    for order in (told, told[::-1]):
        importer = imported(order)
        assert job_of_a(importer) == other
        assert importer.conflicts_total == 0


def frame_of(*events: dict[str, Any], index: int) -> str:
    return json.dumps({"Events": [event | {"Index": index} for event in events], "Index": index}) + "\n"


def test_verify_and_import_tell_of_a_job_that_the_stream_contradicts(tmp_path: Path) -> None:
    stream, bodies, notes = tmp_path / "stream.ndjson", tmp_path / "bodies.jsonl", list[str]()
    stream.write_text(
        frame_of({"Topic": "Job", "Type": "JobRegistered", "Payload": {"Job": json.loads(V0.text)}}, index=10)
        + frame_of({"Topic": "Allocation", "Type": "PlanResult", "Payload": {"Allocation": allocation(12)}}, index=12)
    )
    bodies.write_text(json.dumps(allocation(12, Job=json.loads(V0.text) | {"Priority": 70})) + "\n")
    report = verify(bodies, stream)
    assert report.conflicts == 1
    assert [(divergence.path, divergence.alloc) for divergence in report.divergences] == [("$.Job", "a")]
    assert ingest(bodies, stream, into=tmp_path / "log.db", on_note=notes.append).records > 0
    assert [note.partition(": the Job of a")[0] for note in notes if "contradictions: 1" in note] == [
        f"{stream}, line 2"
    ]


def test_a_job_that_was_registered_again_leaves_the_allocations_that_were_not_touched() -> None:
    importer = imported([V0, payload_of(12), V1, payload_of(22, ClientStatus="running")])
    assert job_of_a(importer) == json.loads(V0.text)


def test_an_update_in_place_gets_the_new_job_or_none_where_that_is_not_known() -> None:
    in_place = payload_of(30, AllocModifyIndex=30, EvalID="f")
    importer = imported([V0, payload_of(12), V1, in_place])
    assert job_of_a(importer) is None, "no evaluation tells whether it is the new one"
    importer.observe(evaluation(20, 20, id="f"))
    assert job_of_a(importer) == json.loads(V1.text)


def test_a_version_that_is_heard_of_late_takes_a_job_back() -> None:
    importer = imported([V0, payload_of(25, AllocModifyIndex=25)])
    assert job_of_a(importer) == json.loads(V0.text)
    importer.observe(V1)
    assert job_of_a(importer) is None
    importer.observe(evaluation(21, 21))
    assert job_of_a(importer) == json.loads(V1.text)


def test_nobody_but_an_import_says_where_a_job_is_from() -> None:
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    event = Updated(fields={"Job": msgspec.Raw(b"{}")}, job_source="stream")
    with pytest.raises(AppendRefused, match=r"\$\.JobSource"):
        engine.append([Write(alloc="a", event=event)])


# --- an engine that mirrors is as one importer ---


def bodies_of(scenario: Scenario) -> list[Observation]:
    return [observation_from_json(answer.body.encode()) for answer in recordings.bodies(scenario)]


@pytest.mark.parametrize("scenario", STREAMED[::9], ids=str)
def test_calls_of_an_engine_are_as_one_importer(scenario: Scenario) -> None:
    rng = random.Random(_SEED)
    told = [*statements(scenario), *bodies_of(scenario)]
    for order in (told, told[::-1], sorted(told, key=lambda each: each.index), rng.sample(told, len(told))):
        engine, importer = Engine(dialect="1.1.2"), Importer("1.1.2")
        for statement in order:
            expected = importer.observe(statement)
            assert [without_position(record) for record in engine.observe(statement)] == [
                without_position(record) for record in expected
            ]
        assert engine.observe(*statements(scenario)) == [], "what is known already adds nothing"


def without_position(record: Record) -> Record:
    return msgspec.structs.replace(record, seq=0)


class FailingLog(MemoryLog):
    """A log that cannot be written, for a while."""

    is_failing = False

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        """Append, or fail."""
        if self.is_failing:
            raise LogError("no space left on device")
        return super().append_all(appends)


def test_a_call_of_an_engine_that_fails_changes_nothing_of_what_it_remembers() -> None:
    log = FailingLog("1.1.2")
    engine, of_b = Engine(log), msgspec.structs.replace(job_write(7, created=7), job="other")
    engine.observe(V0)
    log.is_failing = True
    for statement in (payload_of(12), body_of(12)):
        with pytest.raises(LogError):
            engine.observe(statement)
    log.is_failing = False
    engine.observe(payload_of(8, ID="b", JobID="other", AllocModifyIndex=8))
    log.is_failing = True
    with pytest.raises(LogError):
        engine.observe(of_b)
    log.is_failing = False
    (record,) = engine.observe(of_b)
    assert record.alloc == "b"
    records = engine.observe(payload_of(12)) + engine.observe(body_of(12, Job=json.loads(V0.text), NodeID="n"))
    importer = Importer("1.1.2")
    importer.observe(V0)
    expected = importer.observe(payload_of(12)) + importer.observe(body_of(12, Job=json.loads(V0.text), NodeID="n"))
    assert list(map(without_position, records)) == list(map(without_position, expected))


def test_what_an_engine_remembers_is_bounded_by_what_is_live() -> None:
    engine = Engine(dialect="1.1.2")
    for number in range(1_500):
        alloc = f"a{number}"
        engine.observe(payload_of(12, ID=alloc, JobID=f"job-{number}", DesiredStatus="stop", ClientStatus="complete"))
        engine.collect(alloc)
    memory = engine._memory
    assert memory is not None
    assert len(memory.provenances) <= 1_025
    assert sum(len(waiting.subjects) for waiting in memory.waiting.values()) <= 1_025
    assert sum(len(waiting.evaluations) for waiting in memory.waiting.values()) <= 1_025


SUBJECTS = st.builds(
    Subject,
    job_key=st.just(("default", "site")),
    evaluation=st.sampled_from(("", "e1", "e2")),
    deployment=st.sampled_from(("", "d1", "d2")),
    planned_index=st.integers(1, 9),
    is_terminal=st.booleans(),
)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | SUBJECTS), max_size=20), st.integers(1, 9))
def test_a_fact_concerns_the_allocations_that_wait_for_it(moves: list[tuple[str, Subject | None]], index: int) -> None:
    memory, waiting = Memory(), dict[str, Subject]()
    for alloc, subject in moves:
        if subject is None:
            memory.release(alloc, ("default", "site"))
            waiting.pop(alloc, None)
        else:
            memory.wait(alloc, subject)
            waiting[alloc] = subject
    assert sorted(memory.concerned(msgspec.structs.replace(V0, index=index))) == sorted(
        alloc for alloc, subject in waiting.items() if index < subject.planned_index
    )
    for name in ("1", "2"):
        evaluation = EvaluationWrite(
            namespace="default", job="site", index=index, id=f"e{name}", created_index=1, job_index=1,
            snapshot_index=0, is_plan=False, is_done=False,
        )  # fmt: skip
        deployment = DeploymentWrite(
            namespace="default", job="site", index=index, id=f"d{name}", job_version=0, job_created_index=1
        )
        for fact, attribute in ((evaluation, "evaluation"), (deployment, "deployment")):
            expected = [alloc for alloc, subject in waiting.items() if getattr(subject, attribute) == fact.id]
            assert sorted(memory.concerned(fact)) == sorted(expected)
    assert bool(memory.waiting) == bool(waiting)


# --- what the stream calls a write, whoever has told the index before ---


def in_kinds(scenario: Scenario, order: tuple[str, ...]) -> list[Statement]:
    """Return what bodies, stubs and the stream tell, index by index: of one index, in this order of kinds."""
    stubs = [observation_from_json(stub_of(body)) for body in bodies_of(scenario)]
    told = [*statements(scenario), *bodies_of(scenario), *stubs]

    def place(statement: Statement) -> tuple[int, int]:
        return statement.index, order.index(statement.kind if isinstance(statement, Observation) else "stream")

    return sorted(told, key=place)


def stub_of(body: Observation) -> bytes:
    """Return what a list would have shown instead of a body."""
    importer = imported([body])
    return Snapshot.of(importer.fold[body.alloc], "1.1.2").to_stub_json()


@pytest.mark.parametrize("order", list(itertools.permutations(("body", "stream", "stub"))), ids=str)
def test_a_write_is_called_what_the_stream_calls_it_whoever_told_it_first(order: tuple[str, ...]) -> None:
    compared = 0
    for scenario in STREAMED[::4]:
        engine, importer = Engine(dialect="1.1.2"), Importer("1.1.2")
        written: dict[tuple[str, int], list[Record]] = {}
        types: dict[tuple[str, int], str] = {}
        for statement in in_kinds(scenario, order):
            records = importer.observe(statement)
            engine.observe(statement)
            for record in records:
                written.setdefault((record.alloc, record.index), []).append(record)
            if isinstance(statement, Observation) and statement.write_type:
                types[statement.alloc, statement.index] = statement.write_type
        for at, stream_type in types.items():
            assert write_type(written[at]) == stream_type, (str(scenario), at)
            compared += 1
        for alloc in importer.fold:
            kept = [record for record in engine.store.log.read(alloc) if (alloc, record.index) in types]
            for index in {record.index for record in kept}:
                assert write_type([record for record in kept if record.index == index]) == types[alloc, index]
    assert compared > 50


@pytest.mark.parametrize("suffix", ["jsonl", "db"])
def test_an_import_keeps_the_type_of_a_write_that_another_import_told(suffix: str, tmp_path: Path) -> None:
    log, body, stream = tmp_path / f"log.{suffix}", tmp_path / "body.json", tmp_path / "stream.ndjson"
    body.write_text(json.dumps(allocation(12, Job=None)))
    event = {"Topic": "Allocation", "Type": "DeploymentPromotion", "Payload": {"Allocation": allocation(12)}}
    stream.write_text(frame_of(event, index=12))
    assert [ingest(source, into=log).records for source in (body, stream, stream, body)] == [1, 1, 0, 0]
    assert write_type(list(replay(log))) == "DeploymentPromotion"


# --- what comes late is compared, too ---


def test_verify_compares_what_comes_late_with_the_state_of_its_index(tmp_path: Path) -> None:
    newer, older = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    newer.write_text("".join(json.dumps(allocation(index, NodeID="n", Job=None)) + "\n" for index in (12, 13, 14)))
    late = allocation(13, NodeID="n", Job=None, Name="what nobody has told")
    older.write_text(json.dumps(late) + "\n" + json.dumps(late | {"NodeID": "other"}) + "\n")
    report = verify(newer, older)
    assert report.compared == 5
    assert [(each.path, each.index, each.expected_value, each.actual_value) for each in report.divergences] == [
        ("$.NodeID", 13, '"other"', '"n"')
    ]


# --- a job that is gone ---


def test_a_job_that_was_forgotten_at_once_is_told_of_where_no_end_was_seen(tmp_path: Path) -> None:
    (scenario,) = (story for story in STREAMED if story.name == "stop_purge_running")
    lines = recordings.stream_lines(scenario)
    (place,) = (place for place, line in enumerate(lines) if b'"JobDeregistered"' in line)
    assert b'"Topic":"Job"' not in lines[place], "a purge tells of its evaluation only"
    notes: list[str] = []
    for name, count in (("cut", place + 1), ("whole", len(lines))):
        path = tmp_path / f"{name}.ndjson"
        path.write_bytes(b"\n".join([*lines[:count], b""]))
        replay(path, on_note=notes.append).fold()
    index = json.loads(lines[place])["Index"]
    (alloc,) = recorded_jobs(scenario)
    assert notes == [f"job 'stop_purge_running' was deregistered at index {index}; no end was seen of {alloc}"]


# --- reports ---


def test_a_reduced_payload_of_a_job_that_is_gone_tells_of_no_job_but_of_its_end() -> None:
    (path,) = (recordings.DATA / "reports" / "purged-job").iterdir()
    notes: list[str] = []
    (snapshot,) = replay(path, on_note=notes.append).snapshots()
    assert json.loads(snapshot.to_json()).get("Job") is None
    assert notes[-1] == f"job 'site' was deregistered at index 40; no end was seen of {snapshot.id}"


def test_news_is_seen_by_the_index_of_any_write_of_an_allocation() -> None:
    (path,) = (recordings.DATA / "reports" / "alloc-modify-index").iterdir()
    report = verify(path)
    assert (report.agrees, report.repeats, report.compared) == (True, 0, report.observations)
    observed = list(replay(path).observations())
    assert len({observation.fields["AllocModifyIndex"] for observation in observed}) < len(observed)
    assert sorted({record.index for record in replay(path)}) == [observation.index for observation in observed]
