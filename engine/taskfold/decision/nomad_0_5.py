"""The rule book of Nomad 0.5: what its client does with each input.

The rules that set it apart, each with the function of v0.5.6 that it comes from:

* A process that is killed has no Terminated: ``Killing``, then ``Killed`` when it is gone (task_runner.go killTask).
* One event destroys a task, and the first destruction wins; later ones leave no event (Destroy). A task that does not
  run is dead with that event alone, whatever it waits for. If the group destroys a task whose start is under way, the
  start ends first: a task that was started is killed as any other, else it is dead with the event (run).
* A restart on request is a kill and a ``Restarting`` without delay (Run, restartCh).
* When a task is dead and failed, every other one is destroyed as its sibling; when it is the leader, as its follower;
  failure goes before leadership (alloc_runner.go setTaskState).
* All tasks start at once: there are no hooks.
"""

from __future__ import annotations

from typing import Final

from taskfold.decision.decision import NOT_RUNNING, Decision, TaskInHand
from taskfold.decision.group import LEAST_KILL_TIMEOUT_NS, MOST_KILL_TIMEOUT_NS, TaskPlan
from taskfold.decision.restart import TaskEnd
from taskfold.model import events as ev
from taskfold.model import inputs
from taskfold.model.events import TaskEvent
from taskfold.model.go.signals import signal_text

__all__ = ["Nomad05"]

_TEMPLATE: Final = "consul-template"


