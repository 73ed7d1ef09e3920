"""What follows from an input: where it fits, what each client does, and that nothing else ever happens."""

from __future__ import annotations

import json
import random
import subprocess
from typing import get_args

import msgspec
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from support import recordings
from support.deciding import NEW, OLD, WHERE, Story, names, placed_at
from support.jobs import POLICY, SECOND, hooked, job
from taskfold import Engine, Fold, ManualClock, inputs
from taskfold import events as ev
from taskfold.decision.group import Group, TaskPlan
from taskfold.decision.rules import RULES, decide, due_of, owed
from taskfold.effects import KillTask, ReleaseResources, SignalTask, StartTask, Step, Timer
from taskfold.errors import (
    DecodeError,
    InputRefused,
    PolicyRefused,
    TaskfoldError,
    UnknownTask,
)
from taskfold.events import wire_type
from taskfold.fold.allocation import Allocation
from taskfold.fold.status import DISCONNECTED
from taskfold.fold.task import Task
from taskfold.inputs import INPUTS, NEW_CLIENT_ONLY, OF_ALLOCATION, OF_EITHER, Input
from taskfold.log.contract import Append
from taskfold.log.memory import MemoryLog
from taskfold.model.dialect import DIALECTS, dialect_of
from taskfold.model.policy import RestartPolicy
from taskfold.model.record import Updated
from taskfold.testing import strategies as kit

RESTARTS = RestartPolicy(attempts=1, interval_ns=60 * SECOND, delay_ns=SECOND, mode="fail")

# --- the vectors of the group's rules ---


@pytest.mark.parametrize("case", recordings.vector("task_state")["group_cases_v056"], ids=lambda c: c["name"])
def test_the_old_client_dooms_the_others_as_its_functions_do(case):
    tasks = [{"Name": name, "Leader": told["leader"]} for name, told in case["tasks"].items()]
    policy = POLICY | {"Attempts": 0}
    story = Story(*tasks, dialect=OLD, policy=policy, Type="batch")
    story.run(*case["tasks"])
    task, event = case["apply"]["task"], case["apply"]["event"]
    if event is not None and event["Type"] == "Killing":
        step = story.say(inputs.KillRequested(reason="why", fails_task=event["FailsTask"]), task)
    else:
        step = story.say(inputs.Exited(exit_code=0 if event is None else 1), task)

    doomed = {name: wire_type(found) for name, found in reversed(step.events) if name != task and is_doom(found)}
    assert doomed == case["destroyed"]


def is_doom(event: ev.TaskEvent) -> bool:
    """Tell whether an event says why others end."""
    return isinstance(event, (ev.SiblingTaskFailed, ev.LeaderTaskDead, ev.MainTasksDead))


# --- where an input fits ---


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_an_input_that_does_not_fit_changes_nothing_and_says_so(kind, where, dialect):
    story = placed_at(where, dialect)
    if kind in NEW_CLIENT_ONLY and dialect != NEW:
        with pytest.raises(InputRefused, match=f"{kind.__name__} does not exist in dialect {dialect}"):
            story.say(kind(), "web")
        return
    before = story.engine.index

    step = story.say(kind(), "web")

    rule = RULES[kind]
    if where not in rule.fits:
        assert step.outcome == rule.otherwise.get(where, "late" if where == "dead" else "impossible")
    if step.outcome != "decided":
        assert story.engine.index == before
        assert (step.writes, step.timers) == ((), ())
        assert [task for task, _ in step.notes] == ["web"]
        # Of what comes too late, only a start leaves something to do.
        assert names(step, KillTask) == (["web"] if kind is inputs.ProcessStarted and where == "dead" else [])


def test_every_input_has_its_place():
    assert set(RULES) | OF_ALLOCATION | OF_EITHER == set(INPUTS)
    assert not OF_ALLOCATION & set(RULES)
    assert set(RULES) >= OF_EITHER
    assert set(get_args(inputs.AnyInput)) == set(INPUTS)


@pytest.mark.parametrize("kind", sorted(OF_ALLOCATION, key=str), ids=lambda kind: kind.__name__)
def test_an_input_of_an_allocation_names_no_task(kind):
    with pytest.raises(InputRefused, match="leave 'web' out"):
        Story("web").say(kind(), "web")


@pytest.mark.parametrize("kind", sorted(set(INPUTS) - OF_ALLOCATION - OF_EITHER, key=str), ids=lambda k: k.__name__)
def test_an_input_of_a_task_names_it(kind):
    with pytest.raises(InputRefused, match="name it"):
        Story("web").say(kind())


# --- one task ---


@pytest.mark.parametrize("said", [inputs.StartFailed(error="no"), inputs.DownloadFailed(), inputs.Exited()])
def test_a_start_that_was_given_up_is_the_end(said):
    story = Story("web")
    story.run()
    story.say(inputs.StopRequested())

    story.say(said, "web")

    assert story.state("web").state == "dead"
    assert not story.state("web").failed


# --- what the servers say ---


