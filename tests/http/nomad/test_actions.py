"""Stopping, restarting and signalling through HTTP: decided by the engine, and answered as a real Nomad did."""

from __future__ import annotations

import json

import pytest

from support.acting import ALLOC, SECOND, app_with
from support.asgi import Reply, ask
from support.recordings import actions, final, scenarios
from taskfold import Engine, events, inputs
from taskfold.effects import KillTask, SignalTask, StartTask, Step
from taskfold.events import wire_type
from taskfold.http.app import App

PLACED = "2902818a-93ea-964b-31e4-301c0bf05874"
BY_NAME = {scenario.name: scenario for scenario in scenarios("1.1.2")}


def put(app: App, action: str, body: object = None) -> Reply:
    """Ask for an action."""
    path = f"/v1/allocation/{ALLOC}/stop" if action == "stop" else f"/v1/client/allocation/{ALLOC}/{action}"
    return ask(app, f"PUT {path}", body=b"" if body is None else json.dumps(body).encode())


def types(app: App, task: str) -> list[str]:
    """Return the types of a task's events."""
    return [wire_type(event) for event in app.engine.task(ALLOC, task).events]


def recorded(scenario: str, action: str) -> list[tuple[object, int, str]]:
    """Return what was asked of a real Nomad, and what it answered."""
    return [
        (each.get("request_body"), each["status"], each["body"])
        for each in actions(BY_NAME[scenario])
        if each.get("path", "").endswith(f"/{action}")
    ]


def test_restarts_are_answered_as_recorded() -> None:
    app = app_with("main", "other")

    for body, status, text in recorded("alloc_restart_task", "restart"):
        reply = put(app, "restart", body)
        assert (reply.status, reply.text) == (status, text)
        for task in ("main", "other"):
            if types(app, task)[-1] == "Restart Signaled":
                app.engine.report(ALLOC, task, inputs.Exited(exit_code=130, signal=2))
                app.engine.report(ALLOC, task, inputs.ProcessStarted())

    again = ["Restart Signaled", "Terminated", "Restarting", "Started"]
    assert types(app, "main") == ["Received", "Started", *again, *again]
    assert types(app, "other") == ["Received", "Started", *again]


def test_a_task_that_waits_for_its_restart_is_not_restarted_as_recorded() -> None:
    app = app_with("main")
    app.engine.report(ALLOC, "main", inputs.Exited(exit_code=1))
    [(body, status, text)] = recorded("restart_during_delay", "restart")

    reply = put(app, "restart", body)

    assert (reply.status, reply.text) == (status, text) == (500, "Task not running")
    assert [value for name, value in reply.headers if name == "Vary"] == ["Accept-Encoding", "Origin"]


def test_signals_are_answered_as_recorded() -> None:
    app = app_with("main", "mock", "mockerr")

    for body, status, text in recorded("alloc_signal", "signal"):
        reply = put(app, "signal", body)
        if "mock signal error" in text:
            # The answer comes before the signal is sent: what a driver refuses is not known by then.
            assert (reply.status, reply.text) == (200, '{"Index":0}')
        else:
            assert (reply.status, reply.text) == (status, text)

    signals = [event.extras.details for event in app.engine.task(ALLOC, "main").events if event.extras is not None]
    assert signals == [{"signal": "SIGUSR1"}, {"signal": "SIGUSR1"}, {"signal": "SIGBOGUS"}, {"signal": ""}]


def test_a_stop_is_answered_as_recorded() -> None:
    app = app_with("main")
    [(_, status, text)] = recorded("alloc_stop", "stop")

    reply = put(app, "stop")

    assert reply.status == status
    assert sorted(json.loads(reply.text)) == sorted(json.loads(text))
    body = json.loads(ask(app, f"GET /v1/allocation/{ALLOC}").text)
    assert reply.header("X-Nomad-Index") == str(body["ModifyIndex"]) == str(json.loads(reply.text)["Index"])
    assert body["AllocModifyIndex"] == body["ModifyIndex"]
    assert (body["DesiredStatus"], body["DesiredDescription"]) == ("stop", "alloc is being migrated")
    assert body["DesiredTransition"] == {"ForceReschedule": None, "Migrate": True, "Reschedule": None}
    assert types(app, "main") == ["Received", "Started", "Killing"]


