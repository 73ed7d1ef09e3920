"""Run by tests/test_interrupted.py: an engine whose calls an alarm interrupts at random moments.

Prints, as JSON, how often that was, and what was wrong with the log or the state after any of it.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from typing import Final

from taskfold import events, inputs
from taskfold.errors import ListenerError, LogError
from test_interrupted import World, goes_on, told, wrong_with

RAISED: Final = (KeyboardInterrupt, TimeoutError, RuntimeError)
"""Ctrl-C; an OSError, as the system's own; and what a time limit raises."""
CALLS: Final = ("record", "append", "place", "update", "report", "due", "collect", "compact", "checkpoint")
CALLS_PER_ALARM: Final = 20


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
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.01))
            for call in calls:
                getattr(world, call)()()
                alloc = world.new(events.Received(), inputs.Placed())
                acknowledged += [alloc]
        except (*RAISED, LogError, ListenerError):
            interruptions += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        wrong += wrong_with(world)
        there = {record.alloc for record in told(world)}
        wrong += [f"{alloc} was acknowledged, and is not there" for alloc in acknowledged if alloc not in there]
        if interruptions % 10 == 9 and not wrong:
            wrong += goes_on(world)
    wrong += goes_on(world)
    world.engine.close()
    print(json.dumps({"interruptions": interruptions, "wrong": wrong}))  # noqa: T201 - its answer


def raised(chance: random.Random) -> None:
    raise chance.choice(RAISED)("at a random moment")


if __name__ == "__main__":
    main()
