"""The executor: the parent of one task's process, and a process of its own, as in Nomad; it outlives the supervisor.

It is run as a script in the directory of the task. It reads an order from standard input, and starts nothing without a
whole one. Its output is the task's. It writes the status of the process into the file ``executor``. It passes signal n
on when the real-time signal ``FORWARDED + n`` comes: the parent of a child that was not waited for cannot hit another
process by its pid. It kills whatever the child leaves behind. It imports hardly anything, since its start is the start
of the task.
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
    """Tell whether this very process runs; a zombie does not."""
    try:
        stat = _stat_of(pid)
    except OSError:
        return False
    return int(stat[_START_TIME]) == start_time and stat[_STATE] != b"Z"


def _stat_of(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat behind the name, which may have anything in it. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib takes longer
        return file.read().rpartition(b")")[2].split()


def main(*, is_bound: bool) -> None:
    """Run the order on standard input; a bound process ends when the parent of this process ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if is_bound:
        prctl(_SET_PARENT_DEATH_SIGNAL, FORWARDED + signal.SIGKILL, 0, 0, 0)
    try:
        order = marshal.load(sys.stdin.buffer)  # noqa: S302 - from the parent, which is of the same version
    except (EOFError, ValueError, TypeError):
        return
    try:
        child = _start(*order)
    except (OSError, ValueError) as error:
        _write_status(error=(getattr(error, "strerror", None) or str(error)).lower())
        return
    start_time = start_time_of(child)
    _write_status(pid=child, start_time=start_time)
    code = _wait(child)
    _end_the_rest()
    exit_code, killed_by = (code, 0) if code >= 0 else (128 - code, -code)
    _write_status(pid=child, start_time=start_time, exit_code=exit_code, signal=killed_by)


def _start(path: str, argv: list[str], env: dict[str, str]) -> int:
    """Start the child, with the output of this process. Raises OSError and ValueError."""
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
    """Pass signals on until the child has ended; return its exit code, or -n if signal n ended it."""
    while True:
        number = signal.sigwait({signal.SIGCHLD, *FORWARDING})
        if number in FORWARDING:
            _kill(child, number - FORWARDED)
        while number == signal.SIGCHLD and (end := os.waitpid(-1, os.WNOHANG))[0]:
            if end[0] == child:
                return os.waitstatus_to_exitcode(end[1])


def _end_the_rest() -> None:
    """Kill the orphans of the child: they are children of this process now."""
    try:
        while True:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                for pid in _children():
                    _kill(pid, signal.SIGKILL)
                os.wait()
    except ChildProcessError:
        return


def _children() -> list[int]:
    """Return the children of this process, orphans of its child among them."""
    pids = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than this does
        try:
            if name.isdigit() and int(_stat_of(int(name))[_PARENT]) == os.getpid():
                pids.append(int(name))
        except OSError:  # it ended meanwhile
            continue
    return pids


def _kill(pid: int, number: int) -> None:
    """Send a child a signal, unless it is gone or changed its user to one that this process may not signal."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def _write_status(**status: object) -> None:
    """Replace the status file, atomically: a fact in a line."""
    draft = f"{STATUS}.new"
    try:  # noqa: SIM105 - contextlib would be imported for this alone
        os.unlink(draft)  # noqa: PTH108 - as above
    except FileNotFoundError:
        pass
    # A new file of its owner alone: never one that somebody has put in its place.
    with open(draft, "x", encoding="utf-8") as file:  # noqa: PTH123 - as above
        os.fchmod(file.fileno(), 0o600)
        file.write("".join(f"{name} {value}\n" for name, value in status.items()))
    os.replace(draft, STATUS)  # noqa: PTH105 - as above


if __name__ == "__main__":
    main(is_bound=sys.argv[1] == "bound")
