"""The executor: the parent of one task's process, and a process of its own, as in Nomad; it outlives the supervisor.

It is run as a script in the directory of the task, with the standard library alone. Standard input brings the order,
one line of JSON; without a whole line nothing is started. ``executor.json`` tells what came of it. Signal n is passed
on when the real-time signal n after `FORWARDED` comes: a parent that has not yet asked how its child ended cannot hit
another process. Whatever the child leaves behind is ended, too.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

STATUS: Final = "executor.json"
FORWARDED: Final = signal.SIGRTMIN - 1
FORWARDING: Final = frozenset(range(FORWARDED + 1, signal.SIGRTMAX + 1))
_SET_PARENT_DEATH_SIGNAL: Final = 1  # of prctl(2)
_SET_CHILD_SUBREAPER: Final = 36
_STATE, _PARENT, _START_TIME = 0, 1, 19  # places in /proc/PID/stat, behind the name


def start_time_of(pid: int) -> int:
    """Return when a process began (clock ticks after boot), which tells it from a later one. Raises OSError."""
    return int(_stat_of(pid)[_START_TIME])


def is_running(pid: int, start_time: int) -> bool:
    """Tell whether this very process runs; one that only waits for its parent to ask how it ended does not."""
    with suppress(OSError):
        stat = _stat_of(pid)
        return int(stat[_START_TIME]) == start_time and stat[_STATE] != b"Z"
    return False


def _stat_of(pid: int | str) -> list[bytes]:
    """Return what /proc/PID/stat tells behind the name, which may have anything in it. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def main(*, is_bound: bool) -> None:
    """Run what standard input orders; where it is bound, end it when the parent of this process ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if is_bound:
        prctl(_SET_PARENT_DEATH_SIGNAL, FORWARDED + signal.SIGKILL, 0, 0, 0)
    order = sys.stdin.buffer.readline()
    if not order.endswith(b"\n"):
        return
    try:
        child = _start(**json.loads(order))
    except (OSError, ValueError) as error:
        _say(error=(getattr(error, "strerror", None) or str(error)).lower())
        return
    known = {"pid": child, "start_time": start_time_of(child)}
    _say(**known)
    code = _wait(child)
    _end_the_rest()
    _say(**known, exit_code=128 - code if code < 0 else code, signal=max(-code, 0))


def _start(path: str, argv: list[str], env: dict[str, str]) -> int:
    """Start the child, with its output in files. Raises OSError."""
    appends = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = (0, os.devnull, os.O_RDONLY, 0), (1, "stdout", appends, 0o644), (2, "stderr", appends, 0o644)
    return os.posix_spawn(
        path,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_OPEN, *file) for file in files],
        setpgroup=0,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def _wait(child: int) -> int:
    """Pass signals on until the child has ended; return its exit code, or less than 0: the signal that ended it."""
    while True:
        heard = signal.sigwait({signal.SIGCHLD, *FORWARDING})
        if heard in FORWARDING:
            with suppress(OSError):  # it has become somebody whom we may not signal
                os.kill(child, heard - FORWARDED)
        while heard == signal.SIGCHLD and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                return os.waitstatus_to_exitcode(ended[1])


def _end_the_rest() -> None:
    """Kill what the child left behind: its orphans are children of this process."""
    with suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            for entry in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if int(_stat_of(entry.name)[_PARENT]) == os.getpid():
                        os.kill(int(entry.name), signal.SIGKILL)
            os.wait()


def _say(**status: Any) -> None:
    """Say how things are, whole or not at all."""
    written = Path(f"{STATUS}.new")
    written.write_text(json.dumps(status), encoding="utf-8")
    written.replace(STATUS)


if __name__ == "__main__":
    main(is_bound=sys.argv[1] == "bound")
