"""Jobs of one group, written short."""

from __future__ import annotations

from typing import Any

SECOND = 10**9


POLICY = {"Attempts": 2, "Interval": 60 * SECOND, "Delay": SECOND, "Mode": "fail"}


def job(*tasks: str | dict[str, Any], policy: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a job of one group with these tasks."""
    named = [{"Name": task} if isinstance(task, str) else task for task in tasks]
    group = {"Name": "group", "RestartPolicy": policy or POLICY, "Tasks": named}
    return {"ID": "example", "Type": "service", "TaskGroups": [group]} | fields


def hooked(name: str, hook: str, *, sidecar: bool = False) -> dict[str, Any]:
    """Return a task with a lifecycle hook."""
    return {"Name": name, "Lifecycle": {"Hook": hook, "Sidecar": sidecar}}