def test_a_lost_allocation_is_what_its_client_says_again():
    story = Story("web")
    story.run("web")
    story.say(inputs.NodeLost())
    body = json.loads(story.engine.snapshot("a").to_json())
    assert (body["ClientStatus"], body["DesiredStatus"]) == ("lost", "stop")
    assert "AllocStates" not in body  # as recorded
    story.clock.advance(SECOND)

    story.say(inputs.Exited(exit_code=0), "web")

    body = json.loads(story.engine.snapshot("a").to_json())
    assert body["ClientStatus"] == "pending"
    assert "AllocStates" not in body


def test_what_its_client_says_again_clears_what_the_servers_said_and_sets_nothing():
    story = Story("web")
    story.run("web")
    story.say(inputs.NodeDisconnected())

    step = story.say(inputs.DriverMessage(message="hello"), "web")

    [update] = [write.event for write in step.writes if isinstance(write.event, Updated)]
    assert (set(update.fields), set(update.cleared)) == ({"AllocStates"}, {"ClientStatus", "ClientDescription"})


def test_what_is_lost_keeps_its_description():
    story = Story("web")
    story.run("web")
    story.say(inputs.NodeDisconnected())
    story.say(inputs.NodeLost())

    body = json.loads(story.engine.snapshot("a").to_json())
    assert (body["ClientStatus"], body["ClientDescription"]) == ("lost", DISCONNECTED)


def test_a_shutdown_delay_of_a_nanosecond_is_one():
    story = Story({"Name": "web", "ShutdownDelay": 1})
    story.run("web")

    step = story.say(inputs.KillRequested(), "web")

    assert (step.effects, [timer.due_ns for timer in step.timers]) == ((), [story.clock.time_ns() + 1])


def test_a_process_that_ends_during_its_shutdown_delay_is_not_killed_any_more():
    story = Story({"Name": "web", "ShutdownDelay": SECOND})
    story.run("web")
    story.say(inputs.KillRequested(), "web")

    story.say(inputs.Exited(exit_code=0), "web")

    assert (due_of(story.state("web")), story.engine.next_due(), story.engine.restore()) == (None, None, [])


def test_what_was_unknown_and_is_lost_is_listed_with_both():
    story = Story("web")
    story.run("web")
    for said in (inputs.NodeDisconnected(), inputs.NodeLost(), inputs.NodeReconnected()):
        story.say(said)

    body = json.loads(story.engine.snapshot("a").to_json())
    assert [entry["Value"] for entry in body["AllocStates"]] == ["unknown", "lost", "running"]


def test_a_disconnected_allocation_reconnects():
    story = Story("web")
    story.run("web")
    story.say(inputs.NodeDisconnected())
    body = json.loads(story.engine.snapshot("a").to_json())
    assert body["ClientStatus"] == "unknown"
    assert body["ClientDescription"] == "alloc is unknown since its node is disconnected"
    assert list(body["AllocStates"][0]) == ["Field", "Time", "Value"]

    story.say(inputs.NodeReconnected())

    body = json.loads(story.engine.snapshot("a").to_json())
    assert (body["ClientStatus"], body["ClientDescription"]) == ("running", "Tasks are running")
    assert [(e["Field"], e["Value"]) for e in body["AllocStates"]] == [(0, "unknown"), (0, "running")]
    assert story.types("web") == ["Started", "Reconnected"]


@pytest.mark.parametrize(("ran_ns", "is_at_fault"), [(7 * SECOND - 1, True), (7 * SECOND, False)])
def test_who_is_not_at_fault_is_not_said_to_be_unhealthy(ran_ns, is_at_fault):
    tasks = (hooked("first", "prestart"), hooked("side", "prestart", sidecar=True), "web")
    story = Story(*tasks, Update={"MinHealthyTime": 7 * SECOND}, Type="batch")
    story.run("first", "side")
    story.say(inputs.Exited(exit_code=0), "first")
    story.clock.advance(7 * SECOND)
    story.say(inputs.ProcessStarted(), "web")
    story.clock.advance(ran_ns)

    step = story.say(inputs.HealthFailed())

    assert [task for task, _ in step.events] == (["web"] if is_at_fault else [])
    assert bool(step.notes) != is_at_fault


def test_a_task_that_runs_since_nobody_knows_when_has_not_run_long_enough():
    group = Group.of([TaskPlan(name="web", policy=RESTARTS)], NEW)
    allocation = Allocation("a", tasks={"web": Task(state="running")})

    step = decide(allocation, group, inputs.HealthFailed(), now_ns=60 * SECOND, rng=random.Random(1))

    assert [event.message for _, event in step.events] == ["Task not running for min_healthy_time of 10s by deadline"]


def test_a_task_that_ended_though_it_has_to_run_on_is_at_fault():
    story = Story("web", "db", Type="batch")
    story.run("web", "db")
    story.say(inputs.Exited(exit_code=0), "web")

    said = {task: event.message for task, event in story.say(inputs.HealthFailed()).events}

    assert said == {"web": "Unhealthy because of dead task"}