class Nomad05(Decision):
    """A decision by the rules of Nomad 0.5."""

    __slots__ = ()

    def kill_timeout_ns(self, plan: TaskPlan) -> int:
        """Return the kill timeout of a plan within this client's limits (nanoseconds)."""
        return min(plan.kill_timeout_ns if plan.kill_timeout_ns > 0 else LEAST_KILL_TIMEOUT_NS, MOST_KILL_TIMEOUT_NS)

    # --- it is prepared and started ---

    def place(self, task: TaskInHand) -> None:
        """The client has received the task: it is prepared at once."""
        self.emit(task, ev.Received())
        self.remember(task, window_start_ns=self.now_ns)
        self.start(task)

    def take_ended(self, task: TaskInHand) -> None:
        """The client has received a task of a stopped allocation: it is killed when its directory is there."""
        self.emit(task, ev.Received())
        self.emit(task, ev.TaskSetup(message=inputs.SetUp().message))
        self.emit(task, ev.Killed())

    def download_failed(self, task: TaskInHand, failure: inputs.DownloadFailed) -> None:
        """An artifact could not be downloaded."""
        self.emit(task, ev.FailedArtifactDownload(download_error=failure.error))
        if self._gave_up(task):
            return
        self.restart(task, TaskEnd(start_failed=True, recoverable=failure.recoverable))
        if not task.is_dead:
            self.remember(task, download_failed=True)

    def validation_failed(self, task: TaskInHand, failure: inputs.ValidationFailed) -> None:
        """The task is not valid, and is dead."""
        self.emit(task, ev.FailedValidation(validation_error=failure.error, fails_task=True))

    def setup_failed(self, task: TaskInHand, failure: inputs.SetupFailed) -> None:
        """The task could not be set up, and is dead."""
        self.emit(task, ev.SetupFailure(setup_error=failure.error, fails_task=True))

    def allocation_setup_failed(self, failure: inputs.SetupFailed) -> None:
        """The allocation could not be set up: it has failed, whatever its tasks did, and they end."""
        self.update({"ClientStatus": "failed", "ClientDescription": failure.error})
        for task in self.tasks():
            if task.is_running:
                self._destroy(task, ev.Killed())
            elif not task.is_dead:
                self.finish(task)

    def start_failed(self, task: TaskInHand, failure: inputs.StartFailed) -> None:
        """The process could not be started."""
        self.emit(task, ev.DriverFailure(driver_error=failure.error))
        if self._gave_up(task):
            return
        self.restart(task, TaskEnd(start_failed=True, recoverable=failure.recoverable))

    def driver_message(self, task: TaskInHand, report: inputs.DriverMessage) -> None:
        """The driver has a message; this client would show a running task as pending by it."""
        if task.is_running:
            self.note(task.name, "a message of the driver would hide that the task runs", "impossible")
        else:
            self.emit(task, ev.Driver(driver_message=report.message))

    # --- it ends ---

    def exited(self, task: TaskInHand, exit: inputs.Exited) -> None:
        """The process of a running task ended."""
        if task.is_doomed:
            self._gone(task)
        else:
            self.emit(task, self.terminated(exit))
            self.restart(task, TaskEnd(exit_code=exit.exit_code, signal=exit.signal, error=exit.error))

    def _gone(self, task: TaskInHand) -> None:
        """The process that was being ended is gone, in whatever way it ended."""
        self.emit(task, ev.Killed())
        if task.memory.killed:
            self.finish(task)
        else:
            self.restart(task, TaskEnd(restart="asked"))

    def aborted(self, task: TaskInHand) -> None:
        """The start of a pending task was given up, if one was under way."""
        if not self._gave_up(task):
            self.note(task.name, "no process of the task is known to run", "impossible")

    def _gave_up(self, task: TaskInHand) -> bool:
        """End a task if its group destroyed it while it was being started; tell whether it did."""
        if not task.memory.killed:
            return False
        # The death that ended the group is in the tasks, unless the job changed since.
        self.emit(task, self._doom_of_all() or ev.Killed())
        return True

    def end_started(self, task: TaskInHand) -> None:
        """End a task that runs now, and that its group destroyed while it was being started."""
        self.remember(task, killed=False, kill_attempts=0)
        self._destroy(task, self._doom_of_all() or ev.Killed())

    def kill_gave_up(self, task: TaskInHand, failure: inputs.KillFailed) -> None:
        """The last attempt to kill failed: the task counts as dead."""
        self.emit(task, ev.Killed(kill_error=failure.error))
        self.finish(task)

    # --- somebody asks ---

    def stop(self) -> None:
        """Destroy every task."""
        for task in self.tasks():
            self._destroy(task, ev.Killed())

    def kill_all(self, request: inputs.KillRequested) -> None:
        """Destroy every task, for a reason."""
        for task in self.tasks():
            self.kill_one(task, request)

    def kill_one(self, task: TaskInHand, request: inputs.KillRequested) -> None:
        """Destroy a task, for a reason."""
        self._destroy(task, ev.Killing(kill_reason=request.reason, fails_task=request.fails_task))

    def _destroy(self, task: TaskInHand, event: TaskEvent) -> None:
        """End a task: the first destruction wins."""
        if task.is_dead or task.memory.killed:
            return
        if not task.is_running:
            if self.is_starting(task) and isinstance(event, (ev.SiblingTaskFailed, ev.LeaderTaskDead)):
                self.remember(task, killed=True)
                self.kill(task)
                return
            self.emit(task, event)
            if task.memory.download_failed and not self.is_starting(task) and isinstance(event, ev.Killed):
                # Both loops that wait for a download emit the event (prestart and Run).
                self.emit(task, event)
            return
        reason, fails = (event.kill_reason, event.fails_task) if isinstance(event, ev.Killing) else ("", False)
        if not isinstance(event, (ev.Killing, ev.Killed)):
            self.emit(task, event)
        timeout_ns = self.kill_timeout_ns(task.plan)
        self.emit(task, ev.Killing(kill_timeout_ns=timeout_ns, kill_reason=reason, fails_task=fails))
        # The process is being ended for a restart, and needs no second signal: it will not be started again.
        is_ending = bool(task.memory.restart)
        self.remember(task, killed=True)
        if not is_ending:
            self.kill(task)

    def restart_asked(self, task: TaskInHand, request: inputs.RestartRequested) -> None:
        """End the process of a running task to start it again."""
        self._restart(task, request.reason)

    def _restart(self, task: TaskInHand, reason: str) -> None:
        self.emit(task, ev.RestartSignaled(restart_reason=reason))
        self.emit(task, ev.Killing(kill_timeout_ns=self.kill_timeout_ns(task.plan)))
        self.remember(task, restart="asked")
        self.kill(task)

    def signal_asked(self, task: TaskInHand, request: inputs.SignalRequested) -> None:
        """Send a running task a signal."""
        self.emit(task, ev.Signaling(task_signal=signal_text(request.signal), task_signal_reason=request.reason))
        self.signal(task, request.signal)

    def template_changed(self, task: TaskInHand, change: inputs.TemplateChanged) -> None:
        """Restart or signal a running task, as the template's change mode says."""
        if change.change_mode == "restart":
            self._restart(task, f"{_TEMPLATE}: template with change_mode restart re-rendered")
        else:
            reason = f"{_TEMPLATE}: template re-rendered"
            self.emit(task, ev.Signaling(task_signal=signal_text(change.signal), task_signal_reason=reason))
            self.signal(task, change.signal)

    # --- it was away ---

    def restored(self, task: TaskInHand, report: inputs.Restored) -> None:
        """The client was restarted: a task without its process starts again, without an event, or is dead if doomed.

        If the servers ask for the end, nothing is started again: a task that is not dead is destroyed.
        """
        if task.is_pending and task.memory.killed:
            self.aborted(task)
        elif self.is_unwanted(task):
            if task.is_running and not report.reattached:
                if not task.is_doomed:
                    self.emit(task, ev.Killing(kill_timeout_ns=self.kill_timeout_ns(task.plan)))
                self.emit(task, ev.Killed())
                self.finish(task)
        elif task.is_running and not report.reattached and task.is_doomed:
            self._gone(task)
        elif task.is_pending:
            self.start(task)
        elif report.reattached:
            self.started_anew(task, inputs.ProcessStarted())
        else:
            # It is shown as running all the time; that a start is owed is told by its time, which is a later one.
            start_at_ns = max(self.now_ns, (task.started_at_ns or 0) + 1)
            self.remember(task, start_at_ns=start_at_ns)
            self.owe_start(task, start_at_ns)

    def is_started_anew(self, task: TaskInHand) -> bool:
        """Tell whether a task that is shown as running is being started, since its process was not found again.

        Only this client does that: the start is then owed since a later time than the task runs.
        """
        at_ns, since_ns = task.memory.start_at_ns, task.started_at_ns
        return task.is_running and at_ns is not None and since_ns is not None and at_ns > since_ns

    def started_anew(self, task: TaskInHand, report: inputs.Input) -> bool:
        """Take the answer to the start of a task that is shown as running, if one is owed; tell whether it was one.

        No event tells of it but those of the restart policy: the others that could are of a pending task.
        """
        if not self.is_started_anew(task):
            return False
        match report:
            case inputs.ProcessStarted():
                self.remember(task, start_at_ns=None)
            case inputs.StartFailed() | inputs.DownloadFailed():
                self.restart(task, TaskEnd(start_failed=True, recoverable=report.recoverable))
            case inputs.ValidationFailed():
                self.restart(task, TaskEnd(start_failed=True))
            case _:
                return False
        return True

    # --- the group ---

    def settle(self) -> None:
        """Destroy the others if a death is the end of them: that destroys all, so no second death adds anything."""
        event = self._doom_of_all() if self.has_death else None
        if event is not None:
            for task in self.tasks():
                self._destroy(task, event)

    def _doom_of(self, dead: TaskInHand) -> TaskEvent | None:
        """Return the event by which the death of a task destroys the others, or None."""
        event = ev.SiblingTaskFailed(failed_sibling=dead.name) if dead.failed else ev.LeaderTaskDead()
        return event if (dead.failed or dead.plan.leader) and self.has_event(event) else None

    def _doom_of_all(self) -> TaskEvent | None:
        """Return the event by which deaths destroy the others, or None; a failure goes first."""
        dead = sorted((task for task in self.tasks() if task.is_dead), key=lambda task: not task.failed)
        return next(filter(None, map(self._doom_of, dead)), None)

    def check_running(self, task: TaskInHand) -> bool:
        """Tell whether a request can reach the process of a task; note it if not."""
        if task.is_running and not task.memory.killed:
            return True
        self.note(task.name, NOT_RUNNING)
        return False
