"""What the recorded Nomads were told: the inputs behind a recorded allocation, worked out from its events and actions.

An input is what a client cannot know by itself: how a process ended, that a start failed, that somebody wants a stop.
What follows from one (Restarting, Sibling Task Failed, most Killings) is no input: that is what is to be decided.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from support.recordings import Scenario, bodies
from taskfold import events as ev
from taskfold import inputs as given
from taskfold.events import TaskEvent
from taskfold.inputs import Input
from taskfold.model.record import Finished, Gap, Record, Updated
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import observation_from_json

_TEMPLATE = "consul-template: template with change_mode restart re-rendered"
_BY_THE_GROUP = (ev.SiblingTaskFailed, ev.LeaderTaskDead, ev.MainTasksDead)
_UNRECOVERABLE = "Error was unrecoverable"


@dataclass
class Told:
    """One recorded allocation: as it was placed, what its client was told, and what it did."""

    body: str
    """The first answer, from which the fields are taken."""
    records: list[Record]
    last_body: str
    inputs: list[tuple[int, str, Input]] = field(default_factory=list)
    """What was told, when (unix nanoseconds), and to which task (empty: to the allocation), in order."""
    updates: list[tuple[int, Updated]] = field(default_factory=list)
    """The versions of the job that came later, and when."""

    @property
    def has_gap(self) -> bool:
        """Whether events were lost."""
        return any(isinstance(record.event, Gap) for record in self.records)

    @property
    def tasks(self) -> dict[str, list[Record]]:
        """The records of each task."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            if record.task:
                found.setdefault(record.task, []).append(record)
        return found


def told(scenario: Scenario) -> list[Told]:
    """Return every allocation of a scenario."""
    texts: dict[str, list[str]] = {}
    for answer in bodies(scenario):
        texts.setdefault(answer.allocation, []).append(answer.body)
    return [_told(scenario.version, found) for found in texts.values()]


def _told(version: str, texts: Sequence[str]) -> Told:
    importer = Importer(version)
    records = [record for text in texts for record in importer.observe(observation_from_json(text.encode()))]
    found = Told(body=texts[0], records=records, last_body=texts[-1])
    found.updates = [
        (record.time_ns, record.event)
        for record in records
        if isinstance(record.event, Updated) and not record.task and "Job" in record.event.fields
    ]
    for task, its_records in found.tasks.items():
        found.inputs += _of_task(version, task, its_records)
    setups = [entry for entry in found.inputs if isinstance(entry[2], given.SetupFailed)]
    if version == "1.1.2" and len(setups) == len(found.tasks):
        # The new client sets up the allocation, and every task tells of its failure.
        found.inputs = [entry for entry in found.inputs if entry not in setups] + [(setups[0][0], "", setups[0][2])]
    found.inputs += _of_allocation(found, version)
    # What is told at one time: first to the allocation, and an end before what follows it.
    found.inputs.sort(key=lambda entry: (entry[0], bool(entry[1])))
    return found


def _of_task(version: str, task: str, records: Sequence[Record]) -> Iterator[tuple[int, str, Input]]:
    """Yield what was told of one task."""
    events = [record.event for record in records if isinstance(record.event, TaskEvent)]
    is_running = was_killed = False
    for place, event in enumerate(events):
        following = events[place + 1] if place + 1 < len(events) else None
        said = _input(event, following)
        if said is not None:
            yield event.time_ns, task, said
        if version != "1.1.2" and is_running and isinstance(event, ev.Killed):
            # The old client does not say how a process ended that it killed.
            yield event.time_ns, task, given.Exited(exit_code=None)
        was_killed = was_killed or isinstance(event, ev.Killing)
        if isinstance(event, ev.Started):
            is_running = True
        elif isinstance(event, (ev.Restarting, ev.Terminated, ev.Killed)):
            is_running = False
    # A start that its group ended the old client gives up, or has Started.
    given_up = bool(events) and isinstance(events[-1], _BY_THE_GROUP)
    if version != "1.1.2" and given_up and not any(isinstance(event, ev.Started) for event in events):
        yield events[-1].time_ns, task, given.Exited(exit_code=None)
    began = any(isinstance(event, (ev.TaskSetup, ev.Started)) for event in events)
    if version == "1.1.2" and was_killed and began and not any(isinstance(event, ev.Started) for event in events):
        # Killed while it was being prepared: it is dead when that is over.
        ends = [record.time_ns for record in records if isinstance(record.event, Finished)]
        yield from ((time_ns, task, given.Exited(exit_code=None)) for time_ns in ends)