def test_a_wish_to_migrate_leaves_the_other_wishes():
    story = Story("web")
    story.engine.update("a", {"DesiredTransition": {"ForceReschedule": None, "Migrate": None, "Reschedule": True}})

    story.say(inputs.StopRequested(migrate=True))

    body = json.loads(story.engine.snapshot("a").to_json())
    assert body["DesiredTransition"] == {"ForceReschedule": None, "Migrate": True, "Reschedule": True}


def test_a_wish_to_migrate_names_the_wishes_that_nobody_has():
    story = Story("web")

    story.say(inputs.StopRequested(migrate=True))

    body = json.loads(story.engine.snapshot("a").to_json())
    assert body["DesiredTransition"] == {"ForceReschedule": None, "Migrate": True, "Reschedule": None}


def test_what_was_stopped_before_its_client_had_it_tells_the_network_too():
    engine = Engine(dialect=NEW)
    engine.place({"ID": "a", "DesiredStatus": "stop", "TaskGroup": "group", "Job": job("web")})

    engine.report("a", "", inputs.PlacementReceived())

    assert json.loads(engine.snapshot("a").to_json())["NetworkStatus"] == {
        "Address": "",
        "DNS": None,
        "InterfaceName": "",
    }


@pytest.mark.parametrize("status", [None, {"Address": "10.0.0.7", "DNS": None, "InterfaceName": "eth0"}])
def test_the_first_report_of_a_client_tells_the_network_unless_it_is_known(status):
    engine = Engine(dialect=NEW)
    engine.place({"ID": "a", "NetworkStatus": status, "TaskGroup": "group", "Job": job("web", "db")})
    engine.report("a", "", inputs.PlacementReceived())

    body = json.loads(engine.snapshot("a").to_json())
    assert body["NetworkStatus"] == (status or {"Address": "", "DNS": None, "InterfaceName": ""})
    records = engine.store.log.read("a", 0)
    assert sum(isinstance(record.event, Updated) for record in records) == (status is None)


def test_a_stage_does_not_start_what_waits_for_the_servers():
    story = Story(hooked("side", "prestart", sidecar=True), "web", "db")
    story.run("side", "web", "db")
    story.say(inputs.Restored(reattached=False), "web")

    step = story.say(inputs.Exited(exit_code=1), "db")

    assert names(step, StartTask) == []


ENDED_TYPES = {"0.5.0": ["Killed"], "0.5.6": ["Task Setup", "Killed"], "1.1.2": []}
"""What a task has after Received that is stopped before its client has it."""


def stopped_before_it_is_placed(way: str, dialect: str) -> Story:
    """Return a story of an allocation that its servers want to end, of which its client has not heard."""
    story = Story("web", hooked("first", "prestart"), hooked("last", "poststop"), dialect=dialect, JobModifyIndex=7)
    if way == "a stop":
        story.say(inputs.StopRequested())
    elif way == "a lost node":
        story.say(inputs.NodeLost())
    else:
        story.engine.update("a", {"DesiredStatus": "evict"})
    return story


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("is_each", [False, True], ids=["at once", "one by one"])
@pytest.mark.parametrize("way", ["a stop", "a lost node", "an update"])
def test_what_is_to_be_stopped_before_its_client_has_it_is_received_and_dead(way, is_each, dialect):
    story = stopped_before_it_is_placed(way, dialect)
    tasks = ("first", "last", "web")

    step = story.say(inputs.PlacementReceived(), *(tasks if is_each else ()))

    assert [(story.state(task).state, story.state(task).failed) for task in tasks] == [("dead", False)] * 3
    assert {tuple(story.types(task)) for task in tasks} == {tuple(ENDED_TYPES[dialect])}
    assert story.engine.snapshot("a").client_status == "complete"
    assert (step.outcome, step.effects, story.engine.restore()) == ("decided", (ReleaseResources(),), [])
    assert story.say(inputs.PlacementReceived()).outcome == "repeated"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_placed_to_be_stopped_is_received_and_dead(dialect):
    engine = Engine(dialect=dialect)
    engine.place({"ID": "a", "DesiredStatus": "stop", "TaskGroup": "group", "Job": job("web")})
    engine.place({"ID": "b", "DesiredStatus": "stop"})

    engine.report("a", "", inputs.PlacementReceived())
    engine.report("b", "web", inputs.PlacementReceived())

    assert [engine.snapshot(alloc).client_status for alloc in "ab"] == ["complete", "complete"]


WAYS_TO_HEAR: list[tuple[str, Input]] = [
    ("web", inputs.Restored()),
    ("", inputs.Restored()),
    ("", inputs.StopRequested()),
    ("", inputs.ServerContacted()),
    ("", inputs.NodeReconnected()),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("task", "said"), WAYS_TO_HEAR, ids=[f"{type(s).__name__} {t}" for t, s in WAYS_TO_HEAR])