def test_a_second_stop_changes_nothing_and_is_no_error() -> None:
    app = app_with("main")
    first = json.loads(put(app, "stop").text)["Index"]

    again = put(app, "stop")

    assert (again.status, json.loads(again.text)["Index"]) == (200, first)


def test_what_cannot_be_done_to_some_tasks_is_done_to_the_others() -> None:
    app = app_with("main", "waits", "too", started=("main",))

    reply = put(app, "restart", {})

    assert reply.status == 500
    assert reply.text == "2 errors occurred:\n\t* Task not running\n\t* Task not running\n\n"
    assert types(app, "main")[-1] == "Restart Signaled"
    signalled = put(app, "signal", {"Signal": "SIGHUP"})
    assert signalled.text.startswith("2 errors occurred:\n\t* Failed to signal task: waits, err: Task not running\n")


def test_a_restart_that_is_under_way_is_no_error() -> None:
    app = app_with("main")

    assert [put(app, "restart", {"TaskName": "main"}).status for _ in range(2)] == [200, 200]
    assert types(app, "main").count("Restart Signaled") == 1


def test_who_embeds_the_engine_is_told_what_to_do() -> None:
    app = app_with("main")
    steps: list[Step] = []
    end = app.engine.on_step(steps.append)

    put(app, "signal", {"Task": "main", "Signal": "SIGHUP"})
    put(app, "restart", {"TaskName": "main"})
    app.engine.report(ALLOC, "main", inputs.Exited(exit_code=130, signal=2))
    end()
    put(app, "stop")

    assert [type(effect) for step in steps for effect in step.effects] == [SignalTask, KillTask, StartTask]


def test_what_a_listener_of_the_embedder_raises_is_not_for_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with("main")
    steps: list[Step] = []

    def refuse(_: Step) -> None:
        raise ValueError("no")

    app.engine.on_step(refuse)
    app.engine.on_step(steps.append)

    assert put(app, "signal", {"Task": "main", "Signal": "SIGHUP"}).status == 200
    told = post(app, {"Alloc": ALLOC, "Task": "main", "Input": {"Type": "RestartRequested"}})

    assert told.status == 200
    assert len(steps) == 2
    assert "listeners of the engine raised" in caplog.text


@pytest.mark.parametrize(
    ("action", "body", "status", "text"),
    [
        ("restart", {"TaskName": 7}, 500, "Failed to decode body: Expected `str | null`, got `int` - at `$.TaskName`"),
        ("signal", {"Signal": []}, 400, "Failed to decode body: Expected `str | null`, got `array` - at `$.Signal`"),
        ("restart", [], 500, "Failed to decode body: Expected `object | null`, got `array`"),
    ],
)
def test_a_body_of_wrong_types_is_refused(action: str, body: object, status: int, text: str) -> None:
    app = app_with("main")

    reply = put(app, action, body)

    assert (reply.status, reply.text) == (status, text)
    assert types(app, "main") == ["Received", "Started"]


def test_a_policy_that_is_not_valid_is_told() -> None:
    app = app_with("main")
    bad = {"Name": "group", "RestartPolicy": {"Interval": 0, "Mode": "nope"}, "Tasks": [{"Name": "main"}]}
    app.engine.place({"ID": "b", "JobID": "b", "TaskGroup": "group", "Job": {"ID": "b", "TaskGroups": [bad]}})

    reply = ask(app, "PUT /v1/allocation/b/stop")

    assert reply.status == 409
    assert 'Unsupported restart mode: "nope"' in reply.text
    assert "Interval can not be less than 5s (got 0s)" in reply.text


def test_a_mirror_decides_nothing() -> None:
    app = app_with("main")
    app.context.is_mirror = True

    for action in ("stop", "restart", "signal"):
        assert put(app, action, {}).status == 409
    assert types(app, "main") == ["Received", "Started"]


def post(app: App, *lines: object) -> Reply:
    """Post inputs."""
    body = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return ask(app, "POST /v1/allocations/inputs", body=body)


