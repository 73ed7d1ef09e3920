"""Every error that taskfold raises on purpose: each names the problem, its place, and the remedy.

::

    TaskfoldError
    ├── Refused                  the request is impossible; nothing was changed. Change the request.
    │   ├── IllegalEvent             by the lifecycle table
    │   ├── InputRefused             nothing can be decided on this input
    │   ├── PolicyRefused            restart policies are not valid
    │   ├── ClockWentBack            inputs out of the order of their time
    │   ├── CallbackRefused          by the condition or callback of a bound model
    │   ├── VersionConflict          somebody else was first: read again, and decide anew
    │   │   └── AlreadyPlaced
    │   ├── IdConflict               an ID that names another event
    │   ├── NotFound
    │   │   ├── UnknownAllocation
    │   │   └── UnknownTask
    │   ├── ReadOnly                 by a log that was opened to be read
    │   └── AppendRefused            several of these, each with the place of its write
    ├── Unreadable               data is not what it should be. Mend it, or read something else.
    │   ├── DecodeError              a value, with its JSON path
    │   ├── SourceError              a file, with its line
    │   ├── DialectError             of a dialect that is not spoken, or not this one
    │   ├── UnreadableLog            no log, a damaged one, or one of a newer format (a LogError, too)
    │   └── Gone                     records that were removed: read after them
    ├── Unavailable              something outside fails. Try again; somebody may have to look after it.
    │   ├── LogError                 a log cannot be read or written now
    │   ├── CallbacksBusy            a model could not be asked
    │   ├── SourceUnavailable        an agent that is followed cannot be asked, or refuses
    │   └── ServeError               a server cannot be run
    └── ListenerError            it was recorded, and then a listener raised: do not repeat it.

`UnreadableLog` is a LogError, so that who holds a log catches all that it raises; trying again does not help there, so
that Unreadable is to be asked for first. All of them can be pickled and copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

__all__ = [
    "AlreadyPlaced",
    "AppendRefused",
    "CallbackRefused",
    "CallbacksBusy",
    "ClockWentBack",
    "DecodeError",
    "DialectError",
    "Gone",
    "IdConflict",
    "IllegalEvent",
    "InputRefused",
    "ListenerError",
    "LogError",
    "NotFound",
    "PolicyRefused",
    "ReadOnly",
    "Refused",
    "ServeError",
    "SourceError",
    "SourceUnavailable",
    "TaskfoldError",
    "Unavailable",
    "UnknownAllocation",
    "UnknownTask",
    "Unreadable",
    "UnreadableLog",
    "VersionConflict",
]

_PUBLIC_MODULE: Final = "taskfold.errors"


class TaskfoldError(Exception):
    """The base of every error that taskfold raises on purpose."""

    def __init_subclass__(cls) -> None:
        """Have tracebacks and pickles name an error of this module by the path that users import it from."""
        if cls.__module__ == __name__:
            cls.__module__ = _PUBLIC_MODULE

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how an error is made again: of its message and fields, since what made it takes other arguments."""
        return _error_again, (type(self), self.args), self.__dict__


TaskfoldError.__module__ = _PUBLIC_MODULE


def _error_again(kind: type[TaskfoldError], args: tuple[Any, ...]) -> TaskfoldError:
    """Return an error of a kind with a message; its fields follow."""
    return kind.__new__(kind, *args)


class Refused(TaskfoldError):
    """The request is impossible, and nothing was changed: the sentence gives the reason, and the remedy."""


class Unreadable(TaskfoldError):
    """Data is not what it should be, or is not there any more; trying again does not help."""


class Unavailable(TaskfoldError):
    """Something outside of the program fails (a disk, a server, another process); trying again may help."""


class IllegalEvent(Refused):
    """The lifecycle table refuses this event in this state; nothing was changed."""

    def __init__(self, *, task: str, state: str, event: str, allowed: tuple[str, ...], dialect: str) -> None:
        self.task = task
        self.state = state
        self.event = event
        self.allowed = allowed
        self.dialect = dialect
        name = f"task {task!r}" if task else "the task"
        super().__init__(
            f"{name} is {state}: {event!r} is not legal there in dialect {dialect}; legal are {', '.join(allowed)}"
        )


class InputRefused(Refused):
    """An input cannot be decided on: of another dialect, of a task where it has none, or of a negative exit code."""


class PolicyRefused(Refused, ValueError):
    """Restart policies are not valid; nothing was decided."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        """Everything that is wrong, one sentence each."""
        super().__init__(f"the restart policy is refused: {'; '.join(self.problems)}")


class ClockWentBack(Refused):
    """The time of an input is before that of the newest record of its allocation; nothing was changed."""

    def __init__(self, *, allocation: str, time_ns: int, newest_ns: int) -> None:
        self.time_ns = time_ns
        self.newest_ns = newest_ns
        super().__init__(
            f"allocation {allocation} was written at {newest_ns}, and an input at {time_ns} is "
            f"{newest_ns - time_ns} ns before that: report inputs in the order of their time"
        )


class CallbackRefused(Refused):
    """A bound model's condition was false, or its callback before the append raised; nothing was changed."""


class CallbacksBusy(Unavailable):
    """A model could not be asked, since another thread has run callbacks for too long; nothing was changed."""


