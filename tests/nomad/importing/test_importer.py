"""The importer on everything that was recorded: the records fold to what was seen, at every index, key by key."""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest

from support import recordings
from support.recordings import Scenario
from taskfold import Engine
from taskfold.errors import DecodeError
from taskfold.fold.allocation import Fold, current_fields
from taskfold.log import MemoryLog
from taskfold.model.record import Collected, Gap, Observed, Placed, Record, Updated
from taskfold.nomad.importing import field_cache, repeats
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import Observation, Statement, mismatches, observation_from_json
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.replay import Replay
from taskfold.sources.source import statements_of_line

BODIES, STREAM = "bodies", "stream"
SOURCES = [
    # One job of 0.5.6 was refused when it was submitted: nothing was ever told of an allocation.
    *(
        pytest.param(scenario, BODIES, id=f"{scenario}-{BODIES}")
        for scenario in recordings.scenarios()
        if str(scenario) != "0.5.6/raw_exec_missing_command"
    ),
    *(pytest.param(scenario, STREAM, id=f"{scenario}-{STREAM}") for scenario in recordings.scenarios("1.1.2")),
]
GAPS = {"1.1.2/service_ring_fast_raw": 2}
"""The one scenario in which a task made more events between two answers than its ring holds."""

encode = msgspec.json.encode
read_record = msgspec.json.Decoder(Record).decode


@functools.cache
def seen(scenario: Scenario, source: str) -> list[tuple[Observation, dict[str, Any]]]:
    """Return what a source tells of allocations, each with the object that it was read from."""
    if source == BODIES:
        texts = [answer.body for answer in recordings.bodies(scenario)]
        return [(observation_from_json(text.encode()), json.loads(text)) for text in texts]
    payloads = [
        event["Payload"]["Allocation"]
        for line in recordings.stream_lines(scenario)
        for event in json.loads(line).get("Events") or ()
        if event["Topic"] == "Allocation"
    ]
    found = list(Replay(scenario.path / "stream.ndjson.gz").observations())
    return list(zip(found, payloads, strict=True))


def observations(scenario: Scenario, source: str) -> list[Observation]:
    return [observation for observation, _ in seen(scenario, source)]


def imported(importer: Importer, found: Iterable[Observation]) -> list[Record]:
    return [record for observation in found for record in importer.observe(observation)]


def different_paths(importer: Importer, observation: Observation) -> set[str]:
    """Return where the importer's fold differs from an observation."""
    known = importer.fold.owned(observation.alloc)
    return {difference.path for difference in mismatches(known, observation, importer.fold.dialect)}