def test_a_scheduler_in_another_language_is_told_events_effects_and_timers() -> None:
    app = app_with("main")

    reply = post(
        app,
        {"Alloc": ALLOC, "Task": "main", "Input": {"Type": "Exited", "ExitCode": 1}, "ID": "x-1"},
        {"Alloc": ALLOC, "Task": "main", "Input": {"Type": "Exited", "ExitCode": 1}, "ID": "x-1"},
        {"Alloc": ALLOC, "Task": "main", "Input": {"Type": "Exited", "ExitCode": 1}},
        {"Alloc": "nobody", "Input": {"Type": "StopRequested"}},
    )

    assert reply.status == 200
    first, repeat, impossible, unknown = json.loads(reply.text)["Results"]
    assert [entry["Event"]["Type"] for entry in first["Events"]] == ["Terminated", "Restarting"]
    [timer] = first["Timers"]
    assert (first["Line"], first["Outcome"], timer["Kind"]) == (1, "decided", "start")
    assert SECOND <= timer["Due"] - 1 * SECOND < 1.25 * SECOND
    assert repeat["Outcome"] == "repeated"
    assert impossible["Notes"] == [{"Task": "main", "Note": "no process of the task is known to run"}]
    assert unknown == {"Line": 4, "Alloc": "nobody", "Error": "no allocation 'nobody' is known"}

    due = {"Alloc": ALLOC, "Task": "main", "Time": timer["Due"], "Input": {"Type": "TimerDue", "Kind": "start"}}
    [told] = json.loads(post(app, due).text)["Results"]
    assert told["Effects"] == [{"Type": "StartTask", "Task": "main", "At": timer["Due"]}]
    assert app.engine.next_due() is None


@pytest.mark.parametrize(
    ("lines", "status", "error"),
    [
        ([{"Alloc": ALLOC, "Input": {"Type": "Exploded"}}], 400, "Invalid value 'Exploded' - at `$.Input.Type`"),
        ([{"Alloc": ALLOC, "Input": {"Type": "Started", "Speed": 1}}], 400, "contains unknown field `Speed`"),
        ([{"Alloc": ALLOC}], 400, "missing required field `Input`"),
        ([b"{"], 400, "Input data was truncated"),
        ([b"\xff"], 400, "invalid start byte"),
        ([], 400, "expected JSON lines, each an input, found none"),
        ([{"Alloc": "nobody", "Input": {"Type": "Placed"}}], 404, "no allocation 'nobody' is known"),
        ([{"Alloc": ALLOC, "Task": "no", "Input": {"Type": "Started"}}], 404, "the group has no task 'no'"),
        ([{"Alloc": ALLOC, "Task": "main", "Input": {"Type": "StopRequested"}}], 409, "leave 'main' out"),
        ([{"Alloc": ALLOC, "Input": {"Type": "Started"}}], 409, "Started happens to a task: name it"),
        ([{"Alloc": ALLOC, "Task": "main", "Time": 1, "Input": {"Type": "Started"}}], 409, "999999999 ns before that"),
        ([{"Alloc": ALLOC, "Input": {"Type": "Placed"}, "ExpectedVersion": 1}], 409, "not 1: read it again"),
    ],
)
def test_bad_inputs_are_refused_with_their_line_and_change_nothing(lines, status, error) -> None:
    app = app_with("main")
    before = app.engine.index

    reply = post(app, *lines)

    assert reply.status == status
    assert error in reply.text
    assert app.engine.index == before


def test_all_malformed_lines_are_named_and_none_is_decided() -> None:
    app = app_with("main")
    good = {"Alloc": ALLOC, "Task": "main", "Input": {"Type": "Exited"}}

    reply = post(app, good, b"{", good, b"[]")

    assert [error["Line"] for error in json.loads(reply.text)["Errors"]] == [2, 4]
    assert types(app, "main") == ["Received", "Started"]
    assert isinstance(app.engine.task(ALLOC, "main").events[-1], events.Started)


# --- bodies ---


