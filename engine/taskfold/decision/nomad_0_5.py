"""The client of Nomad 0.5: what it does with each input.

The rules that set it apart, each with the function of v0.5.6 that it comes from:

* A process that is killed has no Terminated: ``Killing``, then ``Killed`` when it is gone (task_runner.go killTask).
* To destroy a task takes one event, and the first destruction wins; the later ones are not even seen (Destroy). A task
  that does not run is dead with that event alone, whatever it waits for. Where the group destroys a task whose start is
  under way, that is over first: who was started is killed as any other, who was not is dead with the event (run).
* A restart that is asked for is a kill and a ``Restarting`` without delay (Run, restartCh).
* When a task is dead and failed, every other one is destroyed as its sibling; when it is the leader, as its follower;
  failure goes before leadership (alloc_runner.go setTaskState).
* All tasks start at once: there are no hooks.
"""

from __future__ import annotations

from typing import Final

from taskfold.decision.client_state import Now
from taskfold.decision.decision import NOT_RUNNING, Client
from taskfold.decision.group import LEAST_KILL_TIMEOUT_NS, MOST_KILL_TIMEOUT_NS, TaskPlan
from taskfold.decision.restart import Result
from taskfold.fold.lifecycle import PENDING
from taskfold.model import events as ev
from taskfold.model import inputs as given
from taskfold.model.events import TaskEvent
from taskfold.model.signals import signal_text

__all__ = ["OldClient"]

_TEMPLATE: Final = "consul-template"


