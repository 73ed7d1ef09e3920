"""The store: the folded state of a log, its directory, and who waits for it, behind one lock.

One thread at a time writes (`Store.commit`, in its turn), any number of them read. A write reaches the log first,
outside the lock, however long a disk takes; then, under the lock, the state, the directory and the watches move
together, so that no reader ever sees one without the others. Readers hold the lock while they copy one allocation, or
some of the IDs that they want; a `View` stays at its index by keeping what writers are about to change.

Whatever raises between the first byte in the log and the last waiter that is woken (Ctrl-C, an alarm, a time limit), at
whatever instruction: the store asks the log what it holds, and takes in just that (`Store.settle`), at once, and, where
that is interrupted, too, in the next turn. Until then what moved by half is not shown to anybody.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from operator import attrgetter
from typing import Final, Protocol, TypeVar

from msgspec import UNSET

from taskfold.fold.allocation import Allocation, AllocationState, Fold
from taskfold.live.changes import Change, RecentChanges
from taskfold.live.core import Core
from taskfold.live.directory import Directory, Filter, ListEntry, heading_of
from taskfold.live.waiters import WAITERS_PER_KEY, Watches
from taskfold.log.checkpoint import Checkpoint, KeepsCheckpoints, from_parts, to_parts
from taskfold.log.contract import Append, EventLog, Recovers, SharedLog, kept_records
from taskfold.log.index_map import Positions
from taskfold.log.ownership import Owned
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import LogError, TaskfoldError, Unreadable
from taskfold.model.record import Coordinated, Record
from taskfold.nomad.snapshot import AllocationTexts, Snapshot

__all__ = ["Store", "View"]

_RECORDS_AT_ONCE: Final = 1_000
"""How many records are folded at once: what was decoded still fits the processor's caches."""

_TEXTS_BYTES: Final = 16 << 20
"""How much is kept of the texts of allocations that are read one at a time: what some 1,500 of them need."""

_INTERRUPTED: Final = "a write was interrupted"

T = TypeVar("T")


class Versioned(Protocol):
    """What was made of an allocation as it was at one version."""

    @property
    def version(self) -> int:
        """How many records the allocation had."""


V = TypeVar("V", bound=Versioned)

_VIEW_CHUNK: Final = 64
"""How many allocations a view copies under one lock."""

_KEPT_KNOWN: Final = 16_384
"""How many allocations are known to be kept: what is written again and again costs nothing, however many views wait."""

_IDS_AT_ONCE: Final = 1_024
"""How many IDs a view looks at under one lock: less than a millisecond, of a million."""


