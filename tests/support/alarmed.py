"""Run by tests/live/test_interrupted.py: an engine whose calls an alarm interrupts at random moments.

Prints, as JSON, how often that was, and what was wrong with the log or the state after any of it.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
from collections import Counter
from contextlib import suppress
from typing import Final
from uuid import uuid4

from support.worlds import JOB, World, goes_on, told, wrong_with
from taskfold import events, inputs
from taskfold.errors import ListenerError, LogError

RAISED: Final = (KeyboardInterrupt, TimeoutError, RuntimeError)
"""Ctrl-C; an OSError, as the system's own; and what a time limit raises."""
CALLS: Final = ("record", "append", "place", "update", "report", "due", "collect", "compact", "checkpoint")
CALLS_PER_ALARM: Final = 20
OTHERS: Final = 2
"""How many threads report beside the one that alarms interrupt: what they write is written together."""
REPORTS_OF_OTHERS: Final = 6


def main() -> None:
    name, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, lambda *_: raised(chance))
    world = World(name)
    interruptions = 0
    wrong: list[str] = []
    while interruptions < count and not wrong:
        acknowledged: list[str] = []
        calls = [chance.choice(CALLS) for _ in range(CALLS_PER_ALARM)]
        beside: list[str] = []
        others = [threading.Thread(target=report_beside, args=(world, beside), daemon=True) for _ in range(OTHERS)]
        for other in others:
            other.start()
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.01))
            for call in calls:
                getattr(world, call)()()
                alloc = world.new(events.Received(), inputs.PlacementReceived())
                acknowledged += [alloc]
        except (*RAISED, LogError, ListenerError):
            interruptions += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        for other in others:
            other.join(60)
            wrong += ["a thread waits for ever"] * other.is_alive()
        wrong += wrong_with(world)
        ids = Counter(record.id for record in told(world))
        wrong += [f"{one} was acknowledged, and is there {ids[one]} times" for one in beside if ids[one] != 1]
        there = {record.alloc for record in told(world)}
        wrong += [f"{alloc} was acknowledged, and is not there" for alloc in acknowledged if alloc not in there]
        if interruptions % 10 == 9 and not wrong:
            wrong += goes_on(world)
    wrong += goes_on(world)
    world.engine.close()
    print(json.dumps({"interruptions": interruptions, "wrong": wrong}))  # noqa: T201 - its answer


def report_beside(world: World, acknowledged: list[str]) -> None:
    """Report, as a thread that nothing interrupts; note what was acknowledged."""
    alloc = f"beside-{uuid4()}"
    for count in range(REPORTS_OF_OTHERS):
        name = f"{alloc}/{count}"
        with suppress(LogError, ListenerError):  # an alarm may look like a disk that fails
            if not count:
                world.engine.place({"ID": alloc, "JobID": "example", "TaskGroup": "group", "Job": JOB})
            step = world.engine.report(
                alloc, "web", inputs.Exited(exit_code=1) if count % 2 else inputs.ProcessStarted(), id=name
            )
            acknowledged += [name] * bool(step.writes)


def raised(chance: random.Random) -> None:
    raise chance.choice(RAISED)("at a random moment")


if __name__ == "__main__":
    main()
