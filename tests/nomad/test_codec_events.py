"""Events on the wire: read and written without loss, strictly or tolerantly, in every dialect."""

from __future__ import annotations

import functools
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import recordings
from taskfold import events as ev
from taskfold.errors import DecodeError
from taskfold.events import BY_WIRE_TYPE, TaskEvent
from taskfold.model.dialect import DIALECTS
from taskfold.nomad.events import (
    EVENT_FIELDS,
    event_fields,
    event_from_json,
    event_from_object,
    event_losses,
    event_to_json,
    event_to_object,
    events_to_json,
)
from taskfold.nomad.messages import derived_details, derived_message
from taskfold.testing import strategies as kit

NEWEST = DIALECTS["1.1.2"]


# --- everything that was recorded -------------------------------------------------------------------------------------


class Events(msgspec.Struct):
    """A task state, its events as text."""

    Events: list[msgspec.Raw] | None = None


class Body(msgspec.Struct):
    """An allocation, or its stub in a list, or its payload in the stream."""

    TaskStates: dict[str, Events] | None = None


class Payload(msgspec.Struct):
    """The payload of an event of the stream."""

    Allocation: Body | None = None


class StreamEvent(msgspec.Struct):
    """An event of the stream."""

    Payload: Payload | None = None


class Frame(msgspec.Struct):
    """A line of the stream."""

    Events: list[StreamEvent] | None = None


def recorded_bodies(version: str) -> Iterator[Body]:
    for scenario in [*recordings.scenarios(version), recordings.edges_scenario(version)]:
        for answer in recordings.bodies(scenario):
            yield msgspec.json.decode(answer.body, type=Body)
        for text in recordings.list_bodies(scenario):
            yield from msgspec.json.decode(text, type=list[Body])
        for line in recordings.stream_lines(scenario):
            for event in msgspec.json.decode(line, type=Frame).Events or ():
                if event.Payload is not None and event.Payload.Allocation is not None:
                    yield event.Payload.Allocation


@functools.cache
def recorded_events(version: str) -> frozenset[bytes]:
    """Return the different texts of all events that one version ever sent."""
    return frozenset(
        bytes(text)
        for body in recorded_bodies(version)
        for state in (body.TaskStates or {}).values()
        for text in state.Events or ()
    )


def read_strictly(text: bytes) -> TaskEvent:
    return event_from_json(text if isinstance(text, bytes) else text.encode())


def escaped(text: bytes) -> bytes:
    """Return a text as it stands in the body of an allocation, where Go's escapes are put in at the end."""
    return text.replace("\u2028".encode(), b"\\u2028").replace("\u2029".encode(), b"\\u2029")


TIMES = (0, 1, 5_000_000_000, 1_795_422_850_519_993_802, 9_223_372_036_854_775_807, -1, -62_135_596_800_000_000_000)
"""Unix nanoseconds: Go's zero time is the last."""


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_an_event_is_read_the_same_whatever_events_were_read_before_it(version: str) -> None:
    for text in recorded_events(version):
        value = json.loads(text)
        for time_ns in (value["Time"] + 1, *TIMES):
            if not -(2**63) <= time_ns < 2**63:
                continue
            another = value | {"Time": time_ns}
            try:
                event = event_from_json(msgspec.json.encode(another))
            except msgspec.ValidationError:
                continue  # as it was recorded
            assert event == event_from_object(another)
            assert event.time_ns == time_ns


@pytest.mark.parametrize(
    "text",
    [
        b'{"Details":{"Time":"1795422850519993802"},"DisplayMessage":"","Time":1795422850519993801,"Type":"Started"}',
        b'{"Details":{"A":"x","Time":"1"},"DisplayMessage":"","Time":1795422850519993801,"Type":"Started"}',
        b'{"DisplayMessage":",\\"Time\\":1795422850519993802,","Time":1795422850519993801,"Type":"Started"}',
        b'{"Type":"Started","Time":1795422850519993801,"DisplayMessage":",\\"Time\\":1795422850519993802,"}',
        b'{"Type":"Started","Time":1795422850519993801}',
        b'{"Type":"Started","Time":1795422850519993802,"Time":1795422850519993801,"Signal":0}',
    ],
)
def test_the_time_of_an_event_is_the_one_that_is_no_part_of_a_text(text: bytes) -> None:
    for _ in range(2):
        event_from_json.cache_clear()
        event = read_strictly(text)
        assert event == event_from_object(json.loads(text))
        assert event.time_ns == 1_795_422_850_519_993_801


