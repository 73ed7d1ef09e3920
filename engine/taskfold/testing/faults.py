"""A log that fails as it is told to, for those who test what their program does then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

from taskfold.log.contract import Append, EventLog
from taskfold.model.errors import LogError, VersionConflict
from taskfold.model.record import Record

__all__ = ["Fault", "FaultyLog"]

Fault: TypeAlias = Literal["refuse", "conflict", "late", "slow"]
"""The outcome of an append.

``refuse``: nothing is written, and LogError says so. ``conflict``: nothing is written, and VersionConflict says so.
``late``: it is written, and LogError says that it could not be: the caller cannot know. ``slow``: it is written after
`on_slow` has been called.
"""

_FAULTS: Final = get_args(Fault)


class FaultyLog:
    """A log whose appends fail, by their number (1 is the first), or by a function of it.

    Everything else is the wrapped log's; `log` is that one, for the test after a crash. Raises ValueError for a number
    below 1 and for a fault that there is not.

    >>> from taskfold import Engine, LogError, MemoryLog
    >>> faulty = FaultyLog(MemoryLog("1.1.2"), {2: "refuse"})
    >>> engine = Engine(faulty)
    >>> engine.place({"ID": "a"})
    >>> engine.place({"ID": "b"})
    Traceback (most recent call last):
    ...
    taskfold.errors.LogError: append 2: the log was told to refuse it
    >>> engine.place({"ID": "b"}); faulty.log.seq
    2
    """

    def __init__(
        self,
        log: EventLog,
        faults: Mapping[int, Fault] | Callable[[int], Fault | None],
        *,
        on_slow: Callable[[], object] = lambda: None,
    ) -> None:
        for number, fault in faults.items() if isinstance(faults, Mapping) else ():
            if number < 1 or fault not in _FAULTS:
                raise ValueError(f"appends count from 1, and faults are {', '.join(_FAULTS)}: not {number}: {fault!r}")
        self.log = log
        self.appends = 0
        """How many appends there were."""
        self._fault_of = faults.get if isinstance(faults, Mapping) else faults
        self._on_slow = on_slow

    def append(self, alloc: str, expected_version: int, records: Sequence[Record]) -> list[Record]:
        """Append records to one allocation, unless it is to fail."""
        return self.append_all([Append(alloc, expected_version, records)])

    def append_all(self, appends: Sequence[Append], **more: Any) -> list[Record]:
        """Append records to several allocations, all or nothing, unless it is to fail. Raises what the fault says."""
        self.appends += 1
        fault = self._fault_of(self.appends)
        if fault == "refuse":
            raise LogError(f"append {self.appends}: the log was told to refuse it")
        if fault == "conflict":
            first = appends[0]
            actual = first.expected_version + 1
            raise VersionConflict(
                allocation=first.alloc, expected_version=first.expected_version, actual_version=actual
            )
        if fault == "slow":
            self._on_slow()
        records = self.log.append_all(appends, **more)
        if fault == "late":
            raise LogError(f"append {self.appends}: the log was told to acknowledge it too late")
        return records

    def __getattr__(self, name: str) -> Any:
        """Return what the wrapped log has."""
        return getattr(self.log, name)
