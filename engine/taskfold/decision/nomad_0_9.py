"""The rule book of Nomad 0.9 and newer: what its client does with each input, as recorded of 1.1.2.

The rules that set it apart, each with the file of 1.1.2 and newer that it comes from:

* Most events move nothing; a process that is killed has ``Killing``, ``Terminated`` and ``Killed`` (task_runner.go).
* A *pass* kills the group: the leader first, and when it is dead the others, sidecars after the rest. Every task gets a
  ``Killing``, also a dead one; poststop tasks are spared (killTasks).
* A task that is killed while it waits for others, or for its delay, is dead at once; a task whose start is under way is
  dead when the start is over (task_runner.go Run).
* When a task is dead and failed, or the leader is dead, or only sidecars live, the others get an event with the reason
  and are killed by a pass, once (alloc_runner.go handleTaskStateUpdates). A stop is a pass of its own.
* A restart on request is refused for a task that does not run, and has no kill events (lifecycle.go).
* Tasks start stage by stage (`taskfold.decision.group`).
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Raw

from taskfold.decision.decision import NOT_RUNNING, Decision, TaskInHand
from taskfold.decision.group import FIRST, STEPS, next_step
from taskfold.decision.restart import TaskEnd
from taskfold.model import events as ev
from taskfold.model import inputs
from taskfold.model.events import Extras, TaskEvent
from taskfold.model.go.durations import duration_text
from taskfold.model.go.signals import signal_text

__all__ = ["Nomad09"]

_NOT_RESTORED: Final = "failed to restore task; will not run until server is contacted"


def _with_text(text: str) -> Extras:
    """Return the extras of an event with a display message of its own."""
    return Extras(display_message=text)


class Nomad09(Decision):
    """A decision by the rules of Nomad 0.9 and newer."""

    __slots__ = ()

    # --- it is prepared and started ---

    def place(self, task: TaskInHand) -> None:
        """The client has received the task: it is prepared when its stage comes."""
        self._report_network()
        self.emit(task, ev.Received())
        self.remember(task, window_start_ns=self.now_ns)
        if not self.group.has_hooks:
            self.start(task)

    def take_ended(self, task: TaskInHand) -> None:
        """The client has received a task of a stopped allocation: it never begins."""
        self._report_network()
        self.emit(task, ev.Received())
        self.finish(task)

    def _report_network(self) -> None:
        """Set the NetworkStatus with the client's first report."""
        is_first = not self.allocation.tasks and not self._entries
        if is_first and self.dialect.first_network_status and self.field("NetworkStatus") is None:
            self.update({"NetworkStatus": Raw(self.dialect.first_network_status)})

    def download_failed(self, task: TaskInHand, failure: inputs.DownloadFailed) -> None:
        """An artifact could not be downloaded."""
        if not self._gave_up(task):
            self.emit(task, ev.FailedArtifactDownload(download_error=failure.error))
            self.restart(task, TaskEnd(start_failed=True, recoverable=failure.recoverable))

    def hook_failed(self, task: TaskInHand, failure: inputs.HookFailed) -> None:
        """A hook failed."""
        if not self._gave_up(task):
            self.emit(task, ev.TaskHookFailed(message=f"{failure.hook}: {failure.error}"))
            self.restart(task, TaskEnd(start_failed=True, recoverable=failure.recoverable))

    def validation_failed(self, task: TaskInHand, failure: inputs.ValidationFailed) -> None:
        """The task's configuration is not valid, and will not become so."""
        if not self._gave_up(task):
            self.emit(task, ev.FailedValidation(validation_error=failure.error))
            self.restart(task, TaskEnd(start_failed=True))

    def setup_failed(self, task: TaskInHand, failure: inputs.SetupFailed) -> None:
        """The task could not be set up, and is dead."""
        self.emit(task, ev.SetupFailure(fails_task=True, extras=_with_text(f"failed to setup alloc: {failure.error}")))
        self.finish(task)

    def allocation_setup_failed(self, failure: inputs.SetupFailed) -> None:
        """The allocation could not be set up: every task is dead."""
        for task in self.tasks():
            if not task.is_dead:
                self.setup_failed(task, failure)

    def start_failed(self, task: TaskInHand, failure: inputs.StartFailed) -> None:
        """The process could not be started."""
        self.emit(task, ev.DriverFailure(driver_error=failure.error))
        if not self._gave_up(task):
            self.restart(task, TaskEnd(start_failed=True, recoverable=failure.recoverable))

    def _gave_up(self, task: TaskInHand) -> bool:
        """End a task if it was killed while it was being started; tell whether it was."""
        if task.memory.killed:
            self.finish(task)
        return task.memory.killed

    def driver_message(self, task: TaskInHand, report: inputs.DriverMessage) -> None:
        """The driver has a message."""
        self.emit(task, ev.Driver(driver_message=report.message))

    def template_blocked(self, task: TaskInHand, blocked: inputs.TemplateBlocked) -> None:
        """A template waits."""
        self.emit(task, ev.Template(extras=_with_text(f"Missing: {', '.join(sorted(blocked.missing))}")))

    # --- it ends ---

    def exited(self, task: TaskInHand, exit: inputs.Exited) -> None:
        """The process of a running task ended."""
        self.emit(task, self.terminated(exit))
        memory = task.memory
        if memory.was_reattached:
            self.finish(task)
        elif memory.killed:
            self.restart(task, TaskEnd(killed=True))
        else:
            self.restart(
                task,
                TaskEnd(exit_code=exit.exit_code, signal=exit.signal, error=exit.error, restart=memory.restart),
            )

    def aborted(self, task: TaskInHand) -> None:
        """The start of a pending task was given up, if one was under way."""
        if not self._gave_up(task):
            self.note(task.name, "no process of the task is known to run", "impossible")

    def end_started(self, task: TaskInHand) -> None:
        """End a task that runs now, and that was killed while it was being started."""
        self.kill(task)

    def kill_gave_up(self, task: TaskInHand, _: inputs.KillFailed) -> None:
        """The last attempt to kill failed: the task counts as dead, and no event has a field for the reason."""
        self.emit(task, ev.Killed())
        self.finish(task)

    # --- somebody asks ---

    def stop(self) -> None:
        """Kill the group by a pass."""
        if self._pass():
            self.coordinate(stop_waits=True)

    def kill_all(self, request: inputs.KillRequested) -> None:
        """Kill the group by a pass, or each task for a reason."""
        if not request.reason and not request.fails_task:
            self.stop()
            return
        for task in self.tasks():
            if not task.is_dead:
                self.kill_one(task, request)

    def kill_one(self, task: TaskInHand, request: inputs.KillRequested) -> None:
        """Kill a task, for a reason."""
        if request.reason:
            self._kill(task, ev.Killing(fails_task=request.fails_task, extras=_with_text(request.reason)))
        else:
            timeout_ns = self.kill_timeout_ns(task.plan)
            self._kill(task, ev.Killing(kill_timeout_ns=timeout_ns, fails_task=request.fails_task))

    def _pass(self) -> bool:
        """Kill the group, the leader first; tell whether the others wait for the leader's end."""
        leader = self._leader()
        if leader is not None:
            self._kill_for_all(leader)
            if not leader.is_dead:
                return True
        self._pass_rest()
        return False

    def _leader(self) -> TaskInHand | None:
        """Return the leader if it has a record, else None."""
        leader = self.task(self.group.leader) if self.group.leader else None
        return None if leader is None or leader.is_new else leader

    def _pass_rest(self) -> None:
        """Kill the followers, sidecars after the rest."""
        followers = [task for task in self.tasks() if not task.plan.leader and not task.plan.is_poststop]
        for task in sorted(followers, key=lambda task: task.plan.sidecar):
            self._kill_for_all(task)

    def _kill_for_all(self, task: TaskInHand) -> None:
        self._kill(task, ev.Killing(kill_timeout_ns=self.kill_timeout_ns(task.plan)))

    def _kill(self, task: TaskInHand, event: ev.Killing) -> None:
        """Kill a task, whatever its state."""
        self.emit(task, event)
        if task.is_dead or task.memory.killed:
            return
        if task.is_pending and not self.is_starting(task):
            self.finish(task)
            return
        # The process is being ended for a restart, and needs no second signal: it will not be started again.
        is_ending = bool(task.memory.restart) and task.memory.kill_at_ns is None
        self.remember(task, killed=True)
        if not is_ending:
            self.kill(task, task.plan.shutdown_delay_ns if task.is_running else 0)

    def restart_asked(self, task: TaskInHand, request: inputs.RestartRequested) -> None:
        """End the process of a running task to start it again."""
        self._end_to_restart(
            task, ev.RestartSignaled(restart_reason=request.reason), "failed" if request.failure else "asked"
        )

    def _end_to_restart(self, task: TaskInHand, event: ev.RestartSignaled, restart: Literal["asked", "failed"]) -> None:
        self.emit(task, event)
        self.remember(task, restart=restart)
        self.kill(task)

    def signal_asked(self, task: TaskInHand, request: inputs.SignalRequested) -> None:
        """Send a running task a signal; the event has the name as the request had it."""
        details = {"signal": request.signal}
        self.emit(task, ev.Signaling(task_signal_reason=request.reason, extras=Extras(details=details)))
        self.signal(task, request.signal)

    def template_changed(self, task: TaskInHand, change: inputs.TemplateChanged) -> None:
        """Restart or signal a running task, as the template's change mode says."""
        if change.change_mode == "restart":
            event = ev.RestartSignaled(extras=_with_text("Template with change_mode restart re-rendered"))
            self._end_to_restart(task, event, "asked")
        else:
            text = signal_text(change.signal)
            self.emit(task, ev.Signaling(task_signal=text, extras=_with_text("Template re-rendered")))
            self.signal(task, change.signal)

    def check_running(self, task: TaskInHand) -> bool:
        """Tell whether a request can reach the process of a task; note it if not."""
        if task.is_running:
            return True
        self.note(task.name, NOT_RUNNING)
        return False

    # --- it was away ---

    def restored(self, task: TaskInHand, report: inputs.Restored) -> None:
        """The client was restarted: a task without its process is pending; a start whose time came is owed again.

        If the servers ask for the end, nothing is started again: a task that is not dead is killed.
        """
        is_wanted = not self.is_unwanted(task)
        if task.is_running and not report.reattached:
            self.emit(task, ev.FailedRestoringTask(extras=_with_text(_NOT_RESTORED)))
            # The tasks of a system job do not wait. Source: task_runner.go Restore.
            waits = self.group.job_type != "system"
            # What its process was being ended for, to start it again, is over with the process.
            self.remember(task, start_at_ns=None, awaits_server=waits, restart="", kill_attempts=0, kill_at_ns=None)
            if task.memory.killed:
                self.finish(task)
            elif is_wanted and not task.memory.awaits_server:
                self.start(task)
        elif task.is_running and task.memory.killed:
            # The loop that decides on restarts and emits Killed is over by then. Source: task_runner.go Run.
            self.remember(task, was_reattached=True)
        elif task.is_pending and task.memory.killed:
            self.finish(task)
        elif task.is_pending and task.memory.start_at_ns is not None:
            if is_wanted:
                self.start(task)
            else:
                self.remember(task, start_at_ns=None)

    def server_contacted(self) -> None:
        """The client reached its servers: tasks that could not be restored start, unless they have to end."""
        for task in self.tasks():
            if task.is_pending and task.memory.awaits_server and not self.is_unwanted(task):
                self.remember(task, awaits_server=False)
                self.start(task)

    def reconnected(self) -> None:
        """The client reached its servers again."""
        for task in self.tasks():
            self.emit(task, ev.Reconnected())

    def health_failed(self) -> None:
        """The allocation did not become healthy in time: each task at fault gets an event with its reason.

        Source: allochealth/tracker.go.
        """
        tasks = self.tasks()
        # A task that failed or is dead ends the wait before its deadline: a running task still had time left.
        is_early = any(task.failed or self._died_too_early(task) for task in tasks)
        faults = [(task, fault) for task in tasks if (fault := self._fault(task, is_early=is_early))]
        for task, fault in faults:
            self.emit(task, ev.AllocUnhealthy(message=fault))
        if not faults:
            self.note("", "no task is at fault: all ran long enough, or ended well as their hook may")

    def _died_too_early(self, task: TaskInHand) -> bool:
        """Tell whether a task is dead that has to run on: a main task or a sidecar."""
        return task.is_dead and (not task.plan.hook or task.plan.sidecar)

    def _fault(self, task: TaskInHand, *, is_early: bool) -> str:
        """Return why a task keeps its allocation from being healthy; an empty text if it does not."""
        if task.failed:
            return "Unhealthy because of failed task"
        if self._died_too_early(task):
            return "Unhealthy because of dead task"
        if task.is_pending:
            return "Task not running by deadline"
        healthy_ns = self.group.min_healthy_time_ns
        ran_ns = self.now_ns - (self.now_ns if task.started_at_ns is None else task.started_at_ns)
        if task.is_dead or is_early or ran_ns >= healthy_ns:
            return ""
        return f"Task not running for min_healthy_time of {duration_text(healthy_ns)} by deadline"

    # --- the group ---

    def settle(self) -> None:
        """Decide what follows for the group from deaths and moves of its tasks."""
        if self.has_death:
            self._follow_deaths()
        if self.has_move and self.group.has_hooks:
            self._open_stages()

    def _follow_deaths(self) -> None:
        leader = self._leader()
        is_free = leader is None or leader.is_dead
        if not self.memory.group_kill:
            self._doom()
        elif self.memory.group_waits and is_free:
            self.coordinate(group_waits=False)
            self._pass_rest()
        if self.memory.stop_waits and is_free:
            self.coordinate(stop_waits=False)
            self._pass_rest()

    def _doom(self) -> None:
        """Kill the live tasks if a death is the end of them."""
        members = [task for task in self.tasks() if not task.plan.is_poststop]
        live = [task for task in members if not task.is_dead]
        event = _doom_of(members, live)
        if event is None or not live:
            return
        for task in live:
            self.emit(task, event)
        self.coordinate(group_kill=True)
        if self._pass():
            self.coordinate(group_waits=True)

    def _open_stages(self) -> None:
        """Move the group on to its next step, and start the tasks that waited for it."""
        tasks = self.tasks()
        step = next_step(self.memory.stage or FIRST, tasks)
        if step != self.memory.stage:
            self.coordinate(stage=step)
        for task in tasks:
            waits = task.is_pending and task.memory.start_at_ns is None
            if waits and not task.memory.awaits_server and task.plan.stage in STEPS[step].allowed:
                self.start(task)


def _doom_of(members: list[TaskInHand], live: list[TaskInHand]) -> TaskEvent | None:
    """Return the event by which deaths end the live tasks, or None; a dead leader goes before a failed sibling."""
    event: TaskEvent | None = None
    for task in members:
        if not task.is_dead:
            continue
        if task.failed:
            event = event or ev.SiblingTaskFailed(failed_sibling=task.name)
        elif task.plan.leader:
            event = ev.LeaderTaskDead()
    if event is None and all(task.plan.sidecar for task in live):
        return ev.MainTasksDead()
    return event
