"""Stories: text files of commands, and of what follows from each, that are run and compared.

A story is a sequence of blocks. A block is a command (its lines up to ``----``), and what it prints, up to an empty
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

Three lines run a folder of them, and ``pytest --taskfold-rewrite`` writes what the commands print now; the difference
is to be read:

    from pathlib import Path
    from taskfold.testing import stories_in
    test_a_story_is_what_happens = stories_in(Path(__file__).parent / "stories")

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
    The inputs below, one a line, are reported as learnt together.
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
``web late: ...`` an input that was not taken, and why. Times count from now. What taskfold refuses is output, too; a
script that says nothing is a `StoryError`.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from taskfold.fold.allocation import CLIENT_DESCRIPTIONS
from taskfold.live.engine import Engine
from taskfold.log.memory import MemoryLog
from taskfold.model.clock import ManualClock
from taskfold.model.dialect import DIALECTS, NEWEST_DIALECT
from taskfold.model.effects import AnyEffect, KillTask, SignalTask, StartTask, Step
from taskfold.model.errors import TaskfoldError
from taskfold.model.events import Killed, TaskEvent, wire_type
from taskfold.model.go.durations import duration_text, parse_duration_ns
from taskfold.model.inputs import INPUTS, Input
from taskfold.nomad.messages import CONSTANT_MESSAGES, display_message

__all__ = ["INPUT_COMMANDS", "Block", "StoryError", "blocks_of", "check_story", "stories_in", "tell"]

_ALLOC: Final = "a"
_START_NS: Final = 10**9
_SEED: Final = 7
_RULE: Final = "----"

_POLICY: Final = {"attempts": "2", "interval": "1m", "delay": "1s", "mode": "fail"}
_PLACE_OPTIONS: Final = ("dialect", "type", *_POLICY, "min_healthy_time")
_TASK_FLAGS: Final = ("leader", "sidecar")
_TASK_OPTIONS: Final = ("hook", "kill_timeout", "kill_signal", "shutdown_delay")
_DURATIONS: Final = {"interval", "delay", "min_healthy_time", "kill_timeout", "shutdown_delay"}


class StoryError(ValueError):
    """A script that cannot be run: the sentence names the file, the line, the error and the remedy."""


class _ScriptError(Exception):
    """The error, and its line."""


# --- the text ---


class Block(NamedTuple):
    """A command, the prose before it, and what it printed."""

    prose: list[str]
    command: list[str]
    output: list[str]
    line: int
    """The first line of the command, counted from 1."""


def blocks_of(text: str, name: str = "story") -> Iterator[Block]:
    """Yield the blocks of a story. Raises StoryError, which has the name, where a command or its end is missing."""
    prose: list[str] = []
    command: list[str] = []
    output: list[str] | None = None
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        if output is not None:
            if line:
                output.append(line)
                continue
            yield Block(prose, command, output, first)
            prose, command, output = [], [], None
        elif line == _RULE:
            if not command:
                raise StoryError(f"{name}:{number}: there is no command above this {_RULE}")
            output = []
        elif not command and (not line or line.startswith("#")):
            prose.append(line)
        else:
            first = first if command else number
            command.append(line)
    if output is not None:
        yield Block(prose, command, output, first)
    elif command:
        raise StoryError(f"{name}:{first}: {command[0]!r} has no line {_RULE} below it, where its output begins")


def tell(text: str, name: str = "story") -> str:
    r"""Return a story with the output that its commands print now. Raises StoryError for a script that says nothing.

    >>> print(tell("place\n  web\n----\n"), end="")
    place
      web
    ----
    web: Received
    > start web
    >>> tell("place\n  web\n----\n\nexitd web\n----\n", "mine.txt")
    Traceback (most recent call last):
    ...
    taskfold.testing.stories.StoryError: mine.txt:5: 'exitd' is no command; did you mean 'exited'?
    """
    teller = _Teller()
    parts = []
    for block in blocks_of(text, name):
        try:
            output = teller.run(block)
        except _ScriptError as error:
            message, line = error.args
            raise StoryError(f"{name}:{line}: {message}") from None
        parts.append("\n".join([*block.prose, *block.command, _RULE, *output]))
    return "\n\n".join(parts) + "\n"


# --- a file, a folder ---


def check_story(path: str | Path, *, rewrite: bool = False) -> None:
    """Run a story and compare; with `rewrite`, write what its commands print now.

    Raises AssertionError with the lines that differ, and StoryError for a script that says nothing.
    """
    __tracebackhide__ = True
    path = Path(path)
    text = path.read_text("utf-8")
    now = tell(text, str(path))
    if now.splitlines() == text.splitlines():
        return
    if rewrite:
        path.write_text(now, "utf-8")
        return
    before, after = text.splitlines(), now.splitlines()
    pairs = enumerate(zip_longest(before, after), 1)
    line = next(number for number, (one, other) in pairs if one != other)
    lines = difflib.unified_diff(before, after, str(path), "what happens now", lineterm="")
    why = f"{path}:{line}: the story is not what happens; --taskfold-rewrite writes what does"
    raise AssertionError("\n".join([why, *lines]))


def stories_in(folder: str | Path, pattern: str = "*.txt") -> Callable[..., None]:
    """Return a test for pytest that runs each story of a folder; ``--taskfold-rewrite`` writes them anew.

    Raises ValueError for a folder that has none.
    """
    import pytest

    paths = sorted(Path(folder).glob(pattern))
    if not paths:
        raise ValueError(f"there is no story {pattern} in {str(folder)!r}")

    @pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)
    def test_story(path: Path, request: pytest.FixtureRequest) -> None:
        __tracebackhide__ = True
        check_story(path, rewrite=request.config.getoption("taskfold_rewrite", default=False))

    return test_story


# --- its commands ---


class _Line(NamedTuple):
    """A line of a command, as words."""

    number: int
    words: list[str]

    def bad(self, message: str) -> _ScriptError:
        """Return the error that is about this line."""
        return _ScriptError(message, self.number)

    def options(self, words: Sequence[str], names: Sequence[str], flags: Sequence[str] = ()) -> dict[str, str]:
        """Return words of the form name=value by name; a flag has no value."""
        options: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if name not in (names if equals else flags):
                is_near = name in {*names, *flags}
                why = ("takes no value" if equals else "needs a value, as in NAME=VALUE") if is_near else "is not known"
                there = ", ".join([*flags, *(f"{each}=" for each in names)]) or "none"
                raise self.bad(f"{self.words[0]}: {name!r} {why}; there are {there}")
            options[name] = value
        return options

    def duration_ns(self, text: str) -> int:
        """Return a duration in nanoseconds."""
        try:
            return parse_duration_ns(text)
        except ValueError:
            raise self.bad(f"{text!r} is no duration; one is written as 5s or 1m30s") from None

    def fields(self, options: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of a job by Nomad's names."""
        fields: dict[str, Any] = {}
        for name, text in options.items():
            value: Any = self.duration_ns(text) if name in _DURATIONS else text
            if name == "attempts":
                try:
                    value = int(text)
                except ValueError:
                    raise self.bad(f"attempts={text}: {text!r} is no number") from None
            fields[name.title().replace("_", "")] = value
        return fields


