"""What processes use, as /proc tells it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.servers import until
from taskfold.run.usage import Meter, descendants

_GRANDCHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"


def test_this_process_uses_memory_and_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    [usage] = meter.measure([os.getpid()]).values()
    assert usage.rss_bytes > 1_000_000
    assert usage.swap_bytes >= 0
    assert usage.user_percent > 0, "of the life of a process, at first"

    assert meter.measure([os.getpid()])[os.getpid()].user_percent == usage.user_percent, "too little has passed"
    monkeypatch.setattr("taskfold.run.usage._LEAST_SECONDS", 0)

    def is_busy() -> bool:
        sum(range(1_000_000))
        return meter.measure([os.getpid()])[os.getpid()].user_percent > 0

    until(is_busy)


def test_a_process_that_is_gone_is_left_out() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert Meter().measure([process.pid]) == {}


def test_the_descendants_of_a_process_are_all_below_it() -> None:
    with subprocess.Popen([sys.executable, "-c", _GRANDCHILD], stdin=subprocess.PIPE) as process:
        until(lambda: descendants(process.pid))
        below = descendants(process.pid)
        assert process.pid in descendants(os.getpid())
        assert process.pid not in below
        process.communicate(b"\n")


def test_looks_at_processes_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    meter.measure([os.getpid()])
    monkeypatch.setattr("taskfold.run.usage._KEPT_SECONDS", -1)
    meter.measure([])
    assert meter._looks == {}
