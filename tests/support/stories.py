"""Stories: text files of commands, and of what follows from each, that are run and compared.

A story is a sequence of blocks. A block is a command (its lines up to ``----``), and what it printed, up to an empty
line. Lines that begin with ``#`` are prose. An example:

    # A task that fails is started again after a delay.
    place dialect=1.1.2
      web kill_timeout=10s
    ----
    web: Received
    > start web

    started web
    ----
    web: Started
    web: pending -> running
    allocation: running

Commands
--------

``place [dialect=NAME,...] [type=..] [attempts=..] [interval=..] [delay=..] [mode=..] [min_healthy_time=..]``
    The servers place an allocation, and its client receives it. Each line below is a task: its name, then any of
    ``leader``, ``hook=..``, ``sidecar``, ``kill_timeout=..``, ``kill_signal=..``, ``shutdown_delay=..``. With several
    dialects the story is told for each of them; where they differ, the output has a part for each.
``schedule ...``
    The same, but the client has not received it yet.
``INPUT [task ...] [field=value ...]``
    An input is reported, of each task in turn, or of the allocation. Its name is its type on the wire in lower case
    with hyphens, without ``-requested``: ``exited web exit_code=1``, ``kill web reason=quota``, ``node-lost``.
``together``
    The inputs below are reported as learnt together.
``advance DURATION``
    Time passes. ``due`` then reports what is due.
``update NAME=JSON ...``
    The servers change top-level fields of the allocation.
``reopen``
    The embedder begins again with the same log, and asks what it owes.
``events TASK ...``, ``state``
    The types of all events of tasks, and how each task stands.

Output
------

``web: EVENT (message)`` is an event, ``> ...`` an effect that the embedder owes, ``timer ...`` a time to report on,
``web: pending -> running`` a change of state, ``allocation: ...`` its new ClientStatus or DesiredStatus, and
``web late: ...`` an input that was not taken, and why. Times count from now.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from taskfold import Engine, ManualClock, MemoryLog, display_message
from taskfold.effects import AnyEffect, KillTask, SignalTask, StartTask, Step
from taskfold.errors import TaskfoldError
from taskfold.events import Killed, TaskEvent, wire_type
from taskfold.fold.allocation import CLIENT_DESCRIPTIONS
from taskfold.inputs import INPUTS, Input
from taskfold.model.go.durations import duration_text, parse_duration_ns
from taskfold.nomad.messages import CONSTANT_MESSAGES

ALLOC = "a"
START_NS = 10**9
SEED = 7
RULE = "----"

DURATIONS = {"interval", "delay", "min_healthy_time", "kill_timeout", "shutdown_delay"}
POLICY = {"attempts": 2, "interval": "1m", "delay": "1s", "mode": "fail"}


class Block(NamedTuple):
    """A command, the prose before it, and what it printed."""

    prose: list[str]
    command: list[str]
    output: list[str]


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the blocks of a story."""
    prose: list[str] = []
    command: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line == RULE:
            output = list(iter(lambda: next(lines, ""), ""))
            yield Block(prose, command, output)
            prose, command = [], []
        elif not command and (not line or line.startswith("#")):
            prose.append(line)
        else:
            command.append(line)
    assert not command, f"a command without {RULE}: {command}"


def tell(text: str) -> str:
    """Return a story with the output that its commands print now."""
    teller = Teller()
    parts = ["\n".join([*block.prose, *block.command, RULE, *teller.run(block.command)]) for block in blocks_of(text)]
    return "\n\n".join(parts) + "\n"