def test_a_client_that_was_away_ends_what_is_to_be_stopped_when_it_hears_of_it(task, said, dialect):
    if type(said) in NEW_CLIENT_ONLY and dialect != NEW:
        return
    story = Story("web", "other", dialect=dialect)
    story.run("web", "other")
    lost = story.say(inputs.NodeLost())

    step = story.engine.report("a", task, said)
    again = story.say(inputs.StopRequested())

    assert lost.effects == ()
    assert (step.outcome, names(step, KillTask)) == ("decided", ["web", "other"])
    assert (again.outcome, again.events) == ("repeated", ())
    story.say(inputs.Exited(exit_code=None), "web", "other")
    assert {story.state(name).state for name in ("web", "other")} == {"dead"}
    assert story.types("web")[-2:] == (["Killing", "Killed"] if dialect != NEW else ["Terminated", "Killed"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_client_that_receives_again_what_is_to_be_stopped_ends_it(dialect):
    story = Story("web", dialect=dialect)
    story.run("web")
    story.say(inputs.NodeLost())

    step = story.say(inputs.PlacementReceived())

    assert (step.outcome, names(step, KillTask)) == ("repeated", ["web"])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("before", ["running", "pending", "restarting"])
def test_what_its_client_does_not_find_again_is_not_started_when_it_is_to_be_stopped(before, dialect):
    story = Story("web", dialect=dialect)
    story.run(*(() if before == "pending" else ("web",)))
    if before == "restarting":
        story.say(inputs.RestartRequested(), "web")
    story.say(inputs.NodeLost())

    step = story.say(inputs.Restored(reattached=False), "web")

    assert step.effects == (ReleaseResources(),)
    assert story.state("web").state == "dead"
    assert story.types("web")[-1] == ("Killed" if dialect != NEW else "Killing")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_task_that_no_death_dooms_ends_with_a_stop_of_a_failed_allocation(dialect):
    engine = Engine(dialect=dialect, seed=1)
    engine.place({"ID": "a"})
    for task in ("web", "db"):
        engine.report("a", task, inputs.PlacementReceived())
        engine.report("a", task, inputs.ProcessStarted())
    engine.report("a", "web", inputs.SetupFailed())
    engine.report("a", "more", inputs.PlacementReceived())
    engine.report("a", "more", inputs.ProcessStarted())

    step = engine.report("a", "", inputs.StopRequested())

    assert "more" in names(step, KillTask)


@pytest.mark.parametrize("said", [inputs.NodeLost(), inputs.SetupFailed()])
def test_what_has_ended_is_not_lost(said):
    story = placed_at("dead", NEW)
    story.say(inputs.StopRequested())
    story.say(inputs.Exited(), "other")

    assert story.say(said).outcome == "late"
    assert story.engine.snapshot("a").client_status == "complete"


# --- it is recorded, and found again ---

REPORTED = st.one_of(
    # Also what only the new client can say, which the old one refuses.
    kit.inputs("1.1.2"),
    kit.inputs("1.1.2", of="allocation"),
    # What happens most, and what only a clock can say.
    st.sampled_from([inputs.ProcessStarted(), inputs.Exited(exit_code=0), inputs.Exited(exit_code=1)]),
    st.sampled_from([inputs.PlacementReceived(), inputs.TimerDue(kind="start"), inputs.TimerDue(kind="kill")]),
)

GROUPS = {
    "one task": (job("web"), ("web",)),
    "a leader": (job({"Name": "web", "Leader": True}, "db", Type="batch"), ("web", "db")),
    "hooks": (
        job(hooked("pre", "prestart"), "web", hooked("side", "prestart", sidecar=True), hooked("stop", "poststop")),
        ("pre", "web", "side", "stop"),
    ),
    "slow to stop": (
        job({"Name": "web", "ShutdownDelay": SECOND}, "db", policy=POLICY | {"Attempts": 0}),
        ("web", "db"),
    ),
    "no job": (None, ("web", "db")),
}


@st.composite
def told(draw: st.DrawFn) -> tuple[str, str, list[tuple[int, str, Input]]]:
    """Draw a dialect, a group, and what is said: how much later, of which task."""
    dialect = draw(st.sampled_from(sorted(DIALECTS)))
    group = draw(st.sampled_from(sorted(GROUPS)))
    tasks = st.sampled_from(["", *GROUPS[group][1]])
    step = st.tuples(st.sampled_from([0, 1, SECOND, 20 * SECOND, 100 * SECOND]), tasks, REPORTED)
    return dialect, group, draw(st.lists(step, max_size=25))


def began(dialect: str, group: str) -> tuple[Engine, ManualClock]:
    """Return an engine with an allocation that is placed."""
    clock = ManualClock(SECOND)
    engine = Engine(dialect=dialect, clock=clock, seed=3)
    found, tasks = GROUPS[group]
    engine.place(
        {"ID": "a", "JobID": "example", "TaskGroup": "group"}
        | ({} if found is None else {"Job": found | {"JobModifyIndex": 7}})
    )
    for task in ("",) if found is not None else tasks:
        engine.report("a", task, inputs.PlacementReceived())
    return engine, clock


@drawn(told())
def test_whatever_is_said_the_log_tells_the_state_and_the_timers(case):
    dialect, group, script = case
    engine, clock = began(dialect, group)
    for later_ns, task, said in script:
        clock.advance(later_ns)
        for step in engine.due():
            assert all(isinstance(effect, (StartTask, KillTask)) for effect in step.effects)
        state = engine.store.read("a")
        seed = random.Random(11)
        plan = engine.group("a")
        try:
            step = decide(state, plan, said, task=task, now_ns=clock.time_ns(), rng=seed)
        except TaskfoldError as refusal:
            with pytest.raises(type(refusal)):
                engine.report("a", task, said)
            continue
        # Deciding again, from the state that is handed out or from that of the folder, gives the same bytes.
        again = decide(
            engine.store.fold.owned("a"), plan, said, task=task, now_ns=clock.time_ns(), rng=random.Random(11)
        )
        assert msgspec.json.encode(again) == msgspec.json.encode(step)
        live = engine.report("a", task, said)
        assert [(task, type(event)) for task, event in live.events] == [(task, type(e)) for task, e in step.events]
        assert live.outcome == step.outcome
        for effect in live.effects:
            if isinstance(effect, StartTask):
                # The old client starts what it does not find again without a word: the task is shown as running.
                is_silent = isinstance(said, inputs.Restored) and not engine.dialect.has_new_client
                assert engine.task("a", effect.task).state in {"pending", *(("running",) if is_silent else ())}
            elif isinstance(effect, SignalTask):
                assert engine.task("a", effect.task).state == "running"

    folded = Fold(dialect)  # which refuses what the table refuses
    folded.apply_all(engine.store.log.read_all())
    assert folded["a"] == engine.store.read("a")
    engine.store._check()
    timers = engine._core.timers
    timers._check()
    for name, task in folded["a"].tasks.items():
        if (planned_ns := timers.get("a", name)) is not None:
            assert planned_ns == due_of(task)
        elif (due_ns := due_of(task)) is not None:
            assert due_ns <= clock.time_ns()


@drawn(told())
def test_a_process_that_begins_again_goes_on_where_the_log_ends(case):
    dialect, group, script = case
    engine, clock = began(dialect, group)
    for later_ns, task, said in script:
        clock.advance(later_ns)
        try:
            engine.report("a", task, said)
        except TaskfoldError:
            continue
    log = MemoryLog(dialect)
    log.append_all([Append("a", 0, [msgspec.structs.replace(r, seq=0) for r in engine.store.log.read_all()])])

    again = Engine(log, clock=clock, seed=5)

    assert again.store.read("a") == engine.store.read("a")
    owed_now = {
        (type(e), e.task) for step in again.restore() for e in step.effects if not isinstance(e, ReleaseResources)
    }
    due_then = {
        (type(e), e.task) for step in again.due(2**62) for e in step.effects if not isinstance(e, ReleaseResources)
    }
    for name, task in again.store.read("a").tasks.items():
        waits = task.state == "pending" and task.memory is not None and task.memory.start_at_ns is not None
        if waits and not task.memory.killed:
            assert (StartTask, name) in owed_now | due_then
        if task.state == "running" and task.memory is not None and (task.memory.killed or task.memory.restart):
            assert (KillTask, name) in owed_now | due_then
    assert again.next_due() is None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_event_has_the_time_of_its_input_and_a_start_that_of_its_effect(dialect):
    story = Story("web", dialect=dialect, policy=POLICY | {"Attempts": 1})
    story.run("web")
    story.clock.advance(SECOND)
    failed_ns = story.clock.time_ns()

    failure = story.say(inputs.Exited(exit_code=1), "web")
    story.clock.advance(2 * SECOND)
    story.say(inputs.ProcessStarted(), "web")
    asked = story.say(inputs.RestartRequested(), "web")
    again = story.say(inputs.Exited(exit_code=1), "web")
    story.say(inputs.ProcessStarted(), "web")
    end = story.say(inputs.Exited(exit_code=1), "web")

    assert [event.time_ns for _, event in failure.events] == [failed_ns] * 2
    assert {event.time_ns for step in (asked, again, end) for _, event in step.events} == {story.clock.time_ns()}
    assert again.effects == (StartTask(task="web", at_ns=story.clock.time_ns()),)
    assert wire_type(end.events[-1][1]) == "Not Restarting"


def test_an_embedder_that_begins_again_owes_reports_of_the_times_that_are_to_come():
    story = Story({"Name": "web", "ShutdownDelay": SECOND}, "db")
    story.run("web", "db")
    story.say(inputs.KillRequested(), "web")
    story.say(inputs.Exited(exit_code=1), "db")
    [web_ns, db_ns] = [due_of(story.state(task)) for task in ("web", "db")]
    now_ns = story.clock.time_ns()

    step = owed(story.engine.store.read("a"), story.engine.group("a"), now_ns=now_ns, rng=random.Random())

    assert step.effects == ()
    assert step.timers == (Timer(task="web", kind="kill", due_ns=web_ns), Timer(task="db", kind="start", due_ns=db_ns))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_end_of_a_process_is_recorded_as_it_was_reported(dialect):
    story = Story("web", dialect=dialect)
    story.run("web")

    step = story.say(inputs.Exited(exit_code=137, signal=9, error="OOM", oom_killed=True), "web")

    end = ev.Terminated(time_ns=story.clock.time_ns(), exit_code=137, signal=9, message="OOM", oom_killed=True)
    assert step.events[0] == ("web", end)


def test_what_is_owed_changes_nothing():
    story = Story("web")
    story.run("web")
    story.say(inputs.KillRequested(), "web")
    before = story.engine.index

    [step] = story.engine.restore()

    assert names(step, KillTask) == ["web"]
    assert (step.writes, story.engine.index) == ((), before)


def test_how_a_process_of_python_ended_is_reported_as_nomads_drivers_do():
    with (
        subprocess.Popen(["/bin/sh", "-c", "kill -KILL $$"]) as killed,
        subprocess.Popen(["/bin/sh", "-c", "exit 7"]) as ended,
    ):
        pass

    assert inputs.Exited.of_returncode(killed.returncode) == inputs.Exited(exit_code=137, signal=9)
    assert inputs.Exited.of_returncode(ended.returncode) == inputs.Exited(exit_code=7)
    for running in (None, "7", True):
        with pytest.raises(InputRefused, match="not a number: wait for the process to end"):
            inputs.Exited.of_returncode(running)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("where", WHERE)
def test_a_negative_exit_code_is_refused_wherever_the_task_is(where, dialect):
    story = placed_at(where, dialect)
    before = story.engine.index

    with pytest.raises(InputRefused):
        story.say(inputs.Exited(exit_code=-1), "web")

    assert story.engine.index == before


def test_a_negative_exit_code_that_a_nomad_wrote_is_kept():
    # Drivers that others write may say so, and what happened is not refused.
    story = Story("web")
    story.run("web")
    story.engine.record("a", "web", ev.Terminated(exit_code=-9))

    assert story.engine.snapshot("a").tasks["web"].events[-1].exit_code == -9


# --- policies and jobs ---


def test_all_that_is_wrong_with_the_policies_is_told_at_once():
    bad = {"Name": "web", "RestartPolicy": {"Attempts": -1, "Interval": SECOND, "Delay": -SECOND, "Mode": "nope"}}
    story = Story(bad, "db", policy={"Attempts": 0, "Interval": 60 * SECOND, "Mode": "delay"})

    with pytest.raises(PolicyRefused) as refused:
        story.say(inputs.PlacementReceived())

    assert refused.value.problems == [
        "task 'web': Unsupported restart mode: \"nope\"",
        "task 'web': Interval can not be less than 5s (got 1s)",
        "task 'web': Attempts can not be negative (got -1)",
        "task 'web': Delay can not be negative (got -1s)",
        "task 'db': Restart policy \"delay\" with 0 attempts is ambiguous",
    ]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"Job": 7}, r"^\$.Job: expected an object, found 7$"),
        ({"Job": {"TaskGroups": [{"Name": 7}]}}, r"^\$.Job.TaskGroups\[0\].Name: expected a text, found 7$"),
        ({"Job": job("web"), "TaskGroup": "other"}, "the job has no group 'other'; it has 'group'"),
    ],
)
def test_a_job_that_cannot_be_read_is_told(fields, why):
    engine = Engine(dialect=NEW)

    def place_and_report() -> None:
        engine.place({"ID": "a", "TaskGroup": "group"} | fields)
        engine.report("a", "", inputs.PlacementReceived())

    with pytest.raises(DecodeError, match=why):
        place_and_report()


