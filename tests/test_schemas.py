"""The JSON Schemas: generated from the types, true of everything recorded, and false where a type is wrong."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from support import recordings
from taskfold import Engine, Importer, Snapshot, observation_from_json
from taskfold.events import BY_WIRE_TYPE, EVENT_TYPES, UnknownEvent
from taskfold.fold.allocation import CLIENT_DESCRIPTIONS
from taskfold.fold.lifecycle import STATES
from taskfold.fold.task import TaskState
from taskfold.log.contract import new_header
from taskfold.log.seals import seal
from taskfold.model.dialect import DIALECTS, NEWEST_DIALECT
from taskfold.model.record import INTERNAL_EVENTS, Collected, Record
from taskfold.nomad.events import EVENT_FIELDS, event_fields
from taskfold.nomad.fields import ALLOCATION_FIELDS
from taskfold.nomad.task_states import task_state_to_json
from taskfold.nomad.views import VIEWS, AllocationView, TaskEventView, TaskStateView, unknown_keys, view
from taskfold.nomad.views.status import CLIENT_STATUSES, TASK_STATES
from taskfold.sources.replay import Replay
from tools.schemas import documents, main

ROOT = Path(__file__).parent.parent
SCHEMAS = ROOT / "schemas"
NAMES = sorted(
    path.stem for path in SCHEMAS.glob("*.json") if not path.match("openapi*") and path.stem != "event-types"
)

FREE_FORM = {"Config", "Connect", "Policy"}
"""Keys below which anything may stand."""


@functools.cache
def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


@functools.cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


def check(name: str, text: str | bytes) -> None:
    """Assert that a text is what a schema says; the first error tells why it is not."""
    for error in validator(name).iter_errors(json.loads(text)):
        pytest.fail(f"{error.json_path}: {error.message}")


def check_all(name: str, texts: Iterable[str | bytes]) -> None:
    """Assert that all texts are what a schema says; a part that an earlier text had to the letter is left at its zero.

    An allocation is sent with the same job and resources time and again, which take longest to check.
    """
    seen = set()
    for text in texts:
        parts = {(key, bytes(raw)) for key, raw in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}
        known = {key: schema(name)["properties"][key]["default"] for key, _ in parts & seen if key in VIEWS}
        seen |= parts
        check(name, json.dumps(json.loads(text) | known))


# --- what was recorded ---


@functools.cache
def bodies(version: str) -> dict[str, str]:
    """Return every different body that one version sent, and a scenario that has it."""
    found = {answer.body: each.name for each in recordings.scenarios(version) for answer in recordings.bodies(each)}
    for edge in recordings.edges(version):
        if edge.request.startswith("GET /v1/allocation/") and edge.status == 200 and edge.body:
            found[edge.body] = recordings.EDGES
    return found


@functools.cache
def last_bodies(version: str) -> list[str]:
    """Return a late body of each scenario of one version."""
    return list({name: body for body, name in bodies(version).items()}.values())


@functools.cache
def stubs(version: str) -> set[bytes]:
    """Return every different entry of a list that one version sent, indented ones among them."""
    lists = [text for text in recordings.pretty_bodies(version) if text.startswith("[")]
    for scenario in [*recordings.scenarios(version), recordings.edges_scenario(version)]:
        lists += recordings.list_bodies(scenario)
    return {bytes(text) for body in lists for text in msgspec.json.decode(body, type=list[msgspec.Raw])}


@functools.cache
def records() -> set[bytes]:
    """Return every different record that comes of what was recorded: of the bodies, and of the streams."""
    found = set()
    for scenario in recordings.scenarios():
        told = [observation_from_json(answer.body.encode()) for answer in recordings.bodies(scenario)]
        stream = scenario.path / "stream.ndjson.gz"
        for observations in (told, list(Replay(stream).observations()) if stream.exists() else []):
            importer = Importer(scenario.version)
            found |= {msgspec.json.encode(record) for each in observations for record in importer.observe(each)}
    return found


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_body_is_what_the_schema_says(version: str) -> None:
    assert len(bodies(version)) > 280
    check_all(f"allocation-{version}", bodies(version))


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_entry_of_a_list_is_what_the_schema_says(version: str) -> None:
    assert len(stubs(version)) > 50
    check_all(f"stub-{version}", stubs(version))


def test_every_imported_record_is_what_the_schema_says() -> None:
    assert len(records()) > 1500
    for record in records():
        check("record-3", record)


@pytest.mark.parametrize("version", recordings.VERSIONS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_written_in_another_dialect_is_what_its_schema_says(version: str, dialect: str) -> None:
    found = bodies(version) if (version, dialect) == ("0.5.6", "0.5.0") else last_bodies(version)
    snapshots = [Snapshot.from_json(body, version) for body in found]
    check_all(f"allocation-{dialect}", [each.to_json(dialect) for each in snapshots])
    check_all(f"stub-{dialect}", [each.to_stub_json(dialect, resources=True) for each in snapshots])
    check_all(f"stub-{dialect}", [each.to_stub_json(dialect) for each in snapshots])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_documented_sample_is_what_each_schema_says_once_it_is_written(dialect: str) -> None:
    snapshot = Snapshot.from_json(recordings.repaired_sample(), "0.5.0")
    check(f"allocation-{dialect}", snapshot.to_json(dialect))
    check(f"stub-{dialect}", snapshot.to_stub_json(dialect))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_allocation_of_which_little_is_told_is_what_the_schema_says(dialect: str) -> None:
    engine = Engine(dialect=dialect)
    engine.place({"ID": "a"})
    check(f"allocation-{dialect}", engine.snapshot("a").to_json())
    check(f"stub-{dialect}", engine.snapshot("a").to_stub_json())


@pytest.mark.parametrize("cls", [*(row.cls for row in EVENT_TYPES), UnknownEvent, *INTERNAL_EVENTS])
def test_every_event_of_a_log_has_its_place_in_the_schema(cls: type[Any]) -> None:
    event = cls(reason="asked for") if cls is Collected else cls()
    record = msgspec.json.encode(Record(index=1, alloc="a", version=1, event=event))
    check("record-3", record)
    check("record-3", seal(record + b"\n"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_header_of_a_log_is_what_the_schema_says(dialect: str) -> None:
    header = json.loads(msgspec.json.encode(new_header(dialect)))
    assert validator("log-header-3").is_valid(header)
    for wrong in ({"taskfold": 1}, {"dialect": "0.4.0"}, {"region": None}, {"more": 1}):
        assert not validator("log-header-3").is_valid(header | wrong)


# --- what is refused ---


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the path of every value inside a value, and the value there, but not what is below a free-form one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key), item
        if key not in FREE_FORM:
            yield from paths(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return a copy in which the container of a path was changed at its last key."""
    copy = json.loads(json.dumps(value))
    container = functools.reduce(lambda found, key: found[key], path[:-1], copy)
    change(container, path[-1])
    return copy