class Teller:
    """Runs the commands of a story, in the worlds of one dialect or of several side by side."""

    def __init__(self) -> None:
        self.worlds: dict[str, World] = {}

    def run(self, command: list[str]) -> list[str]:
        """Run a command; return what it prints."""
        name, *words = shlex.split(command[0])
        body = [shlex.split(line) for line in command[1:]]
        if name in {"place", "schedule"}:
            options = dict(word.split("=", 1) for word in words)
            dialects = options.pop("dialect", "1.1.2").split(",")
            try:
                self.worlds = {dialect: World(dialect, dict(options), body) for dialect in dialects}
            except TaskfoldError as error:
                return [f"{type(error).__name__}: {error}"]
            name, words = ("placed", []) if name == "place" else ("state", [])
        outputs = {dialect: world.run(name, words, body) or ["nothing"] for dialect, world in self.worlds.items()}
        first, *others = outputs.values()
        if all(output == first for output in others):
            return first
        return [line for dialect, output in outputs.items() for line in (f"[{dialect}]", *output)]


class World:
    """An engine of one dialect with one allocation."""

    def __init__(self, dialect: str, options: dict[str, str], tasks: list[list[str]]) -> None:
        self.clock = ManualClock(START_NS)
        self.log = MemoryLog(dialect)
        self.engine = Engine(self.log, clock=self.clock, seed=SEED)
        policy = {name: options.pop(name, value) for name, value in POLICY.items()}
        group = {"Name": "group", "RestartPolicy": fields_of(policy), "Tasks": [task_of(words) for words in tasks]}
        job: dict[str, Any] = {"ID": "example", "Type": options.pop("type", "service"), "TaskGroups": [group]}
        if "min_healthy_time" in options:
            job["Update"] = fields_of({"min_healthy_time": options.pop("min_healthy_time")})
        assert not options, f"unknown: {options}"
        self.engine.place({"ID": ALLOC, "JobID": "example", "TaskGroup": "group", "Job": job})
        self.names = [words[0] for words in tasks]

    def run(self, name: str, words: list[str], body: list[list[str]]) -> list[str]:
        """Run a command; return what it prints."""
        command: Callable[..., list[str]] | None = getattr(self, f"do_{name}", None)
        try:
            if command is not None:
                return command(*words, body=body) if name == "together" else command(*words)
            kind = KINDS[name]
            tasks = [word for word in words if "=" not in word] or [""]
            report = input_of(kind, [word for word in words if "=" in word])
            return self.observe(lambda: [self.engine.report(ALLOC, task, report) for task in tasks])
        except TaskfoldError as error:
            return [f"{type(error).__name__}: {error}"]

    def do_together(self, body: list[list[str]]) -> list[str]:
        reports = [(task, input_of(KINDS[name], words)) for name, task, *words in body]
        return self.observe(lambda: [self.engine.report_all(ALLOC, reports)])

    def do_advance(self, duration: str) -> list[str]:
        self.clock.advance(parse_duration_ns(duration))
        return [f"now {duration_text(self.clock.time_ns() - START_NS)}"]

    def do_due(self) -> list[str]:
        return self.observe(self.engine.due)

    def do_update(self, *words: str) -> list[str]:
        fields = {name: json.loads(text) for name, text in (word.split("=", 1) for word in words)}

        def update() -> list[Step]:
            self.engine.update(ALLOC, fields)
            return []

        return self.observe(update)

    def do_reopen(self) -> list[str]:
        self.engine = Engine(self.log, clock=self.clock, seed=SEED)
        return self.observe(self.engine.restore)

    def do_events(self, *tasks: str) -> list[str]:
        return [f"{task}: {', '.join(map(wire_type, self._events(task)))}" for task in tasks]

    def _events(self, task: str) -> Iterator[TaskEvent]:
        events = (record.event for record in self.engine.history(ALLOC, task))
        return (event for event in events if isinstance(event, TaskEvent))

    def do_state(self) -> list[str]:
        states = self.engine.store.read(ALLOC).tasks
        lines = []
        for name in self.names:
            task = states.get(name)
            restarts = "" if task is None or not task.restarts else f", restarts {task.restarts}"
            failed = ", failed" if task is not None and task.failed else ""
            lines.append(f"{name}: {'not placed' if task is None else task.state}{failed}{restarts}")
        return [*lines, *self._status().values()]

    def observe(self, act: Callable[[], list[Step]]) -> list[str]:
        """Return what steps say, and how tasks and allocation moved."""
        states, status = self._states(), self._status()
        lines = [line for step in act() for line in self._step(step)]
        for name, state in self._states().items():
            before = states.get(name, state)
            if state != before and name in states:
                lines.append(f"{name}: {before} -> {state}")
        lines += [text for name, text in self._status().items() if status.get(name) != text]
        return lines

    def _states(self) -> dict[str, str]:
        tasks = self.engine.store.read(ALLOC).tasks
        return {name: task.state + (", failed" if task.failed else "") for name, task in tasks.items()}

    def _status(self) -> dict[str, str]:
        """Return a line for the ClientStatus and one for the DesiredStatus."""
        body = json.loads(self.engine.snapshot(ALLOC).to_json())
        lines = {}
        for name, word in (("Client", "allocation:"), ("Desired", "servers want:")):
            description = body.get(f"{name}Description")
            if description in CLIENT_DESCRIPTIONS.values():
                description = ""  # it follows from the status
            if status := body.get(f"{name}Status"):
                lines[name] = f"{word} {status}" + (f" ({description})" if description else "")
        return lines

    def _step(self, step: Step) -> Iterator[str]:
        outcome = "" if step.outcome == "decided" else f" {step.outcome}"
        for task, sentence in step.notes:
            yield f"{task or 'allocation'}{outcome or ' note'}: {sentence}"
        if outcome and not step.notes:
            yield step.outcome
        for task, event in step.events:
            yield f"{task}: {event_text(event)}"
        for effect in step.effects:
            yield f"> {effect_text(effect, step.time_ns)}"
        for timer in step.timers:
            yield f"timer {timer.task}: {timer.kind} in {duration_text(timer.due_ns - step.time_ns)}"


