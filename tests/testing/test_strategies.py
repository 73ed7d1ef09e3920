"""The strategies: what they draw is legal where it says so, complete, readable, and shrinks to the shortest."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from itertools import pairwise

import hypothesis
import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.vendor import pretty

from taskfold import Engine, Fold, IllegalEvent, ManualClock, Snapshot, events, inputs, observation_from_json
from taskfold.decision.rules import decide
from taskfold.events import EVENT_TYPES, wire_type
from taskfold.fold.allocation import Allocation, apply_record
from taskfold.fold.lifecycle import STATES, lifecycle_of
from taskfold.model.dialect import DIALECTS
from taskfold.model.policy import RestartPolicy
from taskfold.model.record import Placed, Record, Write
from taskfold.nomad.events import event_fields
from taskfold.testing import strategies as kit
from taskfold.testing._drawing import illegal_moves, moves, task_event_types
from taskfold.testing.coverage import reachable
from taskfold.testing.histories import AllocationHistory

EVERY = pytest.mark.parametrize("dialect", DIALECTS)
SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def pairs_of(history: AllocationHistory) -> set[tuple[str, str, str]]:
    """Return which (task state, event) pairs a history reaches, each with whether it was refused."""
    rules = lifecycle_of(history.dialect).rules
    states: dict[str, str] = {}
    pairs = set()
    for task, event in history.events:
        state = states.get(task, "pending")
        target = rules[type(event)].targets[state]
        pairs.add((state, wire_type(event), "legal" if target is not None else "illegal"))
        states[task] = target or state
    return pairs


# --- events ---


@EVERY
def test_an_event_has_only_annotations_that_its_dialect_sends(dialect):
    allowed = {*event_fields(DIALECTS[dialect])}

    @given(kit.events(dialect))
    def check(event):
        assert type(event) in task_event_types(DIALECTS[dialect])
        state = Fold(dialect, on_illegal="keep")
        state.apply(Record(index=1, alloc="a", version=1, event=Placed()))
        state.apply(Record(index=2, alloc="a", version=2, task="web", event=event))
        shown = json.loads(Snapshot.of(state["a"], dialect).to_json())["TaskStates"]["web"]["Events"][-1]
        assert shown.keys() == allowed
        assert shown["Type"] in {wire_type(event), *next(row.aliases for row in EVENT_TYPES if row.cls is type(event))}

    check()


@pytest.mark.parametrize("cls", [row.cls for row in EVENT_TYPES], ids=lambda cls: cls.__name__)
def test_every_event_type_is_made_from_its_type(cls):
    @settings(max_examples=2)
    @given(st.from_type(cls), st.builds(cls))
    def check(drawn, built):
        assert type(drawn) is type(built) is cls

    check()


LEFT_OUT = {"AgentSettings", "Difference", "Divergence", "ExportSummary", "HistoryEntry", "Retention", "Verification"}
"""What the docstring of `register` leaves out."""


def public_structs():
    """Return every struct that a public module has, with the name by which users know it."""
    structs = {}
    for name in ("", ".events", ".inputs", ".effects", ".nomad", ".log", ".testing"):
        module = import_module(f"taskfold{name}")
        for public in module.__all__ if hasattr(module, "__all__") else dir(module):
            value = getattr(module, public)
            if isinstance(value, type) and issubclass(value, msgspec.Struct):
                structs.setdefault(value, public)
    return {cls: name for cls, name in structs.items() if name not in LEFT_OUT}


@pytest.mark.parametrize("cls", [*public_structs(), Snapshot], ids=lambda cls: cls.__name__)
def test_every_public_struct_is_made_from_its_type(cls):
    @settings(max_examples=2)
    @given(st.from_type(cls))
    def check(drawn):
        assert isinstance(drawn, cls)

    check()


def test_the_public_structs_are_found():
    assert {RestartPolicy, Record, Write, Placed, *inputs.INPUTS, *(row.cls for row in EVENT_TYPES)} <= {
        *public_structs()
    }


@given(kit.events("1.1.2", nasty=True))
def test_a_nasty_event_goes_through_a_log_and_comes_back_the_same(event):
    engine = Engine(dialect="1.1.2", clock=ManualClock(7))
    engine.place({"ID": "a"})
    if not lifecycle_of("1.1.2").may("pending", event):
        engine.record("a", "web", events.Started())
    engine.record("a", "web", event)

    [*_, recorded] = engine.history("a", "web")
    assert recorded.event == msgspec.structs.replace(event, time_ns=event.time_ns or 7)


# --- histories ---


@EVERY
def test_a_legal_history_is_refused_nowhere(dialect):
    @given(kit.histories(dialect, tasks=3))
    def check(history):
        fold = Fold(dialect)
        fold.apply_all(history.records)
        assert fold[history.alloc] == history.fold()

    check()


@given(kit.histories("1.1.2", tasks=2))
def test_a_history_goes_into_an_engine_as_it_is(history):
    engine = Engine(dialect="1.1.2")
    engine.append(history.writes)

    for task in {task for task, _ in history.events}:
        assert engine.task(history.alloc, task) == history.fold().tasks[task]


@EVERY
def test_histories_reach_every_transition_of_the_table(dialect):
    rules = lifecycle_of(dialect).rules
    wanted = {
        (state, str(cls.__struct_config__.tag), "legal" if rule.targets[state] is not None else "illegal")
        for cls, rule in rules.items()
        for state in STATES
    }
    reached = set()

    @settings(max_examples=300)
    @given(kit.histories(dialect, legal=False, min_size=30) | kit.histories(dialect, min_size=30))
    def collect(history):
        reached.update(pairs_of(history))

    collect()
    assert wanted - reached == set()


@EVERY
def test_a_hundred_short_histories_can_be_expected_to_reach_each_legal_transition_three_times(dialect):
    rules = lifecycle_of(dialect).rules
    chance = dict.fromkeys(STATES, 0.0) | {STATES[0]: 1.0}
    visits = Counter()
    for _ in range(6):
        following = dict.fromkeys(STATES, 0.0)
        for state in STATES:
            for move in moves(dialect, state):
                share = chance[state] / len(moves(dialect, state))
                visits[state, move] += share
                following[rules[move].targets[state]] += share
        chance = following

    assert len(visits) == len(reachable("transitions", dialect))
    assert min(visits.values()) * 100 >= 3


@EVERY
def test_an_illegal_step_is_refused_with_the_error_that_it_names(dialect):
    @given(kit.illegal_steps(dialect))
    def check(step):
        fold = Fold(dialect)
        fold.apply_all(step.history.records)
        record = Record(
            index=10**6, alloc=step.history.alloc, version=len(step.history.records) + 1, task="web", event=step.event
        )
        with pytest.raises(IllegalEvent) as refused:
            fold.apply(record)
        assert str(refused.value) == str(step.error)

    check()


@EVERY
def test_legal_and_illegal_moves_are_all_that_the_dialect_knows_and_nothing_of_another(dialect):
    assert {*moves(dialect, None)} == {*lifecycle_of(dialect).rules}
    for state in STATES:
        assert {*moves(dialect, state)} | {*illegal_moves(dialect, state)} == {*lifecycle_of(dialect).rules}
        assert not {*moves(dialect, state)} & {*illegal_moves(dialect, state)}


# Each fault is planted in what a test believes; the length is that of the shortest history which shows it.
SHORTEST = [
    ("a task runs", lambda h: any(after == "running" for _, _, after in states(h)), 1),
    ("a task was started twice", lambda h: count(h, events.Started) >= 2, 3),
    ("two restarts", lambda h: count(h, events.Restarting) >= 2, 2),
    ("a task that ran is dead", lambda h: ("running", "dead") in moved(h), 2),
    ("dead, and running again", lambda h: ("dead", "running") in moved(h), 2),
    ("an exit code", lambda h: any(e.exit_code not in {0, None} for e in of(h, events.Terminated)), 1),
    ("the ring forgets", lambda h: len(h) > 10, 11),
    ("two tasks", lambda h: len({task for task, _ in h.events}) == 2, 2),
    ("a sibling failed while the task ran", lambda h: at(h, events.SiblingTaskFailed, "running"), 2),
    ("a killed task is restarted", lambda h: after(h, events.Killed, events.Restarting), 2),
]


SPARE = 0 if hypothesis.__version_info__ >= (6, 150) else 1
"""How many events more may be left: older releases of Hypothesis do not shrink a text quite to its end."""


def of(history, cls):
    return [event for _, event in history.events if isinstance(event, cls)]


def count(history, cls):
    return len(of(history, cls))


def states(history):
    rules, state = lifecycle_of(history.dialect).rules, "pending"
    for _, event in history.events:
        before, state = state, rules[type(event)].targets[state]
        yield before, event, state


def moved(history):
    return [(before, after) for before, _, after in states(history)]


def at(history, cls, state):
    return any(before == state and isinstance(event, cls) for before, event, _ in states(history))


def after(history, first, second):
    kinds = [type(event) for _, event in history.events]
    return any(pair == (first, second) for pair in pairwise(kinds))


@pytest.mark.parametrize(("name", "fault", "length"), SHORTEST, ids=[name for name, _, _ in SHORTEST])
def test_what_fails_shrinks_to_the_shortest_history(name, fault, length):
    tasks = 2 if name == "two tasks" else 1
    found = find(kit.histories("1.1.2", tasks=tasks), fault, settings=settings(max_examples=20_000, database=None))

    assert length <= len(found) <= length + SPARE


def test_a_history_says_what_happened():
    shortest = find(kit.histories("1.1.2"), lambda history: count(history, events.Started) >= 2)

    assert repr(shortest).startswith("<AllocationHistory 1.1.2: ")
    assert repr(shortest).count("Started") == 2


def test_what_fails_is_shown_as_what_happened_and_not_as_it_was_drawn():
    shortest = find(kit.histories("1.1.2"), lambda history: count(history, events.Started) >= 2)

    assert pretty.pretty(shortest) == repr(shortest)


def test_more_tasks_than_a_history_can_have_are_refused():
    with pytest.raises(ValueError, match="1 to 4 tasks, not 5"):
        kit.histories(tasks=5)


# --- policies, jobs, worlds ---


@given(kit.policies())
def test_a_policy_is_one_that_nomad_finds_nothing_wrong_with(policy):
    assert policy.refusals() == []


@EVERY
def test_a_job_is_placed_and_its_policies_are_decided_by(dialect):
    @given(kit.jobs(dialect))
    def check(job):
        engine = Engine(dialect=dialect)
        engine.place({"ID": "a", "JobID": "example", "TaskGroup": "group", "Job": job})
        group = engine.group("a")
        assert [*group.tasks] == [task["Name"] for task in job["TaskGroups"][0]["Tasks"]]
        assert any(plan.stage == "main" for plan in group.tasks.values())

    check()


@EVERY
@pytest.mark.parametrize("of", ["task", "allocation"])
def test_an_input_is_taken_by_a_task_or_an_allocation_of_its_dialect(dialect, of):
    @given(kit.inputs(dialect, of=of))
    def check(said):
        engine = Engine(dialect=dialect, seed=1)
        engine.place({"ID": "a", "JobID": "example", "TaskGroup": "group", "Job": JOB})
        engine.report("a", "", inputs.PlacementReceived())
        assert engine.report("a", "web" if of == "task" else "", said).outcome in {
            "decided",
            "late",
            "repeated",
            "impossible",
        }

    check()


@EVERY
def test_a_group_is_decided_on_by_inputs_that_fit_where_its_tasks_stand(dialect):
    @settings(SLOW, max_examples=40)
    @given(st.data(), kit.groups(dialect))
    def check(data, group):
        allocation = Allocation("a")
        for now_ns in range(1, 8):
            task, report = data.draw(kit.inputs(group, allocation))
            step = decide(allocation, group, report, task=task, now_ns=now_ns, rng=random.Random(7))
            assert not any("does not fit" in note or "comes too late" in note for _, note in step.notes if task)
            for version, write in enumerate(step.writes, allocation.version + 1):
                record = Record(index=1, alloc="a", version=version, task=write.task, time_ns=now_ns, event=write.event)
                apply_record(allocation, record, lifecycle_of(dialect))

    check()


@given(kit.jobs("1.1.2", type="batch", leader=True, hooks=True, tasks=["web", "proxy", "log"]))
def test_a_job_is_what_is_asked_for(job):
    tasks = job["TaskGroups"][0]["Tasks"]

    assert (job["Type"], [task["Name"] for task in tasks]) == ("batch", ["web", "proxy", "log"])
    assert sum(task.get("Leader", False) for task in tasks) == 1
    assert any("Lifecycle" in task for task in tasks)


@pytest.mark.parametrize("options", [{"tasks": 0}, {"tasks": 1, "hooks": True}, {"max_tasks": 1, "hooks": True}])
def test_a_job_that_there_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match=r"tasks? at least, not"):
        kit.jobs("1.1.2", **options)


JOB = {"ID": "example", "Type": "service", "TaskGroups": [{"Name": "group", "Tasks": [{"Name": "web"}]}]}


@EVERY
def test_a_decided_history_is_legal(dialect):
    @settings(SLOW, max_examples=20)
    @given(kit.decided_histories(dialect))
    def check(history):
        fold = Fold(dialect)
        fold.apply_all(history.records)
        assert len(fold) == 1

    check()


@settings(SLOW, max_examples=20)
@given(kit.worlds())
def test_a_world_is_whole_whatever_happened_in_it(world):
    world._check()
    again = Fold(world.dialect)
    again.apply_all(world.log.read_all())
    for alloc in world.allocs:
        assert again[alloc].tasks == {task: world.engine.task(alloc, task) for task in again[alloc].tasks}


# --- what clients read ---


@EVERY
@pytest.mark.parametrize("nasty", [False, True], ids=["plain", "nasty"])
def test_an_allocation_is_valid_by_the_schema_of_its_dialect(dialect, nasty, schemas):
    validator = jsonschema.Draft202012Validator(schemas(f"allocation-{dialect}.json"))

    @settings(SLOW, max_examples=50)
    @given(kit.allocations(dialect, nasty=nasty))
    def check(snapshot):
        validator.validate(json.loads(snapshot.to_json()))

    check()


@pytest.fixture
def schemas():
    """Return what reads a committed schema."""
    from pathlib import Path

    folder = Path(__file__).parents[2] / "schemas"
    return lambda name: json.loads((folder / name).read_text(encoding="utf-8"))


@SLOW
@given(kit.streams("1.1.2", heartbeats=True, repeats=True))
def test_a_stream_that_is_complete_folds_to_its_truth(stream):
    engine = folded(stream.lines)

    [snapshot] = engine.allocations()
    assert stream.is_complete
    assert shown(snapshot) == shown(stream.truth)


@SLOW
@given(kit.streams("1.1.2", gaps=True, reorder=True, cut=True))
def test_a_stream_that_is_damaged_never_breaks_who_reads_it(stream):
    engine = folded(stream.lines)
    if stream.is_complete:
        assert shown(next(engine.allocations())) == shown(stream.truth)


def folded(lines):
    engine = Engine(dialect="1.1.2")
    for line in lines.splitlines():
        try:
            frame = json.loads(line)
        except ValueError:
            continue  # cut short
        for event in frame.get("Events", ()):
            engine.observe(observation_from_json(json.dumps(event["Payload"]["Allocation"]).encode(), "stream"))
    return engine


def shown(snapshot):
    return {name: (state.state, state.restarts, len(state.events)) for name, state in snapshot.tasks.items()}


# --- importing ---


def test_whoever_imports_hypothesis_waits_for_no_engine_and_no_source():
    script = (
        "import sys, hypothesis.strategies; print(sorted({name.split('.')[1] for name in sys.modules if '.' in name "
    )
    script += "and name.startswith('taskfold.')}))"

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "['decision', 'fold', 'model', 'nomad', 'testing']\n"


def test_importing_the_kit_imports_neither_pytest_nor_hypothesis():
    script = "import sys, taskfold.testing as kit; dir(kit); print({'pytest', 'hypothesis'} & {*sys.modules})"

    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_a_world_and_a_history_need_no_hypothesis():
    script = (
        "import sys; from taskfold.testing import AllocationHistory, FaultyLog, World, history_of;"
        "print(history_of([0], '1.1.2'), 'hypothesis' in sys.modules)"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "<AllocationHistory 1.1.2: Received> False\n"


@pytest.mark.parametrize(
    "first",
    ["taskfold.testing.strategies", "hypothesis", "taskfold.testing.logs"],
    ids=["the kit", "hypothesis", "logs"],
)
def test_the_types_are_known_whichever_is_imported_first(first):
    script = (
        f"import {first}; from hypothesis import strategies as st, find; from taskfold import events;"
        "import taskfold.testing._hypothesis as hook; hook.register();"
        "print(type(find(st.from_type(events.Started), lambda _: True)).__name__)"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (ran.stdout, ran.stderr) == ("Started\n", "")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: kit.events(types=[]), "there is no event of no type"),
        (lambda: kit.policies(mode="never"), "mode is '' or 'fail' or 'delay', not 'never'"),
        (lambda: kit.policies(min_attempts=-1), "a policy has 0 attempts or more, not -1"),
        (lambda: kit.jobs(type="cron"), "type is '' or 'service' or 'batch' or 'system', not 'cron'"),
        (lambda: kit.jobs(tasks=[]), "a job has 1 task at least, not 0 to 0"),
        (lambda: kit.inputs(of="node"), "of is 'task' or 'allocation', not 'node'"),
        (lambda: kit.histories(tasks=5), "a history has 1 to 4 tasks, not 5"),
    ],
)
def test_an_option_that_no_strategy_knows_is_refused_in_a_sentence(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()