def set_to(wrong: Any) -> Callable[[Any, Any], None]:
    def change(container: Any, key: Any) -> None:
        container[key] = wrong

    return change


def remove(container: Any, key: Any) -> None:
    del container[key]


def of_wrong_type(value: Any) -> Any:
    return "text" if isinstance(value, bool | int | float) else 7


def richest(texts: list[str]) -> Any:
    """Return the object that has something at most places, with a single event of each of its tasks."""
    found = json.loads(max(texts, key=lambda text: len(set(paths_without_events(json.loads(text))))))
    for task in (found.get("TaskStates") or {}).values():
        task["Events"] = task["Events"][-1:]
    return found


def paths_without_events(value: Any) -> Iterator[str]:
    return (str(path) for path, found in paths(value) if found is not None and "Events" not in path)


@pytest.mark.parametrize("version", recordings.VERSIONS)
@pytest.mark.parametrize("kind", ["allocation", "stub"])
def test_a_wrong_type_is_refused_wherever_it_stands(kind: str, version: str) -> None:
    name = f"{kind}-{version}"
    body = richest([*bodies(version)] if kind == "allocation" else [text.decode() for text in stubs(version)])
    assert validator(name).is_valid(body)
    told = [(path, value) for path, value in paths(body) if value is not None]
    assert len(told) > (150 if kind == "allocation" else 30)
    # What stands beside the part that is tested is left at its zero, which is faster.
    zeros = {key: schema(name)["properties"][key]["default"] for key in schema(name)["required"]}
    zeros |= {"ID": body["ID"], "ClientStatus": body["ClientStatus"]}
    for path, value in told:
        part = zeros | {path[0]: body[path[0]]}
        assert not validator(name).is_valid(changed(part, path, set_to(of_wrong_type(value)))), path
    assert validator(name).is_valid(zeros)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_missing_key_is_refused(dialect: str) -> None:
    body = json.loads(Snapshot.from_json(richest_text(), "0.5.6").to_json(dialect))
    name = f"allocation-{dialect}"
    assert validator(name).is_valid(body)
    required = {(key,) for key in body} if not DIALECTS[dialect].omits_empty else {("ID",), ("ModifyIndex",)}
    for task, state in body["TaskStates"].items():
        required |= {("TaskStates", task, key) for key in state}
        required |= {("TaskStates", task, "Events", 0, key) for key in state["Events"][0]}
    assert len(required) > 24
    for path in required:
        assert not validator(name).is_valid(changed(body, path, remove)), path