def test_a_type_of_job_without_a_default_has_to_name_its_policy():
    engine = Engine(dialect=NEW)
    engine.place({"ID": "a", "Job": {"Type": "sysbatch", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "web"}]}]}})

    with pytest.raises(PolicyRefused, match="a job of type 'sysbatch' has no default"):
        engine.report("a", "", inputs.PlacementReceived())


@pytest.mark.parametrize(("dialect", "attempts"), [(OLD, 9), (NEW, 2)])
def test_a_policy_that_is_updated_in_place_holds_at_once_only_in_the_old_client(dialect, attempts):
    story = Story("web", dialect=dialect)
    story.say(inputs.PlacementReceived())
    story.engine.update("a", {"Job": job("web", policy=POLICY | {"Attempts": 9})})

    assert story.engine.group("a").plan("web").policy.attempts == attempts


def test_a_policy_without_a_mode_has_that_of_the_default():
    story = Story("web", policy={"Attempts": 3, "Interval": 60 * SECOND, "Delay": SECOND})

    assert story.engine.group("a").plan("web").policy.mode == "fail"


def test_a_task_that_says_nothing_has_five_seconds_to_end():
    assert TaskPlan(name="web", policy=RestartPolicy()).kill_timeout_ns == 5 * SECOND


@pytest.mark.parametrize(("dialect", "timeout_ns"), [(OLD, SECOND), (NEW, 0)])
def test_a_plan_made_by_hand_that_gives_no_time_to_end_has_a_second_in_the_old_client(dialect, timeout_ns):
    group = Group.of([TaskPlan(name="web", policy=RESTARTS, kill_timeout_ns=0)], dialect)
    allocation = Allocation("a", tasks={"web": Task(state="running", started_at_ns=1)})

    step = decide(allocation, group, inputs.KillRequested(), task="web", now_ns=7, rng=random.Random(1))

    assert [effect.timeout_ns for effect in step.effects] == [timeout_ns]


