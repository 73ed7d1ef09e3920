"""The lifecycle: the tables, the machine and the look-up say the same, and a refusal changes nothing."""

from __future__ import annotations

import functools
import itertools

import pytest
from transitions import EventData, Machine, MachineError

from support import recordings
from taskfold import events as ev
from taskfold.errors import DialectError, IllegalEvent
from taskfold.events import EVENT_TYPES, TaskEvent
from taskfold.fold.allocation import Fold
from taskfold.fold.lifecycle import STATES, TABLES, EventClass, build_machine, lifecycle_of, trigger_name
from taskfold.fold.task import Task, apply
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import Event, Finished, Observed, Record
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import observation_from_json

PAIRS = [
    pytest.param(dialect, cls, state, id=f"{dialect}-{trigger_name(cls)}-{state}")
    for dialect, table in TABLES.items()
    for cls, state in itertools.product(table, STATES)
]
TASK_EVENTS = [row.cls for row in EVENT_TYPES]


class Model:
    """A user's model: it writes down which callbacks ran."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.ran: list[str] = []

    def on_enter(self, data: EventData) -> None:
        self.ran.append(f"enter {self.state} on {data.event.name}")

    def on_exit(self, data: EventData) -> None:
        self.ran.append(f"exit {self.state} on {data.event.name}")


@functools.cache
def machine_of(dialect: str) -> Machine:
    """Return a machine that calls back whenever a state is entered or left."""
    machine = build_machine(dialect)
    for state in STATES:
        machine.get_state(state).add_callback("enter", lambda data: data.model.on_enter(data))
        machine.get_state(state).add_callback("exit", lambda data: data.model.on_exit(data))
    return machine


def record_of(event: Event, task: str = "web", time_ns: int = 7) -> Record:
    return Record(index=1, alloc="a", version=1, task=task, time_ns=time_ns, event=event)


def target_in_table(dialect: str, cls: EventClass, state: str) -> str | None:
    return TABLES[dialect][cls][STATES.index(state)]


# --- one rule, three forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialect", "cls", "state"), PAIRS)
def test_the_machine_does_what_the_table_and_the_look_up_say(dialect: str, cls: EventClass, state: str) -> None:
    target = target_in_table(dialect, cls, state)
    assert lifecycle_of(dialect).rules[cls].targets[state] == target
    name, model = trigger_name(cls), Model(state)
    trigger = machine_of(dialect).events[name].trigger
    if target is None:
        with pytest.raises(MachineError, match=name):
            trigger(model)
        assert (model.state, model.ran) == (state, [])
    elif target == state:
        trigger(model)
        assert (model.state, model.ran) == (state, []), "a row that keeps the state is internal: no callback runs"
    else:
        trigger(model)
        assert (model.state, model.ran) == (target, [f"exit {state} on {name}", f"enter {target} on {name}"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_machine_has_the_triggers_of_the_table_and_nothing_automatic(dialect: str) -> None:
    assert list(machine_of(dialect).events) == [trigger_name(cls) for cls in TABLES[dialect]]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_machine_is_new(dialect: str) -> None:
    assert build_machine(dialect) is not build_machine(dialect)
    assert lifecycle_of(dialect) is lifecycle_of(DIALECTS[dialect])


def test_a_trigger_is_the_wire_string_in_snake_case() -> None:
    wires = [case["wire"] for case in recordings.vector("event_types")["events"]]
    found = {row.wire: trigger_name(row.cls) for row in EVENT_TYPES}
    assert found == {wire: "_".join(word.lower() for word in wire.split(" ")) for wire in wires}
    assert len(set(found.values())) == len(wires)
    assert all(name.isidentifier() for name in found.values())


@pytest.mark.parametrize(("dialect", "cls", "state"), PAIRS)
def test_allowed_may_and_explain_agree_with_the_table(dialect: str, cls: EventClass, state: str) -> None:
    lifecycle = lifecycle_of(dialect)
    target = target_in_table(dialect, cls, state)
    wire = str(cls.__struct_config__.tag)
    sentence = lifecycle.explain(state, cls)
    assert lifecycle.target(state, cls) == lifecycle.target(state, cls()) == target
    assert lifecycle.may(state, cls) == lifecycle.may(state, cls()) == (target is not None)
    assert (wire in lifecycle.allowed(state)) == (target is not None and cls is not Finished)
    assert sentence == lifecycle.explain(state, cls())
    assert TABLES[dialect][cls].source in sentence
    if target is None:
        legal = [s for s in STATES if target_in_table(dialect, cls, s) is not None]
        assert f"{wire} is illegal for a {state} task; it is legal for a task that is {' or '.join(legal)} " in sentence
    elif target == state:
        assert sentence.startswith(f"{wire} leaves a {state} task {state} ")
    else:
        assert sentence.startswith(f"{wire} moves a {state} task to {target} ")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_row_is_legal_somewhere_and_cites_its_source(dialect: str) -> None:
    for cls, row in TABLES[dialect].items():
        assert any(target is not None for target in row[:3]), cls
        assert row.source, cls


# --- the dialects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["0.5.0", "0.5.6"])
def test_a_dialect_has_exactly_the_types_of_its_nomad(dialect: str) -> None:
    then = {row.cls for row in EVENT_TYPES if DIALECTS[dialect].has(row.since)}
    assert set(TABLES[dialect]) == then | {Finished}


def test_the_newest_dialect_knows_every_type_of_every_nomad() -> None:
    assert set(TABLES["1.1.2"]) == {*TASK_EVENTS, Finished}


def test_the_documented_dialect_is_0_5_6_without_its_later_types() -> None:
    assert TABLES["0.5.0"].items() <= TABLES["0.5.6"].items()


def test_the_fingerprints_are_stable_and_differ() -> None:
    # Changing a table changes how logs fold: whoever changes one of these values must know that old logs and
    # checkpoints carry the old one, and will be told that their states may be folded differently now.
    assert {dialect: lifecycle_of(dialect).fingerprint for dialect in DIALECTS} == {
        "0.5.0": "35d1dab57b3ddce3",
        "0.5.6": "485f526f92f5d4d8",
        "1.1.2": "0dba039555aa3e8b",
    }


def test_a_dialect_nobody_speaks_is_refused_by_name() -> None:
    for ask in (lifecycle_of, build_machine):
        with pytest.raises(DialectError, match=r"'0\.9' is not a dialect of taskfold; it speaks 0\.5\.0, 0\.5\.6"):
            ask("0.9")


# --- what real Nomads did ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_history_is_legal(version: str) -> None:
    seen: set[type] = set()
    for scenario in recordings.scenarios(version):
        importer = Importer(version)
        for answer in recordings.bodies(scenario):
            for record in importer.observe(observation_from_json(answer.body.encode())):
                assert not isinstance(record.event, Observed), (str(scenario), record)
                seen.add(type(record.event))
        for alloc in importer.fold:
            for name, task in importer.fold[alloc].tasks.items():
                assert task.irregular == 0, (str(scenario), name)
    recorded = seen.intersection(TASK_EVENTS)
    assert len(recorded) >= 15
    for cls in recorded:
        assert "seen" in TABLES[version][cls].source, f"{cls.__name__} was seen, and its row does not say so"


# --- refusals ---------------------------------------------------------------------------------------------------------

ILLEGAL = [
    pytest.param(dialect, cls, state, id=f"{dialect}-{trigger_name(cls)}-{state}")
    for dialect, table in TABLES.items()
    for cls, state in itertools.product(table, STATES)
    if target_in_table(dialect, cls, state) is None
]


def failing(cls: type[TaskEvent]) -> TaskEvent:
    """Return an event that fails its task: some types have a field for it, others keep what the wire said."""
    if "fails_task" in cls.__struct_fields__:
        return cls(fails_task=True)
    return cls(extras=ev.Extras(fields={"FailsTask": True}))


def lived_task(state: str) -> Task:
    """Return a task with a past, in this state."""
    task = Task(state=state, restarts=3, last_restart_ns=5, started_at_ns=6, finished_at_ns=4)
    for second in range(12):
        task.append(ev.Started(time_ns=second))
    return task


@pytest.mark.parametrize(("dialect", "cls", "state"), ILLEGAL)
def test_an_illegal_event_is_refused_with_all_names_and_nothing_changes(
    dialect: str, cls: type[TaskEvent], state: str
) -> None:
    lifecycle, task = lifecycle_of(dialect), lived_task(state)
    before = task.freeze()
    with pytest.raises(IllegalEvent) as caught:
        apply(task, record_of(failing(cls), task="redis"), lifecycle)
    error, wire = caught.value, str(cls.__struct_config__.tag)
    allowed = lifecycle.allowed(state)
    assert (error.task, error.state, error.event) == ("redis", state, wire)
    assert (error.allowed, error.dialect) == (allowed, dialect)
    assert str(error) == (
        f"task 'redis' is {state}: '{wire}' is not legal there in dialect {dialect}; legal are {', '.join(allowed)}"
    )
    assert task.freeze() == before


@pytest.mark.parametrize(("dialect", "cls", "state"), ILLEGAL)
def test_an_illegal_event_that_is_kept_is_counted_and_leaves_the_state(
    dialect: str, cls: type[TaskEvent], state: str
) -> None:
    lifecycle, task = lifecycle_of(dialect), lived_task(state)
    before, event = task.freeze(), cls(time_ns=99)
    apply(task, record_of(event), lifecycle, "keep")
    after = task.freeze()
    assert after.state == state
    assert after.irregular == before.irregular + 1
    assert after.events == (*before.events[1:], event)
    assert after.counts.get(str(cls.__struct_config__.tag)) == 1
    assert after.started_at_ns == before.started_at_ns


def test_a_fold_is_as_it_was_after_a_refusal_also_of_a_first_event() -> None:
    fold = Fold("1.1.2")
    with pytest.raises(IllegalEvent):
        fold.apply(record_of(ev.Signaling()))
    assert len(fold) == 0
    fold.apply(record_of(ev.Received()))
    before = fold["a"]
    for task in ("web", "db"):
        with pytest.raises(IllegalEvent):
            fold.apply(record_of(ev.Signaling(), task=task))
    assert fold["a"] == before


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_type_the_dialect_does_not_know_never_moves_the_state(dialect: str, state: str) -> None:
    lifecycle = lifecycle_of(dialect)
    unknown = [cls() for cls in TASK_EVENTS if cls not in TABLES[dialect]]
    for event in (*unknown, ev.UnknownEvent(wire_type="Something New")):
        assert lifecycle.target(state, event) == state
        assert lifecycle.may(state, event)
        assert ev.wire_type(event) not in lifecycle.allowed(state)
        assert lifecycle.explain(state, event) == (
            f"{ev.wire_type(event)} is not a type of dialect {dialect}: it is kept and leaves a {state} task {state}."
        )
        task = lived_task(state)
        before = task.freeze()
        apply(task, record_of(event), lifecycle)
        after = task.freeze()
        assert (after.state, after.irregular) == (state, 0)
        assert after.events == (*before.events[1:], event)
        assert (after.started_at_ns, after.finished_at_ns) == (before.started_at_ns, before.finished_at_ns)
    assert len(unknown) == {"0.5.0": 18, "0.5.6": 14, "1.1.2": 0}[dialect]