@pytest.mark.parametrize("time", [b"0795422850519993801", b"1795422850519993801.5", b"1795422850519993801e2", b'"1"'])
def test_a_time_that_is_none_is_refused_however_often_such_an_event_was_read(time: bytes) -> None:
    event_from_json(b'{"Type":"Started","Time":1795422850519993801,"Signal":0}')
    with pytest.raises(msgspec.DecodeError):
        event_from_json(b'{"Type":"Started","Time":%b,"Signal":0}' % time)


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_both_ways_of_reading_give_the_same_recorded_event(version: str) -> None:
    tolerantly_only = 0
    for text in recorded_events(version):
        event = event_from_object(json.loads(text))
        assert not isinstance(event, ev.UnknownEvent), text
        try:
            assert read_strictly(text) == event
        except msgspec.ValidationError:
            # Nothing else makes a real Nomad's event need the tolerant path.
            assert event.extras is not None
            assert event.extras.fields
            tolerantly_only += 1
    assert len(recorded_events(version)) > 250
    assert tolerantly_only < len(recorded_events(version)) / 10


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_event_is_written_as_it_was_sent(version: str) -> None:
    for text in recorded_events(version):
        written = escaped(event_to_json(event_from_object(json.loads(text)), DIALECTS[version]))
        if written == text:
            continue
        # Details is a map, and Go's maps come in random order; all the rest is equal to the letter.
        found, sent = (msgspec.json.decode(each, type=dict[str, msgspec.Raw]) for each in (written, text))
        assert json.loads(bytes(found.pop("Details"))) == json.loads(bytes(sent.pop("Details"))), text
        assert list(found.items()) == list(sent.items())
        assert sorted(written) == sorted(text)


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_the_fields_of_a_dialect_are_those_that_were_recorded_in_their_order(version: str) -> None:
    fields = event_fields(DIALECTS[version])
    assert {tuple(json.loads(text)) for text in recorded_events(version)} == {fields}
    assert len(fields) == {"0.5.6": 21, "1.1.2": 24}[version]


def test_the_documented_dialect_has_20_fields_and_its_own_spelling() -> None:
    fields = event_fields(DIALECTS["0.5.0"])
    assert set(event_fields(DIALECTS["0.5.6"])) - set(fields) == {"DriverMessage"}
    written = event_to_object(ev.SiblingTaskFailed(failed_sibling="db"), DIALECTS["0.5.0"])
    assert tuple(written) == fields
    assert written["Type"] == "Sibling task failed"


# --- any object -------------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=6) | st.sampled_from(
    ['"Time":0', "\u2028", "Restart within policy", "unknown", "\0", "\U0001f642"]
)
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 10_000_000_000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def said_of(name: str) -> st.SearchStrategy[Any]:
    """Return what may be said of a field: mostly its zero or null, integers at times as floats."""
    zero = EVENT_FIELDS[name].zero
    if name == "Type":
        return st.sampled_from([*BY_WIRE_TYPE, "Something New", "Unknown", ""]) | TEXTS | st.none()
    if name == "Details":
        keys = st.sampled_from(["exit_code", "oom_killed", "signal", "message"]) | TEXTS
        return st.none() | st.dictionaries(keys, TEXTS | st.sampled_from(["true", "0"]), max_size=3)
    if isinstance(zero, bool):
        return st.booleans() | st.none()
    if isinstance(zero, int):
        # The documented API writes integers as floats; up to 2**53 a float is exact.
        return st.sampled_from([0, None]) | INTEGERS | st.integers(-(2**53), 2**53).map(float)
    return st.sampled_from(["", None]) | TEXTS


UNKNOWN_FIELDS = st.dictionaries(
    (TEXTS | st.just("New")).filter(lambda name: name not in EVENT_FIELDS), JSON, max_size=2
)
OBJECTS = st.builds(
    lambda known, unknown: dict(sorted((known | unknown).items())),
    st.fixed_dictionaries({"Type": said_of("Type")}, optional={n: said_of(n) for n in EVENT_FIELDS if n != "Type"}),
    UNKNOWN_FIELDS,
)


