"""The client that was written anew for Nomad 0.9: what it does with each input, as 1.1.2 was recorded doing it.

The rules that set it apart, each with the file of 1.1.2 and newer that it comes from:

* Most events only tell; a process that is killed has ``Killing``, ``Terminated`` and ``Killed`` (task_runner.go).
* To kill the group takes a *pass*: the leader first, and when it is dead the others, sidecars after the rest. Every
  task gets a ``Killing``, also one that is dead; those that run after the others (poststop) are spared (killTasks).
* A task that is killed while nobody is at it (it waits for others, or for its delay) is dead at once; one whose start
  is under way is dead when that is over (task_runner.go Run).
* When a task is dead and failed, or the leader is dead, or none but sidecars live, the others get an event that says so
  and are killed by a pass, once (alloc_runner.go handleTaskStateUpdates). A stop is a pass of its own, beside it.
* A restart that is asked for is refused to a task that does not run, and needs no kill events (lifecycle.go).
* Tasks start stage by stage (`taskfold.decision.stages`).
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Raw

from taskfold.decision.client_state import Now
from taskfold.decision.decision import NOT_RUNNING, Client
from taskfold.decision.restart import Result
from taskfold.decision.stages import FIRST, STEPS, next_step
from taskfold.fold.lifecycle import PENDING
from taskfold.model import events as ev
from taskfold.model import inputs as given
from taskfold.model.duration import duration_text
from taskfold.model.events import Kept, TaskEvent
from taskfold.model.signals import signal_text

__all__ = ["NewClient"]

_NOT_RESTORED: Final = "failed to restore task; will not run until server is contacted"


def _shown(text: str) -> Kept:
    """Return what an event keeps whose text its emitter gives."""
    return Kept(display_message=text)


class NewClient(Client):
    """A decision of the client of Nomad 0.9 and newer."""

    __slots__ = ()

    # --- it is prepared and started ---

    def place(self, task: Now) -> None:
        """The client has received the task: it is prepared when its stage comes."""
        self._report_network()
        self.emit(task, ev.Received())
        self.remember(task, window_start_ns=self.now_ns)
        if not self.group.has_hooks:
            self.start(task)

    def take_ended(self, task: Now) -> None:
        """The client has received a task that is to be stopped: it never begins."""
        self._report_network()
        self.emit(task, ev.Received())
        self.finish(task)

    def _report_network(self) -> None:
        """Tell the NetworkStatus with the client's first report."""
        is_first = not self.allocation.tasks and not self._written
        if is_first and self.dialect.first_network_status and self.field("NetworkStatus") is None:
            self.update({"NetworkStatus": Raw(self.dialect.first_network_status)})

    def download_failed(self, task: Now, failed: given.DownloadFailed) -> None:
        """An artifact could not be downloaded."""
        if not self._gave_up(task):
            self.emit(task, ev.FailedArtifactDownload(download_error=failed.error))
            self.restart(task, Result(start_failed=True, recoverable=failed.recoverable))

    def hook_failed(self, task: Now, failed: given.HookFailed) -> None:
        """A hook failed."""
        if not self._gave_up(task):
            self.emit(task, ev.TaskHookFailed(message=f"{failed.hook}: {failed.error}"))
            self.restart(task, Result(start_failed=True, recoverable=failed.recoverable))

    def validation_failed(self, task: Now, failed: given.ValidationFailed) -> None:
        """The task's configuration is not valid, and will not become so."""
        if not self._gave_up(task):
            self.emit(task, ev.FailedValidation(validation_error=failed.error))
            self.restart(task, Result(start_failed=True))

    def setup_failed(self, task: Now, failed: given.SetupFailed) -> None:
        """The task could not be set up: that is its end."""
        self.emit(task, ev.SetupFailure(fails_task=True, kept=_shown(f"failed to setup alloc: {failed.error}")))
        self.finish(task)

    def allocation_setup_failed(self, failed: given.SetupFailed) -> None:
        """The allocation could not be set up: that is the end of every task."""
        for task in self.all():
            if not task.is_dead:
                self.setup_failed(task, failed)

    def start_failed(self, task: Now, failed: given.StartFailed) -> None:
        """The process could not be started."""
        self.emit(task, ev.DriverFailure(driver_error=failed.error))
        if not self._gave_up(task):
            self.restart(task, Result(start_failed=True, recoverable=failed.recoverable))

    def _gave_up(self, task: Now) -> bool:
        """End a task that was killed while it was being started; tell whether it was."""
        if task.decided.killed:
            self.finish(task)
        return task.decided.killed

    def driver_message(self, task: Now, said: given.DriverMessage) -> None:
        """The driver says something."""
        self.emit(task, ev.Driver(driver_message=said.message))

    def template_blocked(self, task: Now, blocked: given.TemplateBlocked) -> None:
        """A template waits."""
        self.emit(task, ev.Template(kept=_shown(f"Missing: {', '.join(sorted(blocked.missing))}")))

    # --- it ends ---

    def exited(self, task: Now, exited: given.Exited) -> None:
        """The process of a running task ended."""
        self.emit(task, self.terminated(exited))
        held = task.decided
        if held.was_reattached:
            self.finish(task)
        elif held.killed:
            self.restart(task, Result(killed=True))
        elif held.restart == "asked":
            self.restart(task, Result(restart="asked"))
        else:
            self.restart(
                task,
                Result(exit_code=exited.exit_code, signal=exited.signal, error=exited.error, restart=held.restart),
            )

    def aborted(self, task: Now) -> None:
        """A pending task's process ended: the start that was given up, if there was one."""
        if not self._gave_up(task):
            self.note(task.name, "no process of the task is known to run", "impossible")

    def end_started(self, task: Now) -> None:
        """End a task that was killed while it was being started, and that runs now."""
        self.kill(task)

    def kill_gave_up(self, task: Now, _: given.KillFailed) -> None:
        """The last attempt to kill failed: the task counts as dead, and no event has room for the reason."""
        self.emit(task, ev.Killed())
        self.finish(task)

    # --- somebody asks ---

    def stop(self) -> None:
        """Kill the group by a pass."""
        if self._pass():
            self.coordinate(stop_waits=True)

    def kill_all(self, asked: given.KillRequested) -> None:
        """Kill the group by a pass, or each task for a reason."""
        if not asked.reason and not asked.fails_task:
            self.stop()
            return
        for task in self.all():
            if not task.is_dead:
                self.kill_one(task, asked)

    def kill_one(self, task: Now, asked: given.KillRequested) -> None:
        """Kill a task, for a reason."""
        if asked.reason:
            self._kill(task, ev.Killing(fails_task=asked.fails_task, kept=_shown(asked.reason)))
        else:
            timeout_ns = self.kill_timeout_ns(task.plan)
            self._kill(task, ev.Killing(kill_timeout_ns=timeout_ns, fails_task=asked.fails_task))

    def _pass(self) -> bool:
        """Kill the group, the leader first; tell whether the others wait for its end."""
        leader = self._leader()
        if leader is not None:
            self._kill_for_all(leader)
            if not leader.is_dead:
                return True
        self._pass_rest()
        return False

    def _leader(self) -> Now | None:
        """Return the leader, if there is one, and it was placed."""
        leader = self.task(self.group.leader) if self.group.leader else None
        return None if leader is None or leader.is_new else leader

    def _pass_rest(self) -> None:
        """Kill the followers, sidecars after the rest."""
        followers = [task for task in self.all() if not task.plan.leader and not task.plan.is_poststop]
        for task in sorted(followers, key=lambda task: task.plan.sidecar):
            self._kill_for_all(task)

    def _kill_for_all(self, task: Now) -> None:
        self._kill(task, ev.Killing(kill_timeout_ns=self.kill_timeout_ns(task.plan)))

    def _kill(self, task: Now, event: ev.Killing) -> None:
        """Kill a task, whatever it does."""
        self.emit(task, event)
        if task.is_dead or task.decided.killed:
            return
        if task.state == PENDING and not self.is_starting(task):
            self.finish(task)
            return
        # A process that is being ended for a restart needs no other signal: it will not be started again.
        is_ending = bool(task.decided.restart) and task.decided.kill_at_ns is None
        self.remember(task, killed=True, restart="")
        if not is_ending:
            self.kill(task, task.plan.shutdown_delay_ns if task.is_running else 0)

    def restart_asked(self, task: Now, asked: given.RestartRequested) -> None:
        """End the process of a running task to start it again."""
        self._end_to_restart(
            task, ev.RestartSignaled(restart_reason=asked.reason), "failed" if asked.failure else "asked"
        )

    def _end_to_restart(self, task: Now, event: ev.RestartSignaled, restart: Literal["asked", "failed"]) -> None:
        self.emit(task, event)
        self.remember(task, restart=restart)
        self.kill(task)

    def signal_asked(self, task: Now, asked: given.SignalRequested) -> None:
        """Send a running task a signal; the event tells its name as it was asked for."""
        details = {"signal": asked.signal}
        self.emit(task, ev.Signaling(task_signal_reason=asked.reason, kept=Kept(details=details)))
        self.signal(task, asked.signal)

    def template_changed(self, task: Now, changed: given.TemplateChanged) -> None:
        """Do what the template's change mode says."""
        if changed.change_mode == "restart":
            event = ev.RestartSignaled(kept=_shown("Template with change_mode restart re-rendered"))
            self._end_to_restart(task, event, "asked")
        else:
            text = signal_text(changed.signal)
            self.emit(task, ev.Signaling(task_signal=text, kept=_shown("Template re-rendered")))
            self.signal(task, changed.signal)

    def needs_running(self, task: Now) -> bool:
        """Tell whether what is asked for needs a running task, and note it where this one is none."""
        if task.is_running:
            return True
        self.note(task.name, NOT_RUNNING)
        return False

    # --- it was away ---

    def restored(self, task: Now, found: given.Restored) -> None:
        """The client is back: what it does not find is pending; what was to be started by now is started.

        Where the servers want the end, nothing is started again: what is not dead then is killed.
        """
        is_wanted = not self.is_unwanted(task)
        if task.is_running and not found.reattached:
            self.emit(task, ev.FailedRestoringTask(kept=_shown(_NOT_RESTORED)))
            # What runs on every node is not kept waiting. Source: task_runner.go Restore.
            self.remember(task, start_at_ns=None, awaits_server=self.group.job_type != "system")
            if task.decided.killed:
                self.finish(task)
            elif is_wanted and not task.decided.awaits_server:
                self.start(task)
        elif task.is_running and task.decided.killed:
            # Its end is not waited for by who decides on restarts, which tells of Killed. Source: task_runner.go Run.
            self.remember(task, was_reattached=True)
        elif task.state == PENDING and task.decided.killed:
            self.finish(task)
        elif task.state == PENDING and task.decided.start_at_ns is not None:
            if is_wanted:
                self.start(task)
            else:
                self.remember(task, start_at_ns=None)

    def server_contacted(self) -> None:
        """The servers were reached: what could not be restored is started again, unless they want its end."""
        for task in self.all():
            waits = task.state == PENDING and task.decided.awaits_server and not task.decided.killed
            if waits and not self.is_unwanted(task):
                self.remember(task, awaits_server=False)
                self.start(task)

    def reconnected(self) -> None:
        """The client reached its servers again."""
        for task in self.all():
            self.emit(task, ev.Reconnected())

    def health_failed(self) -> None:
        """The allocation did not become healthy in time: each task that is at fault says why, and the others nothing.

        Source: allochealth/tracker.go.
        """
        tasks = self.all()
        # A task that failed or is dead ends the wait for health before its deadline: who runs then has time left.
        is_early = any(task.failed or self._died_too_early(task) for task in tasks)
        faults = [(task, fault) for task in tasks if (fault := self._fault(task, is_early=is_early))]
        for task, fault in faults:
            self.emit(task, ev.AllocUnhealthy(message=fault))
        if not faults:
            self.note("", "no task is at fault: all ran long enough, or ended well as their hook may")

    def _died_too_early(self, task: Now) -> bool:
        """Tell whether a task is dead that has to run on: one before or after the main tasks may end well."""
        return task.is_dead and (not task.plan.hook or task.plan.sidecar)

    def _fault(self, task: Now, *, is_early: bool) -> str:
        """Return why a task is at fault that its allocation is not healthy; empty where it is not."""
        if task.failed:
            return "Unhealthy because of failed task"
        if self._died_too_early(task):
            return "Unhealthy because of dead task"
        if task.state == PENDING:
            return "Task not running by deadline"
        healthy_ns = self.group.min_healthy_time_ns
        ran_ns = self.now_ns - (self.now_ns if task.started_at_ns is None else task.started_at_ns)
        if task.is_dead or is_early or ran_ns >= healthy_ns:
            return ""
        return f"Task not running for min_healthy_time of {duration_text(healthy_ns)} by deadline"

    # --- the group ---

    def settle(self) -> None:
        """Do what follows for the group, until nothing more follows."""
        if self.died:
            self._follow_deaths()
        if self.moved and self.group.has_hooks:
            self._open_stages()

    def _follow_deaths(self) -> None:
        leader = self._leader()
        is_free = leader is None or leader.is_dead
        if not self.coordinated.group_kill:
            self._doom()
        elif self.coordinated.group_waits and is_free:
            self.coordinate(group_waits=False)
            self._pass_rest()
        if self.coordinated.stop_waits and is_free:
            self.coordinate(stop_waits=False)
            self._pass_rest()

    def _doom(self) -> None:
        """Kill those who live, if a death says so."""
        members = [task for task in self.all() if not task.plan.is_poststop]
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
        """Move the group on, and start who waited for it."""
        tasks: list[Any] = self.all()
        step = next_step(self.coordinated.stage or FIRST, tasks)
        if step != self.coordinated.stage:
            self.coordinate(stage=step)
        for task in tasks:
            waits = task.state == PENDING and task.decided.start_at_ns is None
            if waits and not task.decided.awaits_server and task.plan.stage in STEPS[step].allowed:
                self.start(task)


def _doom_of(members: list[Now], live: list[Now]) -> TaskEvent | None:
    """Return the event of those who live, if the others' deaths are the end of them, too: a dead leader goes first."""
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