def test_a_group_made_by_hand_refuses_a_bad_policy():
    with pytest.raises(PolicyRefused):
        Group.of([TaskPlan(name="web", policy=RestartPolicy(mode="nope"))], dialect_of(NEW))


def test_what_is_owed_to_an_allocation_without_decisions_is_nothing():
    engine = Engine(dialect=NEW)
    engine.place({"ID": "a"})
    engine.record("a", "web", ev.Received())
    group = Group(dialect=dialect_of(NEW), is_open=True)

    assert engine.restore() == []
    assert owed(engine.store.read("a"), group, now_ns=1, rng=random.Random(1)).effects == ()


@pytest.mark.parametrize(("dialect", "attempts"), [(OLD, 2), (NEW, 7)])
def test_a_task_has_a_policy_of_its_own_only_where_nomad_knows_that(dialect, attempts):
    story = Story({"Name": "web", "RestartPolicy": POLICY | {"Attempts": 7}}, dialect=dialect, JobModifyIndex=7)

    assert story.engine.group("a").plan("web").policy.attempts == attempts


# --- tasks that no job tells ---


def test_a_task_of_a_name_that_the_job_has_not_is_refused():
    for said in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.KillRequested()):
        with pytest.raises(UnknownTask, match="the group has no task 'typo'; it has 'web'"):
            Story("web").say(said, "typo")