def _line(number: int, text: str) -> _Line:
    """Return a line as words, in which quotes hold a word together."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _ScriptError(f"{text!r}: {str(error).lower()}", number) from None
    if not words:
        raise _ScriptError("a line of spaces is no command", number)
    return _Line(number, words)


class _Teller:
    """Runs the commands of a story, on the stages of one dialect or of several side by side."""

    def __init__(self) -> None:
        self.stages: dict[str, _Stage] = {}

    def run(self, block: Block) -> list[str]:
        """Run a command; return what it prints."""
        head, *body = [_line(number, text) for number, text in enumerate(block.command, block.line)]
        name = head.words[0]
        if name in {"place", "schedule"}:
            refusal = self._begin(head, body)
            if refusal:
                return [refusal]
            head, body = _Line(head.number, ["placed" if name == "place" else "state"]), []
        elif name not in _COMMANDS:
            nearest = difflib.get_close_matches(name, [*_COMMANDS, "place", "schedule"], 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(sorted(_COMMANDS))}"
            raise head.bad(f"{name!r} is no command; {hint}")
        elif not self.stages:
            raise head.bad(f"{name} comes before any allocation is placed: begin with place or schedule")
        if body and name != "together":
            raise body[0].bad(f"{name} has no lines below it, but {_RULE}")
        outputs = {dialect: stage.run(head, body) or ["nothing"] for dialect, stage in self.stages.items()}
        first, *others = outputs.values()
        if all(output == first for output in others):
            return first
        return [line for dialect, output in outputs.items() for line in (f"[{dialect}]", *output)]

    def _begin(self, head: _Line, tasks: Sequence[_Line]) -> str:
        """Place an allocation on a stage of each dialect; return with what taskfold refuses it."""
        options = head.options(head.words[1:], _PLACE_OPTIONS)
        dialects = options.pop("dialect", NEWEST_DIALECT).split(",")
        for dialect in dialects:
            if dialect not in DIALECTS:
                raise head.bad(f"{dialect!r} is no dialect; there are {', '.join(DIALECTS)}")
        if not tasks:
            raise head.bad(f"{head.words[0]} has no task: name one on each line below it")
        job = _job(head, options, tasks)
        try:
            self.stages = {dialect: _Stage(dialect, job) for dialect in dialects}
        except TaskfoldError as error:
            return f"{type(error).__name__}: {error}"
        return ""


def _job(head: _Line, options: Mapping[str, str], lines: Sequence[_Line]) -> dict[str, Any]:
    """Return a job of one group in Nomad's JSON."""
    policy = {name: options.get(name, value) for name, value in _POLICY.items()}
    tasks = [_task(line) for line in lines]
    group = {"Name": "group", "RestartPolicy": head.fields(policy), "Tasks": tasks}
    job: dict[str, Any] = {"ID": "example", "Type": options.get("type", "service"), "TaskGroups": [group]}
    if "min_healthy_time" in options:
        job["Update"] = head.fields({"min_healthy_time": options["min_healthy_time"]})
    return job


