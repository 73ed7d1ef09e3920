"""The executor: the parent of one task's process, and a process of its own, as in Nomad; it outlives the supervisor.

It is run as a script in the directory of the task. Standard input brings the order; without a whole one nothing is
started. Its own output is the task's. The file ``executor`` tells what came of it. Signal n is passed on when real-time
signal n after `FORWARDED` comes: a parent that has not yet asked how its child ended cannot hit another process.
Whatever the child leaves behind is ended, too. It imports hardly anything: that decides how fast a task starts.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import signal
import sys

STATUS = "executor"
FORWARDED = signal.SIGRTMIN - 1
FORWARDING = frozenset(range(FORWARDED + 1, signal.SIGRTMAX + 1))
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)
_SET_CHILD_SUBREAPER = 36
_STATE, _PARENT, _START_TIME = 0, 1, 19  # places in /proc/PID/stat, behind the name


def start_time_of(pid: int) -> int:
    """Return when a process began (clock ticks after boot), which tells it from a later one. Raises OSError."""
    return int(_stat_of(pid)[_START_TIME])


def is_running(pid: int, start_time: int) -> bool:
    """Tell whether this very process runs; one that only waits for its parent to ask how it ended does not."""
    try:
        stat = _stat_of(pid)
    except OSError:
        return False
    return int(stat[_START_TIME]) == start_time and stat[_STATE] != b"Z"


def _stat_of(pid: int) -> list[bytes]:
    """Return what /proc/PID/stat tells behind the name, which may have anything in it. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - as fast as it can be had
        return file.read().rpartition(b")")[2].split()


def main(*, is_bound: bool) -> None:
    """Run what standard input orders; where it is bound, end it when the parent of this process ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if is_bound:
        prctl(_SET_PARENT_DEATH_SIGNAL, FORWARDED + signal.SIGKILL, 0, 0, 0)
    try:
        order = marshal.load(sys.stdin.buffer)  # noqa: S302 - from who started this, and of the same version
    except (EOFError, ValueError, TypeError):
        return
    try:
        child = _start(*order)
    except (OSError, ValueError) as error:
        _say(error=(getattr(error, "strerror", None) or str(error)).lower())
        return
    start_time = start_time_of(child)
    _say(pid=child, start_time=start_time)
    code = _wait(child)
    _end_the_rest()
    exit_code, killed_by = (code, 0) if code >= 0 else (128 - code, -code)
    _say(pid=child, start_time=start_time, exit_code=exit_code, signal=killed_by)


def _start(path: str, argv: list[str], env: dict[str, str]) -> int:
    """Start the child, whose output goes where that of this process goes. Raises OSError and ValueError."""
    return os.posix_spawn(
        path,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setpgroup=0,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def _wait(child: int) -> int:
    """Pass signals on until the child has ended; return its exit code, or less than 0: the signal that ended it."""
    while True:
        heard = signal.sigwait({signal.SIGCHLD, *FORWARDING})
        if heard in FORWARDING:
            _kill(child, heard - FORWARDED)
        while heard == signal.SIGCHLD and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                return os.waitstatus_to_exitcode(ended[1])


def _end_the_rest() -> None:
    """Kill what the child left behind: its orphans are children of this process."""
    try:
        while True:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                for pid in _children():
                    _kill(pid, signal.SIGKILL)
                os.wait()
    except ChildProcessError:
        return


def _children() -> list[int]:
    """Return the children of this process, those among them that nobody waits for any more."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than this does
        try:
            if name.isdigit() and int(_stat_of(int(name))[_PARENT]) == os.getpid():
                found.append(int(name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _kill(pid: int, number: int) -> None:
    """Send a child a signal, unless it has become somebody whom we may not signal."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def _say(**status: object) -> None:
    """Say how things are, a fact in a line, all or nothing."""
    written = f"{STATUS}.new"
    try:  # noqa: SIM105 - contextlib would be imported for this alone
        os.unlink(written)  # noqa: PTH108 - as above
    except FileNotFoundError:
        pass
    # A new file, and its owner's alone: never what somebody has put in its place.
    with open(written, "x", encoding="utf-8") as file:  # noqa: PTH123 - as above
        os.fchmod(file.fileno(), 0o600)
        file.write("".join(f"{name} {value}\n" for name, value in status.items()))
    os.replace(written, STATUS)  # noqa: PTH105 - as above


if __name__ == "__main__":
    main(is_bound=sys.argv[1] == "bound")
