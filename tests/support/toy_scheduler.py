"""A scheduler of one allocation that knows nothing of taskfold: what Nomad 1.1.2 does, with simulated processes."""

from __future__ import annotations

import pickle
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from taskfold.testing import AllocationStatus, TaskStatus

STAGES = ("prestart", "main", "poststart", "wait", "poststop")


@dataclass
class ToyTask:
    name: str
    leader: bool
    hook: str
    sidecar: bool
    restarts_after_success: bool
    window_ns: int
    count: int = 0
    state: str = "pending"
    is_waiting: bool = True
    is_doomed: bool = False
    is_asked: bool = False
    failed: bool = False
    restarts: int = 0
    due_ns: int | None = None
    events: list[str] = field(default_factory=lambda: ["Received"])

    @property
    def dead(self) -> bool:
        return self.state == "dead"


class ToyScheduler:
    def start(self, job: dict[str, Any], now_ns: int) -> None:
        [group] = job["TaskGroups"]
        self.policy, self.now_ns = group["RestartPolicy"], now_ns
        self.tasks: dict[str, ToyTask] = {}
        for task in group["Tasks"]:
            life = task.get("Lifecycle") or {"Hook": "", "Sidecar": False}
            again = life["Sidecar"] if life["Hook"] else job["Type"] == "service"
            self.tasks[task["Name"]] = ToyTask(
                task["Name"], task.get("Leader", False), life["Hook"], life["Sidecar"], again, now_ns
            )
        self.leader = next((task for task in self.tasks.values() if task.leader), None)
        self.has_hooks = any(task.hook for task in self.tasks.values())
        self.stage = "prestart"
        self.is_stopped = self.is_group_killed = self.waits_to_kill = self.waits_to_stop = False
        self.queue: deque[tuple[str, str]] = deque()
        self.open_stages()
        self.work()

    def work(self) -> None:
        while self.queue:
            action, name = self.queue.popleft()
            task = self.tasks[name]
            if action == "start":
                task.state, task.due_ns = "running", None
                task.events.append("Started")
            else:
                self.ended(task, 143)
            self.open_stages()

    def begin(self, task: ToyTask) -> None:
        task.is_waiting = False
        self.queue.append(("start", task.name))

    # --- what somebody wants, and what happens ---

    def advance(self, now_ns: int) -> None:
        self.now_ns = now_ns
        for task in self.tasks.values():
            if task.due_ns is not None and task.due_ns <= now_ns:
                self.begin(task)
        self.work()

    def exit(self, task: str, exit_code: int) -> None:
        self.ended(self.tasks[task], exit_code)
        self.open_stages()
        self.work()

    def kill(self) -> None:
        lives = any(not task.dead for task in self.tasks.values() if task.hook != "poststop")
        if not lives and (self.is_stopped or self.client_status() in {"complete", "failed"}):
            return
        self.is_stopped = True
        self.waits_to_stop = self.kill_group()
        self.after_deaths()
        self.open_stages()
        self.work()

    def restart(self, task: str) -> None:
        self.tasks[task].events.append("Restart Signaled")
        self.tasks[task].is_asked = True
        self.queue.append(("end", task))
        self.work()

    def signal(self, task: str, signal: str) -> None:  # noqa: ARG002 - no process is there to get it
        self.tasks[task].events.append("Signaling")

    def crash(self) -> None:
        self.__dict__ = pickle.loads(pickle.dumps(self.__dict__))  # noqa: S301 - its own

    def observe(self) -> AllocationStatus:
        tasks = {
            task.name: TaskStatus(
                state=task.state, failed=task.failed, restarts=task.restarts, events=task.events, due_ns=task.due_ns
            )
            for task in self.tasks.values()
        }
        return AllocationStatus(tasks=tasks, client_status=self.client_status())

    def client_status(self) -> str:
        states = {task.state for task in self.tasks.values()}
        if any(task.dead and task.failed for task in self.tasks.values()):
            return "failed"
        return next((state for state in ("running", "pending") if state in states), "complete")

    # --- it ends, and starts again ---

    def ended(self, task: ToyTask, exit_code: int) -> None:
        task.events.append("Terminated")
        if task.is_doomed:
            task.events.append("Killed")
            self.die(task)
        elif task.is_asked:
            self.start_again(task, self.now_ns)
        else:
            self.apply_policy(task, exit_code)

    def apply_policy(self, task: ToyTask, exit_code: int) -> None:
        is_over = exit_code == 0 and not task.restarts_after_success
        attempts = self.policy["Attempts"]
        if attempts:
            self.count(task)
        if is_over:
            self.die(task)
        elif task.count <= attempts and attempts:
            # Up to a quarter may be added.
            self.start_again(task, self.now_ns + self.policy["Delay"] * 11 // 10)
        elif self.policy["Mode"] == "delay" and attempts:
            self.start_again(task, task.window_ns + self.policy["Interval"])
        else:
            task.events.append("Not Restarting")
            task.failed = True
            self.die(task)

    def count(self, task: ToyTask) -> None:
        if self.now_ns > task.window_ns + self.policy["Interval"]:
            task.window_ns, task.count = self.now_ns, 0
        task.count += 1

    def start_again(self, task: ToyTask, due_ns: int) -> None:
        task.events.append("Restarting")
        task.restarts += 1
        task.state, task.is_asked, task.due_ns = "pending", False, due_ns
        if due_ns <= self.now_ns:
            self.begin(task)

    def die(self, task: ToyTask) -> None:
        task.state, task.due_ns = "dead", None
        self.after_deaths()

    # --- the group ---

    def followers(self) -> list[ToyTask]:
        others = [task for task in self.tasks.values() if not task.leader and task.hook != "poststop"]
        return sorted(others, key=lambda task: task.sidecar)

    def kill_task(self, task: ToyTask) -> None:
        task.events.append("Killing")
        if task.state == "pending":
            task.state, task.due_ns = "dead", None
        elif task.state == "running" and not task.is_doomed:
            task.is_doomed = True
            self.queue.append(("end", task.name))

    def kill_group(self) -> bool:
        """Kill the leader, then the others; tell whether they wait for its end."""
        if self.leader is not None:
            self.kill_task(self.leader)
            if not self.leader.dead:
                return True
        self.kill_followers()
        return False

    def kill_followers(self) -> None:
        for task in self.followers():
            self.kill_task(task)

    def after_deaths(self) -> None:
        is_free = self.leader is None or self.leader.dead
        if not self.is_group_killed:
            self.doom()
        elif self.waits_to_kill and is_free:
            self.waits_to_kill = False
            self.kill_followers()
        if self.waits_to_stop and is_free:
            self.waits_to_stop = False
            self.kill_followers()

    def doom(self) -> None:
        """Kill those that live, if a death is the end of all."""
        members = [task for task in self.tasks.values() if task.hook != "poststop"]
        live = [task for task in members if not task.dead]
        reason = self.reason(members, live)
        if reason and live and len(live) < len(members):
            for task in live:
                task.events.append(reason)
            self.is_group_killed = True
            self.waits_to_kill = self.kill_group()

    def reason(self, members: list[ToyTask], live: list[ToyTask]) -> str:
        if any(task.leader and task.dead and not task.failed for task in members):
            return "Leader Task Dead"
        if any(task.failed and task.dead for task in members):
            return "Sibling Task Failed"
        return "Main Tasks Dead" if all(task.sidecar for task in live) else ""

    def open_stages(self) -> None:
        """Start the tasks that waited for their stage."""
        if all(task.dead for task in self.tasks.values() if task.hook != "poststop"):
            self.stage = "poststop"
        while self.stage != "poststop" and self.is_stage_over():
            self.stage = STAGES[STAGES.index(self.stage) + 1]
            if self.stage == "wait":
                break
        for task in self.tasks.values():
            if task.state == "pending" and task.is_waiting and self.may_start(task):
                self.begin(task)

    def is_stage_over(self) -> bool:
        tasks = [task for task in self.tasks.values() if (task.hook or "main") == self.stage]
        if self.stage == "prestart":
            return all(task.state == "running" if task.sidecar else task.dead and not task.failed for task in tasks)
        if self.stage == "main":
            return all(task.state != "pending" for task in tasks)
        return self.stage == "poststart" and all(task.dead for task in tasks if not task.sidecar)

    def may_start(self, task: ToyTask) -> bool:
        allowed = {"prestart": 0, "": 1, "poststart": 2, "poststop": 4}[task.hook]
        place = STAGES.index(self.stage)
        return not self.has_hooks or (allowed == place) or (allowed < place < 4 and (task.sidecar or not task.hook))
