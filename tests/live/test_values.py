"""Whatever a caller hands over is refused, and nothing has changed, or is read again as it was acknowledged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from support.any_values import (
    ANY,
    EVENTS,
    MIRRORING,
    WRITING,
    Mine,
    MyStarted,
    begin,
    check_read_again,
    clock,
    make_calls,
    state_of,
)
from taskfold import Engine, Record, Retention, events, inputs
from taskfold.errors import DecodeError, IdConflict, InputRefused, TaskfoldError
from taskfold.log.entries import INT64, MAX_DEPTH, UNWRITABLE, Entry, decoder, entries_of, is_deep, problem_of
from taskfold.model.record import Finished, Placed, Updated, Write

Calls = list[Callable[[Engine], object]]
STORES = [".jsonl", ".db"]
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
MANY = settings(suppress_health_check=SLOW)
SOME = settings(max_examples=settings().max_examples // 4, suppress_health_check=SLOW)
"""Each example begins a log on disk, opens it again, and reads it in every way."""


@MANY
@given(calls=WRITING)
def test_any_value_in_memory_is_refused_or_can_be_shown(calls: Calls) -> None:
    engine = Engine(dialect="1.1.2", clock=clock())
    begin(engine)
    make_calls(engine, calls)


@pytest.mark.parametrize("store", STORES)
@SOME
@given(calls=WRITING)
def test_any_value_that_is_acknowledged_is_read_again(store: str, calls: Calls) -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder, f"log{store}"))
        with Engine.open(name, dialect="1.1.2", clock=clock()) as engine:
            begin(engine)
            make_calls(engine, calls)
            before = state_of(engine)
        check_read_again(name, before)


@pytest.mark.parametrize("store", STORES)
@SOME
@given(calls=MIRRORING)
def test_any_observation_that_is_acknowledged_is_read_again(store: str, calls: Calls) -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder, f"log{store}"))
        with Engine.open(name, dialect="1.1.2", clock=clock()) as engine:
            make_calls(engine, calls)
            before = state_of(engine)
        check_read_again(name, before)


@pytest.fixture
def engine() -> Engine:
    engine = Engine(dialect="1.1.2", clock=clock())
    begin(engine)
    return engine


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (events.Terminated(exit_code="1"), r"\$\.Event\.ExitCode: expected `int \| null`, got `str`"),
        (events.Terminated(exit_code=1.5), r"\$\.Event\.ExitCode: expected `int \| null`, got `float`"),
        (events.Terminated(exit_code=True), r"\$\.Event\.ExitCode: expected `int \| null`, got `bool`"),
        (events.Restarting(restart_reason=5), r"\$\.Event\.RestartReason: expected `str`, got `int`"),
        (events.Started(time_ns=1.7e18), r"\$\.Event\.Time: expected whole unix nanoseconds \(time\.time_ns\(\)\)"),
        (events.Started(extras=events.Extras(details={"a": 5})), r"\$\.Event\.Kept\.Details"),
        (events.Driver(driver_message="\ud800"), "surrogates not allowed"),
        (Mine(), r"record events\.UnknownEvent\(wire_type='Mine'\)"),
        (MyStarted(), r"MyStarted is no event type of Nomad's"),
        (events.TaskEvent(), r"TaskEvent is no event type of Nomad's"),
        (events.Started, r"found the class Started: write Started\(\)"),
        (inputs.ProcessStarted(), r"inputs\.ProcessStarted is an input: report it; the event is events\.Started"),
        ("Started", r"found a text: write events\.Started\(\)"),
        (5, r"expected an event \(taskfold\.events\), found 5 \(int\)"),
    ],
)
def test_an_event_that_no_log_can_say_is_refused_with_its_path_and_the_cure(engine, event, message):
    before = state_of(engine)

    with pytest.raises(DecodeError, match=message):
        engine.record("a", "web", event)

    assert state_of(engine) == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (inputs.Exited(exit_code="1"), r"inputs\.Exited cannot be decided on: \$\.ExitCode: expected `int \| null`"),
        (events.Started(), r"events\.Started is an event: record it; the input is inputs\.ProcessStarted"),
        (events.Killed(), r"events\.Killed is an event: record it$"),
        (inputs.ProcessStarted, r"found the class ProcessStarted: write ProcessStarted\(\)"),
        ("Started", r"expected an input \(taskfold\.inputs\), found a value of type str"),
        (Finished(), r"^Finished is an event: record it; the input is inputs\.Exited$"),
    ],
)
def test_an_input_that_cannot_be_decided_on_is_refused_with_the_cure(engine, value, message):
    with pytest.raises(InputRefused, match=message):
        engine.report("a", "web", value)


class Model:
    """A model of somebody's."""