class Store(Owned):
    """The state that a log tells, for one writer and many readers."""

    instead = "open its log again where it is needed, with read_only=True to read"

    def __init__(self, log: EventLog, *, waiters_per_key: int = WAITERS_PER_KEY, core: Core | None = None) -> None:
        """Fold a log, unless a core took it in when it was opened. O(records).

        Events that its table refuses are kept, as they were when they were recorded.
        """
        self.log = log
        self._own_with(log)
        self.shared: SharedLog | None = log if isinstance(log, SharedLog) else None
        """The log, where other processes may write it, too."""
        self.dialect: Dialect = dialect_of(log.header.dialect)
        is_open = core is not None and (core.dialect, core.seq) == (self.dialect, log.seq)
        self.core = core if core is not None and is_open else Core(self.dialect)
        """The state. It is read by the writer only, or under the lock."""
        self.core.use_log(log.header, log)
        self.texts = AllocationTexts(self.dialect, _TEXTS_BYTES)
        """Writes what is read of single allocations, in any thread."""
        self.turn = threading.RLock()
        """Whose turn it is to write. It is taken before ``lock``."""
        self.lock = threading.Lock()
        self._gate = threading.Lock()
        """Held by a writer who waits for the lock, and passed by whoever takes it often: a lock itself is not fair."""
        self.directory: Directory
        self.watches = Watches(waiters_per_key)
        self.is_released = False
        """Whoever waits is answered with what is known, and nobody waits any more."""
        self.is_unsettled = False
        """The log may hold what is not in the state: a write was interrupted."""
        self._is_log_unknown = False
        """The same of a log that cannot tell what became of it."""
        self._is_half_moved = False
        """The state is between two writes, and nobody moves it any more. Under the lock only."""
        self._views: weakref.WeakSet[View] = weakref.WeakSet()
        self._unwanted: set[str] = set()
        """Some of the allocations that no open view wants to keep (any more)."""
        self._recent = RecentChanges()
        self.checkpoint_seq = 0
        """Up to which position a checkpoint is kept."""
        if is_open:
            self._list_all(0)
        else:
            self._fold_log()

    def _fold_log(self) -> None:
        """Fold the log, whatever the state was. O(records), or O(tasks + records since the checkpoint)."""
        log, core, checkpoint_seq = self.log, Core(self.dialect, ids=self.log), 0
        checkpoint = from_parts(_kept_parts(log), self.dialect)
        if checkpoint is not None and checkpoint.seq <= log.seq:
            core.go_on(checkpoint)
            checkpoint_seq = checkpoint.seq
        records = kept_records(log, core.seq)
        while some := list(islice(records, _RECORDS_AT_ONCE)):
            core.take(some)
        self.core.go_on(Checkpoint(core.seq, core.fold, core.positions))
        self._list_all(checkpoint_seq)

    def _list_all(self, checkpoint_seq: int) -> None:
        """List what was folded. O(allocations)."""
        directory = Directory()
        directory.put_all({alloc: heading_of(one) for alloc, one in self.core.fold.allocations.items()})
        self.checkpoint_seq, self.directory = checkpoint_seq, directory

    @property
    def index(self) -> int:
        """The index of the newest write: the greatest of all; 0 before the first."""
        return self.core.positions.newest

    @property
    def seq(self) -> int:
        """The position of the newest record that is in the state."""
        return self.core.seq

    @property
    def fold(self) -> Fold:
        """The allocations: to be read by the writer only, or under the lock."""
        return self.core.fold

    @property
    def positions(self) -> Positions:
        """Which index is where in the log: to be read under the lock."""
        return self.core.positions

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self.core.is_closed

    @property
    def oldest_seq(self) -> int:
        """After which position the log has every record; 0 where none were removed."""
        compacted = self.log.header.compacted
        return 0 if compacted is UNSET else compacted.seq

    @property
    def removed_index(self) -> int:
        """The greatest index of what was removed from the log; 0 where nothing was."""
        compacted = self.log.header.compacted
        return 0 if compacted is UNSET else compacted.index

    @property
    def oldest_index(self) -> int:
        """The first index from which on the log has every record; 0 before there is one."""
        compacted = self.log.header.compacted
        return self.positions.oldest if compacted is UNSET else compacted.index + 1

    def commit(self, appends: Sequence[Append]) -> list[Record]:
        """Write to the log, then to the state, and wake who waits for it; return the records that were new.

        For the thread that has the turn. Raises what the log raises: then nothing changed. Where something else raises
        in between, the records are in the log and in the state, or in neither of them.
        """
        is_appended = False
        try:
            if self.shared is None:
                records = self.log.append_all(appends)
            else:
                records = self.shared.append_all(appends, after_seq=self.seq)
            is_appended = True
            if records:
                self._take_in(records)
        except BaseException as error:
            self.is_unsettled = True
            self._is_log_unknown |= not (
                is_appended or isinstance(error, TaskfoldError) or isinstance(self.log, Recovers)
            )
            with suppress(LogError, Unreadable):  # then the next turn tries again, and tells of it
                self.settle()
            raise
        return records

    def settle(self) -> None:
        """Make the state what the log holds, where a write was interrupted; else do nothing. In the turn.

        O(records) where the state had begun to move, else O(records that are not in it). Raises LogError when the log
        cannot tell.
        """
        if isinstance(self.log, Recovers):
            self._ask_log(self.log.recover)
        if self._is_log_unknown:
            raise LogError(
                f"{_INTERRUPTED}, and {type(self.log).__name__} cannot tell what became of it: reopen the log"
            )
        if self.is_unsettled:
            with self.lock:
                self._settle_state()
            if self.shared is not None or self.log.seq != self.seq:
                self.catch_up()
            self.watches.wake()
            self.is_unsettled = False

    def _settle_state(self) -> None:
        """Fold the log anew where the state had begun to move. Under the lock."""
        if self._is_half_moved:
            # The views keep what did not change before the interruption, and is about to.
            for record in self._ask_log(lambda: list(kept_records(self.log, self.seq))):
                self._keep(record.alloc)
            self._ask_log(self._fold_log)
            self._recent.forget(self.seq)
            self.watches.take_all()
            self._is_half_moved = False

    def _ask_log(self, ask: Callable[[], T]) -> T:
        """Ask the log. Raises LogError that says what for."""
        try:
            return ask()
        except (LogError, OSError) as error:
            raise LogError(
                f"{_INTERRUPTED}, and what became of it cannot be read: mend that, or reopen the log ({error})"
            ) from error

    def check_whole(self) -> None:
        """See to it that no write is there by half. Under the lock; every reader does so first. O(1).

        Raises LogError where one was interrupted, and so was what puts that right, and somebody else has the turn.
        """
        if self._is_half_moved:
            if not self.turn.acquire(blocking=False):
                raise LogError(f"{_INTERRUPTED}: what became of it is being found out; ask again, or reopen the log")
            try:
                self._settle_state()
            finally:
                self.turn.release()

    def catch_up(self) -> dict[str, None]:
        """Fold what other processes have appended, a write at a time; return the allocations that it changed.

        What they have removed since is not needed for the state. For the thread that writes. O(records).
        Raises LogError, also where the log has less than it had.
        """
        changed: dict[str, None] = {}
        newest = self.seq if self.shared is None else self.shared.newest()
        if newest < self.seq:
            msg = f"the log ends at position {newest}, though the engine holds its state at {self.seq}: open it again"
            raise LogError(msg)
        for _, group in groupby(kept_records(self.log, self.seq), key=attrgetter("index")):
            records = list(group)
            if records[0].seq != self.seq + 1:
                self._forget_recent(records[0].seq - 1)
            self._take_in(records)
            changed.update((record.alloc, None) for record in records)
        return changed

    def _take_in(self, records: list[Record]) -> None:
        """Fold what is in the log, and wake who waits for it."""
        with self._gate, self.lock:
            try:
                if records[0].index == records[-1].index:  # as most have it
                    self._fold_in(records)
                else:  # a change for each write, as who reads the log finds them
                    for _, write in groupby(records, key=attrgetter("index")):
                        self._fold_in(list(write))
            except BaseException:
                self._is_half_moved = self.is_unsettled = True
                with suppress(LogError, Unreadable):  # else it is done by who asks next
                    self._settle_state()
                raise
        self.watches.wake()

    def save_checkpoint(self) -> bool:
        """Keep the state as it is now beside the log, if the log can; tell whether it can. O(tasks).

        For the thread that writes. Raises LogError.
        """
        if not isinstance(self.log, KeepsCheckpoints):
            return False
        self.settle()
        self.log.save_checkpoint(to_parts(self.seq, self.fold, self.positions))
        self.checkpoint_seq = self.seq
        return True

    def _fold_in(self, records: list[Record]) -> None:
        """Move the state and the directory by one write, and take out whom to wake."""
        changed: dict[str, bool] = {}
        core, is_viewed = self.core, bool(self._views)
        for record in records:
            alloc = record.alloc
            if alloc not in changed:
                if is_viewed:
                    self._keep(alloc)
                changed[alloc] = False
            if not record.task and not isinstance(record.event, Coordinated):
                # The top-level fields have changed.
                changed[alloc] = True
        core.move(records)
        allocations = core.fold.allocations
        for alloc, is_whole in changed.items():
            allocation = allocations[alloc]
            entry = None if is_whole else self.directory.refresh(alloc, allocation)
            if entry is None:
                entry = heading_of(allocation)
                self.directory.put(alloc, entry)
            self.watches.take(alloc, entry.job)
        if self._recent.followers:
            self._remember(records, changed)
        for alloc in changed:
            if allocations[alloc].collected:
                del allocations[alloc]
                self.directory.remove(alloc)

    def _keep(self, alloc: str) -> None:
        """Keep an allocation as it is now in the views that want it, before it changes."""
        if alloc not in self._unwanted:
            waiting = [view for view in self._views if view.wants(alloc)]
            if waiting:
                before = self.fold.allocations.get(alloc)
                state = None if before is None else before.freeze()
                for view in waiting:
                    view.keep(alloc, state, self.directory.get(alloc))
            if len(self._unwanted) >= _KEPT_KNOWN:
                self._unwanted.clear()
            self._unwanted.add(alloc)

    # --- reading ---

    def read(self, alloc: str) -> AllocationState:
        """Return an allocation as it is now. O(tasks). Raises UnknownAllocation."""
        with self.lock:
            self.check_whole()
            return self.fold[alloc]

    def view(
        self,
        *,
        prefix: str = "",
        job: str | None = None,
        node: str | None = None,
        status: str | None = None,
        namespace: str | None = None,
    ) -> View:
        """Return a consistent view of the allocations that match everything that is asked for, sorted by ID.

        O(log n + the narrowest of it). Writers go on meanwhile: it holds the lock for some of the IDs at a time.
        """
        query = Filter(prefix, job, node, status, namespace)
        with self.lock:
            self.check_whole()
            view = View(self, query, self.index)
            self._unwanted.clear()
            self._views.add(view)
        while not view.is_complete:
            self.let_write()
            with self.lock:
                self.check_whole()
                view.collect()
        return view

    def let_write(self) -> None:
        """Let a waiting writer have the lock first. Not under the lock."""
        with self._gate:
            pass

    # --- following ---

    def follow(self) -> None:
        """Keep the newest changes from now on, until `unfollow` was called as often."""
        with self.lock:
            self._recent.follow(self.seq)

    def unfollow(self) -> None:
        """Undo one `follow`."""
        with self.lock:
            self._recent.unfollow()

    def _remember(self, records: list[Record], changed: dict[str, bool]) -> None:
        """Keep a change for those who follow."""
        by_allocation: dict[str, list[Record]] = {alloc: [] for alloc in changed}
        for record in records:
            by_allocation[record.alloc].append(record)
        states = tuple((self.fold[alloc], tuple(own)) for alloc, own in by_allocation.items())
        self._recent.add(Change(records[0].seq, records[-1].seq, records[0].index, states))

    def _forget_recent(self, seq: int) -> None:
        """Forget the changes up to a position: followers read them from the log."""
        with self.lock:
            self._recent.forget(seq)

    def recent(self, after_seq: int, limit: int = 64) -> list[Change] | None:
        """Return the next changes after a position, if they are kept still; None when the log must be read. O(kept)."""
        with self.lock:
            self.check_whole()
            return self._recent.after(after_seq, limit)

    def release(self) -> None:
        """End every wait, also those to come: each returns what is known by then."""
        with self.lock:
            self.is_released = True
            self.watches.take_all()
        self.watches.wake()

    def close(self) -> None:
        """End every wait, and close the log. Nothing can be written afterwards."""
        self.core.is_closed = True
        self.release()
        self.log.close()

    def _check(self) -> None:
        """Assert every invariant."""
        with self.lock:
            self.directory._check()  # noqa: SLF001 - the checks of the parts are parts of the check
            self.watches._check()  # noqa: SLF001
            for alloc, allocation in self.fold.allocations.items():
                assert self.directory.get(alloc) == heading_of(allocation), alloc
            assert len(self.directory) == len(self.fold)
            assert not self._is_half_moved
            assert self.shared is not None or self.seq == self.log.seq


