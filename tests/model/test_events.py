"""The registry of event types is Nomad's, and every typed event is a value that survives being written."""

from __future__ import annotations

import copy
import pickle
import re
import typing

import msgspec
import pytest
from hypothesis import given

from support import recordings
from taskfold import events as ev
from taskfold.events import BY_WIRE_TYPE, EVENT_TYPES, AnyTaskEvent, Extras, TaskEvent, UnknownEvent, wire_type
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import (
    INTERNAL_EVENTS,
    AnyInternalEvent,
    Collected,
    Coordinated,
    Decided,
    Event,
    Finished,
    Gap,
    Observed,
    Placed,
    Record,
    Updated,
)
from taskfold.nomad.events import EVENT_FIELDS
from taskfold.testing import strategies as kit

VECTOR = {case["wire"]: case for case in recordings.vector("event_types")["events"]}
CLASSES = [*(row.cls for row in EVENT_TYPES), UnknownEvent]
MOMENT = 1_447_806_038_427_841_000

# --- any event, made from the registry --------------------------------------------------------------------------------

ANY_EVENT = kit.events("1.1.2", CLASSES, nasty=True)


def filled(cls: type[TaskEvent]) -> TaskEvent:
    """Return an event of a type with every annotation set to something that is not its default."""
    values = {
        field.name: {int: 7, str: "text", bool: True}.get(type(field.default)) for field in msgspec.structs.fields(cls)
    }
    if "fails_task" in cls.__struct_fields__:
        values["fails_task"] = not cls().fails_task
    values["extras"] = Extras(display_message="x", details=None, fields={"New": [1]})
    return cls(**values)


def record_of(event: Event) -> Record:
    return Record(seq=3, index=9, alloc="a", version=2, task="web", time_ns=MOMENT, id=0, event=event)


# --- the registry -----------------------------------------------------------------------------------------------------


def test_the_registry_has_exactly_nomads_types() -> None:
    assert {row.wire for row in EVENT_TYPES} == set(VECTOR)
    assert len(EVENT_TYPES) == len(VECTOR)


@pytest.mark.parametrize("row", EVENT_TYPES, ids=lambda row: row.wire)
def test_a_row_of_the_registry_says_what_nomads_source_says(row: ev.EventType) -> None:
    case = VECTOR[row.wire]
    assert row.documented is case["in_seed_doc"]
    assert list(row.aliases) == case["aliases"]
    # "v0.5.5 with this casing; v0.5.0 as …": a type is as old as its oldest spelling.
    introduced = {"Sibling Task Failed": "v0.5.0"}.get(row.wire, case["introduced"])
    match = re.match(r"v(\d+\.\d+\.\d+)", introduced)
    assert match
    assert row.since == match[1]
    # DisplayMessage belongs to every event; oom_killed is a text in Details only, and no field of the wire.
    fields = {name.split(" ")[0] for name in case["annotation_fields"]}
    expected = fields - {"FailsTask", "DisplayMessage"}
    assert set(row.annotations) - {"OomKilled"} == expected
    assert ("fails_task" in row.cls.__struct_fields__) == ("FailsTask" in fields)
    assert expected <= set(EVENT_FIELDS)


def test_the_fifteen_documented_types_come_first() -> None:
    documented = [row.documented for row in EVENT_TYPES]
    assert documented == [True] * 15 + [False] * (len(EVENT_TYPES) - 15)
    assert all(DIALECTS["0.5.0"].has(row.since) for row in EVENT_TYPES[:15])


def test_every_spelling_is_read_and_the_newest_is_written() -> None:
    for row in EVENT_TYPES:
        for spelling in (row.wire, *row.aliases):
            assert BY_WIRE_TYPE[spelling] is row.cls
            assert wire_type(BY_WIRE_TYPE[spelling]()) == row.wire
    assert len(BY_WIRE_TYPE) == sum(1 + len(row.aliases) for row in EVENT_TYPES)
    assert wire_type(UnknownEvent(wire_type="New")) == "New"


def test_every_type_says_what_it_means_in_one_line() -> None:
    meanings = [row.meaning for row in EVENT_TYPES]
    assert len(set(meanings)) == len(EVENT_TYPES)
    assert all(meaning.endswith(".") and "\n" not in meaning for meaning in meanings)


def test_the_names_of_the_module_are_those_of_the_registry() -> None:
    assert {row.cls.__name__ for row in EVENT_TYPES} <= set(ev.__all__)
    assert list(ev.__all__) == sorted(ev.__all__)