ONE = Write(alloc="a", task="web", event=events.Started())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda engine: engine.append(ONE), r"expected a list of Writes, .* found a single one"),
        (lambda engine: engine.check(5), r"expected a list of Writes, .* found 5 \(int\)"),
        (lambda engine: engine.append("ab"), r"expected a list of Writes, .* found a value of type str"),
        (lambda engine: engine.append([Write]), r"write 0: \$: expected a Write, .* found the class Write"),
        (lambda engine: engine.append([events.Started()]), r"write 0: \$: expected a Write, .* of type Started"),
        (lambda engine: engine.bind("a", "web", Model), r"expected a model, found the class Model: write Model\(\)"),
        (lambda engine: engine.bind("a", "", Model()), r"a model is bound to a task: name it"),
        (lambda engine: engine.bind("a", 5, Model()), r"\$\.Task: expected a text, found 5 \(int\)"),
        (lambda engine: engine.on_step(None), r"expected a function that listens, found nothing"),
        (lambda engine: engine.on_collect([]), r"expected a function that listens, found a value of type list"),
        (lambda engine: engine.retain(Retention), r"expected a Retention, such as Retention\(keep=100\)"),
        (lambda _: Engine("x.jsonl"), r"found the path 'x\.jsonl': Engine\.open\(path\) opens the log there"),
        (lambda _: Engine(Path("x.db")), r"found the path 'x\.db'"),
    ],
)
def test_who_hands_over_something_else_is_told_what_is_right(engine, call, message):
    before = state_of(engine)

    with pytest.raises(TaskfoldError, match=message):
        call(engine)

    assert state_of(engine) == before
    assert engine.record("a", "web", events.Received()) is not None, "nobody is called who cannot be"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_ns": 1.7e18}, r"\$\.Time: expected whole unix nanoseconds"),
        ({"time_ns": True}, r"\$\.Time: expected whole unix nanoseconds"),
        ({"id": 5.5}, r"\$\.ID: expected a text, found 5\.5 \(float\)"),
        ({"id": 2**70}, r"\$\.ID: expected a text, found a value of type int"),
        ({"id": b"x"}, r"\$\.ID: expected a text, found a value of type bytes"),
        ({"expected_version": 1.0}, r"\$\.ExpectedVersion: expected a whole number, found 1\.0 \(float\)"),
        ({"task": 5}, r"\$\.Task: expected a text, found 5 \(int\)"),
        ({"alloc": None}, r"\$\.Alloc: expected a text, found nothing"),
    ],
)
def test_what_is_written_beside_an_event_is_checked_too(engine, arguments, message):
    whole = {"alloc": "a", "task": "web", "event": events.Started(), **arguments}
    with pytest.raises(DecodeError, match=message):
        engine.record(**whole)
    with pytest.raises(DecodeError, match=message):
        engine.report(
            **{name: value for name, value in whole.items() if name != "event"}, input=inputs.ProcessStarted()
        )


def test_every_write_that_cannot_be_said_is_named_and_none_is_appended(engine):
    writes = [Write(alloc="a", task="web", event=event) for event in (events.Started(), Mine(), events.Terminated())]
    refused = Write(alloc="a", task="web", event=events.Terminated(exit_code="1"))

    with pytest.raises(TaskfoldError) as caught:
        engine.append([*writes, refused])

    assert [(place, type(refusal)) for place, refusal in caught.value.refusals] == [(1, DecodeError), (3, DecodeError)]
    assert len(engine.history("a")) == 1