class OldClient(Client):
    """A decision of the client of Nomad 0.5."""

    __slots__ = ()

    def kill_timeout_ns(self, plan: TaskPlan) -> int:
        """Return the timeout between the least and the most that this client lets a process have."""
        return min(plan.kill_timeout_ns if plan.kill_timeout_ns > 0 else LEAST_KILL_TIMEOUT_NS, MOST_KILL_TIMEOUT_NS)

    # --- it is prepared and started ---

    def place(self, task: Now) -> None:
        """The client has received the task: it is prepared at once."""
        self.emit(task, ev.Received())
        self.remember(task, window_start_ns=self.now_ns)
        self.start(task)

    def take_ended(self, task: Now) -> None:
        """The client has received a task that is to be stopped: it is killed when its directory is there."""
        self.emit(task, ev.Received())
        self.emit(task, ev.TaskSetup(message=given.SetUp().message))
        self.emit(task, ev.Killed())

    def download_failed(self, task: Now, failed: given.DownloadFailed) -> None:
        """An artifact could not be downloaded."""
        self.emit(task, ev.FailedArtifactDownload(download_error=failed.error))
        if self._gave_up(task):
            return
        self.restart(task, Result(start_failed=True, recoverable=failed.recoverable))
        if not task.is_dead:
            self.remember(task, download_failed=True)

    def validation_failed(self, task: Now, failed: given.ValidationFailed) -> None:
        """The task is not valid: that is its end."""
        self.emit(task, ev.FailedValidation(validation_error=failed.error, fails_task=True))

    def setup_failed(self, task: Now, failed: given.SetupFailed) -> None:
        """The task could not be set up: that is its end."""
        self.emit(task, ev.SetupFailure(setup_error=failed.error, fails_task=True))

    def allocation_setup_failed(self, failed: given.SetupFailed) -> None:
        """The allocation could not be set up: it is failed without any task, and those that were placed end."""
        self.update({"ClientStatus": "failed", "ClientDescription": failed.error})
        for task in self.all():
            if task.is_running:
                self._destroy(task, ev.Killed())
            elif not task.is_dead:
                self.finish(task)

    def start_failed(self, task: Now, failed: given.StartFailed) -> None:
        """The process could not be started."""
        self.emit(task, ev.DriverFailure(driver_error=failed.error))
        if self._gave_up(task):
            return
        self.restart(task, Result(start_failed=True, recoverable=failed.recoverable))

    def driver_message(self, task: Now, said: given.DriverMessage) -> None:
        """The driver says something; while the task runs, this client would show it as pending."""
        if task.is_running:
            self.note(task.name, "a message of the driver would hide that the task runs", "impossible")
        else:
            self.emit(task, ev.Driver(driver_message=said.message))

    # --- it ends ---

    def exited(self, task: Now, exited: given.Exited) -> None:
        """The process of a running task ended."""
        if task.decided.killed:
            self.emit(task, ev.Killed())
            self.finish(task)
        elif task.decided.restart:
            self.emit(task, ev.Killed())
            self.restart(task, Result(restart="asked"))
        else:
            self.emit(task, self.terminated(exited))
            self.restart(task, Result(exit_code=exited.exit_code, signal=exited.signal, error=exited.error))

    def aborted(self, task: Now) -> None:
        """A pending task's process ended: the start that was given up, if there was one."""
        if not self._gave_up(task):
            self.note(task.name, "no process of the task is known to run", "impossible")

    def _gave_up(self, task: Now) -> bool:
        """End a task that its group destroyed while it was being started; tell whether that is so."""
        if not task.decided.killed:
            return False
        # What its group ended by is there, unless the job changed since.
        self.emit(task, self._doom_of_all() or ev.Killed())
        return True

    def end_started(self, task: Now) -> None:
        """End a task that its group destroyed while it was being started, and that runs now."""
        self.remember(task, killed=False, kill_attempts=0)
        self._destroy(task, self._doom_of_all() or ev.Killed())

    def kill_gave_up(self, task: Now, failed: given.KillFailed) -> None:
        """The last attempt to kill failed: the task counts as dead."""
        self.emit(task, ev.Killed(kill_error=failed.error))
        self.finish(task)

    # --- somebody asks ---

    def stop(self) -> None:
        """Destroy every task."""
        for task in self.all():
            self._destroy(task, ev.Killed())

    def kill_all(self, asked: given.KillRequested) -> None:
        """Destroy every task, for a reason."""
        for task in self.all():
            self.kill_one(task, asked)

    def kill_one(self, task: Now, asked: given.KillRequested) -> None:
        """Destroy a task, for a reason."""
        self._destroy(task, ev.Killing(kill_reason=asked.reason, fails_task=asked.fails_task))

    def _destroy(self, task: Now, event: TaskEvent) -> None:
        """End a task: the first destruction wins."""
        if task.is_dead or task.decided.killed:
            return
        if not task.is_running:
            if self.is_starting(task) and isinstance(event, (ev.SiblingTaskFailed, ev.LeaderTaskDead)):
                self.remember(task, killed=True)
                self.kill(task)
                return
            self.emit(task, event)
            if task.decided.download_failed and not self.is_starting(task) and isinstance(event, ev.Killed):
                # Both loops that wait there tell of it (prestart and Run), with the same event.
                self.emit(task, event)
            return
        reason, fails = (event.kill_reason, event.fails_task) if isinstance(event, ev.Killing) else ("", False)
        if not isinstance(event, (ev.Killing, ev.Killed)):
            self.emit(task, event)
        timeout_ns = self.kill_timeout_ns(task.plan)
        self.emit(task, ev.Killing(kill_timeout_ns=timeout_ns, kill_reason=reason, fails_task=fails))
        # A process that is being ended for a restart needs no other signal: it will not be started again.
        is_ending = bool(task.decided.restart)
        self.remember(task, killed=True, restart="")
        if not is_ending:
            self.kill(task)

    def restart_asked(self, task: Now, asked: given.RestartRequested) -> None:
        """End the process of a running task to start it again."""
        self._restart(task, asked.reason)

    def _restart(self, task: Now, reason: str) -> None:
        self.emit(task, ev.RestartSignaled(restart_reason=reason))
        self.emit(task, ev.Killing(kill_timeout_ns=self.kill_timeout_ns(task.plan)))
        self.remember(task, restart="asked")
        self.kill(task)

    def signal_asked(self, task: Now, asked: given.SignalRequested) -> None:
        """Send a running task a signal."""
        self.emit(task, ev.Signaling(task_signal=signal_text(asked.signal), task_signal_reason=asked.reason))
        self.signal(task, asked.signal)

    def template_changed(self, task: Now, changed: given.TemplateChanged) -> None:
        """Do what the template's change mode says."""
        if changed.change_mode == "restart":
            self._restart(task, f"{_TEMPLATE}: template with change_mode restart re-rendered")
        else:
            reason = f"{_TEMPLATE}: template re-rendered"
            self.emit(task, ev.Signaling(task_signal=signal_text(changed.signal), task_signal_reason=reason))
            self.signal(task, changed.signal)

    # --- it was away ---

    def restored(self, task: Now, found: given.Restored) -> None:
        """The client is back: what it does not find is started again, without an event, or has ended as it was to.

        Where the servers want the end, nothing is started again: what is not dead then is destroyed.
        """
        if task.state == PENDING and task.decided.killed:
            self.aborted(task)
        elif self.is_unwanted(task):
            if task.is_running and not found.reattached:
                if not self.doomed(task):
                    self.emit(task, ev.Killing(kill_timeout_ns=self.kill_timeout_ns(task.plan)))
                self.emit(task, ev.Killed())
                self.finish(task)
        elif task.is_running and not found.reattached and self.doomed(task):
            self.exited(task, given.Exited(exit_code=None))
        elif not (task.is_running and found.reattached):
            self.start(task)

    # --- the group ---

    def settle(self) -> None:
        """Destroy the others of tasks that became dead, until nothing more follows."""
        done: set[str] = set()
        while self.died:
            self.died = False
            for task in self.all():
                if task.is_dead and task.name not in done:
                    done.add(task.name)
                    self._doom(task)
        self.died = bool(done)

    def _doom(self, dead: Now) -> None:
        event = self._doom_of(dead)
        if event is None:
            return
        for task in self.all():
            if task is not dead:
                self._destroy(task, event)

    def _doom_of(self, dead: Now) -> TaskEvent | None:
        """Return by which event the death of a task destroys the others; None where it does not."""
        event = ev.SiblingTaskFailed(failed_sibling=dead.name) if dead.failed else ev.LeaderTaskDead()
        return event if (dead.failed or dead.plan.leader) and self.knows(event) else None

    def _doom_of_all(self) -> TaskEvent | None:
        """Return by which event the others were destroyed; a failure goes first."""
        dead = sorted((task for task in self.all() if task.is_dead), key=lambda task: not task.failed)
        return next(filter(None, map(self._doom_of, dead)), None)

    def needs_running(self, task: Now) -> bool:
        """Tell whether what is asked for needs a running task, and note it where this one is none."""
        if task.is_running and not task.decided.killed:
            return True
        self.note(task.name, NOT_RUNNING)
        return False