def as_logged(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records as a log gives them back."""
    return (read_record(encode(record)) for record in records)


@pytest.mark.parametrize(("scenario", "source"), SOURCES)
def test_the_records_fold_to_what_was_seen_at_every_index(scenario: Scenario, source: str) -> None:
    importer, fold = Importer(scenario.version), Fold(scenario.version, on_illegal="keep")
    types: Counter[type] = Counter()
    compared = 0
    for observation, told in seen(scenario, source):
        for record in as_logged(importer.observe(observation)):
            types[type(record.event)] += 1
            fold.apply(record)
        known = fold.owned(observation.alloc)
        if known.modify_index != observation.index:
            continue  # an older answer, late: what is known is newer
        compared += 1
        assert list(mismatches(known, observation, fold.dialect)) == []
        # The same without the library's own comparison: what would be answered is what was answered, every key.
        answered = json.loads(Snapshot.of(fold[observation.alloc], scenario.version).to_json())
        assert answered == told
    assert compared > 0
    assert types[Observed] == 0
    assert types[Gap] == GAPS.get(str(scenario), 0)
    assert types[Collected] == 0, "that an allocation is not told of does not mean that it was collected"
    assert [fold[alloc] for alloc in fold] == [importer.fold[alloc] for alloc in fold]


@pytest.mark.parametrize(("scenario", "source"), SOURCES)
def test_records_are_numbered_as_a_log_needs_them(scenario: Scenario, source: str) -> None:
    importer = Importer(scenario.version)
    log = MemoryLog(scenario.version)
    versions: Counter[str] = Counter()
    for observation in observations(scenario, source):
        records = importer.observe(observation)
        for ordinal, record in enumerate(records):
            versions[record.alloc] += 1
            assert (record.alloc, record.index, record.id) == (observation.alloc, observation.index, ordinal)
            assert record.version == versions[record.alloc]
            assert record.seq == versions.total()
            assert record.time_ns > 0
        if records:
            assert len(log.append(observation.alloc, records[0].version - 1, records)) == len(records)
        if versions[observation.alloc] == len(records):
            assert isinstance(records[0].event, Placed)
            assert records[0].task == ""


@pytest.mark.parametrize(("scenario", "source"), SOURCES)
def test_repeats_add_nothing(scenario: Scenario, source: str) -> None:
    found = observations(scenario, source)
    importer = Importer(scenario.version)
    assert imported(importer, found)
    before = [importer.fold[alloc] for alloc in importer.fold]
    repeats = importer.repeats
    assert imported(importer, found) == []
    assert importer.repeats == repeats + len(found)
    assert importer.observations == 2 * len(found)
    assert importer.conflicts_total == 0
    assert [importer.fold[alloc] for alloc in importer.fold] == before


@pytest.mark.parametrize(("scenario", "source"), SOURCES)
def test_an_importer_goes_on_from_what_a_log_holds(scenario: Scenario, source: str) -> None:
    found = observations(scenario, source)
    whole = imported(Importer(scenario.version), found)
    for cut in {1, len(found) // 2, len(found) - 1}:
        first = imported(Importer(scenario.version), found[:cut])
        fold = Fold(scenario.version, on_illegal="keep")
        fold.apply_all(as_logged(first))
        # Whoever goes on does not know what was read already, and begins with it again.
        rest = imported(Importer(scenario.version, fold), found)
        assert unnumbered(first + rest) == unnumbered(whole)


def unnumbered(records: list[Record]) -> list[Record]:
    """Leave out the position, which a log gives: an importer counts what it wrote itself."""
    return [msgspec.structs.replace(record, seq=0) for record in records]


@pytest.mark.parametrize("scenario", recordings.scenarios("1.1.2"), ids=str)
@pytest.mark.parametrize(("first", "second"), [(STREAM, BODIES), (BODIES, STREAM)])
def test_a_second_source_of_the_same_story_changes_no_state(scenario: Scenario, first: str, second: str) -> None:
    importer = Importer("1.1.2")
    imported(importer, observations(scenario, first))
    before = {alloc: importer.fold[alloc].tasks for alloc in importer.fold}
    added = imported(importer, observations(scenario, second))
    assert {(type(record.event), record.task) for record in added} <= {(Updated, "")}
    # What the stream never tells of is not gone.
    assert not [record for record in added if "Job" in record.event.cleared]
    assert {alloc: importer.fold[alloc].tasks for alloc in importer.fold} == before
    assert importer.conflicts == []


def test_the_two_gaps_tell_how_many_restarts_were_missed() -> None:
    (scenario,) = (each for each in recordings.scenarios("1.1.2") if str(each) in GAPS)
    gaps = [r.event for r in imported(Importer("1.1.2"), observations(scenario, BODIES)) if isinstance(r.event, Gap)]
    assert len(gaps) == 2
    for gap in gaps:
        assert gap.restarts_before < gap.restarts_after
        # What the ring shows after the gap is not counted twice.
        assert gap.restarts_before <= gap.restarts < gap.restarts_after


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_the_entries_of_recorded_lists_are_told_too(version: str) -> None:
    compared = 0
    for scenario in [*recordings.scenarios(version), recordings.edges_scenario(version)]:
        importer = Importer(version)
        for text in recordings.list_bodies(scenario):
            for raw in msgspec.json.decode(text, type=list[msgspec.Raw]):
                observation = observation_from_json(bytes(raw))
                assert observation.kind == "stub"
                assert not [r for r in importer.observe(observation) if isinstance(r.event, Observed)]
                known = importer.fold.owned(observation.alloc)
                if known.modify_index == observation.index:
                    compared += 1
                    assert different_paths(importer, observation) == set()
    assert compared > 50


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_a_list_after_the_bodies_adds_no_event_and_clears_no_field(version: str) -> None:
    added: list[Record] = []
    for scenario in recordings.scenarios(version):
        importer = Importer(version)
        imported(importer, observations(scenario, BODIES))
        for text in recordings.list_bodies(scenario):
            stubs = [observation_from_json(bytes(raw)) for raw in msgspec.json.decode(text, type=list[msgspec.Raw])]
            known = [stub for stub in stubs if stub.alloc in importer.fold]
            for record in imported(importer, known):
                added.append(record)
                assert isinstance(record.event, Updated), (str(scenario), record)
                # What stubs never tell is not gone.
                assert set(record.event.cleared) <= {"ClientStatus", "ClientDescription"}
        assert importer.conflicts == []
    assert len(added) < 50


def test_what_was_conflicting_is_counted_and_kept() -> None:
    body = {"ID": "a", "ModifyIndex": 5, "DesiredStatus": "run", "CreateIndex": 1, "Job": None}
    importer = Importer("1.1.2")
    assert imported(importer, [observation_from_json(encode(body))])
    other = observation_from_json(encode(body | {"DesiredStatus": "stop"}))
    older = observation_from_json(encode(body | {"DesiredStatus": "stop", "ModifyIndex": 4}))
    assert imported(importer, [other, older]) == []
    assert (importer.repeats, importer.conflicts_total, importer.conflicts) == (2, 1, [other])
    assert Snapshot.of(importer.fold["a"], "1.1.2").desired_status == "run"


def test_an_observation_that_cannot_be_read_changes_nothing() -> None:
    body = {"ID": "a", "ModifyIndex": 5, "Job": None}
    importer = Importer("1.1.2")
    imported(importer, [observation_from_json(encode(body))])
    before = importer.fold["a"]
    tasks = {"web": {"State": "pending", "Events": [{"Type": "Received"}]}}
    wrong = body | {"ModifyIndex": 6, "ModifyTime": "x", "DesiredStatus": "stop", "TaskStates": tasks}
    with pytest.raises(DecodeError, match=r"^\$\.ModifyTime: "):
        importer.observe(observation_from_json(encode(wrong)))
    assert importer.fold["a"] == before


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("$.TaskStates.web.state", {"State": "dead"}),
    ("$.TaskStates.web.failed", {"Failed": True}),
    ("$.TaskStates.web.restarts", {"Restarts": 8}),
    ("$.TaskStates.web.last_restart_ns", {"LastRestart": None}),
    ("$.TaskStates.web.started_at_ns", {"StartedAt": "2026-11-23T08:34:10.519993803Z"}),
    ("$.TaskStates.web.finished_at_ns", {"FinishedAt": "2026-11-23T08:34:10Z"}),
    ("$.TaskStates.web.events", {"Events": [{"Type": "Started", "Time": 6}]}),
    ("$.TaskStates.web.events", {"Events": None}),
    ("$.TaskStates.web.TaskHandle", {"TaskHandle": {"Version": 2}}),
    ("$.TaskStates.web.TaskHandle", {"TaskHandle": None}),
    ("$.TaskStates.web.Paused", {"Paused": "force_run"}),
]


@pytest.mark.parametrize(("path", "change"), CHANGES)
def test_every_difference_of_a_task_is_named(path: str, change: dict[str, Any]) -> None:
    task = {
        "State": "running",
        "Restarts": 7,
        "LastRestart": "2026-11-23T08:34:09Z",
        "StartedAt": "2026-11-23T08:34:10.519993802Z",
        "TaskHandle": {"Version": 1},
        "Events": [{"Type": "Started", "Time": 5}],
    }
    body = {"ID": "a", "ModifyIndex": 5, "Job": None, "TaskStates": {"web": task}}
    importer = Importer("1.1.2")
    imported(importer, [observation_from_json(encode(body))])
    assert different_paths(importer, observation_from_json(encode(body))) == set()
    changed = observation_from_json(encode(body | {"TaskStates": {"web": task | change}}))
    assert path in different_paths(importer, changed)
    # The status follows from the state, and nothing else differs.
    assert different_paths(importer, changed) <= {path, "$.ClientStatus", "$.ClientDescription"}
    other = observation_from_json(encode(body | {"TaskStates": {"web": task, "db": task}}))
    assert different_paths(importer, other) == {"$.TaskStates.db"}
    none = observation_from_json(encode(body | {"TaskStates": None, "ModifyIndex": 6}))
    assert different_paths(importer, none) == {"$.TaskStates.web", "$.ModifyIndex"}


def test_no_event_at_all_still_moves_the_index() -> None:
    importer = Importer("1.1.2")
    imported(importer, [observation_from_json(b'{"ID":"a","ModifyIndex":5,"Job":null}')])
    (record,) = imported(importer, [observation_from_json(b'{"ID":"a","ModifyIndex":6,"Job":null}')])
    assert record.event == Updated()
    assert importer.fold["a"].modify_index == 6


def test_a_task_that_is_missing_is_hidden_and_comes_back() -> None:
    def body(index: int, *names: str) -> Observation:
        tasks = {name: {"State": "running", "Events": [{"Type": "Received", "Time": 1}]} for name in names}
        return observation_from_json(
            encode({"ID": "a", "ModifyIndex": index, "Job": None, "TaskStates": tasks or None})
        )

    importer = Importer("1.1.2")
    for index, names in enumerate([("web", "db"), ("web",), (), ("web", "db")], start=1):
        imported(importer, [body(index, *names)])
        shown = json.loads(Snapshot.of(importer.fold["a"], "1.1.2").to_json()).get("TaskStates", {})
        assert set(shown) == set(names)
    assert importer.fold["a"].tasks["db"].counts == {"Received": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}", r"\$\.ID: expected the ID that every allocation has, found nothing"),
        (b'{"ID":""}', r'\$\.ID: expected the ID that every allocation has, found ""'),
        (b'{"ID":7}', r"\$\.ID: .* found 7"),
        (b'{"ID":"a","ModifyIndex":-1}', r"\$\.ModifyIndex: expected a number that counts writes, found -1"),
        (b'{"ID":"a","ModifyIndex":"x"}', r'\$\.ModifyIndex: .* found "x"'),
        (b'{"ID":"a","TaskStates":7}', r"\$\.TaskStates: expected an object, found 7"),
        (b'{"ID":"a","TaskStates":{"\xff":{}}}', r"\$\.TaskStates: 'utf-8' codec can't decode byte 0xff"),
        (b"[]", "not the JSON of an allocation"),
    ],
)
def test_what_is_no_allocation_is_refused_with_its_path(text: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        observation_from_json(text)


# --- what is remembered to be faster changes nothing ---


def forget_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have importers remember nothing that is found out again otherwise."""
    monkeypatch.setattr(field_cache, "MAX_BYTES", 0)
    monkeypatch.setattr(repeats, "MAX_BYTES", 0)


def everything_told(scenario: Scenario, seed: int) -> list[Statement]:
    """Return what bodies and the stream tell, some of it again at once, some of it later and in another order."""
    rng = random.Random(seed)
    told: list[Statement] = [*observations(scenario, BODIES), *_of_stream(scenario)]
    told.sort(key=lambda statement: statement.index)
    again = [statement for statement in told for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    for _ in range(len(told) // 4):
        place = rng.randrange(len(again))
        again.insert(rng.randrange(place, len(again) + 1), again[place])
    return [*again, *[observations(scenario, BODIES)[-1]] * 3]


def _of_stream(scenario: Scenario) -> list[Statement]:
    lines = recordings.stream_lines(scenario)
    return [statement for line in lines for statement in statements_of_line(line, "stream", 1)]


def outcome(importer: Importer, told: list[Statement]) -> tuple[object, ...]:
    """Return all that an importer makes of statements."""
    records = [msgspec.json.encode(record) for statement in told for record in importer.observe(statement)]
    state = {alloc: importer.fold[alloc] for alloc in importer.fold}
    return (
        records,
        state,
        importer.repeats,
        importer.conflicts_total,
        importer.job_conflicts,
        importer.memory.provenances,
    )


@pytest.mark.parametrize(
    "scenario", [scenario for scenario in recordings.scenarios() if seen(scenario, BODIES)], ids=str
)
def test_what_is_remembered_of_allocations_changes_no_record(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        told = everything_told(scenario, seed)
        remembering = Importer(scenario.version)
        expected = outcome(remembering, told)
        assert remembering.memory.repeats.cache.count
        for known in remembering.fold.allocations.values():
            assert remembering._sights.take(known) == current_fields(known.placed_body, known.updates)
        with monkeypatch.context() as patch:
            forget_all(patch)
            forgetting = Importer(scenario.version)
            assert outcome(forgetting, told) == expected
            assert not forgetting.memory.repeats.cache.count


def test_what_is_remembered_of_a_text_is_what_a_log_would_hold_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = "a\u2028b", "a\u2028b", "caf\u00e9", "a", "a\u2028b"
    told = [body_of("a", 5 + number, NodeID="n", Metrics={"Text": text}) for number, text in enumerate(texts)]
    remembering = Importer("1.1.2")
    expected = outcome(remembering, [*told, told[-1], told[-1]])
    known = remembering.fold.owned("a")
    assert remembering._sights.take(known) == current_fields(known.placed_body, known.updates)
    forget_all(monkeypatch)
    forgetting = Importer("1.1.2")
    assert outcome(forgetting, [*told, told[-1], told[-1]]) == expected


@pytest.mark.parametrize("scenario", recordings.scenarios("1.1.2"), ids=str)
def test_an_engine_that_is_polled_records_what_one_importer_does(scenario: Scenario) -> None:
    told = everything_told(scenario, seed=7)
    importer, engine = Importer(scenario.version), Engine(dialect=scenario.version)
    for statement in told:
        expected = [msgspec.structs.replace(record, seq=0) for record in importer.observe(statement)]
        assert [msgspec.structs.replace(record, seq=0) for record in engine.observe(statement)] == expected
    assert engine._memory is not None
    assert engine._memory.repeats.cache.count


def body_of(alloc: str, index: int, **fields: Any) -> Observation:
    return observation_from_json(encode({"ID": alloc, "ModifyIndex": index, "TaskStates": {}, **fields}), "body")


def test_a_body_that_is_polled_again_is_a_repeat_until_something_else_is_told() -> None:
    importer = Importer("1.1.2")
    first, second = body_of("a", 5, NodeID="n"), body_of("a", 6, NodeID="m")
    for told in (first, first, first, second, first, second, second):
        importer.observe(told)
    assert importer.memory.is_repeat(body_of("a", 6, NodeID="m"), importer.fold.owned("a"))
    for other in (body_of("a", 6, NodeID="k"), body_of("a", 6), body_of("a", 7, NodeID="m"), first):
        assert not importer.memory.is_repeat(other, importer.fold.owned("a"))
    importer.observe(body_of("a", 8, NodeID="m"))
    assert not importer.memory.is_repeat(second, importer.fold.owned("a"))
    importer.observe(second)
    assert importer.fold.owned("a").modify_index == 8


def test_an_observation_that_was_changed_since_it_was_told_is_no_repeat() -> None:
    importer = Importer("1.1.2")
    body = body_of("a", 5, NodeID="n")
    for _ in range(3):
        importer.observe(body)
    assert importer.memory.is_repeat(body, importer.fold.owned("a"))
    assert isinstance(body.fields, dict)
    body.fields["NodeID"] = b'"m"'
    importer.observe(body)
    assert importer.conflicts == [body]


def test_what_contradicts_is_counted_as_often_as_it_is_told() -> None:
    importer = Importer("1.1.2")
    importer.observe(body_of("a", 5, NodeID="n"))
    for count in range(1, 4):
        importer.observe(body_of("a", 5, NodeID="m"))
        assert importer.conflicts_total == count


def test_what_is_remembered_of_allocations_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (repeats, field_cache):
        monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    importer = Importer("1.1.2")
    for number in range(200):
        body = body_of(f"a{number}", 5, Metrics={"Text": "x" * 1_000})
        for _ in range(3):
            importer.observe(body)
    for cache in (importer.memory.repeats.cache, importer._sights.cache):
        assert 0 < cache.count < 100
        assert 0 < cache.size <= 100_000
    large = body_of("large", 5, Metrics={"Text": "x" * 200_000})
    for _ in range(3):
        importer.observe(large)
    assert importer.repeats == 402
    for cache in (importer.memory.repeats.cache, importer._sights.cache):
        assert cache.size <= 100_000