@pytest.mark.parametrize("depth", [MAX_DEPTH - 3, MAX_DEPTH - 2])
def test_json_is_as_deep_as_every_reader_can_follow(engine, depth):
    # The record, its event and the body are three levels.
    body = b'{"ID":"deep","Foo":' + b"[" * depth + b"]" * depth + b"}"

    if depth + 3 > MAX_DEPTH:
        with pytest.raises(DecodeError, match="nested deeper than 128 levels"):
            engine.place(body)
        with pytest.raises(DecodeError, match="nested deeper than 128 levels"):
            engine.update("a", {"Foo": Raw(b"[" * (depth + 1) + b"]" * (depth + 1))})
    else:
        engine.place(body)
        assert engine.snapshot("deep").fields["Foo"] == b"[" * depth + b"]" * depth


def test_json_over_several_lines_is_recorded_on_one(tmp_path):
    text = msgspec.json.format(
        msgspec.json.encode({"Job": {"Name": "x" * 300, "Type": "batch"}, "ID": "late"}), indent=2
    ).replace(b"\n", b" ", 2)

    with Engine.open(tmp_path / "log.jsonl", dialect="1.1.2") as engine:
        assert text.index(b"\n") > 256
        engine.place(text)

    assert (tmp_path / "log.jsonl").read_bytes().count(b"\n") == 2


def test_what_is_recorded_is_what_was_handed_over_then(engine):
    fields: dict[str, object] = {"Extra": [1]}
    event = events.Started(extras=events.Extras(fields=fields))

    engine.record("a", "web", event)
    fields["Extra"] = object()

    assert engine.task("a", "web").events[0].extras.fields == {"Extra": [1]}


def test_the_same_id_with_another_event_is_refused_and_with_the_same_is_a_repeat(engine):
    assert engine.record("a", "web", events.Received(), id="x") is not None
    assert engine.record("a", "web", events.Received(), id="x") is None, "though its time is another one"

    for alloc, task, event in (("a", "web", events.Started()), ("a", "db", events.Received())):
        with pytest.raises(IdConflict, match="ID 'x' was recorded before"):
            engine.record(alloc, task, event, id="x")
    with pytest.raises(IdConflict, match="ID 'x' was recorded before"):
        engine.update("a", {"Foo": 1}, id="x")
    with pytest.raises(IdConflict, match="ID 'x' was recorded before"):
        engine.report("ended", "web", inputs.ProcessStarted(), id="x")
    assert engine.report("a", "web", inputs.ProcessStarted(), id="x").outcome == "repeated"

    first = Write(alloc="b", event=Placed(body=Raw(b'{"JobID":"j","ClientStatus":"running"}')), id="placed")
    assert engine.append([first, first])[1] is None
    assert engine.append([first]) == [None]
    assert engine.update("a", {"Foo": {"x": 1, "y": 2}}, id="updated") is not None
    assert engine.update("a", {"Foo": Raw(b'{"y": 2, "x": 1}')}, id="updated") is None
    with pytest.raises(IdConflict):
        engine.update("a", {"Foo": {"x": 1, "y": 3}}, id="updated")


def depth_of(text: bytes) -> int:
    """Return how deep JSON text is nested, byte by byte."""
    depth = deepest = 0
    is_text = is_escaped = False
    for byte in text:
        if is_escaped:
            is_escaped = False
        elif is_text:
            is_escaped, is_text = byte == ord("\\"), byte != ord('"')
        elif byte == ord('"'):
            is_text = True
        else:
            depth += (byte in b"{[") - (byte in b"}]")
            deepest = max(deepest, depth)
    return deepest


TEXTS_IN_JSON = st.text(alphabet='[]{}"\\ax', max_size=6)


@given(
    inner=st.recursive(TEXTS_IN_JSON, lambda more: st.lists(more, max_size=4) | st.dictionaries(TEXTS_IN_JSON, more)),
    beside=TEXTS_IN_JSON,
    levels=st.integers(MAX_DEPTH - 6, MAX_DEPTH + 3),
    is_object=st.booleans(),
)
def test_how_deep_json_is_nested_is_told_whatever_its_texts_look_like(inner, beside, levels, is_object):
    value = inner
    for _ in range(levels):
        value = {beside: value} if is_object else [beside, value, beside]
    text = msgspec.json.encode(value)

    assert is_deep(text) == (depth_of(text) > MAX_DEPTH)


