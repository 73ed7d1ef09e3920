"""Logs that are written on one Python and opened on another: ``write FOLDER``, then ``read FOLDER`` on each other one.

A run of ``write`` leaves a log of each kind, and what it held in the end; ``read`` compares. `tools/all_versions.py`
has each Python and each set of requirements do both.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from taskfold import Engine, ManualClock, inputs, verify
from taskfold import events as ev
from taskfold.errors import DecodeError
from taskfold.log.check import check_log
from taskfold.log.entries import MAX_DEPTH

LOGS: Final = ("tasks.jsonl", "tasks.db")
ALLOC: Final = "203266e5-e0d6-9486-5e05-397ed2b184af"
TIME_NS: Final = 1_795_422_578_410_778_193
DEPTH: Final = 100
"""How deep a job is nested; a field of the allocation is as deep as it may be."""


def nested(depth: int) -> dict[str, Any]:
    """Return objects and arrays inside one another."""
    value: Any = "the innermost"
    for level in range(depth):
        value = [value] if level % 2 else {"inner": value}
    return {"nested": value}


VALUES: Final = {
    "nested": nested(DEPTH - 10),
    "numbers": [0, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, 1e308, 5e-324],
    "texts": ["", "\0", "\x1f\x7f\x85\u2028\u2029", "é e\u0301 ß İ", "日本 עב", "\U0001f600\U0010ffff", '\ufeff"\\/'],
    "keys": {"": 1, "\U0001f600": 2, "a\nb": 3, "__proto__": 4},
    "long": "x" * 100_000,
}  # fmt: skip


def write(folder: Path) -> None:
    """Write a log of each kind, and beside it what it tells."""
    for name in LOGS:
        path = folder / name
        with Engine.open(path, dialect="1.1.2", clock=ManualClock(TIME_NS), seed=1) as engine:
            fill(engine)
            engine.checkpoint()
            engine.record(ALLOC, "web", ev.UnknownEvent(wire_type="After the Checkpoint"))
            told = telling(engine)
        path.with_suffix(path.suffix + ".told").write_text(json.dumps(told), encoding="utf-8")


def fill(engine: Engine) -> None:
    """Record what is at the edges."""
    policy = {"Attempts": 1, "Interval": 10**10, "Delay": 10**9, "Mode": "fail"}
    group = {"Name": "g", "RestartPolicy": policy, "Tasks": [{"Name": "web", "Config": VALUES}]}
    job = {"ID": "job", "Type": "batch", "TaskGroups": [group]}
    engine.place({"ID": ALLOC, "JobID": "job", "TaskGroup": "g", "Job": job, "Unheard": VALUES})
    for said in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.Exited(exit_code=1)):
        engine.report(ALLOC, "web", said, id=f"{type(said).__name__} \U0001f600")
    engine.update(ALLOC, {"Unheard": VALUES["texts"], "DesiredStatus": "stop"})
    place_deepest(engine)
    odd = f"{ALLOC} \U0001f600"
    engine.place({"ID": odd})
    for number, text in enumerate(VALUES["texts"]):
        task = f"{number} {text}".replace("\0", "")
        engine.record(odd, task, ev.Received(), id=task)
        engine.record(odd, task, ev.Started())
        engine.record(odd, task, ev.Terminated(exit_code=2**31 - 1, signal=9, message=text))
        engine.record(odd, task, ev.UnknownEvent(wire_type="Something New", extras=ev.Extras(details={text: text})))
    for alloc, said in (("collected", 0), ("compacted", 1)):
        engine.place({"ID": alloc, "JobID": "job", "TaskGroup": "g", "Job": job})
        engine.report(alloc, "web", inputs.ProcessStarted())
        engine.report(alloc, "web", inputs.Exited(exit_code=said))
        engine.update(alloc, {"ClientStatus": "complete"})
    engine.collect("compacted")
    engine.compact()
    engine.collect("collected", reason="\U0001f600")


def place_deepest(engine: Engine) -> None:
    """Record a field that is as deep as what is recorded may be."""
    for depth in range(MAX_DEPTH, 0, -1):
        with suppress(DecodeError):
            engine.update(ALLOC, {"Deepest": nested(depth)})
            return


def telling(engine: Engine) -> dict[str, Any]:
    """Return all that a log tells, as text."""
    engine._check()
    return {
        "allocations": [snapshot.to_json().decode() for snapshot in engine.allocations()],
        "records": [msgspec.json.encode(record).decode() for record in engine.store.log.read_kept()],
        "index": engine.index,
        "due": engine.next_due(),
        "owed": [msgspec.json.encode(step).decode() for step in engine.restore(TIME_NS + 10**12)],
    }


def read(folder: Path) -> None:
    """Open, check, verify and compare the logs of a folder, on a copy of each, and go on writing it."""
    for name in LOGS:
        expected = json.loads((folder / f"{name}.told").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as copy:
            path = Path(shutil.copy(folder / name, copy))
            assert check_log(path).is_whole, f"{path.name}: damaged"
            assert verify(path).agrees, f"{path.name}: is not what it should be"
            with Engine.open(path, clock=ManualClock(TIME_NS), seed=1) as engine:
                told = telling(engine)
                differing = [what for what in expected if told[what] != expected[what]]
                assert not differing, f"{folder.name}/{name}: {', '.join(differing)} are not what was written"
                engine.record(ALLOC, "web", ev.UnknownEvent(wire_type="Gone On"), id="gone on")
            with Engine.open(path) as engine:
                assert engine.store.log.knows("gone on")
                engine._check()


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