def richest_text() -> str:
    return json.dumps(richest([*bodies("0.5.6")]))


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_a_missing_key_of_an_entry_of_a_list_is_refused(version: str) -> None:
    stub = json.loads(max(stubs(version), key=len))
    for key in stub.keys() - {"AllocatedResources"}:
        assert not validator(f"stub-{version}").is_valid(changed(stub, (key,), remove)), key


WRONG_VALUES = [
    (("ClientStatus",), "compelte"),
    (("DesiredStatus",), "running"),
    (("TaskStates", "web", "State"), "Running"),
    (("TaskStates", "web", "State"), None),
    (("TaskStates", "web", "Events"), [{"Type": "Started"}]),
    (("TaskStates", "web"), None),
]


@pytest.mark.parametrize(("path", "wrong"), WRONG_VALUES)
def test_a_value_that_no_nomad_sends_is_refused(path: tuple[str, ...], wrong: Any) -> None:
    text = json.dumps({"ID": "a", "DesiredStatus": "run", "TaskStates": {"web": {"State": "running"}}})
    body = json.loads(Snapshot.from_json(text, "1.1.2").to_json())
    assert not validator("allocation-1.1.2").is_valid(body)
    body["ModifyIndex"] = 1
    assert validator("allocation-1.1.2").is_valid(body)
    assert not validator("allocation-1.1.2").is_valid(changed(body, path, set_to(wrong)))


def test_more_than_ten_events_are_refused() -> None:
    body = json.loads(last_bodies("1.1.2")[0])
    (task,) = body["TaskStates"].values()
    for count, expected in ((10, True), (11, False)):
        task["Events"] = task["Events"][:1] * count
        assert validator("allocation-1.1.2").is_valid(body) == expected


@pytest.mark.parametrize("dialect", recordings.VERSIONS)
def test_what_a_newer_nomad_adds_is_fine(dialect: str) -> None:
    body = json.loads(last_bodies(dialect)[0])
    (name, task), *_ = body["TaskStates"].items()
    task["Paused"] = ""
    task["Events"][0] |= {"Type": "Something New", "Field": {}}
    body |= {"SigningKeyID": "a", "ClientStatus": "unknown"}
    body["Job"]["UI"] = {name: 1}
    check(f"allocation-{dialect}", json.dumps(body))


def test_the_schema_of_a_record_refuses_what_the_log_refuses() -> None:
    kinds = {json.loads(record)["Event"]["Type"]: record for record in sorted(records(), key=len)}
    assert len(kinds) > 20
    decode = msgspec.json.Decoder(Record).decode
    refused = 0
    for record in map(json.loads, kinds.values()):
        # Of what was placed or updated, any JSON is read as text.
        told = [(path, value) for path, value in paths(record) if not {"Body", "Fields"} & {*path}]
        wrong = [changed(record, path, set_to(of_wrong_type(value))) for path, value in told]
        wrong += [changed(record, path, remove) for path, _ in told]
        wrong += [record | {"More": 1}, record | {"Event": record["Event"] | {"More": 1}}]
        for each in wrong:
            decoded = decodes(decode, each)
            refused += not decoded
            assert validator("record-3").is_valid(each) == decoded, each
    assert refused > 100