def _task(line: _Line) -> dict[str, Any]:
    """Return a task of a job."""
    name, *words = line.words
    options = line.options(words, _TASK_OPTIONS, _TASK_FLAGS)
    task: dict[str, Any] = {"Name": name, "Leader": "leader" in options}
    if "hook" in options:
        task["Lifecycle"] = {"Hook": options["hook"], "Sidecar": "sidecar" in options}
    return task | line.fields({name: options[name] for name in _TASK_OPTIONS if name != "hook" and name in options})


class _Stage:
    """An engine of one dialect with one allocation."""

    def __init__(self, dialect: str, job: Mapping[str, Any]) -> None:
        self.clock = ManualClock(_START_NS)
        self.log = MemoryLog(dialect)
        self.engine = Engine(self.log, clock=self.clock, seed=_SEED)
        self.engine.place({"ID": _ALLOC, "JobID": "example", "TaskGroup": "group", "Job": job})
        self.names = [task["Name"] for task in job["TaskGroups"][0]["Tasks"]]

    def run(self, head: _Line, body: Sequence[_Line]) -> list[str]:
        """Run a command; return what it prints."""
        try:
            return _COMMANDS[head.words[0]](self, head, body)
        except TaskfoldError as error:
            return [f"{type(error).__name__}: {error}"]

    def report(self, head: _Line, _: Sequence[_Line]) -> list[str]:
        """Report an input of each task that is named, or of the allocation."""
        name, *words = head.words
        report = _input(head, name, [word for word in words if "=" in word])
        tasks = [word for word in words if "=" not in word] or [""]
        return self._observe(lambda: [self.engine.report(_ALLOC, task, report) for task in tasks])

    def together(self, head: _Line, body: Sequence[_Line]) -> list[str]:
        """Report inputs that were learnt together."""
        self._bare(head)
        reports = []
        for line in body:
            name, task, *words = [*line.words, ""] if len(line.words) == 1 else line.words
            if name not in INPUT_COMMANDS or not task or "=" in task:
                raise line.bad(f"{' '.join(line.words)!r} is no input of a task, such as: exited web exit_code=1")
            reports.append((task, _input(line, name, words)))
        if not reports:
            raise head.bad("together has no inputs: name one on each line below it")
        return self._observe(lambda: [self.engine.report_all(_ALLOC, reports)])

    def advance(self, head: _Line, _: Sequence[_Line]) -> list[str]:
        """Let time pass."""
        if len(head.words) != 2:
            raise head.bad("advance takes one duration, as in: advance 5s")
        self.clock.advance(head.duration_ns(head.words[1]))
        return [f"now {duration_text(self.clock.time_ns() - _START_NS)}"]

    def due(self, head: _Line, _: Sequence[_Line]) -> list[str]:
        """Report what is due."""
        self._bare(head)
        return self._observe(self.engine.due)

    def update(self, head: _Line, _: Sequence[_Line]) -> list[str]:
        """Change top-level fields of the allocation."""
        fields = {}
        for word in head.words[1:]:
            name, equals, text = word.partition("=")
            try:
                fields[name] = json.loads(text if equals else "?")
            except ValueError:
                example = "update DesiredStatus='\"stop\"'"
                raise head.bad(f"{word!r} is no field with a value in JSON, as in: {example}") from None

        def update() -> list[Step]:
            self.engine.update(_ALLOC, fields)
            return []

        return self._observe(update)

    def reopen(self, head: _Line, _: Sequence[_Line]) -> list[str]:
        """Begin again with the same log."""
        self._bare(head)
        self.engine = Engine(self.log, clock=self.clock, seed=_SEED)
        return self._observe(self.engine.restore)

    def events(self, head: _Line, _: Sequence[_Line]) -> list[str]:
        """Return the types of all events of tasks."""
        return [f"{task}: {', '.join(map(wire_type, self._events(task)))}" for task in head.words[1:]]

    def _events(self, task: str) -> Iterator[TaskEvent]:
        events = (record.event for record in self.engine.history(_ALLOC, task))
        return (event for event in events if isinstance(event, TaskEvent))

    def state(self, head: _Line, _: Sequence[_Line]) -> list[str]:
        """Return how each task stands, and the allocation."""
        self._bare(head)
        states = self.engine.store.read(_ALLOC).tasks
        lines = []
        for name in self.names:
            task = states.get(name)
            restarts = "" if task is None or not task.restarts else f", restarts {task.restarts}"
            failed = ", failed" if task is not None and task.failed else ""
            lines.append(f"{name}: {'not placed' if task is None else task.state}{failed}{restarts}")
        return [*lines, *self._status().values()]

    @staticmethod
    def _bare(head: _Line) -> None:
        if len(head.words) > 1:
            raise head.bad(f"{head.words[0]} stands alone: {' '.join(head.words[1:])!r} is too much")

    # --- what changed ---

    def _observe(self, act: Callable[[], list[Step]]) -> list[str]:
        """Return what steps say, and how tasks and allocation moved."""
        states, status = self._states(), self._status()
        lines = [line for step in act() for line in _step_lines(step)]
        for name, state in self._states().items():
            before = states.get(name, state)
            if state != before and name in states:
                lines.append(f"{name}: {before} -> {state}")
        lines += [text for name, text in self._status().items() if status.get(name) != text]
        return lines

    def _states(self) -> dict[str, str]:
        tasks = self.engine.store.read(_ALLOC).tasks
        return {name: task.state + (", failed" if task.failed else "") for name, task in tasks.items()}

    def _status(self) -> dict[str, str]:
        """Return a line for the ClientStatus and one for the DesiredStatus."""
        body = json.loads(self.engine.snapshot(_ALLOC).to_json())
        lines = {}
        for name, word in (("Client", "allocation:"), ("Desired", "servers want:")):
            description = body.get(f"{name}Description")
            if description in CLIENT_DESCRIPTIONS.values():
                description = ""  # it follows from the status
            if status := body.get(f"{name}Status"):
                lines[name] = f"{word} {status}" + (f" ({description})" if description else "")
        return lines


