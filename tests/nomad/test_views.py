"""The typed views read every part of every recorded allocation, know every key of it, and change nothing."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from support import recordings
from taskfold.errors import DecodeError
from taskfold.nomad import views
from taskfold.nomad.views import VIEWS, Job, Metrics, Resources, RestartPolicy, optional_view, unknown_keys, view

STRUCTS = [
    each
    for each in (getattr(views, name) for name in dir(views))
    if isinstance(each, type) and issubclass(each, msgspec.Struct) and each is not views.WireView
]


class Event(msgspec.Struct, rename="pascal"):
    """An event of the stream, its payload as text."""

    topic: str
    key: str
    payload: dict[str, msgspec.Raw]


class Frame(msgspec.Struct, rename="pascal"):
    """A line of the stream; a heartbeat has no events."""

    events: list[Event] = []


def allocations(version: str) -> Iterator[bytes]:
    """Yield the text of every allocation that one version ever sent: whole, in lists, in the stream."""
    for scenario in [*recordings.scenarios(version), recordings.edges_scenario(version)]:
        for answer in recordings.bodies(scenario):
            yield answer.body.encode()
        for body in recordings.list_bodies(scenario):
            yield from (bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw]))
        for _, payload in stream_payloads(scenario, "Allocation"):
            yield payload
    for edge in recordings.edges(version):
        if edge.status == 200 and edge.body and edge.request.startswith("GET /v1/allocation/"):
            yield edge.body.encode()


def stream_payloads(scenario: recordings.Scenario, topic: str) -> Iterator[tuple[str, bytes]]:
    """Yield key and object of every event of a topic."""
    for line in recordings.stream_lines(scenario):
        for event in msgspec.json.decode(line, type=Frame).events:
            if event.topic == topic and topic in event.payload:
                yield event.key, bytes(event.payload[topic])


@functools.cache
def opaque_parts(version: str) -> set[tuple[str, bytes]]:
    """Return every different (top-level key, text) whose value is an object or a list, TaskStates aside."""
    found: set[tuple[str, bytes]] = set()
    for body in allocations(version):
        for key, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items():
            text = bytes(raw)
            if text[:1] in (b"{", b"[") and key != "TaskStates":
                found.add((key, text))
    return found


def as_sent(sent: object, read: object) -> object:
    """Return what was read, cut down to the keys that were sent: views fill in the others."""
    if isinstance(sent, dict) and isinstance(read, dict):
        return {key: as_sent(sent[key], read[key]) for key in sent}
    if isinstance(sent, list) and isinstance(read, list) and len(sent) == len(read):
        return [as_sent(sent_item, read_item) for sent_item, read_item in zip(sent, read, strict=True)]
    return read


def check_read(raw: bytes, type_: type[Any]) -> None:
    """Assert that a view reads the text strictly, knows all its keys, and writes back what it read."""
    assert unknown_keys(raw, type_) == []
    decoded = msgspec.json.decode(raw, type=type_, strict=True)
    assert view(raw, type_) == decoded
    sent = json.loads(raw)
    assert as_sent(sent, json.loads(msgspec.json.encode(decoded))) == sent


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_part_is_read_whole(version: str) -> None:
    parts = opaque_parts(version)
    assert len(parts) > 100
    for key, raw in parts:
        check_read(raw, VIEWS[key])


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_opaque_key_has_a_view(version: str) -> None:
    keys = {key for key, _ in opaque_parts(version)}
    assert keys <= VIEWS.keys()
    assert keys >= {"Job", "Metrics", "Resources", "SharedResources", "TaskResources"}


def test_every_recorded_job_of_the_stream_is_read_whole() -> None:
    jobs = {raw for scenario in recordings.scenarios("1.1.2") for _, raw in stream_payloads(scenario, "Job")}
    assert len(jobs) > 100
    for raw in jobs:
        check_read(raw, Job)


def test_every_recorded_job_at_the_end_is_read_whole() -> None:
    # In 0.5.6 every job was purged by then.
    jobs = [
        answer["body"].encode()
        for scenario in recordings.scenarios("1.1.2")
        for path, answer in recordings.final(scenario).items()
        if path == f"/v1/job/{scenario.name}" and answer["status"] == 200
    ]
    assert len(jobs) > 50
    for raw in jobs:
        check_read(raw, Job)


@pytest.mark.parametrize("scenario", ["json_escaping", "batch_count3"])
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_typed_access_gives_the_values_of_the_text(version: str, scenario: str) -> None:
    (found,) = (each for each in recordings.scenarios(version) if each.name == scenario)
    for answer in recordings.bodies(found):
        sent = json.loads(answer.body)
        raws = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
        job = view(raws["Job"], Job)
        assert job.id == sent["Job"]["ID"] == sent["JobID"]
        assert job.priority == sent["Job"]["Priority"]
        assert job.job_modify_index == sent["Job"]["JobModifyIndex"]
        assert job.meta == sent["Job"]["Meta"]
        (group,) = job.task_groups or ()
        (sent_group,) = sent["Job"]["TaskGroups"]
        assert group.count == sent_group["Count"]
        assert group.restart_policy is not None
        assert group.restart_policy.interval_ns == sent_group["RestartPolicy"]["Interval"]
        assert group.ephemeral_disk is not None
        assert group.ephemeral_disk.size_mb == 10
        for task, sent_task in zip(group.tasks or (), sent_group["Tasks"], strict=True):
            assert task.name == sent_task["Name"]
            assert task.kill_timeout_ns == sent_task["KillTimeout"]
            assert task.env == sent_task["Env"]
            assert task.resources is not None
            assert task.resources.cpu_mhz == sent_task["Resources"]["CPU"] == 20
            assert task.log_config is not None
            assert task.log_config.max_file_size_mb == 1
            assert {key: json.loads(bytes(text)) for key, text in (task.config or {}).items()} == sent_task["Config"]
        metrics = view(raws["Metrics"], Metrics)
        assert metrics.nodes_evaluated == 1
        assert metrics.allocation_time_ns == sent["Metrics"]["AllocationTime"]
        resources = view(raws["TaskResources"], dict[str, Resources])
        assert {name: each.memory_mb for name, each in resources.items()} == {
            name: each["MemoryMB"] for name, each in sent["TaskResources"].items()
        }


def test_fields_that_only_1_1_2_has() -> None:
    statuses, transitions, trackers, lifecycles = [], [], [], []
    for key, raw in opaque_parts("1.1.2"):
        sent = json.loads(raw)
        if key == "DeploymentStatus":
            status = view(raw, views.DeploymentStatus)
            assert (status.healthy, status.timestamp) == (sent["Healthy"], sent["Timestamp"])
            statuses.append(status)
        elif key == "DesiredTransition":
            transition = view(raw, views.DesiredTransition)
            assert (transition.migrate, transition.reschedule) == (sent["Migrate"], sent["Reschedule"])
            transitions.append(transition)
        elif key == "RescheduleTracker":
            events = view(raw, views.RescheduleTracker).events or ()
            assert [each.prev_alloc_id for each in events] == [each["PrevAllocID"] for each in sent["Events"]]
            assert {each.delay_ns for each in events} == {5_000_000_000}
            trackers.append(events)
        elif key == "AllocatedResources":
            allocated = view(raw, views.AllocatedResources)
            for name, lifecycle in (allocated.task_lifecycles or {}).items():
                if lifecycle is not None:
                    assert lifecycle.hook == sent["TaskLifecycles"][name]["Hook"]
                    lifecycles.append(lifecycle)
    assert {status.healthy for status in statuses} == {True, False}
    assert any(transition.migrate for transition in transitions)
    assert max(len(events) for events in trackers) == 2
    assert {lifecycle.hook for lifecycle in lifecycles} == {"prestart", "poststart", "poststop"}


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_numbers_in_a_config_stay_text(version: str) -> None:
    spellings = {
        bytes(text)
        for key, raw in opaque_parts(version)
        if key == "Job"
        for group in view(raw, Job).task_groups or ()
        for task in group.tasks or ()
        for text in (task.config or {}).values()
    }
    assert b"3.0" in spellings
    # Also where the lax decoder reads the rest: both exponents below are as the recorded Nomads spell them.
    task = view(b'{"KillTimeout": 5e+09, "Config": {"a": 1E+30, "b": [-7.0], "c": 1e+30}}', views.TaskView)
    assert task.kill_timeout_ns == 5_000_000_000
    assert {key: bytes(text) for key, text in (task.config or {}).items()} == {
        "a": b"1E+30",
        "b": b"[-7.0]",
        "c": b"1e+30",
    }


def documented_parts() -> dict[str, msgspec.Raw]:
    """Return the documented sample by its top-level keys."""
    return msgspec.json.decode(recordings.repaired_sample(), type=dict[str, msgspec.Raw])


def test_the_documented_sample_is_not_json_as_printed() -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(recordings.documented_sample())
    assert json.loads(recordings.repaired_sample())["TaskStates"]["redis"]["Failed"] is False


def test_the_documented_sample_is_read_whole() -> None:
    parts = documented_parts()
    for key in ("Job", "Metrics", "Resources", "TaskResources"):
        assert unknown_keys(parts[key], VIEWS[key]) == []
        read = json.loads(msgspec.json.encode(view(parts[key], VIEWS[key])))
        sent = json.loads(bytes(parts[key]))
        assert as_sent(sent, read) == sent


def test_the_documented_durations_are_floats_and_are_read_as_whole_numbers() -> None:
    raw = documented_parts()["Job"]
    assert b"1e+10" in bytes(raw)
    job = view(raw, Job)
    assert job.update is not None
    assert job.update.stagger_ns == 10_000_000_000
    (group,) = job.task_groups or ()
    assert group.restart_policy == RestartPolicy(attempts=10, delay_ns=25_000_000_000, interval_ns=300_000_000_000)
    (task,) = group.tasks or ()
    (service,) = task.services or ()
    (check,) = service.checks or ()
    assert (check.timeout_ns, check.interval_ns) == (2_000_000_000, 10_000_000_000)
    assert type(check.timeout_ns) is int
    assert {key: bytes(text) for key, text in (task.config or {}).items()} == {
        "image": b'"redis:latest"',
        "port_map": b'[ { "db": 6379 } ]',
    }


@pytest.mark.parametrize(
    ("raw", "type_", "message"),
    [
        (b'{"Attempts": "5"}', RestartPolicy, "Expected `int`, got `str` - at `$.Attempts`"),
        (b'{"Delay": 1e+10, "Attempts": "5"}', RestartPolicy, "Expected `int`, got `str` - at `$.Attempts`"),
        (b'{"Delay": 1.5}', RestartPolicy, "Expected `int`, got `float` - at `$.Delay`"),
        (b'{"Delay": 1e+10, "Mode": 5}', RestartPolicy, "Expected `str`, got `int` - at `$.Mode`"),
        (b'{"Delay": null}', RestartPolicy, "Expected `int`, got `null` - at `$.Delay`"),
        (b'{"TaskGroups": [{"Tasks": [{"Leader": 1}]}]}', Job, "got `int` - at `$.TaskGroups[0].Tasks[0].Leader`"),
        (b'{"TaskGroups": [{"ShutdownDelay": "null"}]}', Job, "got `str` - at `$.TaskGroups[0].ShutdownDelay`"),
        (b'{"redis": {"CPU": "1"}}', dict[str, Resources], "Expected `int`, got `str` - at `$.redis.CPU`"),
        (b'{"a b": {"CPU": "1"}}', dict[str, Resources], 'Expected `int`, got `str` - at `$["a b"].CPU`'),
        (b"[]", Job, "Expected `object`, got `array` - at `$`"),
        (b"null", Job, "Expected `object`, got `null` - at `$`"),
        (b'{"ID": ', Job, "not JSON: Input data was truncated - at `$`"),
        (b'{"ID": "\xff"}', Job, "not JSON: "),
        (b'{"Attempts": "5", ', RestartPolicy, "not JSON: Input data was truncated - at `$`"),
        (b'{"Attempts": "5", "Newer": 1e400}', RestartPolicy, "Number out of range - at `$[...]`"),
    ],
)
def test_a_wrong_type_is_refused_by_its_path(raw: bytes, type_: type[Any], message: str) -> None:
    with pytest.raises(DecodeError) as raised:
        view(raw, type_)
    assert message in str(raised.value)


def test_the_path_begins_where_the_caller_says() -> None:
    for raw in (b'{"Priority": true}', b'{"Priority": "1"}'):
        with pytest.raises(DecodeError, match=r"at `\$\.Job\.Priority`$"):
            view(raw, Job, path="$.Job")
    with pytest.raises(DecodeError, match=r"at `\$\.Job`$"):
        view(b"7", Job, path="$.Job")


def test_an_unknown_key_is_passed_over_and_reported_with_its_path() -> None:
    raw = b"""{"ID": "x", "Newer": 1, "TaskGroups": [{}, {"Name": "g", "Tasks": [
        {"Name": "t", "Foo": {"Bar": 1}, "Config": {"any": {"thing": 1}}, "Meta": {"any": "thing"},
         "Resources": {"Networks": [{"DynamicPorts": [{"Label": "db", "Odd key": 1}]}]},
         "RestartPolicy": null}], "RestartPolicy": {"RenderTemplates": false}}]}"""
    assert unknown_keys(raw, Job) == [
        "$.Newer",
        "$.TaskGroups[1].Tasks[0].Foo",
        '$.TaskGroups[1].Tasks[0].Resources.Networks[0].DynamicPorts[0]["Odd key"]',
        "$.TaskGroups[1].RestartPolicy.RenderTemplates",
    ]
    job = view(raw, Job)
    assert job.id == "x"
    assert (job.task_groups or ())[1].name == "g"
    assert unknown_keys(b'{"redis": {"NUMA": null}}', VIEWS["TaskResources"], path="$.TaskResources") == [
        "$.TaskResources.redis.NUMA"
    ]
    with pytest.raises(DecodeError, match="not JSON"):
        unknown_keys(b"{", Job)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_has_a_default_and_null_is_read_where_nomad_may_send_it(struct: type[Any]) -> None:
    empty = view(b"{}", struct)
    assert empty == struct()
    optional = {field.encode_name: None for field in msgspec.structs.fields(struct) if field.default is None}
    assert view(json.dumps(optional).encode(), struct) == empty
    for field in msgspec.structs.fields(struct):
        assert field.default in (None, "", 0, False)


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_null_is_read_for_every_recorded_object_and_list(version: str) -> None:
    def with_nulls(value: object) -> Iterator[tuple[Any, str | int]]:
        members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in members:
            if isinstance(value, dict) and isinstance(item, dict | list):
                yield value, key
            yield from with_nulls(item)

    biggest = dict(sorted(opaque_parts(version), key=lambda part: len(part[1])))
    assert len(biggest) >= 5
    for key, raw in biggest.items():
        value = json.loads(raw)
        for holder, name in list(with_nulls(value)):
            kept, holder[name] = holder[name], None
            view(json.dumps(value).encode(), VIEWS[key])
            holder[name] = kept


def test_an_absent_part_or_null_has_no_view() -> None:
    assert optional_view(None, Job) is None
    assert optional_view(b"null", Job) is None
    assert optional_view(msgspec.Raw(b" null\n"), Job) is None
    assert optional_view(msgspec.Raw(), Job) is None
    job = optional_view(b'{"ID": "x"}', Job)
    assert job is not None
    assert job.id == "x"


def test_views_are_read_only() -> None:
    with pytest.raises(AttributeError):
        view(b"{}", RestartPolicy).attempts = 1  # type: ignore[misc]


def test_the_json_schema_says_since_when_a_field_exists() -> None:
    _, components = msgspec.json.schema_components([*STRUCTS, *VIEWS.values()])
    assert components["Job"]["properties"]["Namespace"]["x-since"] == "0.7.0"
    assert components["TaskView"]["properties"]["Leader"]["x-since"] == "0.5.5"
    assert components["ServiceCheck"]["properties"]["Http"]["x-until"] == "0.5.0"
    assert "x-since" not in components["Job"]["properties"]["ID"]


def test_no_field_sent_by_0_5_6_is_marked_as_newer() -> None:
    _, components = msgspec.json.schema_components(list(VIEWS.values()))
    newer: set[str] = set()
    for key, raw in opaque_parts("0.5.6"):
        kind = VIEWS[key]
        if key != "TaskResources":
            properties = components[kind.__name__]["properties"]
            newer.update(f"{key}.{name}" for name in json.loads(raw) if "x-since" in properties[name])
    assert newer == {"Job.ParameterizedJob", "Job.Payload"}  # They came with 0.5.6; nothing else did.
