"""Nomad event streams of any size, made from the recorded ones.

`interleaved` repeats the recordings with allocation IDs and times of their own, so that no two copies share an event,
and lets many stories go on side by side. `growing` tells the endless life of a fixed number of allocations.
Indexes stay as they were recorded: they grow inside every allocation, which is what counts.
"""

from __future__ import annotations

import gzip
import random
import re
from collections import deque
from datetime import datetime, timedelta
from itertools import count as count_from
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from benchmarks.harness import ROOT
from benchmarks.histories import DIALECT
from taskfold import events as ev
from taskfold.model.dialect import dialect_of
from taskfold.model.go.timestamps import time_text
from taskfold.nomad.events import event_to_object

RECORDINGS: Final = ROOT / "tests" / "data" / "recordings" / DIALECT
_ALLOCATION: Final = re.compile(rb'"Allocation":\{.*?"ID":"([0-9a-f-]{36})"')
_TIMES: Final = rb"(?<=:)1[78]\d{17}\b|20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d"


class Story:
    """The stream of one recorded scenario, cut where a copy must differ."""

    def __init__(self, path: Path) -> None:
        text = gzip.decompress(path.read_bytes())
        ids = sorted({event["Key"].encode() for event in _events(text) if event["Topic"] == "Allocation"})
        self._ids = frozenset(ids)
        self._pieces = re.split(b"(" + b"|".join([*ids, _TIMES]) + b")", text)

    def copy(self, rng: random.Random) -> list[bytes]:
        """Return the lines of a copy: other allocations, some years of seconds later or earlier."""
        shift = rng.randrange(-50_000_000, 50_000_000)
        changed: dict[bytes, bytes] = {}
        for piece in self._pieces[1::2]:
            if piece not in changed:
                changed[piece] = _new_id(rng) if piece in self._ids else _shifted(piece, shift)
        pieces = self._pieces.copy()
        pieces[1::2] = [changed[piece] for piece in pieces[1::2]]
        return b"".join(pieces).splitlines(keepends=True)


def _events(text: bytes) -> list[dict[str, Any]]:
    return [event for line in text.splitlines() for event in msgspec.json.decode(line).get("Events") or ()]


def _new_id(rng: random.Random) -> bytes:
    return str(UUID(int=rng.getrandbits(128), version=4)).encode()


def _shifted(piece: bytes, shift_s: int) -> bytes:
    if piece.isdigit():
        return b"%d" % (int(piece) + shift_s * 1_000_000_000)
    return (datetime.fromisoformat(piece.decode()) + timedelta(seconds=shift_s)).isoformat().encode()


def interleaved(path: Path, size: int, at_once: int, seed: int = 1) -> int:
    """Write a stream of about so many bytes, so many stories at once; return the number of lines."""
    rng = random.Random(seed)
    stories = [Story(recording) for recording in sorted(RECORDINGS.glob("*/stream.ndjson.gz"))]
    going: list[deque[bytes]] = []
    total = lines = 0
    with path.open("wb") as file:
        while total < size or going:
            while len(going) < at_once and total < size:
                story = rng.choice(stories).copy(rng)
                total += sum(map(len, story))
                going.append(deque(story))
            place = rng.randrange(len(going))
            file.write(going[place].popleft())
            lines += 1
            if not going[place]:
                going[place] = going[-1]
                going.pop()
    return lines


class Life:
    """An allocation whose one task is restarted for ever; each frame tells one event more."""

    def __init__(self, number: int, template: dict[str, Any]) -> None:
        self.body = template | {"ID": str(UUID(int=number + 1, version=4)), "TaskStates": {}}
        self.ring: deque[dict[str, Any]] = deque(maxlen=10)
        self.state: dict[str, Any] = {
            "Failed": False, "FinishedAt": None, "LastRestart": None, "Restarts": 0, "StartedAt": None,
            "State": "pending", "TaskHandle": None,
        }  # fmt: skip
        self.frames = 0

    def frame(self, index: int) -> bytes:
        """Return the next frame."""
        time_ns = 1_795_422_000_000_000_000 + index * 1_000_003
        event = self._next(time_ns)
        self.ring.append(event_to_object(event, dialect_of(DIALECT)))
        self.frames += 1
        self.body |= {
            "ModifyIndex": index,
            "ModifyTime": time_ns,
            "TaskStates": {"main": {"Events": list(self.ring), **self.state}},
        }
        payload = {"Topic": "Allocation", "Type": "AllocationUpdated", "Payload": {"Allocation": self.body}}
        return msgspec.json.encode({"Events": [payload], "Index": index}) + b"\n"

    def _next(self, time_ns: int) -> ev.TaskEvent:
        if self.frames == 0:
            return ev.Received(time_ns=time_ns)
        if self.frames % 3 == 1:
            self.state |= {"State": "running", "StartedAt": time_text(time_ns)}
            return ev.Started(time_ns=time_ns)
        if self.frames % 3 == 2:
            return ev.Terminated(
                time_ns=time_ns, exit_code=1, message="Docker container exited with non-zero exit code: 1"
            )
        self.state |= {"State": "pending", "Restarts": self.state["Restarts"] + 1, "LastRestart": time_text(time_ns)}
        return ev.Restarting(
            time_ns=time_ns, start_delay_ns=15_000_000_000 + time_ns % 10**9, restart_reason="Restart within policy"
        )


def growing(path: Path, frames: int, allocations: int) -> None:
    """Write a stream of so many frames, which tell of the allocations in turn."""
    text = gzip.decompress((RECORDINGS / "service_ring_mock" / "stream.ndjson.gz").read_bytes())
    template = next(event for event in _events(text) if event["Topic"] == "Allocation")["Payload"]["Allocation"]
    lives = [Life(number, template) for number in range(allocations)]
    with path.open("wb") as file:
        for index in count_from(1_000):
            if index == 1_000 + frames:
                break
            file.write(lives[index % allocations].frame(index))
