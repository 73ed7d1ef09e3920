"""Collecting: allocations that have ended leave the live state, with a last record; compaction removes the others.

The last record says why, and what the allocation was in the end. Until the log is compacted its history can still be
read; afterwards the last record alone is there, and whoever asks for the others is told (`errors.Gone`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from msgspec import Raw

from taskfold.fold.status import is_client_terminal
from taskfold.live.arguments import check_listener, check_text, checked_time
from taskfold.live.retention import Candidate, Retention, candidates
from taskfold.live.turns import Question, Turns, in_turn, let_go, writing
from taskfold.log.contract import Append, Compacts
from taskfold.model.errors import DecodeError, Gone, ListenerError, LogError, Refused
from taskfold.model.record import Collected, Record
from taskfold.nomad.snapshot import Snapshot

__all__ = ["Collecting", "OnCollect"]

OnCollect: TypeAlias = Callable[[Snapshot, str], object]
"""Is told of an allocation as it was in the end, and why it was collected."""

_COLLECTED_AT_ONCE: Final = 256
"""How many allocations one write collects, so that others have their turn in between."""


class Collecting(Turns):
    """The side of an engine that lets go of what has ended."""

    @writing
    def collect(self, alloc: str, *, reason: str = "asked for", time_ns: int | None = None) -> Record:
        """Collect an allocation that has ended: a last record is written, and it is known no more. O(tasks).

        >>> from taskfold import Engine, events
        >>> engine = Engine(dialect="1.1.2")
        >>> engine.place({"ID": "203266e5", "JobID": "example"})
        >>> for event in (events.Received(), events.Started(), events.NotRestarting()):
        ...     _ = engine.record("203266e5", "redis", event)
        >>> engine.collect("203266e5").event.reason
        'asked for'
        >>> len(engine.allocations()), len(engine.history("203266e5"))
        (0, 5)

        Raises UnknownAllocation, Refused when it has not ended, and LogError when the log cannot be written: then
        nothing changed. Raises ListenerError when it was collected, and then a listener raised.
        """
        check_text(alloc, "$.Alloc")
        now_ns = checked_time(self.clock.time_ns() if time_ns is None else time_ns)
        status = self.snapshot(alloc).client_status
        if status is None or not is_client_terminal(status):
            raise Refused(f"allocation {alloc} is {status}: only what has ended is collected; stop it first")
        return self._collect([Candidate(alloc, reason)], now_ns)[0]

    def retain(self, retention: Retention, now_ns: int | None = None) -> list[str]:
        """Collect whatever is not to be kept any longer; return the IDs, oldest first. O(those that have ended).

        Raises LogError when the log cannot be written: then what was not collected yet is still there. Raises
        ListenerError when all of it was collected, and listeners raised.
        """
        if not isinstance(retention, Retention):
            raise DecodeError("$: expected what to keep, such as Retention(keep=100)")
        collected: list[Record] = []
        problems: list[Exception] = []
        time_ns = checked_time(self.clock.time_ns() if now_ns is None else now_ns)
        while True:
            try:
                records = self._collect_some(retention, time_ns)
            except ListenerError as error:
                records = error.records
                problems += error.exceptions
            collected += records
            if not records:
                break
        if problems:
            raise ListenerError(problems, records=collected)
        return [record.alloc for record in collected]

    @in_turn
    def collectable(self, retention: Retention, now_ns: int | None = None) -> list[Candidate]:
        """Return what `retain` would collect, and why, oldest first. O(those that have ended)."""
        return candidates(self.store, retention, checked_time(self.clock.time_ns() if now_ns is None else now_ns))

    @writing
    def _collect_some(self, retention: Retention, time_ns: int) -> list[Record]:
        """Collect what is to be collected first; it is looked at anew in each turn, since others may have written."""
        found = candidates(self.store, retention, time_ns)[:_COLLECTED_AT_ONCE]
        return self._collect(found, time_ns) if found else []

    def _collect(self, found: Sequence[Candidate], time_ns: int) -> list[Record]:
        """Write the last records, as one write, and have told who listens."""
        # What mirrors a Nomad has that one's indexes, and gives none of its own.
        first = next(iter(self.store.log.read(found[0].alloc)))
        index = self.store.index + (not isinstance(first.id, int))
        snapshots = [self.snapshot(one.alloc) for one in found]
        appends = []
        for one, snapshot in zip(found, snapshots, strict=True):
            version = self.store.fold.owned(one.alloc).version
            body, task_states = snapshot.final_parts()
            event = Collected(reason=one.reason, body=Raw(body), task_states=Raw(task_states))
            record = Record(index=index, alloc=one.alloc, version=version + 1, time_ns=time_ns, event=event)
            appends.append(Append(one.alloc, version, [record]))
        calls = [
            partial(listener, snapshot, one.reason)
            for one, snapshot in zip(found, snapshots, strict=True)
            for listener in tuple(self._on_collect.values())
        ]
        forgotten = [partial(self._forget, one.alloc) for one in found]
        return self._commit(appends, Question(), at_once=forgotten, afterwards=calls)

    def on_collect(self, listener: OnCollect) -> Callable[[], None]:
        """Have a function called with what is collected, as it was in the end, and why; return what ends that.

        It is called after the last record was written, when nothing is locked, as those of `on_step` are. What it
        raises keeps nobody else from hearing, and reaches who collects as a `ListenerError`.
        """
        check_listener(listener)
        key = object()
        self._on_collect[key] = listener
        return partial(let_go, self._on_collect, key)

    def is_collected(self, alloc: str) -> bool:
        """Tell whether an allocation was known once, and is no more. Raises LogError."""
        if alloc in self.store.fold:
            return False
        try:
            return next(iter(self.store.log.read(alloc)), None) is not None
        except Gone:
            return True

    @in_turn
    def compact(self, collected_before_ns: int | None = None) -> int:
        """Remove from the log the records of what was collected (before a time), but the last; return how many.

        The state stays as it is. Readers of positions, indexes and times up to there get `Gone`. O(records of the log).
        Raises LogError when the log cannot do so, or cannot be written: then nothing was removed.
        """
        if self.store.is_closed:
            raise LogError("the engine is closed")
        if not isinstance(self.store.log, Compacts):
            raise LogError(f"{type(self.store.log).__name__} cannot be compacted")
        return self.store.log.compact(collected_before_ns)