def event_text(event: TaskEvent) -> str:
    """Return an event's type, and its message where it tells more."""
    is_plain = type(event) in CONSTANT_MESSAGES or event == Killed(time_ns=event.time_ns)
    return wire_type(event) if is_plain else f"{wire_type(event)} ({display_message(event)})"


def effect_text(effect: AnyEffect, now_ns: int) -> str:
    """Return what the embedder has to do."""
    if isinstance(effect, StartTask):
        return f"start {effect.task}"
    if isinstance(effect, SignalTask):
        return f"signal {effect.task} {effect.signal}"
    if isinstance(effect, KillTask):
        signal = f" with {effect.signal}" if effect.signal else ""
        attempt = f", attempt {effect.attempt}" if effect.attempt > 1 else ""
        return f"kill {effect.task}{signal}, hard after {duration_text(effect.hard_at_ns - now_ns)}{attempt}"
    return "collect"


def wire_name_of(kind: type[Input]) -> str:
    """Return the type of an input on the wire."""
    return str(kind.__struct_config__.tag)


def command_of(kind: type[Input]) -> str:
    """Return the command of an input."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", wire_name_of(kind)).lower().removesuffix("-requested")


KINDS = {command_of(kind): kind for kind in INPUTS}


def input_of(kind: type[Input], words: list[str]) -> Input:
    """Return an input with these fields."""
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    fields: dict[str, Any] = {}
    for name, text in (word.split("=", 1) for word in words):
        fields[names[name]] = text.split(",") if name == "missing" else text
    return msgspec.convert({"Type": wire_name_of(kind)} | fields, kind, strict=False)


def fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a job by Nomad's names."""
    values = {name: parse_duration_ns(text) if name in DURATIONS else text for name, text in options.items()}
    return {
        name.title().replace("_", ""): int(value) if name == "attempts" else value for name, value in values.items()
    }


def task_of(words: list[str]) -> dict[str, Any]:
    """Return a task of a job."""
    name, *more = words
    options = dict(word.split("=", 1) for word in more if "=" in word)
    task: dict[str, Any] = {"Name": name, "Leader": "leader" in more}
    if "hook" in options:
        task["Lifecycle"] = {"Hook": options.pop("hook"), "Sidecar": "sidecar" in more}
    return task | fields_of(options)


def rewrite(path: Path) -> None:
    """Write a story anew."""
    path.write_text(tell(path.read_text("utf-8")), "utf-8")