def decodes(decode: Callable[[bytes], Any], value: Any) -> bool:
    try:
        decode(json.dumps(value).encode())
    except msgspec.ValidationError:
        return False
    return True


# --- what others make of them ---


@pytest.mark.parametrize("name", NAMES)
def test_hypothesis_jsonschema_draws_what_the_schema_says(name: str) -> None:
    pytest.importorskip("hypothesis_jsonschema", reason="made anew, the environment has what pyproject.toml asks for")
    from support.drawn_by_schema import from_schema

    drawn = []

    @settings(max_examples=3, phases=[Phase.generate], database=None, suppress_health_check=[*HealthCheck])
    @given(from_schema(schema(name)))
    def draw(value: Any) -> None:
        assert validator(name).is_valid(value)
        drawn.append(value)

    draw()
    assert drawn


@pytest.mark.parametrize("name", NAMES)
def test_another_schema_refers_to_a_part_of_one_by_its_id(name: str) -> None:
    resource = Resource.from_contents(schema(name))
    parts = {f"#/$defs/{part}": found for part, found in schema(name).get("$defs", {}).items()} | {"": schema(name)}

    for part, found in parts.items():
        resolver = Registry().with_resource(resource.id(), resource).resolver()
        assert resolver.lookup(schema(name)["$id"] + part).contents == found
    assert {*references(schema(name))} <= parts.keys()


def references(value: Any) -> Iterator[str]:
    """Yield what a schema refers to."""
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in found:
        yield from references(item)
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        yield value["$ref"]


# --- one truth ---


def test_a_whole_allocation_has_the_fields_of_the_table() -> None:
    fields = msgspec.structs.fields(AllocationView)
    assert [field.encode_name for field in fields] == list(ALLOCATION_FIELDS)
    defaults = {field.encode_name: msgspec.json.encode(field.default) for field in fields}
    # Go has a struct there, not a pointer: it is never null, but a view of it may be missing.
    assert defaults.pop("DesiredTransition") == b"null"
    assert defaults == {name: ALLOCATION_FIELDS[name].zero for name in defaults}
    assert VIEWS.keys() == {name for name in ALLOCATION_FIELDS if defaults.get(name, b"null") == b"null"} - {
        "TaskStates"
    }


def test_an_event_has_the_fields_of_the_table() -> None:
    fields = {field.encode_name: field.default for field in msgspec.structs.fields(TaskEventView)}
    # A driver's event may have null for its Details.
    assert fields.pop("Details") is None
    zeros = {name: field.zero for name, field in EVENT_FIELDS.items() if name != "Details"}
    assert msgspec.json.encode(fields) == msgspec.json.encode(zeros)
    assert {name: type(zero) for name, zero in fields.items()} == {name: type(zero) for name, zero in zeros.items()}


def test_a_task_state_has_the_fields_that_the_newest_dialect_writes() -> None:
    written = json.loads(task_state_to_json(TaskState(), DIALECTS[NEWEST_DIALECT]))
    assert list(TaskStateView.__struct_encode_fields__) == list(written)


def test_the_enumerations_are_those_that_taskfold_speaks() -> None:
    assert list(TASK_STATES) == list(STATES)
    assert CLIENT_DESCRIPTIONS.keys() <= CLIENT_STATUSES.keys()
    for dialect in DIALECTS.values():
        event = schema(f"allocation-{dialect.name}")["$defs"]["TaskEvent"]
        (known,) = (each["enum"] for each in event["properties"]["Type"]["anyOf"] if "enum" in each)
        assert {*known} <= BY_WIRE_TYPE.keys()
        assert dialect.sibling_type in known
        assert {*event["required"]} == event["properties"].keys() == {*event_fields(dialect)}


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_a_whole_allocation_is_read_in_one_view(version: str) -> None:
    for body in [*last_bodies(version), *(text.decode() for text in stubs(version))]:
        sent = json.loads(body)
        allocation = view(body.encode(), AllocationView)
        assert unknown_keys(body.encode(), AllocationView) == []
        read = json.loads(msgspec.json.encode(allocation))
        assert {name: read[name] for name in sent if name not in VIEWS} == {
            name: value for name, value in with_all_task_keys(sent, read).items() if name not in VIEWS
        }
        for name in VIEWS.keys() & sent.keys():
            expected = Snapshot.from_json(body, version).view(name)
            assert read[name] == json.loads(msgspec.json.encode(expected)), name