@pytest.mark.parametrize(
    ("body", "problem"),
    [(b"", "Request body is empty"), (b" \n", "EOF"), (b"{", "unexpected EOF")],
)
def test_a_signal_without_a_body_is_refused_and_nothing_happens(body: bytes, problem: str) -> None:
    app = app_with("main")
    before = app.engine.index

    for method in ("PUT", "POST"):
        reply = ask(app, f"{method} /v1/client/allocation/{ALLOC}/signal", body=body)
        assert (reply.status, reply.text) == (400, f"Failed to decode body: {problem}")

    assert app.engine.index == before
    assert types(app, "main") == ["Received", "Started"]


def test_the_case_of_keys_does_not_count_as_go_has_it() -> None:
    app = app_with("main", "other")

    assert put(app, "signal", {"task": "main", "SIGNAL": "SIGHUP"}).status == 200
    assert put(app, "restart", {"taskname": "main"}).status == 200

    assert types(app, "main")[-2:] == ["Signaling", "Restart Signaled"]
    assert types(app, "other") == ["Received", "Started"]
    [signalled] = [e for e in app.engine.task(ALLOC, "main").events if isinstance(e, events.Signaling)]
    assert signalled.extras is not None
    assert signalled.extras.details == {"signal": "SIGHUP"}


@pytest.mark.parametrize("dialect", ["0.5.6", "1.1.2"])
@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{}", 400, "Job must be specified"),
        (b"null", 400, "Job must be specified"),
        (b'{"Job":null}', 400, "Job must be specified"),
        (b'{"Job":{}}', 400, "Job ID hasn't been provided"),
        (b'{"job":{"id":null}}', 400, "Job ID hasn't been provided"),
        (b'{"Job":7}', 400, "Expected `object | null`, got `int` - at `$.Job`"),
        (b"[]", 400, "Expected `object | null`, got `array`"),
        (b'{"Job":{"ID":"a"}}', 501, "taskfold serves allocations, and accepts no jobs"),
    ],
)
def test_a_job_is_checked_as_far_as_nomad_checks_it_before_it_looks_into_it(dialect, body, status, text) -> None:
    app = App(Engine(dialect=dialect))

    reply = ask(app, "PUT /v1/jobs", body=body)

    assert (reply.status, reply.text) == (status, text)
    assert ask(app, "PUT /v1/jobs", body=b'{"Job":' + b"[" * 200 + b"]" * 200 + b"}").status == 400


# --- evaluations ---


def test_the_evaluation_of_a_stop_can_be_read_and_is_the_allocations() -> None:
    app = app_with("main", Priority=70, JobModifyIndex=7)
    told = json.loads(put(app, "stop").text)

    reply = ask(app, f"GET /v1/evaluation/{told['EvalID']}")

    recorded = next(
        json.loads(answer["body"])
        for name, answer in final(BY_NAME["alloc_stop"]).items()
        if name.endswith("/evaluations")
    )
    [like] = [each for each in recorded if each["TriggeredBy"] == "alloc-stop"]
    body = json.loads(reply.text)
    assert reply.header("X-Nomad-Index") == str(told["Index"]) == str(body["ModifyIndex"])
    # It is of no deployment, since none is served.
    assert list(body) == sorted(like.keys() - {"DeploymentID"})
    constant = {"Status", "TriggeredBy", "Type", "Namespace", "QueuedAllocations"}
    assert {name: body[name] for name in constant} == {name: like[name] for name in constant}
    assert (body["JobID"], body["Priority"], body["JobModifyIndex"]) == ("example", 70, 7)
    assert ask(app, f"GET /v1/evaluation/{told['EvalID'].upper()}").text == reply.text
    assert ask(app, f"GET /v1/evaluation/{told['EvalID']}/allocations").text == "[]"
    assert ask(app, f"GET /v1/evaluation/{told['EvalID']}?index={told['Index']}&wait=1s").text == reply.text