def test_an_allocation_without_a_job_is_placed_by_the_names_of_its_tasks():
    engine = Engine(dialect=NEW)
    engine.place({"ID": "a"})

    with pytest.raises(InputRefused, match="no job that tells its tasks: name the task that is placed"):
        engine.report("a", "", inputs.PlacementReceived())


def test_what_is_taken_for_a_task_where_no_job_tells_them_is_told_once():
    engine = Engine(dialect=NEW)
    engine.place({"ID": "a"})

    notes = [engine.report("a", "web", said).notes for said in (inputs.PlacementReceived(), inputs.ProcessStarted())]

    assert notes == [
        (("web", "no job tells the tasks of the allocation: this one is taken as a service with the default policy"),),
        (),
    ]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_task_that_the_job_tells_no_more_can_end_and_is_ended(dialect):
    story = Story("web", "db", dialect=dialect)
    story.run("web", "db")
    story.engine.update("a", {"Job": job("web")})

    stop = story.say(inputs.StopRequested())
    story.say(inputs.Exited(exit_code=None), "web", "db")

    assert names(stop, KillTask) == ["web", "db"]
    assert {story.state(task).state for task in ("web", "db")} == {"dead"}


def test_a_task_that_somebody_recorded_keeps_nobody_from_learning_what_is_owed():
    story = Story("web")
    story.run()
    story.engine.record("a", "typo", ev.Received())

    assert [effect for step in story.engine.restore() for effect in step.effects] == [
        StartTask(task="web", at_ns=story.clock.time_ns())
    ]


# --- what is learnt together ---


def main_and_sidecar(dialect: str = NEW) -> Story:
    """Return a story of a main task and its sidecar, which run."""
    policy = POLICY | {"Attempts": 0}
    story = Story(hooked("side", "prestart", sidecar=True), "main", dialect=dialect, policy=policy, Type="batch")
    story.run("side")
    story.say(inputs.ProcessStarted(), "main")
    return story


@pytest.mark.parametrize("is_together", [False, True], ids=["one by one", "together"])
def test_a_sidecar_that_ended_with_the_main_task_is_not_ended_because_of_it(is_together):
    story = main_and_sidecar()
    ends = [("main", inputs.Exited(exit_code=0)), ("side", inputs.Exited(exit_code=1))]

    for said in [ends] if is_together else [[end] for end in ends]:
        story.engine.report_all("a", said)

    doomed = ["Main Tasks Dead", "Killing", "Terminated", "Killed"]
    assert story.types("side") == ["Started", *(["Terminated", "Not Restarting"] if is_together else doomed)]


