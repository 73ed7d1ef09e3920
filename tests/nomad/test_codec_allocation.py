"""The allocation JSON: every recorded answer is read and written to the letter, and told in every other dialect."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from support import recordings
from support.golden import same_to_the_letter
from taskfold import events as ev
from taskfold.errors import DecodeError
from taskfold.model.dialect import DIALECTS
from taskfold.nomad.events import event_fields
from taskfold.nomad.fields import allocation_fields, current_fields, is_empty
from taskfold.nomad.snapshot import Snapshot

TASK_KEYS = {
    "0.5.0": {"Events", "Failed", "State"},
    "0.5.6": {"Events", "Failed", "State", "FinishedAt", "StartedAt"},
    "1.1.2": {"Events", "Failed", "State", "FinishedAt", "StartedAt", "LastRestart", "Restarts", "TaskHandle"},
}


@functools.cache
def bodies(version: str) -> list[str]:
    """Return the text of every single allocation that one version answered with."""
    found = [answer.body for scenario in recordings.scenarios(version) for answer in recordings.bodies(scenario)]
    return found + [
        edge.body
        for edge in recordings.edges(version)
        if edge.request.startswith("GET /v1/allocation/")
        and edge.status == 200
        and edge.body
        and not (edge.pretty or edge.gzipped)
    ]


@functools.cache
def stubs(version: str) -> list[str]:
    """Return the text of every entry of every list of allocations that one version answered with."""
    return [
        bytes(text).decode()
        for scenario in [*recordings.scenarios(version), recordings.edges_scenario(version)]
        for body in recordings.list_bodies(scenario)
        for text in msgspec.json.decode(body, type=list[msgspec.Raw])
    ]


# --- to the letter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_body_is_written_as_it_was_sent(version: str) -> None:
    exact = [same_to_the_letter(Snapshot.from_json(s, version).to_json().decode(), s) for s in bodies(version)]
    assert len(exact) > 300
    assert sum(exact) > len(exact) / 4


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_entry_of_a_list_is_written_as_it_was_sent(version: str) -> None:
    exact, with_resources = [], 0
    for sent in stubs(version):
        resources = '"AllocatedResources":' in sent
        with_resources += resources
        written = Snapshot.from_json(sent, version).to_stub_json(resources=resources).decode()
        exact.append(same_to_the_letter(written, sent))
    assert len(exact) > 50
    assert sum(exact) > len(exact) / 4
    assert (with_resources > 0) == (version == "1.1.2")


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_indented_answers_say_the_same(version: str) -> None:
    for text in recordings.pretty_bodies(version):
        value = json.loads(text)
        for sent in value if isinstance(value, list) else [value]:
            snapshot = Snapshot.from_json(json.dumps(sent), version)
            assert json.loads(snapshot.to_stub_json() if isinstance(value, list) else snapshot.to_json()) == sent


@pytest.mark.parametrize("dialect", DIALECTS)
def test_line_separators_are_escaped_wherever_they_stand_and_nothing_else_is(dialect: str) -> None:
    told = {
        "ID": "a",
        "Job": {"Name": "<&>é\u2028\u2029\U0001f642"},
        "TaskStates": {"t\u2028": {"State": "dead", "Events": [{"Type": "Killed", "KillError": "\u2028é\u2029\x01"}]}},
    }
    text = json.dumps(told, ensure_ascii=False)
    written = Snapshot.from_json(text, dialect).to_json().decode()
    assert "\u2028" not in written
    assert "\u2029" not in written
    assert '"<&>é\\u2028\\u2029\U0001f642"' in written
    assert '"t\\u2028":' in written
    assert '"KillError":"\\u2028é\\u2029\\u0001"' in written
    back = json.loads(written)
    assert back["Job"] == told["Job"]
    assert back["TaskStates"]["t\u2028"]["Events"][0]["KillError"] == "\u2028é\u2029\x01"


def test_numbers_of_64_bits_and_floats_keep_their_spelling() -> None:
    text = '{"CreateIndex":18446744073709551615,"Job":{"a":3.0,"b":1E+30,"c":1e+10,"d":0.10},"New":-7.0}'
    written = Snapshot.from_json(text, "1.1.2").to_json().decode()
    assert (
        written
        == text[:-1]
        .replace('"Job"', '"ClientStatus":"pending","Job"', 1)
        .replace(
            '"CreateIndex":18446744073709551615,"ClientStatus":"pending"',
            '"ClientStatus":"pending","CreateIndex":18446744073709551615',
        )
        + "}"
    )


# --- what a reader must bear ------------------------------------------------------------------------------------------


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside an object."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(item, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    """Return the value with another one at this path."""
    if not path:
        return by
    changed = value.copy()
    changed[path[0]] = replaced(value[path[0]], path[1:], by)
    return changed


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_null_is_fine_everywhere(version: str) -> None:
    body = json.loads(max(bodies(version), key=lambda text: text.count('"Type":"Restarting"') * 100_000 + len(text)))
    # The texts of the other parts are copied unread: of each, one level is enough.
    every = [path for path in paths(body) if path[0] == "TaskStates" or len(path) <= 2]
    assert len(every) > 200
    for path in every:
        snapshot = Snapshot.from_json(msgspec.json.encode(replaced(body, path, None)), version)
        assert len(snapshot.tasks) == (0 if path == ("TaskStates",) else len(body["TaskStates"]))
        for dialect in DIALECTS:
            assert json.loads(snapshot.to_json(dialect))
            assert json.loads(snapshot.to_stub_json(dialect))


def test_nothing_is_required() -> None:
    snapshot = Snapshot.from_json("{}")
    assert (snapshot.id, snapshot.modify_index, list(snapshot)) == (None, None, [])
    assert snapshot.client_status == "pending"
    assert json.loads(snapshot.to_json("1.1.2")) == {"ClientStatus": "pending"}


WRONG: list[tuple[Any, str]] = [
    ({"TaskStates": []}, "$.TaskStates: expected an object, found []"),
    ({"TaskStates": {"web": 1}}, "$.TaskStates.web: expected an object, found 1"),
    ({"TaskStates": {"web": {"State": 1}}}, "$.TaskStates.web.State: expected a text, found 1"),
    ({"TaskStates": {"web": {"Failed": "no"}}}, '$.TaskStates.web.Failed: expected true or false, found "no"'),
    ({"TaskStates": {"web": {"Restarts": 1.5}}}, "$.TaskStates.web.Restarts: expected an integer, found 1.5"),
    ({"TaskStates": {"web": {"StartedAt": 7}}}, "$.TaskStates.web.StartedAt: expected an instant, found 7"),
    ({"TaskStates": {"web": {"FinishedAt": "soon"}}}, "$.TaskStates.web.FinishedAt: 'soon' is not an instant such as"),
    ({"TaskStates": {"web": {"Events": {"a": 1}}}}, '$.TaskStates.web.Events: expected an array, found {"a":1}'),
    ({"TaskStates": {"web": {"Events": [{}, 5]}}}, "$.TaskStates.web.Events[1]: expected an object, found 5"),
    (
        {"TaskStates": {"web": {"Events": [{"Type": "Started", "Time": ""}]}}},
        '$.TaskStates.web.Events[0].Time: expected an integer, found ""',
    ),
    ([], "not the JSON of an allocation: "),
]


@pytest.mark.parametrize(("told", "message"), WRONG)
def test_a_wrong_type_is_named_with_its_path(told: Any, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Snapshot.from_json(json.dumps(told))
    assert str(caught.value).startswith(message)


SPOILED = [
    (b'{"TaskStates":{"a":{"State":"\xff"}}}', r"\$\.TaskStates"),
    (b'{"TaskStates":{"\xff":{}}}', r"\$\.TaskStates"),
    (b'{"TaskStates":{"a":{"Restarts":1e400}}}', r"\$\.TaskStates"),
    (b'{"TaskStates":{"a":{"New":1e400}}}', r"\$\.TaskStates"),
    (b'{"TaskStates":{"a":{"StartedAt":"9999-12-31T23:59:59-23:00"}}}', r"\$\.TaskStates\.a\.StartedAt"),
    (b'{"TaskStates":{"a":{"StartedAt":"2026-01-01T00:00:00+99:99"}}}', r"\$\.TaskStates\.a\.StartedAt"),
]


@pytest.mark.parametrize(("text", "path"), SPOILED)
def test_what_no_reader_can_read_is_named_with_its_path(text: bytes, path: str) -> None:
    with pytest.raises(DecodeError, match=f"^{path}: "):
        Snapshot.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "nul", "<html>", '{"ID":"a"} x', b"\xff\xfe", b'{"\xff":1}'])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(DecodeError, match="not the JSON of an allocation"):
        Snapshot.from_json(text)


# --- the documented sample --------------------------------------------------------------------------------------------


def test_the_documented_sample_is_read_with_its_floats_and_written_in_every_dialect() -> None:
    snapshot = Snapshot.from_json(recordings.repaired_sample(), "0.5.0")
    assert (snapshot.id, snapshot.client_status) == ("203266e5-e0d6-9486-5e05-397ed2b184af", "running")
    (group,) = snapshot.view("Job").task_groups
    assert group.restart_policy.delay_ns == 25_000_000_000
    assert group.tasks[0].services[0].checks[0].interval_ns == 10_000_000_000
    redis = snapshot.tasks["redis"]
    assert [type(event) for event in redis.events] == [ev.Started]
    sent = json.loads(recordings.repaired_sample())
    for dialect, values in DIALECTS.items():
        written = json.loads(snapshot.to_json(dialect))
        assert written["Job"] == sent["Job"]
        assert [event["Time"] for event in written["TaskStates"]["redis"]["Events"]] == [
            event["Time"] for event in sent["TaskStates"]["redis"]["Events"]
        ]
        if not values.omits_empty:
            assert written == written | {key: value for key, value in sent.items() if key != "TaskStates"}
        assert Snapshot.from_json(snapshot.to_json(dialect), dialect).tasks == snapshot.tasks


# --- from one dialect to another --------------------------------------------------------------------------------------


def check_keys(written: dict[str, Any], dialect: str) -> None:
    """Assert that an allocation has the keys of a dialect, at every level, in the order of the wire."""
    fields = allocation_fields(DIALECTS[dialect])
    assert list(written) == sorted(written)
    if DIALECTS[dialect].omits_empty:
        assert set(written) <= set(fields)
        assert not [name for name, value in written.items() if is_empty(name, msgspec.json.encode(value))]
    else:
        assert tuple(written) == fields
    for task in (written.get("TaskStates") or {}).values():
        assert set(task) == TASK_KEYS[dialect]
        for event in task["Events"] or ():
            assert tuple(event) == event_fields(DIALECTS[dialect])


@pytest.mark.parametrize("version", recordings.VERSIONS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_recorded_body_is_told_in_each_dialect_with_exactly_its_keys(version: str, dialect: str) -> None:
    for body in bodies(version):
        written, sent = json.loads(Snapshot.from_json(body, version).to_json(dialect)), json.loads(body)
        check_keys(written, dialect)
        # These two are told by the tasks' rules of the dialect; all else is copied.
        for name in written.keys() & sent.keys() - {"TaskStates", "ClientDescription"}:
            assert written[name] == sent[name]


@pytest.mark.parametrize("version", recordings.VERSIONS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_recorded_body_is_told_as_a_stub_with_exactly_its_keys(version: str, dialect: str) -> None:
    names = allocation_fields(DIALECTS[dialect], stub=True)
    for body in bodies(version):
        snapshot, sent = Snapshot.from_json(body, version), json.loads(body)
        stub = json.loads(snapshot.to_stub_json(dialect))
        assert tuple(stub) == names
        if "JobType" in names:
            assert stub["JobType"] == sent["Job"]["Type"]
            assert stub["JobVersion"] == sent["Job"].get("Version", 0)
        resources = json.loads(snapshot.to_stub_json(dialect, resources=True))
        assert set(resources) - set(stub) == ({"AllocatedResources"} if dialect == "1.1.2" else set())


@pytest.mark.parametrize("dialect", ["0.5.0", "1.1.2"])
def test_what_a_dialect_can_express_comes_back_from_it(dialect: str) -> None:
    whole = 0
    for body in bodies("0.5.6"):
        snapshot = Snapshot.from_json(body, "0.5.6")
        if not snapshot.losses(dialect):
            back = Snapshot.from_json(snapshot.to_json(dialect), dialect).to_json("0.5.6")
            assert json.loads(back) == json.loads(body)
            whole += 1
    assert whole > 50


def test_an_old_allocation_loses_nothing_in_the_newest_dialect() -> None:
    assert not [body for body in bodies("0.5.6") if Snapshot.from_json(body, "0.5.6").losses("1.1.2")]


LOSSES = [
    ("0.5.6", '{"NodeName":"n1","DeploymentID":"","New":1}', ["$.NodeName"]),
    ("1.1.2", '{"NodeName":"n1","JobType":"batch"}', []),
    ("0.5.0", '{"SharedResources":{"CPU":1}}', []),
    ("0.5.6", '{"DesiredTransition":{"ForceReschedule":null,"Migrate":null,"Reschedule":null}}', []),
    (
        "0.5.6",
        '{"DesiredTransition":{"ForceReschedule":null,"Migrate":true,"Reschedule":null}}',
        ["$.DesiredTransition"],
    ),
]
TASK_LOSSES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("0.5.0", {"StartedAt": "2026-11-23T08:34:10Z"}, [".StartedAt"]),
    ("0.5.0", {"StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": None, "Restarts": 0, "TaskHandle": None}, []),
    ("0.5.0", {"FinishedAt": "2026-11-23T08:34:10Z"}, [".FinishedAt"]),
    ("0.5.6", {"StartedAt": "2026-11-23T08:34:10Z", "FinishedAt": "2026-11-23T08:34:10Z"}, []),
    ("0.5.6", {"Restarts": 2, "LastRestart": "2026-11-23T08:34:10Z"}, [".Restarts", ".LastRestart"]),
    ("0.5.6", {"TaskHandle": {"Version": 1}}, [".TaskHandle"]),
    ("1.1.2", {"Restarts": 2, "TaskHandle": {"Version": 1}, "Paused": "x"}, []),
    ("0.5.6", {"Events": [{"Type": "Started"}, {"Type": "Killing", "Details": {"a": "b"}}]}, [".Events[1].Details"]),
    ("0.5.6", {"Events": [{"Type": "Killing", "DisplayMessage": "why"}]}, [".Events[0].DisplayMessage"]),
    ("0.5.0", {"Events": [{"Type": "Driver", "DriverMessage": "pulling"}]}, [".Events[0].DriverMessage"]),
]


@pytest.mark.parametrize(
    ("dialect", "text", "lost"),
    LOSSES
    + [
        (dialect, json.dumps({"TaskStates": {"web": task}}), [f"$.TaskStates.web{path}" for path in lost])
        for dialect, task, lost in TASK_LOSSES
    ],
)
def test_losses_name_what_a_dialect_cannot_express(dialect: str, text: str, lost: list[str]) -> None:
    assert Snapshot.from_json(text, "1.1.2").losses(dialect) == lost


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_nobody_knows_survives_at_every_level(dialect: str) -> None:
    event = {"Type": "Started", "Zeta": {"a": [1, None]}, "Alpha": None}
    task = {"State": "running", "Zeta": [1.5], "Alpha": "x", "Gone": None, "Events": [event]}
    told = {"ID": "a", "Zeta": {"b": 1}, "Alpha": True, "TaskStates": {"web": task}}
    written = json.loads(Snapshot.from_json(json.dumps(told), dialect).to_json())
    assert list(written) == sorted(written)
    assert (written["Zeta"], written["Alpha"]) == ({"b": 1}, True)
    written_task = written["TaskStates"]["web"]
    assert list(written_task) == sorted(written_task)
    assert (written_task["Zeta"], written_task["Alpha"]) == ([1.5], "x")
    (written_event,) = written_task["Events"]
    assert (written_event["Zeta"], written_event["Alpha"]) == (event["Zeta"], None)
    assert Snapshot.from_json(json.dumps(written), dialect).tasks["web"].fields == {"Zeta": b"[1.5]", "Alpha": b'"x"'}


def test_keys_are_written_whatever_characters_they_have() -> None:
    told = {"%": 1, "%(x)b %d": 2, 'q"\\': 3, "é": 4, "\u2028": 5, "": 6, "\U0001f642": 7}
    told |= {"TaskStates": {"%d": {"State": "running", "%b": 1, "100%": [2]}}}
    written = json.loads(Snapshot.from_json(json.dumps(told), "1.1.2").to_json())
    assert list(written) == sorted(written)
    assert written.items() >= {key: value for key, value in told.items() if key != "TaskStates"}.items()
    assert written["TaskStates"]["%d"].items() >= {"%b": 1, "100%": [2]}.items()


def test_what_is_remembered_of_a_body_is_never_handed_out() -> None:
    placed = b'{"ID":"a","NodeName":"n"}'
    assert current_fields(placed, {"NodeName": None, "New": b"1"}) == {"ID": b'"a"', "New": b"1"}
    current_fields(placed, None).clear()
    assert current_fields(placed, None) == {"ID": b'"a"', "NodeName": b'"n"'}


STATUSES: list[tuple[str, dict[str, str], str, str | None]] = [
    # dialect, state by task, ClientStatus, ClientDescription
    ("0.5.6", {"a": "running", "b": "pending"}, "running", None),
    ("1.1.2", {"a": "running", "b": "pending"}, "running", "Tasks are running"),
    ("1.1.2", {"a": "pending"}, "pending", "No tasks have started"),
    ("1.1.2", {"a": "dead"}, "complete", "All tasks have completed"),
    ("1.1.2", {}, "pending", None),
    ("1.1.2", {"a": ""}, "pending", "No tasks have started"),
]


@pytest.mark.parametrize(("dialect", "tasks", "status", "description"), STATUSES)
def test_the_status_follows_from_the_tasks_where_it_is_not_told(
    dialect: str, tasks: dict[str, str], status: str, description: str | None
) -> None:
    states = {name: {"State": state} for name, state in tasks.items()}
    snapshot = Snapshot.from_json(json.dumps({"TaskStates": states}), dialect)
    assert (snapshot.client_status, snapshot.client_description) == (status, description)
    told = Snapshot.from_json(json.dumps({"TaskStates": states, "ClientStatus": "lost"}), dialect)
    assert told.client_status == "lost"