def with_all_task_keys(sent: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """Return what was sent with the keys of tasks and events that this version lacks, as they are read."""
    tasks = {}
    for name, task in (sent.get("TaskStates") or {}).items():
        zero = read["TaskStates"][name]
        events = [zero_event | event for event, zero_event in zip(task["Events"], zero["Events"], strict=True)]
        tasks[name] = zero | task | {"Events": events}
    return sent | ({"TaskStates": tasks} if tasks else {})


def test_a_dialect_has_no_property_that_it_does_not_have() -> None:
    def properties(dialect: str, name: str) -> set[str]:
        return {*schema(f"allocation-{dialect}")["$defs"][name]["properties"]}

    assert "Leader" in properties("0.5.6", "Task") - properties("0.5.0", "Task")
    assert "Id" in properties("0.5.0", "Service") - properties("0.5.6", "Service")
    assert {"Affinities", "KillSignal"} <= properties("1.1.2", "Task") - properties("0.5.6", "Task")
    assert "NodePool" not in properties("1.1.2", "Metrics")
    assert properties("0.5.0", "TaskState") == {"Events", "Failed", "State"}


def test_the_event_types_are_those_of_the_registry() -> None:
    rows = schema("event-types")["types"]
    assert [row["type"] for row in rows] == [row.wire for row in EVENT_TYPES]
    assert {spelling for row in rows for spelling in (row["type"], *row["aliases"])} == BY_WIRE_TYPE.keys()
    assert sum(row["documented"] for row in rows) == 15
    assert all(row["meaning"].endswith(".") and {*row["annotations"]} <= EVENT_FIELDS.keys() for row in rows)


# --- the files ---

VOCABULARY = {
    *("$schema", "$id", "$defs", "$ref", "title", "description", "default", "type", "enum", "const", "format"),
    *("anyOf", "pattern", "properties", "required", "additionalProperties", "items", "maxItems"),
}


def keywords(value: Any) -> Iterator[str]:
    """Yield every keyword of a schema, names of properties and definitions left out."""
    if isinstance(value, list):
        for item in value:
            yield from keywords(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key in {"properties", "$defs"}:
                yield from keywords([*item.values()])
            elif key not in {"default", "enum", "required"}:
                yield from keywords(item)


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_of_draft_2020_12_and_has_only_its_vocabulary(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema(name)["$id"] == f"https://taskfold.invalid/schemas/{name}.json"
    assert {*keywords(schema(name))} <= VOCABULARY
    assert "`" not in json.dumps(schema(name))


def test_the_committed_files_are_what_the_types_say() -> None:
    # The OpenAPI documents are made of them by another module, and compared in their own test.
    assert {path.name: path.read_bytes() for path in SCHEMAS.iterdir() if not path.match("openapi*")} == documents()


def test_the_command_says_the_same_under_another_order_of_sets() -> None:
    command = [sys.executable, "-m", "tools.schemas", "--check", str(SCHEMAS)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT / "engine")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_stale_missing_or_too_much_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made" / "anew"
    assert main(["--write", str(folder)]) == 0
    assert main(["--check", str(folder)]) == 0
    assert capsys.readouterr() == ("", "")
    (folder / "record-3.json").write_text("{}")
    (folder / "stub-0.5.0.json").unlink()
    (folder / "older.json").write_text("{}")
    assert main(["--check", str(folder)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{folder / 'older.json'}: no type makes it",
        f"{folder / 'record-3.json'}: is stale",
        f"{folder / 'stub-0.5.0.json'}: is missing",
    ]


@pytest.mark.parametrize("arguments", [[], ["--write"], ["--write", "a", "--check", "a"], ["--write", __file__]])
def test_bad_usage_is_told_in_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