# --- what is acknowledged can be read again ---------------------------------------------------------------------------


def entry_by_the_rule(record: Record) -> Entry:
    """Return what a log holds of a record, as docs/logs.md promises it, step by step. Raises DecodeError."""
    try:
        line = msgspec.json.encode(record)
        line.decode()
        back = decoder().decode(line)
    except UNWRITABLE as error:
        raise DecodeError(problem_of(error)) from None
    in_64_bits = 0 <= back.seq < INT64 and 0 <= back.index < INT64 and -INT64 <= back.time_ns < INT64
    if back != record or b"\n" in line or depth_of(line) > MAX_DEPTH or not in_64_bits:
        raise DecodeError("refused")
    return Entry(back, line)


def taken(make: Callable[[], list[Entry]]) -> list[Entry] | None:
    """Return the entries that are made; None where one is refused."""
    try:
        return make()
    except DecodeError:
        return None


def together(records: Sequence[Record]) -> list[Entry]:
    """Return the entries of records that are appended together."""
    return list(map(Entry, *entries_of(list(records))))


def some_record(seq: int) -> st.SearchStrategy[Record]:
    """Return records that a log takes, and records of any values."""
    plain = st.sampled_from(
        [
            events.Started(time_ns=seq),
            events.Terminated(exit_code=None, message="é"),
            events.Restarting(start_delay_ns=-1, restart_reason='"]}\n'),
            events.Driver(extras=events.Extras(fields={"a": [None, 1.5]})),
            Placed(body=Raw(b'{"ID":"a"}')),
            Updated(fields={"Job": Raw(b"[" * 125 + b"]" * 125)}),
            Updated(fields={"Job": Raw(b"[" * 126 + b"]" * 126)}),
            Updated(fields={"Job": Raw(b'{"a":\n1}')}),
            Updated(fields={"Job": Raw(b'"\xff"')}),
        ]
    )
    record = st.builds(
        Record, seq=st.just(seq), index=st.just(seq), alloc=st.just("a"), version=st.just(seq), event=plain
    )
    odd = st.tuples(st.sampled_from(Record.__struct_fields__), ANY | st.sampled_from([-1, INT64 - 1, INT64, -INT64]))
    return st.one_of(
        record,
        record,
        st.builds(lambda record, event: msgspec.structs.replace(record, event=event), record, EVENTS),
        st.builds(lambda record, odd: msgspec.structs.replace(record, **{odd[0]: odd[1]}), record, odd),
    )


@settings(max_examples=settings().max_examples * 4, suppress_health_check=SLOW)
@given(st.integers(1, 4).flatmap(lambda count: st.tuples(*map(some_record, range(1, count + 1)))))
def test_records_are_taken_together_where_each_is_read_back_as_itself(records: tuple[Record, ...]) -> None:
    found = taken(lambda: together(records))

    assert found == taken(lambda: [entry_by_the_rule(record) for record in records])
    if found is None and len(records) > 1:
        # The first that is refused alone is the one that is named.
        alone = next(record for record in records if taken(lambda record=record: together([record])) is None)
        with pytest.raises(DecodeError) as one:
            together([alone])
        with pytest.raises(DecodeError) as all_of_them:
            together(records)
        assert str(one.value) == str(all_of_them.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b'{"a":1}}},"x":[', b"1"),  # closes more than it opens
        (b'"a', b'b"'),  # a text that ends in the next record
        (b"[1,", b"2]"),
        (b'{"a":1}\n', b"2"),
        (b"1}}\n", b"2"),
        (b'1}}\n{"Index":2,"Alloc":"a","Version":2,"Event":{"Type":"Placed","Body":2', b""),
    ],
)
def test_no_record_is_taken_that_reaches_into_the_next_one(first: bytes, second: bytes) -> None:
    records = [
        Record(index=index, alloc="a", version=index, event=Placed(body=Raw(text)))
        for index, text in enumerate((first, second), start=1)
    ]

    assert taken(lambda: [entry_by_the_rule(record) for record in records]) is None
    assert taken(lambda: together(records)) is None
