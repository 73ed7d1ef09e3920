"""An engine with one allocation, for tests of what follows from inputs."""

from __future__ import annotations

from typing import Any

from support.jobs import SECOND, job
from taskfold import Engine, ManualClock, inputs
from taskfold import events as ev
from taskfold.effects import ReleaseResources, Step
from taskfold.events import wire_type
from taskfold.fold.task import TaskState
from taskfold.inputs import Input

OLD, NEW = "0.5.6", "1.1.2"


class Story:
    """An engine with one allocation, told short: what is said, and what came of it."""

    def __init__(self, *tasks: str | dict[str, Any], dialect: str = NEW, **more: Any) -> None:
        self.clock = ManualClock(SECOND)
        self.engine = Engine(dialect=dialect, clock=self.clock, seed=7)
        self.engine.place({"ID": "a", "JobID": "example", "TaskGroup": "group", "Job": job(*tasks, **more)})

    def say(self, said: Input, *tasks: str) -> Step:
        """Report the same of the allocation, or of some tasks; return the last step."""
        for task in tasks or ("",):
            step = self.engine.report("a", task, said)
        return step

    def run(self, *tasks: str) -> None:
        """Place the allocation, and start tasks."""
        self.say(inputs.PlacementReceived())
        if tasks:
            self.say(inputs.ProcessStarted(), *tasks)

    def types(self, task: str) -> list[str]:
        """Return the types of a task's events, without Received."""
        found = [wire_type(r.event) for r in self.engine.history("a", task) if isinstance(r.event, ev.TaskEvent)]
        return found[1:]

    def state(self, task: str) -> TaskState:
        """Return a task's state."""
        return self.engine.task("a", task)


def names(step: Step, kind: type) -> list[str]:
    """Return the tasks of a step's effects of one kind."""
    return [
        effect.task for effect in step.effects if isinstance(effect, kind) and not isinstance(effect, ReleaseResources)
    ]


WHERE = ("pending", "running", "ending", "dead")


def placed_at(where: str, dialect: str) -> Story:
    """Return a story whose task is at one of the four places."""
    story = Story("web", "other", dialect=dialect)
    story.run("other")
    if where != "pending":
        story.say(inputs.ProcessStarted(), "web")
    if where == "ending":
        story.say(inputs.KillRequested(), "web")
    if where == "dead":
        story.say(inputs.KillRequested(), "web")
        story.say(inputs.Exited(exit_code=0), "web")
    return story
