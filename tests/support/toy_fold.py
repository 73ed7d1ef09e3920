"""A fold that knows nothing of taskfold: it reads records as lines from standard input, and answers with task states.

It is run as a script: ``python toy_fold.py [FAULT]``.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

ALL = {state: state for state in ("pending", "running", "dead")}
ALIVE = {"pending": "pending", "running": "running"}
PENDING = {"pending": "pending"}
NO_LONGER = {"pending": "pending", "running": "pending"}

# What Nomad 1.1.2 does: the state that follows in each state in which the event is legal.
TABLE = {
    **dict.fromkeys(
        [
            "Received",
            "Task Setup",
            "Downloading Artifacts",
            "Failed Artifact Download",
            "Building Task Directory",
            "Failed Validation",
            "Driver Failure",
        ],
        PENDING,
    ),
    **dict.fromkeys(
        [
            "Setup Failure",
            "Terminated",
            "Killed",
            "Sibling Task Failed",
            "Leader Task Dead",
            "Main Tasks Dead",
            "Disk Resources Exceeded",
        ],
        ALIVE,
    ),
    **dict.fromkeys(
        [
            "Driver",
            "Killing",
            "Generic",
            "Template",
            "Alloc Unhealthy",
            "Task hook failed",
            "Task hook message",
            "Plugin became healthy",
            "Plugin became unhealthy",
            "Reconnected",
            "Pausing",
            "Running",
        ],
        ALL,
    ),
    **dict.fromkeys(["Waiting for shutdown delay", "Skipping shutdown delay", "Failed Restoring Task"], NO_LONGER),
    "Started": {"pending": "running", "dead": "running"},
    "Restarting": {"pending": "pending", "running": "pending", "dead": "pending"},
    "Not Restarting": {"pending": "dead", "running": "dead"},
    "Restart Signaled": {"running": "running", "dead": "dead"},
    "Signaling": {"running": "running"},
    "Finished": {"pending": "dead", "running": "dead", "dead": "dead"},
}


def text_of(time_ns: int) -> str:
    """Return a time as Go writes it."""
    seconds, rest = divmod(time_ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{rest:09}".rstrip("0") if rest else "") + "Z"


def apply(state: dict, record: dict, fault: str) -> bool:
    """Change the state of a task by a record; return whether that is legal."""
    event, time = dict(record["Event"]), text_of(record["Time"])
    kind = event["Type"]
    if fault == "the dead stay dead" and kind == "Started" and state["State"] == "dead":
        return False
    if fault == "everything is legal":
        target = TABLE[kind].get(state["State"], state["State"])
    else:
        target = TABLE[kind].get(state["State"])
    if target is None:
        return False
    if kind != "Finished":
        event.pop("OomKilled", None)
        if kind == "Not Restarting" and fault != "a default is forgotten":
            event.setdefault("FailsTask", True)
        state["Events"] = [*state["Events"], event][-(9 if fault == "nine events" else 10) :]
        state["Failed"] = state["Failed"] or event.get("FailsTask", False)
    if kind == "Restarting":
        state["Restarts"] += 0 if fault == "restarts are not counted" and state["State"] == "dead" else 1
        state["LastRestart"] = text_of(event["Time"])
    if target == "running" and (fault == "starts again and again" or state["State"] != "running"):
        state["StartedAt"] = time
    if target == "dead" and (fault == "the end moves" or not state.get("FinishedAt")):
        state["FinishedAt"] = time
    state["State"] = target
    return True


def main(fault: str) -> None:
    tasks: dict[tuple[str, str], dict] = {}
    for line in sys.stdin:
        record = json.loads(line)
        answer = None
        if name := record.get("Task"):
            new = {"State": "pending", "Failed": False, "Restarts": 0, "Events": []}
            state = tasks.setdefault((record["Alloc"], name), new)
            answer = state if apply(state, record, fault) else None
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