def test_what_is_reported_together_is_refused_together():
    story = main_and_sidecar()
    before = story.engine.index
    ended = ("main", inputs.Exited(exit_code=0))
    for other, error, why in (
        (("typo", inputs.Exited()), UnknownTask, "the group has no task 'typo'"),
        (("", inputs.StopRequested()), InputRefused, "StopRequested: what is reported together happens to tasks"),
        (("side", inputs.Exited(exit_code=-1)), InputRefused, "is no exit code"),
        (("side", ev.Killed()), InputRefused, "events.Killed is an event: record it"),
        ("side", InputRefused, "expected a list of pairs.*; entry 1 is a value of type str"),
    ):
        with pytest.raises(error, match=why):
            story.engine.report_all("a", [ended, other])
    with pytest.raises(InputRefused, match="found none"):
        story.engine.report_all("a", [])
    with pytest.raises(InputRefused, match="found a value of type Exited"):
        story.engine.report_all("a", inputs.Exited())

    assert story.engine.index == before


def test_what_is_reported_together_is_known_by_one_id():
    story = main_and_sidecar()
    ends = [("main", inputs.Exited(exit_code=0)), ("side", inputs.Exited(exit_code=0))]

    outcomes = [story.engine.report_all("a", ends, id="ends").outcome for _ in range(2)]

    assert outcomes == ["decided", "repeated"]


@pytest.mark.parametrize(
    ("reports", "outcome"),
    [
        ([("main", inputs.SetUp()), ("side", inputs.Exited())], "decided"),
        ([("main", inputs.SetUp()), ("side", inputs.ProcessStarted())], "late"),
        ([("side", inputs.ProcessStarted()), ("main", inputs.SetUp())], "repeated"),
    ],
)
def test_what_is_reported_together_is_decided_if_any_of_it_is(reports, outcome):
    assert main_and_sidecar().engine.report_all("a", reports).outcome == outcome


@pytest.mark.parametrize("said", [inputs.RestartRequested(), inputs.SignalRequested(signal="SIGHUP")])
def test_what_is_asked_of_every_task_is_decided_if_any_of_them_runs(said):
    story = Story("web", "db")
    story.run()
    assert story.say(said).outcome == "impossible"

    story.say(inputs.ProcessStarted(), "web")

    assert story.say(said).outcome == "decided"


@pytest.mark.parametrize("said", [inputs.RestartRequested(), inputs.SignalRequested(), inputs.Restored()])
def test_what_is_said_of_every_task_of_an_allocation_without_any_changes_nothing(said):
    step = Story("web").say(said)

    assert (step.outcome, step.writes, step.notes) == ("decided", (), ())


def test_what_is_not_found_again_starts_later_than_it_ran():
    story = Story("web", dialect=OLD)
    story.run("web")

    step = story.say(inputs.Restored(reattached=False), "web")

    assert step.effects == (StartTask(task="web", at_ns=story.clock.time_ns() + 1),)
    assert [again.effects for again in story.engine.restore()] == [step.effects]


# --- a group of the old client, whose tasks are being started ---


def starting(dialect: str, *, is_leader: bool = False) -> tuple[Story, Step]:
    """Return a story of a task that is being started when its group ends, and the step that ended it."""
    story = Story({"Name": "first", "Leader": is_leader}, "good", dialect=dialect, Type="batch")
    story.run("first")
    said = inputs.Exited(exit_code=0) if is_leader else inputs.SetupFailed()
    return story, story.say(said, "first")


OLD_DOOMS = [("0.5.0", False), (OLD, False), (OLD, True)]


@pytest.mark.parametrize(("dialect", "is_leader"), OLD_DOOMS)
def test_a_task_that_was_started_when_its_group_ended_is_killed_as_any_other(dialect, is_leader):
    story, doom = starting(dialect, is_leader=is_leader)

    started = story.say(inputs.ProcessStarted(), "good")
    story.say(inputs.Exited(exit_code=None), "good")

    event = "Leader Task Dead" if is_leader else "Sibling Task Failed"
    assert (names(doom, KillTask)[-1], names(started, KillTask)) == ("good", ["good"])
    assert story.types("good") == ["Started", event, "Killing", "Killed"]
    assert story.state("good").state == "dead"


@pytest.mark.parametrize("said", [inputs.Exited(exit_code=None), inputs.Restored(reattached=False)])
@pytest.mark.parametrize(("dialect", "is_leader"), OLD_DOOMS)
def test_a_task_whose_start_was_given_up_when_its_group_ended_is_dead_with_that_alone(dialect, is_leader, said):
    story, _ = starting(dialect, is_leader=is_leader)

    step = story.say(said, "good")

    assert story.types("good") == ["Leader Task Dead" if is_leader else "Sibling Task Failed"]
    assert story.state("good").state == "dead"
    assert step.effects == (ReleaseResources(),)


@pytest.mark.parametrize("said", [inputs.StartFailed(recoverable=True), inputs.DownloadFailed()])
def test_a_start_that_fails_when_its_group_has_ended_is_not_tried_again(said):
    story, _ = starting(OLD)

    step = story.say(said, "good")

    assert story.types("good")[1:] == ["Sibling Task Failed"]
    assert step.effects == (ReleaseResources(),)