def _kept_parts(log: EventLog) -> Iterator[bytes]:
    """Yield the parts of the checkpoint that a log keeps; what is damaged is left out, and the whole with it."""
    if isinstance(log, KeepsCheckpoints):
        with suppress(LogError):
            yield from log.checkpoint_parts()


class View(Owned):
    """Allocations as they were at one index, whatever is written meanwhile; iterate over it once.

    What is about to change is kept as it was until the view is read to its end, closed, or gone.
    """

    instead = "`list(view)` has its snapshots"

    def __init__(self, store: Store, query: Filter, index: int) -> None:
        self.index = index
        """The index of the store at which it was taken."""
        self.is_complete = False
        """All of its IDs were collected."""
        self._store = store
        self._query = query
        self._ids: list[str] = []
        self._last: str | None = None
        """After which ID those are that were not collected yet."""
        self._ahead: dict[str, bool] = {}
        """What changed among those, and whether it is to be collected, as it was."""
        self._read = 0
        """How many of them were read."""
        self._states: dict[str, AllocationState] | None = {}

    def __repr__(self) -> str:
        """Return how much it shows, of which index, and whether it can be read still."""
        closed = ", read or closed" if self._states is None else ""
        return f"<View of {len(self):,} allocations at index {self.index}{closed}>"

    def __len__(self) -> int:
        """Return how many allocations it has."""
        return len(self._ids)

    @property
    def ids(self) -> Sequence[str]:
        """The IDs, sorted."""
        return self._ids

    def collect(self) -> None:
        """Collect the next IDs, as they were when the view was taken. The store calls it, under its lock."""
        ids, last = self._store.directory.page(self._query, self._last, _IDS_AT_ONCE)
        changes = {alloc: was for alloc, was in self._ahead.items() if last is None or alloc <= last}
        if changes:
            # What was listed before, and what is listed now, each without what changed in between.
            ids = sorted([alloc for alloc, was in changes.items() if was] + [a for a in ids if a not in changes])
            self._ahead = {alloc: was for alloc, was in self._ahead.items() if alloc not in changes}
        self._ids += ids
        self._last = last
        self.is_complete = last is None

    def _is_ahead(self, alloc: str) -> bool:
        """Return whether an allocation has its place after what was collected so far."""
        return self._last is None or alloc > self._last

    def wants(self, alloc: str) -> bool:
        """Return whether an allocation is to be kept before it changes: it may be read still. O(log n).

        The store asks, under its lock.
        """
        if not self.is_complete and self._is_ahead(alloc):
            return alloc not in self._ahead
        if self._states is None or alloc in self._states:
            return False
        ids = self._ids
        place = bisect_left(ids, alloc, self._read)
        return place < len(ids) and ids[place] == alloc

    def keep(self, alloc: str, state: AllocationState | None, entry: ListEntry | None) -> None:
        """Keep an allocation that is wanted as it was before a write: in the fold, and in the directory, if it was.

        The store calls it, under its lock.
        """
        is_ahead = not self.is_complete and self._is_ahead(alloc)
        is_wanted = not is_ahead or (entry is not None and self._query.matches(alloc, entry))
        if is_wanted and state is not None and self._states is not None:
            self._states[alloc] = state
        if is_ahead:
            self._ahead[alloc] = is_wanted  # the last: who is interrupted before it keeps it once more

    def states(self) -> Iterator[AllocationState]:
        """Yield the folded state of each allocation, sorted by ID."""
        return self.states_unless(lambda _: None)

    def states_unless(self, look_up: Callable[[str], V | None]) -> Iterator[AllocationState | V]:
        """Yield, sorted by ID, what was made of each allocation where it is of this version, else its folded state.

        ``look_up`` returns what there is of an allocation; it is called under the store's lock.
        """
        try:
            for start in range(0, len(self._ids), _VIEW_CHUNK):
                self._store.let_write()
                with self._store.lock:
                    self._store.check_whole()
                    states = [self._state(alloc, look_up(alloc)) for alloc in self._ids[start : start + _VIEW_CHUNK]]
                    self._read = start + len(states)
                yield from states
        finally:
            self.close()

    def _state(self, alloc: str, cached: V | None) -> AllocationState | V:
        if self._states is None:
            raise RuntimeError("the view is closed, or was read before: take another one")
        before = self._states.pop(alloc, None)
        now: AllocationState | Allocation = self._store.fold.owned(alloc) if before is None else before
        if cached is not None and cached.version == now.version:
            return cached
        return now.freeze() if isinstance(now, Allocation) else now

    def __iter__(self) -> Iterator[Snapshot]:
        """Yield the snapshot of each allocation, sorted by ID."""
        return (Snapshot.of(state, self._store.dialect) for state in self.states())

    def close(self) -> None:
        """Let go of what was kept."""
        with self._store.lock:
            self._states = None
            self._store._views.discard(self)  # noqa: SLF001 - the two are one