def as_written(said: dict[str, Any], event: TaskEvent) -> dict[str, Any]:
    """Return what must be written of an object in the newest dialect: every field, and whatever nobody knows."""
    expected: dict[str, Any] = {name: field.zero for name, field in EVENT_FIELDS.items()}
    expected |= {name: value for name, value in said.items() if value is not None or name not in EVENT_FIELDS}
    expected["Type"] = {
        "Sibling task failed": "Sibling Task Failed",
        "Restarts Exceeded": "Not Restarting",
    }.get(expected["Type"], expected["Type"])
    if said.get("DisplayMessage") is None:
        expected["DisplayMessage"] = derived_message(event)
    expected["Details"] = said.get("Details", derived_details(event))
    return expected


@given(OBJECTS)
@example({"Type": "Restarting", "StartDelay": 1e10, "Time": 1_447_806_038_427_841_000})
@example({"Type": "Sibling task failed", "FailedSibling": "db"})
@example({"Type": "Sibling Task Failed", "Details": {}})
@example({"Type": "Started", "Details": None})
@example({"Type": "Started"})
@example({"Type": "Terminated", "ExitCode": 0, "Details": {"exit_code": "unknown", "oom_killed": "true"}})
@example({"Type": "Something New", "ExitCode": 3, "Message": "text", "New": {"a": [None]}})
@example({"Type": "Started", "ExitCode": 3, "KillReason": "misplaced", "VaultError": "late"})
def test_any_object_is_given_back_with_all_fields(said: dict[str, Any]) -> None:
    event = event_from_object(said)
    written = event_to_object(event, NEWEST)
    assert written == as_written(said, event)
    assert list(written) == sorted(written)
    assert event_from_object(written) == event


@given(OBJECTS)
def test_what_the_strict_path_accepts_it_reads_as_the_tolerant_one_does(said: dict[str, Any]) -> None:
    wanted = event_from_object(said)
    # A text that no strict reader refuses: what is written has neither nulls nor floats.
    for text in (msgspec.json.encode(said), event_to_json(wanted, NEWEST)):
        try:
            found = read_strictly(text)
        except msgspec.ValidationError:
            continue
        assert found == wanted


@given(OBJECTS.map(event_from_object), st.sampled_from(list(DIALECTS.values())))
@example(ev.Terminated(exit_code=None, oom_killed=True), DIALECTS["0.5.0"])
@example(ev.UnknownEvent(wire_type='"Time":0', message='"Time":0', time_ns=5), DIALECTS["0.5.6"])
def test_the_text_of_an_event_is_its_object(event: TaskEvent, dialect: Any) -> None:
    written = event_to_object(event, dialect)
    assert json.loads(event_to_json(event, dialect)) == written
    assert list(json.loads(event_to_json(event, dialect))) == list(written)
    assert set(written) - set(event_fields(dialect)) <= set(event.extras.fields if event.extras else {}) - set(
        EVENT_FIELDS
    )


# --- the text of events -----------------------------------------------------------------------------------------------

CLASSES = [*(row.cls for row in ev.EVENT_TYPES), ev.UnknownEvent]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_the_text_of_an_event_is_that_of_its_object_also_when_it_is_remembered(
    cls: type[TaskEvent], data: st.DataObject
) -> None:
    event = data.draw(kit.events(types=[cls], nasty=True))
    # Whatever differs from event to event: what else they say is the same.
    others = {name: INTEGERS for name in ("time_ns", "start_delay_ns") if name in cls.__struct_fields__}
    another = msgspec.structs.replace(event, **data.draw(st.fixed_dictionaries(others)))
    for dialect in DIALECTS.values():
        for each in (event, another):
            assert event_to_json(each, dialect) == msgspec.json.encode(event_to_object(each, dialect))


def test_a_restart_says_its_delay_in_each_form_that_a_dialect_has() -> None:
    event = ev.Restarting(time_ns=7, start_delay_ns=1_035_121_070, restart_reason="Restart within policy")
    for dialect, forms in (("0.5.0", (1, 0)), ("0.5.6", (1, 0)), ("1.1.2", (2, 1))):
        text = event_to_json(event, DIALECTS[dialect]).decode()
        assert (text.count("1035121070"), text.count("1.03512107s")) == forms


