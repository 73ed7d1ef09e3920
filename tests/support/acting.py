"""An application over one allocation, whose tasks are acted on."""

from __future__ import annotations

from taskfold import Engine, ManualClock, inputs
from taskfold.http.app import App

ALLOC = "203266e5-bff8-a57d-9be5-e10eab89709d"


SECOND = 10**9


def app_with(*tasks: str, started: tuple[str, ...] | None = None, token: str | None = None, **job: object) -> App:
    """Return an application over an allocation with these tasks, of which all or some run."""
    engine = Engine(dialect="1.1.2", clock=ManualClock(SECOND), seed=1)
    policy = {"Attempts": 3, "Interval": 60 * SECOND, "Delay": SECOND, "Mode": "fail"}
    group = {"Name": "group", "RestartPolicy": policy, "Tasks": [{"Name": task} for task in tasks]}
    job = {"ID": "example", "Type": "service", "TaskGroups": [group]} | job
    engine.place({"ID": ALLOC, "JobID": "example", "TaskGroup": "group", "Job": job})
    engine.report(ALLOC, "", inputs.PlacementReceived())
    for task in tasks if started is None else started:
        engine.report(ALLOC, task, inputs.ProcessStarted())
    return App(engine, token=token, seed=1)