# --- inputs ---


def _wire_type(kind: type[Input]) -> str:
    """Return the type of an input on the wire."""
    return str(kind.__struct_config__.tag)


def _command_of(kind: type[Input]) -> str:
    """Return the command of an input."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", _wire_type(kind)).lower().removesuffix("-requested")


INPUT_COMMANDS: Final[Mapping[str, type[Input]]] = {_command_of(kind): kind for kind in INPUTS}
"""The inputs by their commands."""

_Command = Callable[[_Stage, _Line, Sequence[_Line]], list[str]]

_COMMANDS: Final[Mapping[str, _Command]] = {
    **dict.fromkeys(INPUT_COMMANDS, _Stage.report),
    "advance": _Stage.advance,
    "due": _Stage.due,
    "events": _Stage.events,
    "reopen": _Stage.reopen,
    "state": _Stage.state,
    "together": _Stage.together,
    "update": _Stage.update,
}


def _input(line: _Line, name: str, words: Sequence[str]) -> Input:
    """Return an input with these fields."""
    kind = INPUT_COMMANDS[name]
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    options = line.options(words, kind.__struct_fields__)
    fields = {names[each]: text.split(",") if each == "missing" else text for each, text in options.items()}
    try:
        return msgspec.convert({"Type": _wire_type(kind)} | fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise line.bad(f"{name}: {error}") from None


# --- the output ---


def _step_lines(step: Step) -> Iterator[str]:
    """Yield what a step says."""
    outcome = "" if step.outcome == "decided" else f" {step.outcome}"
    for task, sentence in step.notes:
        subject = "allocation" if task == "" else task
        yield f"{subject}{outcome or ' note'}: {sentence}"
    if outcome and not step.notes:
        yield step.outcome
    for task, event in step.events:
        yield f"{task}: {_event_text(event)}"
    for effect in step.effects:
        yield f"> {_effect_text(effect, step.time_ns)}"
    for timer in step.timers:
        yield f"timer {timer.task}: {timer.kind} in {duration_text(timer.due_ns - step.time_ns)}"


def _event_text(event: TaskEvent) -> str:
    """Return an event's type, and its message where it tells more."""
    is_plain = type(event) in CONSTANT_MESSAGES or event == Killed(time_ns=event.time_ns)
    return wire_type(event) if is_plain else f"{wire_type(event)} ({display_message(event)})"


def _effect_text(effect: AnyEffect, now_ns: int) -> str:
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
