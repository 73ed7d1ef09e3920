"""Signals by name: what an operating system calls them, as Go and therefore Nomad's events do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["SIGNAL_TEXTS", "signal_text"]

SIGNAL_TEXTS: Final[Mapping[str, str]] = {
    "SIGABRT": "aborted",
    "SIGALRM": "alarm clock",
    "SIGBUS": "bus error",
    "SIGCHLD": "child exited",
    "SIGCONT": "continued",
    "SIGFPE": "floating point exception",
    "SIGHUP": "hangup",
    "SIGILL": "illegal instruction",
    "SIGINT": "interrupt",
    "SIGIO": "I/O possible",
    "SIGKILL": "killed",
    "SIGPIPE": "broken pipe",
    "SIGPROF": "profiling timer expired",
    "SIGQUIT": "quit",
    "SIGSEGV": "segmentation fault",
    "SIGSTOP": "stopped (signal)",
    "SIGSYS": "bad system call",
    "SIGTERM": "terminated",
    "SIGTRAP": "trace/breakpoint trap",
    "SIGTSTP": "stopped",
    "SIGTTIN": "stopped (tty input)",
    "SIGTTOU": "stopped (tty output)",
    "SIGURG": "urgent I/O condition",
    "SIGUSR1": "user defined signal 1",
    "SIGUSR2": "user defined signal 2",
    "SIGWINCH": "window changed",
    "SIGXCPU": "CPU time limit exceeded",
    "SIGXFSZ": "file size limit exceeded",
}
"""Linux's signals in Go's words (package syscall)."""


def signal_text(name: str) -> str:
    """Return what the operating system calls a signal; a name that is not known stays as it is.

    >>> signal_text("SIGUSR1"), signal_text("SIGBOGUS")
    ('user defined signal 1', 'SIGBOGUS')
    """
    return SIGNAL_TEXTS.get(name, name)
