"""Lives of tasks as lines of a taskfold log: legal, the same on every machine, and with the texts of a real cluster.

A task is received, set up, and then starts, terminates and is restarted for ever; so that after 2, 5, 8, 11 … records
it waits (pending) for its next start, and after 11 its ring is full.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from taskfold.fold.allocation import Fold
from taskfold.log.contract import new_header
from taskfold.log.seals import seal
from taskfold.model.record import Record

DIALECT: Final = "1.1.2"
FULL: Final = 11
"""After so many records the ring of a task is full, and the task waits for its next start."""

decode_lines: Final[Callable[[bytes], list[Record]]] = msgspec.json.Decoder(Record).decode_lines

_BEGIN_NS: Final = 1_795_422_000_000_000_000
_TASKS: Final = ("web", "sidecar", "log-shipper", "metrics")
_EXITS: Final = (
    "",
    ',"ExitCode":1,"Message":"Docker container exited with non-zero exit code: 1"',
    ',"ExitCode":2,"Message":"Docker container exited with non-zero exit code: 2"',
    ',"ExitCode":137,"Message":"Docker container exited with non-zero exit code: 137"',
    ',"ExitCode":143,"Message":"Docker container exited with non-zero exit code: 143"',
)


def alloc_id(number: int) -> str:
    """Return the ID of an allocation, which looks like Nomad's."""
    return f"{number * 2654435761 & 0xFFFFFFFF:08x}-5c1e-4d0a-9b7f-{number:012x}"


def _event(step: int, time_ns: int, dice: float) -> str:
    """Return the event of a step in a task's life; delays and exits differ as they do in a cluster."""
    if step == 0:
        return f'{{"Type":"Received","Time":{time_ns}}}'
    if step == 1:
        return f'{{"Type":"Task Setup","Time":{time_ns},"Message":"Building Task Directory"}}'
    if step % 3 == 2:
        return f'{{"Type":"Started","Time":{time_ns}}}'
    if step % 3 == 0:
        return f'{{"Type":"Terminated","Time":{time_ns}{_EXITS[int(dice * 5)]}}}'
    delay_ns = 15_000_000_000 + int(dice * 3_750_000_000)
    return f'{{"Type":"Restarting","Time":{time_ns},"StartDelay":{delay_ns},"RestartReason":"Restart within policy"}}'


class Population:
    """So many tasks, each at some step of its life, in allocations of one to four tasks."""

    def __init__(self, count: int, tasks_each: int = 1, seed: int = 1) -> None:
        self.count = count
        self.tasks_each = tasks_each
        self.random = random.Random(seed)
        self.seq = 0
        self._steps = array("L", [0]) * count
        self._versions = array("L", [0]) * -(-count // tasks_each)

    def lines(self, tasks: Iterable[int]) -> bytes:
        """Return the next record of each of these tasks, a line each."""
        seq, steps, versions, dice = self.seq, self._steps, self._versions, self.random.random
        out = []
        for task in tasks:
            seq += 1
            alloc, place = divmod(task, self.tasks_each)
            step, version = steps[task], versions[alloc] + 1
            steps[task], versions[alloc] = step + 1, version
            time_ns = _BEGIN_NS + seq * 1_000_003
            event = _event(step, time_ns - 50_021, dice())
            out.append(
                f'{{"Seq":{seq},"Index":{seq},"Alloc":"{alloc_id(alloc)}","Version":{version},"Task":"{_TASKS[place]}",'
                f'"Time":{time_ns},"ID":0,"Event":{event}}}\n'
            )
        self.seq = seq
        return "".join(out).encode()

    def filling(self, steps: int = FULL) -> Iterator[bytes]:
        """Yield the first records of all tasks in blocks; the lives of a thousand tasks go on side by side."""
        for first in range(0, self.count, 1_000):
            for _ in range(steps):
                yield self.lines(range(first, min(first + 1_000, self.count)))

    def filled(self) -> Fold:
        """Return a fold of all tasks with full rings."""
        fold = Fold(DIALECT)
        for block in self.filling():
            fold.apply_all(decode_lines(block))
        return fold

    def blocks(self, count: int, burst: int = 1) -> Iterator[list[Record]]:
        """Yield the next records of tasks picked at random, decoded from lines of their own.

        They come in blocks of a thousand, as in a replay: what is to be measured finds them in the processor's caches.
        With a burst, so many records of a task come together.
        """
        for _ in range(0, count, 1_000):
            picks = [self.random.randrange(self.count) for _ in range(1_000 // burst)]
            yield decode_lines(self.lines(task for task in picks for _ in range(burst)))


def write_log(path: Path, records: int, tasks: int, *, together: bool = False) -> None:
    """Write a log of so many records, two tasks to an allocation: in random order, or each allocation's together."""
    population = Population(tasks, tasks_each=2)
    rounds = records // tasks
    order = [task for first in range(0, tasks, 2) for _ in range(rounds) for task in (first, first + 1)]
    if not together:
        population.random.shuffle(order)
    with path.open("wb") as file:
        file.write(seal(msgspec.json.encode(new_header(DIALECT, "global")) + b"\n"))
        # About as many as a log writes under one seal when it imports.
        for first in range(0, len(order), 80):
            file.write(seal(population.lines(order[first : first + 80])))