def test_the_unions_are_closed_over_the_registry() -> None:
    assert list(typing.get_args(AnyTaskEvent)) == CLASSES
    assert typing.get_args(AnyInternalEvent) == INTERNAL_EVENTS
    assert set(typing.get_args(Event)) == {*CLASSES, *INTERNAL_EVENTS}


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_event_is_a_frozen_value_that_can_be_copied(cls: type[TaskEvent]) -> None:
    for event in (cls(), filled(cls)):
        for name in cls.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(event, name, getattr(event, name))
        for twin in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):  # noqa: S301 - our own
            assert twin == event
            assert type(twin) is cls
        assert event != msgspec.structs.replace(event, time_ns=event.time_ns + 1)
    assert hash(cls(time_ns=5)) == hash(cls(time_ns=5))


def test_events_of_different_types_are_never_equal() -> None:
    events = [cls() for cls in CLASSES]
    assert all((one == other) == (one is other) for one in events for other in events)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_event_needs_no_argument_and_takes_names_only(cls: type[TaskEvent]) -> None:
    assert cls().time_ns == 0
    assert cls().fails_task is (cls is ev.NotRestarting)
    with pytest.raises(TypeError):
        cls(5)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        cls(no_such_field=1)


# --- the form of the log ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_log_form_has_every_annotation_by_its_name_on_the_wire(cls: type[TaskEvent]) -> None:
    record = record_of(filled(cls))
    text = msgspec.json.encode(record)
    assert msgspec.json.decode(text, type=Record) == record
    written = msgspec.json.decode(text)["Event"]
    assert written.pop("Type") == str(cls.__struct_config__.tag)
    assert set(written) == set(cls.__struct_encode_fields__)
    assert set(written) <= {*EVENT_FIELDS, "Kept", "OomKilled", "WireType"}
    # What is as usual is not written.
    (kind,) = msgspec.json.decode(msgspec.json.encode(cls()))
    assert kind == "Type"


@given(ANY_EVENT)
def test_the_log_form_of_any_event_comes_back_equal(event: TaskEvent) -> None:
    record = record_of(event)  # type: ignore[arg-type]  # made from the registry
    text = msgspec.json.encode(record)
    back = msgspec.json.decode(text, type=Record)
    assert back == record
    assert type(back.event) is type(event)
    assert msgspec.json.encode(back) == text
    assert b"\n" not in text


RAW = msgspec.Raw(b'{"a":[1.0,null]}')
INTERNAL = [
    Placed(),
    Placed(body=RAW),
    Updated(fields={"Job": RAW}, cleared=("NodeName",)),
    Finished(),
    Finished(dies=False, started_at_ns=None, finished_at_ns=7, last_restart_ns=8),
    Observed(
        state="dead", failed=True, restarts=1, older_events=(ev.Received(time_ns=1), UnknownEvent(wire_type="New"))
    ),
    Observed(older_events=None, hidden=False, last_restart_ns=None, started_at_ns=0, finished_at_ns=1),
    Gap(restarts_before=1, restarts_after=5, state="running", failed=True, restarts=3, last_restart_ns=2),
    Collected(reason="asked for", body=msgspec.Raw(b'{"ID":"a"}'), task_states=msgspec.Raw(b"{}")),
    Decided(window_start_ns=0, window_count=1, start_at_ns=5, restart="asked", killed=True, kill_attempts=2),
    Coordinated(stage="main", stop_waits=True, group_kill=True, group_waits=True),
]


@pytest.mark.parametrize("event", INTERNAL, ids=lambda event: type(event).__name__)
def test_the_log_form_of_internal_events_comes_back_equal(event: Event) -> None:
    text = msgspec.json.encode(record_of(event))
    assert msgspec.json.encode(msgspec.json.decode(text, type=Record)) == text
    assert type(msgspec.json.decode(text, type=Record).event) is type(event)
    assert {type(each) for each in INTERNAL} == set(INTERNAL_EVENTS)


def test_a_record_is_one_readable_line() -> None:
    record = record_of(ev.Restarting(time_ns=MOMENT, start_delay_ns=5, restart_reason="Restart within policy"))
    assert msgspec.json.encode(record).decode() == (
        '{"Seq":3,"Index":9,"Alloc":"a","Version":2,"Task":"web","Time":1447806038427841000,"ID":0,"Event":'
        '{"Type":"Restarting","Time":1447806038427841000,"StartDelay":5,"RestartReason":"Restart within policy"}}'
    )


@pytest.mark.parametrize(
    "event",
    [
        '{"Type":"Something New"}',
        '{"Type":"Started","ExitCode":1}',
        '{"Type":"Terminated","ExitCode":"1"}',
        '{"Time":1}',
        "{}",
        "null",
        '{"Type":"Started","Kept":{"Unknown":1}}',
    ],
)
def test_a_record_that_is_not_of_the_format_is_refused(event: str) -> None:
    text = f'{{"Index":1,"Alloc":"a","Version":1,"Event":{event}}}'
    assert msgspec.json.decode(text.replace(event, '{"Type":"Started"}'), type=Record).event == ev.Started()
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Record)