def test_only_so_many_texts_are_remembered() -> None:
    events = [ev.DriverFailure(driver_error=f"{number:09}" * 1_000) for number in range(1_000)]
    tracemalloc.start()
    try:
        for event in events:
            assert event.driver_error in event_to_json(event, NEWEST).decode()
        remembered, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Each text says the error thrice, so that all of them would be 27 MB.
    assert remembered < 10_000_000
    assert event_to_json(events[0], NEWEST) == msgspec.json.encode(event_to_object(events[0], NEWEST))


def test_a_ring_is_the_array_of_its_events() -> None:
    events = [
        ev.Received(time_ns=1),
        ev.Restarting(start_delay_ns=5),
        ev.UnknownEvent(extras=ev.Extras(fields={"é": "µ"})),
    ]
    for dialect in DIALECTS.values():
        assert events_to_json((), dialect) == b"[]"
        assert events_to_json(events, dialect) == b"[%b]" % b",".join(event_to_json(each, dialect) for each in events)


@given(OBJECTS.map(event_from_object), st.sampled_from(list(DIALECTS.values())))
@example(ev.Terminated(oom_killed=True), DIALECTS["0.5.6"])
@example(ev.Terminated(exit_code=None), DIALECTS["0.5.6"])
@example(ev.Driver(driver_message="pulling"), DIALECTS["0.5.0"])
@example(ev.Generic(generic_source="Template", message="text"), DIALECTS["0.5.6"])
def test_what_is_no_loss_comes_back(event: TaskEvent, dialect: Any) -> None:
    lost = event_losses(event, dialect)
    back = event_from_object(event_to_object(event, dialect))
    assert (back == event) == (not lost), lost
    assert not set(lost) & set(event_fields(dialect))


# --- what is wrong ----------------------------------------------------------------------------------------------------

WRONG = [
    ([], "$: expected an object, found []"),
    ("Started", '$: expected an object, found "Started"'),
    ({"Type": 5}, "$.Type: expected a text, found 5"),
    ({"Type": "Started", "Time": "now"}, '$.Time: expected an integer, found "now"'),
    ({"Type": "Started", "Time": 1.5}, "$.Time: expected an integer, found 1.5"),
    ({"Type": "Started", "Time": True}, "$.Time: expected an integer, found true"),
    ({"Type": "Started", "FailsTask": 1}, "$.FailsTask: expected true or false, found 1"),
    ({"Type": "Started", "DisplayMessage": 1}, "$.DisplayMessage: expected a text, found 1"),
    ({"Type": "Started", "ExitCode": "1"}, '$.ExitCode: expected an integer, found "1"'),
    ({"Type": "Terminated", "ExitCode": [1]}, "$.ExitCode: expected an integer, found [1]"),
    ({"Type": "New", "Message": {}}, "$.Message: expected a text, found {}"),
    ({"Type": "Started", "Details": []}, "$.Details: expected an object of texts, found []"),
    ({"Type": "Started", "Details": {"signal": 9}}, "$.Details.signal: expected a text, found 9"),
]


@pytest.mark.parametrize(("said", "message"), WRONG)
def test_a_wrong_type_is_named_with_its_path(said: Any, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        event_from_object(said)
    assert str(caught.value) == message
    with pytest.raises(DecodeError) as caught:
        event_from_object(said, "$.TaskStates.web.Events[3]")
    assert str(caught.value) == "$.TaskStates.web.Events[3]" + message.removeprefix("$")


def test_what_was_found_is_shown_only_so_far() -> None:
    with pytest.raises(DecodeError, match=r"^\$\.Type: expected a text, found \[\"xxxxxxxxxx") as caught:
        event_from_object({"Type": ["x" * 99] * 99})
    assert len(str(caught.value)) < 120


@given(JSON)
def test_nothing_but_a_decode_error_is_ever_raised(said: Any) -> None:
    for name in EVENT_FIELDS:
        value = {"Type": "Terminated", name: said}
        try:
            event = event_from_object(value)
        except DecodeError as error:
            message = str(error)
        else:
            message = f"$.{name}"
            assert event == event_from_object(event_to_object(event, NEWEST))
        assert message.startswith(f"$.{name}")
