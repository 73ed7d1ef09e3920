"""A driver whose processes are objects: they live in a dictionary, which outlives the driver."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from taskfold.inputs import Exited, ProcessStarted, StartFailed
from taskfold.testing import Run


@dataclass
class Life:
    run: Run
    has_begun: bool = False
    is_gone: bool = False
    end: StartFailed | Exited | None = None


class ToyProcess:
    def __init__(self, lives, number):
        self.life, self.handle = lives[number], {"Number": number}

    @property
    def is_started(self):
        return self.life.has_begun and not isinstance(self.life.end, StartFailed)

    @property
    def is_alive(self):
        return self.life.end is None and not self.life.is_gone

    @property
    def is_over(self):
        return self.life.end is not None

    def go(self):
        run, self.life.has_begun = self.life.run, True
        if run.fails_to_start:
            self.life.end = StartFailed(error=run.fails_to_start)
        elif run.after_ns is not None:
            self.life.end = run.exit()

    def send(self, name):
        if not self.is_alive:
            return
        if name == "SIGKILL" and not self.life.has_begun:
            self.life.is_gone = True
        elif name == "SIGKILL":
            self.life.end = Exited(exit_code=137, signal=9)
        elif not self.life.run.ignores_kill:
            self.life.end = Exited(exit_code=143, signal=15)

    async def reports(self):
        while not self.life.has_begun and self.is_alive:
            await asyncio.sleep(0.001)
        if self.is_started:
            yield ProcessStarted()
        while self.is_alive:
            await asyncio.sleep(0.001)
        yield self.end()

    def end(self):
        if self.life.end is not None:
            return self.life.end
        if self.life.has_begun:
            return Exited(exit_code=None, error="it is gone")
        return StartFailed(error="it never began", recoverable=True)

    def end_orphan(self):
        pass

    def close(self):
        self.send("SIGKILL")


class ToyDriver:
    process = ToyProcess

    def __init__(self, lives):
        self.lives = lives

    def prepare(self, task, environment, directory):  # noqa: ARG002 - it needs neither
        number = len(self.lives) + 1
        self.lives[number] = Life(msgspec.json.decode(msgspec.json.decode(task.config["run"]), type=Run))
        return self.process(self.lives, number)

    def find(self, handle, directory):  # noqa: ARG002 - it needs none
        return self.process(self.lives, handle["Number"])
