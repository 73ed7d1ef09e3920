"""The use of memory and processor time by processes, from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Meter", "ProcessUsage", "descendants"]

_PROC: Final = Path("/proc")
_PARENT, _USER, _SYSTEM, _START = 1, 11, 12, 19
"""Places in /proc/PID/stat, behind the name of the process."""

_LEAST_SECONDS: Final = 0.5
"""Between two looks that are compared: the clock of the system counts hundredths."""


_KEPT_SECONDS: Final = 600
"""How long a look is remembered: the process may be gone."""


class ProcessUsage(NamedTuple):
    """The use of this machine by a process, as of now."""

    rss_bytes: int = 0
    swap_bytes: int = 0
    user_percent: float = 0.0
    """Of one processor."""
    system_percent: float = 0.0
    mhz: float = 0.0
    """The cycles (millions) in a second that these percents are of one processor of this machine."""


class _Look(NamedTuple):
    seconds: float
    user_seconds: float
    system_seconds: float
    usage: ProcessUsage


class Meter:
    """Measures processes; percents are of the time between two looks, at first of the life of a process."""

    def __init__(self) -> None:
        self._looks: dict[tuple[int, int], _Look] = {}
        """The newest look at each process: its pid and its start."""

    def measure(self, pids: Iterable[int]) -> dict[int, ProcessUsage]:
        """Return what processes use, by pid; those that are gone are left out. O(processes)."""
        processor_mhz = _processor_mhz()
        oldest_seconds = _uptime_seconds() - _KEPT_SECONDS
        self._looks = {key: look for key, look in self._looks.items() if look.seconds > oldest_seconds}
        usages = {}
        for pid in pids:
            with suppress(OSError, ValueError, IndexError):
                usages[pid] = self._measure(pid, processor_mhz)
        return usages

    def _measure(self, pid: int, processor_mhz: float) -> ProcessUsage:
        """Look at one process. Raises OSError when it is gone."""
        fields = _stat_of(pid)
        ticks = os.sysconf("SC_CLK_TCK")
        start = int(fields[_START])
        user, system = int(fields[_USER]) / ticks, int(fields[_SYSTEM]) / ticks
        now = _uptime_seconds()
        before = self._looks.get((pid, start)) or _Look(start / ticks, 0.0, 0.0, ProcessUsage())
        sizes = _sizes_of(pid)
        seconds = now - before.seconds
        is_known = (pid, start) in self._looks
        if is_known and seconds < _LEAST_SECONDS:
            return before.usage._replace(rss_bytes=sizes[0], swap_bytes=sizes[1])
        user_percent = 100 * (user - before.user_seconds) / max(seconds, 1 / ticks)
        system_percent = 100 * (system - before.system_seconds) / max(seconds, 1 / ticks)
        mhz = (user_percent + system_percent) / 100 * processor_mhz
        usage = ProcessUsage(*sizes, user_percent, system_percent, mhz)
        self._looks[pid, start] = _Look(now, user, system, usage)
        return usage


def descendants(pid: int) -> list[int]:
    """Return the processes below one, as of now. O(processes of the machine)."""
    children = defaultdict(list)
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                children[int(_stat_of(int(folder.name))[_PARENT])].append(int(folder.name))
    below: list[int] = []
    ahead = [pid]
    while ahead:
        own = children[ahead.pop()]
        below += own
        ahead += own
    return sorted(below)


def _uptime_seconds() -> float:
    return float((_PROC / "uptime").read_text().split()[0])


def _stat_of(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat behind the name, which may have anything in it. Raises OSError."""
    return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()


def _sizes_of(pid: int) -> tuple[int, int]:
    """Return resident and swapped memory in bytes; a process that has ended has none."""
    sizes = {b"VmRSS": 0, b"VmSwap": 0}
    for line in (_PROC / str(pid) / "status").read_bytes().splitlines():
        name, _, value = line.partition(b":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) * 1_024
    return sizes[b"VmRSS"], sizes[b"VmSwap"]


def _processor_mhz() -> float:
    """Return how fast one processor is; 0 where the system does not tell."""
    with suppress(OSError, ValueError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "cpu MHz":
                return float(value)
    return 0.0
