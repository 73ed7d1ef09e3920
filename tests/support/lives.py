"""Lives of tasks: records by their seconds, and as many as a test wants."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from msgspec import Raw

from taskfold import events
from taskfold.model.record import Event, Placed, Record

SECOND = 1_000_000_000
EPOCH = 1_795_422_850 * SECOND
"""2026-11-23 08:34:10 UTC."""


def life(
    alloc: str,
    *happenings: tuple[float, str, Event],
    job: str = "example",
    node: str = "node-1",
    status: str = "run",
) -> list[Record]:
    """Return the records of an allocation that is placed at 0 seconds: each with its second, its task, its event."""
    fields = {
        "ID": alloc,
        "JobID": job,
        "TaskGroup": "group",
        "NodeID": node,
        "NodeName": node,
        "DesiredStatus": status,
    }
    body = Raw(json.dumps(fields).encode())
    rest = [(0.0, "", Placed(body=body)), *happenings]
    return [
        Record(seq=version, index=version, alloc=alloc, version=version, task=task, time_ns=at(seconds), event=event)
        for version, (seconds, task, event) in enumerate(rest, start=1)
    ]


def at(seconds: float) -> int:
    """Return a time (unix nanoseconds)."""
    return EPOCH + round(seconds * SECOND)


def cluster(tasks: int, intervals: int, seed: int = 1) -> Iterator[Record]:
    """Yield the records of so many tasks, two to an allocation, that flap: so many intervals each, or one more."""
    rng = random.Random(seed)
    for number in range((tasks + 1) // 2):
        alloc = f"{rng.getrandbits(32):08x}-0000-4000-8000-{number:012x}"
        happenings: list[tuple[float, str, Event]] = []
        for task in ("web", "sidecar")[: min(2, tasks - 2 * number)]:
            now = rng.uniform(0, 1_800)
            happenings.append((now, task, events.Received()))
            now += rng.uniform(0.1, 40)
            for _ in range((intervals - 1) // 2):
                code = rng.choice((0, 0, 0, 1, 1, 137))
                happenings.append((now, task, events.Started()))
                now += rng.expovariate(1 / 240)
                happenings.append((now, task, events.Terminated(exit_code=code, oom_killed=code == 137)))
                happenings.append((now, task, events.Restarting(start_delay_ns=SECOND)))
                now += rng.uniform(1, 60)
            if rng.random() < 0.3:
                happenings.append((now, task, events.NotRestarting(restart_reason="Exceeded allowed attempts")))
            else:
                happenings.append((now, task, events.Started()))
        happenings.sort(key=lambda one: one[0])
        yield from life(alloc, *happenings, job=f"job-{number % 97}", node=f"node-{number % 41}")