def _input(event: TaskEvent, following: TaskEvent | None) -> Input | None:  # noqa: C901, PLR0911, PLR0912 - a table in prose
    """Return the input behind an event, if it is one."""
    is_fatal = isinstance(following, ev.NotRestarting) and following.restart_reason == _UNRECOVERABLE
    shown = event.extras.display_message if event.extras is not None and event.extras.display_message else ""
    match event:
        case ev.TaskSetup():
            return given.SetUp(message=event.message)
        case ev.DownloadingArtifacts():
            return given.DownloadBegun()
        case ev.FailedArtifactDownload():
            return given.DownloadFailed(error=event.download_error, recoverable=not is_fatal)
        case ev.DriverFailure():
            return given.StartFailed(error=event.driver_error, recoverable=not is_fatal)
        case ev.FailedValidation():
            return given.ValidationFailed(error=event.validation_error)
        case ev.TaskHookFailed():
            hook, _, error = event.message.partition(": ")
            return given.HookFailed(hook=hook, error=error, recoverable=not is_fatal)
        case ev.SetupFailure():
            text = event.setup_error or str(shown).removeprefix("failed to setup alloc: ")
            return given.SetupFailed(error=text)
        case ev.Started():
            return given.ProcessStarted()
        case ev.Terminated():
            details = event.extras.details if event.extras is not None else None
            return given.Exited(
                exit_code=event.exit_code,
                signal=event.signal,
                error=event.message,
                oom_killed=event.oom_killed or (isinstance(details, dict) and details.get("oom_killed") == "true"),
            )
        case ev.Killing() if event.kill_reason or shown:
            return given.KillRequested(reason=event.kill_reason or str(shown), fails_task=event.fails_task)
        case ev.RestartSignaled():
            if event.restart_reason in {"", _TEMPLATE}:
                return given.TemplateChanged(change_mode="restart")
            return given.RestartRequested(reason=event.restart_reason)
        case ev.Signaling():
            if event.task_signal:
                signals = {"user defined signal 1": "SIGUSR1", "hangup": "SIGHUP", "interrupt": "SIGINT"}
                return given.TemplateChanged(change_mode="signal", signal=signals[event.task_signal])
            details = event.extras.details if event.extras is not None else None
            return given.SignalRequested(signal=details["signal"] if isinstance(details, dict) else "")
        case ev.Template():
            return given.TemplateBlocked(missing=tuple(str(shown).removeprefix("Missing: ").split(", ")))
        case ev.FailedRestoringTask():
            return given.Restored(reattached=False)
    return None


def _of_allocation(found: Told, version: str) -> Iterator[tuple[int, str, Input]]:
    """Yield what was told of the allocation as a whole."""
    body = json.loads(found.last_body)
    if not found.tasks and body["ClientStatus"] == "failed":
        yield max(record.time_ns for record in found.records), "", given.SetupFailed(error=body["ClientDescription"])
    received = [r.event.time_ns for r in found.records if isinstance(r.event, ev.Received)]
    if received:
        yield min(received) - 1, "", given.PlacementReceived()
    unhealthy = {r.event.time_ns for r in found.records if isinstance(r.event, ev.AllocUnhealthy)}
    if unhealthy:
        yield max(unhealthy), "", given.HealthFailed()
    stops = [r for r in found.records if isinstance(r.event, Updated) and r.event.fields.get("DesiredStatus")]
    killed_ns = _killed_for_all(found, version)
    for stop in stops:
        fields = stop.event.fields if isinstance(stop.event, Updated) else {}
        description = json.loads(bytes(fields.get("DesiredDescription", b'""')))
        if bytes(fields.get("ClientStatus", b"")) == b'"lost"':
            yield min(stop.time_ns, killed_ns or stop.time_ns) - 1, "", given.NodeLost()
            if killed_ns:
                yield killed_ns, "", given.ServerContacted()
        else:
            desired = "evict" if bytes(fields["DesiredStatus"]) == b'"evict"' else "stop"
            last_ns = max(stop.time_ns, *(record.time_ns for record in found.records))
            wished = json.loads(bytes(fields.get("DesiredTransition", b"null"))) or body.get("DesiredTransition") or {}
            yield (
                killed_ns or last_ns,
                "",
                given.StopRequested(desired=desired, description=description, migrate=bool(wished.get("Migrate"))),
            )
    if killed_ns and not stops:
        yield killed_ns, "", given.KillRequested()


def _killed_for_all(found: Told, version: str) -> int | None:
    """Return when the client was told to kill the group: the first kill that no death in the group explains."""
    explained: list[int] = []
    kills: list[int] = []
    for records in found.tasks.values():
        events = [record.event for record in records if isinstance(record.event, TaskEvent)]
        for before, event in zip([None, *events], events, strict=False):
            if isinstance(event, _BY_THE_GROUP):
                explained.append(event.time_ns)
            is_restart = isinstance(before, ev.RestartSignaled)
            has_reason = isinstance(event, ev.Killing) and bool(
                event.kill_reason or (event.extras is not None and event.extras.display_message)
            )
            if isinstance(event, ev.Killing) and not has_reason and not is_restart:
                kills.append(event.time_ns)
            if version != "1.1.2" and isinstance(event, ev.Killed) and not isinstance(before, ev.Killing):
                kills.append(event.time_ns)
    first = min(explained, default=None)
    return min((kill for kill in kills if first is None or kill < first), default=None)