def test_an_evaluation_that_is_not_known_is_not_found() -> None:
    app = app_with("main")

    for path in (ALLOC, f"{ALLOC}/allocations"):
        reply = ask(app, f"GET /v1/evaluation/{path}")
        assert (reply.status, reply.text) == (404, "eval not found")
        assert reply.header("X-Nomad-Index") == str(app.engine.index)
    reply = ask(app, "GET /v1/evaluation/short")
    assert (reply.status, reply.text) == (500, "eval lookup failed: index error: UUID must be 36 characters")
    assert ask(app, f"PUT /v1/evaluation/{ALLOC}").status == 405
    assert ask(App(Engine(dialect="0.5.6")), f"GET /v1/evaluation/{ALLOC}").status == 501


def test_the_evaluations_of_a_jobs_stops_are_listed_and_those_of_nobody_else() -> None:
    app = app_with("main", Priority=70, JobModifyIndex=7)
    assert ask(app, "GET /v1/job/example/evaluations").text == "[]"
    told = sorted((json.loads(put(app, "stop").text) for _ in range(2)), key=lambda each: each["EvalID"])
    bodies = [json.loads(ask(app, f"GET /v1/evaluation/{each['EvalID']}").text) for each in told]

    for path in ("/v1/evaluations", "/v1/job/example/evaluations", "/v1/evaluations?pretty&namespace=*"):
        reply = ask(app, f"GET {path}")
        assert json.loads(reply.text) == bodies
        assert reply.header("X-Nomad-Index") == str(max(each["Index"] for each in told))
    assert json.loads(ask(app, f"GET /v1/evaluations?prefix={told[0]['EvalID'][:8].upper()}").text) == bodies[:1]
    assert ask(app, "GET /v1/job/other/evaluations").text == "[]"
    assert ask(app, "GET /v1/evaluations?namespace=other").text == "[]"
    assert ask(app, "GET /v1/evaluations?prefix=x").status == 500


def test_a_list_of_evaluations_waits_for_a_newer_one() -> None:
    app = app_with("main")
    index = json.loads(put(app, "stop").text)["Index"]

    reply = ask(app, f"GET /v1/job/example/evaluations?index={index}&wait=1s")

    assert (reply.status, reply.header("X-Nomad-Index")) == (200, str(index))
    newer = json.loads(put(app, "stop").text)["Index"]
    assert ask(app, f"GET /v1/evaluations?index={index}").header("X-Nomad-Index") == str(newer)


def test_an_evaluation_that_only_allocations_name_is_a_sentence_and_no_half_of_one() -> None:
    other = "4f1e7cbe-6a84-e215-8425-744661e8f44a"
    app = app_with("main")
    app.engine.place({"ID": PLACED, "JobID": "placed", "Namespace": "default", "EvalID": other})
    told = json.loads(put(app, "stop").text)["EvalID"]

    for path in (f"evaluation/{other}", "job/placed/evaluations", "evaluations", f"evaluations?prefix={other[:4]}"):
        reply = ask(app, f"GET /v1/{path}")
        assert (reply.status, reply.text.endswith("ask an agent of Nomad for this")) == (501, True)
    for path in (f"evaluation/{told}", "job/example/evaluations", f"evaluations?prefix={told[:8]}"):
        assert told in ask(app, f"GET /v1/{path}").text
    [stub] = json.loads(ask(app, f"GET /v1/evaluation/{other}/allocations").text)
    assert stub["ID"] == PLACED


def test_an_allocation_that_is_placed_anew_for_a_stop_may_name_its_evaluation() -> None:
    app = app_with("main")
    told = json.loads(put(app, "stop").text)["EvalID"]
    app.engine.place({"ID": PLACED, "JobID": "example", "Namespace": "default", "EvalID": told})

    assert [each["ID"] for each in json.loads(ask(app, "GET /v1/job/example/evaluations").text)] == [told]
    [stub] = json.loads(ask(app, f"GET /v1/evaluation/{told}/allocations").text)
    assert stub["ID"] == PLACED


def test_of_evaluations_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskfold.http.nomad.evaluation_cache._CAPACITY", 2)
    app = app_with("main")

    made = [json.loads(put(app, "stop").text)["EvalID"] for _ in range(3)]

    assert [ask(app, f"GET /v1/evaluation/{each}").status for each in made] == [404, 200, 200]