class AppendRefused(Refused):
    """Some writes of an append are refused; nothing was changed."""

    def __init__(self, refusals: Sequence[tuple[int, TaskfoldError]]) -> None:
        self.refusals = list(refusals)
        """The place of each refused write among the others, from 0, and what refuses it."""
        place, first = self.refusals[0]
        others = f" (and {len(self.refusals) - 1} more)" if len(self.refusals) > 1 else ""
        super().__init__(f"nothing was appended: write {place}: {first}{others}")


class ListenerError(ExceptionGroup[Exception], TaskfoldError):
    """Listeners, or callbacks of bound models, raised after something was recorded: it is, and everybody was told."""

    records: list[Any]
    """The records that were written."""
    steps: list[Any]
    """The steps that were decided, and whose effects are owed."""

    def __new__(
        cls, problems: Sequence[Exception], *, records: Sequence[object] = (), steps: Sequence[object] = ()
    ) -> Self:
        """Say what was raised first; an ExceptionGroup is complete before it is initialized."""
        first = problems[0]
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        what = f"it was recorded, and then a listener raised {type(first).__name__}: {first}{others}"
        self = super().__new__(cls, what, problems)
        self.records = list(records)
        self.steps = list(steps)
        return self

    def __init__(self, *_: object, **__: object) -> None:
        """Do nothing: it is complete."""

    def derive(self, problems: Sequence[Exception]) -> ListenerError:  # type: ignore[override]  # never a BaseException
        """Return the same of some of the exceptions."""
        return ListenerError(problems, records=self.records, steps=self.steps)

    def __str__(self) -> str:
        """Return the sentence itself: ExceptionGroup would count, too."""
        return str(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what it is made of, to be pickled."""
        return type(self), (list(self.exceptions),), self.__dict__


class NotFound(Refused, KeyError):
    """The requested object is unknown."""

    def __str__(self) -> str:
        """Return the sentence itself: KeyError would print its repr."""
        return str(self.args[0])


class UnknownAllocation(NotFound):
    """No allocation of this ID is known, or several IDs begin like this."""


class UnknownTask(NotFound):
    """The allocation has no task of this name."""


class DialectError(Unreadable, ValueError):
    """A dialect that taskfold does not speak, or two dialects in one log."""


class DecodeError(Unreadable, ValueError):
    """A value is not what the format says; the message names its JSON path."""


class LogError(Unavailable):
    """A log cannot be read or written as asked."""


class UnreadableLog(Unreadable, LogError):
    """The file is no log, a damaged one, or one of an unknown format."""


class ReadOnly(Refused):
    """The log was opened to be read only, and is written by another process, if by any; nothing was changed."""


class Gone(Unreadable):
    """Records that are asked for were removed from the log."""

    def __init__(self, message: str, *, oldest: int) -> None:
        self.oldest = oldest
        """After which position everything is there; where one allocation is read, after which version."""
        super().__init__(message)


class VersionConflict(Refused):
    """Another writer appended to this allocation first."""

    def __init__(self, *, allocation: str, expected_version: int, actual_version: int) -> None:
        self.allocation = allocation
        self.expected_version = expected_version
        self.actual_version = actual_version
        what = f"allocation {allocation} is at version {actual_version}, not {expected_version}"
        super().__init__(f"{what}: read it again and decide anew")


class AlreadyPlaced(VersionConflict):
    """An allocation of this ID was placed before; nothing was changed."""

    def __init__(self, *, allocation: str, actual_version: int) -> None:
        super().__init__(allocation=allocation, expected_version=0, actual_version=actual_version)
        was = f"allocation {allocation} was placed before, and is at version {actual_version}"
        self.args = (f"{was}: update it, or place another ID",)


class IdConflict(Refused):
    """An ID names another event that was recorded before; nothing was changed."""

    def __init__(self, *, id: str, allocation: str, task: str, event: str) -> None:
        self.id = id
        self.allocation = allocation
        self.task = task
        self.event = event
        where = f"task {task!r} of allocation {allocation}" if task else f"allocation {allocation}"
        super().__init__(
            f"ID {id!r} was recorded before, and with something else than {event!r} of {where}: an ID names one event, "
            "so that a repeat is known; give this one an ID of its own"
        )


class SourceError(Unreadable):
    """A source of observations or records cannot be read; the message names the file and the line."""

    def __init__(self, name: str, message: str, *, line: int | None = None) -> None:
        self.name = name
        self.line = line
        where = name if line is None else f"{name}, line {line}"
        super().__init__(f"{where}: {message}")


class SourceUnavailable(Unavailable):
    """An agent that is followed cannot be asked now, or refuses to answer; the message names it, and says why."""

    def __init__(
        self, message: str, *, is_refusal: bool = False, is_busy: bool = False, retry_after_seconds: float = 0
    ) -> None:
        self.is_refusal = is_refusal
        """The agent refuses the request: check the token and its permissions."""
        self.is_busy = is_busy
        """The agent has too many requests already."""
        self.retry_after_seconds = retry_after_seconds
        """How long it wants to be left alone; 0 where it does not say."""
        super().__init__(message)


class ServeError(Unavailable):
    """A server cannot be run as asked."""
