"""The store: the folded state of a log, its directory, and its waiters, behind one lock.

One thread at a time writes (`Store.commit`, in its turn), any number read. A write goes to the log first, outside the
lock, however long the disk takes; then, under the lock, the state, the directory and the waiters change together, so
that no reader sees one without the others. Readers hold the lock while they copy one allocation, or a limited number of
IDs; a `Listing` stays at its index by saving the allocations that writers are about to change.

An exception (Ctrl-C, an alarm, a timeout) may strike at any instruction between the first byte in the log and the last
waiter woken. Then the store asks the log what it holds, and brings the state in line (`Store.settle`): at once, or, if
that is interrupted, too, in the next turn. Until then no reader sees the incomplete state.
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
from taskfold.log.checkpoint import Checkpoint, CheckpointLog, from_parts, to_parts
from taskfold.log.contract import Append, EventLog, RecoverableLog, SharedLog, kept_records
from taskfold.log.index_map import Positions
from taskfold.log.ownership import Owned
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import LogError, TaskfoldError, Unreadable
from taskfold.model.record import Coordinated, Record
from taskfold.nomad.snapshot import AllocationTexts, Snapshot

__all__ = ["Listing", "Store"]

_RECORDS_AT_ONCE: Final = 1_000
"""How many records are folded at once: decoded, they still fit the processor's caches."""

_TEXTS_BYTES: Final = 16 << 20
"""The size of the cache for the JSON of single allocations: enough for some 1,500 of them."""

_INTERRUPTED: Final = "a write was interrupted"

T = TypeVar("T")


class Versioned(Protocol):
    """A value derived from one version of an allocation."""

    @property
    def version(self) -> int:
        """The version of the allocation."""


V = TypeVar("V", bound=Versioned)

_VIEW_CHUNK: Final = 64
"""How many allocations a listing copies under one lock."""

_KEPT_KNOWN: Final = 16_384
"""The size of the cache of allocations that no listing wants to save: repeated writes to them cost nothing."""

_IDS_AT_ONCE: Final = 1_024
"""How many of a million IDs a listing checks under one lock: it takes less than a millisecond."""


class Store(Owned):
    """The folded state of a log, for one writer and many readers."""

    instead = "open its log again where it is needed, with read_only=True to read"

    def __init__(self, log: EventLog, *, waiters_per_key: int = WAITERS_PER_KEY, core: Core | None = None) -> None:
        """Fold a log, unless a core was given that folded it when it was opened. O(records).

        Events that the lifecycle table refuses are kept, as they were when they were recorded.
        """
        self.log = log
        self._own_with(log)
        self.shared: SharedLog | None = log if isinstance(log, SharedLog) else None
        """The log, if other processes may write it, too."""
        self.dialect: Dialect = dialect_of(log.header.dialect)
        is_open = core is not None and (core.dialect, core.seq) == (self.dialect, log.seq)
        self.core = core if core is not None and is_open else Core(self.dialect)
        """The state. Read by the writer only, or under the lock."""
        self.core.use_log(log.header, log)
        self.texts = AllocationTexts(self.dialect, _TEXTS_BYTES)
        """Writes the JSON of single allocations, in any thread."""
        self.turn = threading.RLock()
        """The turn to write. Acquired before ``lock``."""
        self.lock = threading.Lock()
        self._gate = threading.Lock()
        """Held by a writer that waits for the lock, and acquired first by frequent readers: a lock by itself is not
        fair."""
        self.directory: Directory
        self.watches = Watches(waiters_per_key)
        self.is_released = False
        """Waits have been ended: every question is answered at once."""
        self.is_unsettled = False
        """A write was interrupted: the log may have records that the state lacks."""
        self._is_log_unknown = False
        """The same, with a log that cannot tell whether it has them."""
        self._is_half_moved = False
        """The state is between two writes, and no thread is completing it. Under the lock only."""
        self._listings: weakref.WeakSet[Listing] = weakref.WeakSet()
        self._unwanted: set[str] = set()
        """Some of the allocations that no open listing wants to save (any more)."""
        self._recent = RecentChanges()
        self._earlier_index = 0
        """The newest index of the epochs before this one; 0 in the first."""
        self._epoch_index = 0
        """The newest index of this epoch."""
        self.checkpoint_seq = 0
        """The position of the newest checkpoint."""
        if is_open:
            self._list_all(0)
        else:
            self._fold_log()

    def _fold_log(self) -> None:
        """Fold the log from scratch. O(records), or O(tasks + records since the checkpoint)."""
        log, core, checkpoint_seq = self.log, Core(self.dialect, ids=self.log), 0
        checkpoint = from_parts(_kept_parts(log), self.dialect)
        if checkpoint is not None and checkpoint.seq <= log.seq:
            core.load(checkpoint)
            checkpoint_seq = checkpoint.seq
        records = kept_records(log, core.seq)
        while some := list(islice(records, _RECORDS_AT_ONCE)):
            core.take(some)
        self.core.load(Checkpoint(core.seq, core.fold, core.positions))
        self._list_all(checkpoint_seq)

    def _list_all(self, checkpoint_seq: int) -> None:
        """Fill the directory from the fold. O(allocations)."""
        directory = Directory()
        directory.put_all({alloc: heading_of(one) for alloc, one in self.core.fold.allocations.items()})
        self.checkpoint_seq, self.directory = checkpoint_seq, directory

    @property
    def index(self) -> int:
        """The index of the newest write: the greatest of all; 0 if there is none. In a later epoch it still grows."""
        return self._earlier_index + self._epoch_index if self.is_later_epoch else self.core.positions.newest

    @property
    def is_later_epoch(self) -> bool:
        """Whether the index of the Nomad that is mirrored went back."""
        return self._earlier_index > 0

    def begin_epoch(self) -> None:
        """Count the indexes of all writes to come from the newest one on, and wake the waiters. O(waiters)."""
        with self._gate, self.lock:
            self._earlier_index, self._epoch_index = self.index, 0
            self.watches.take_all()
        self.watches.wake()

    @property
    def seq(self) -> int:
        """The position of the newest record in the state."""
        return self.core.seq

    @property
    def fold(self) -> Fold:
        """The allocations: read by the writer only, or under the lock."""
        return self.core.fold

    @property
    def positions(self) -> Positions:
        """The index map of the log: read under the lock."""
        return self.core.positions

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self.core.is_closed

    @property
    def oldest_seq(self) -> int:
        """The position after which the log has every record; 0 if none was compacted."""
        compacted = self.log.header.compacted
        return 0 if compacted is UNSET else compacted.seq

    @property
    def removed_index(self) -> int:
        """The greatest index of compacted records; 0 if none was compacted."""
        compacted = self.log.header.compacted
        return 0 if compacted is UNSET else compacted.index

    @property
    def oldest_index(self) -> int:
        """The index from which the log has every record; 0 if there is none."""
        compacted = self.log.header.compacted
        return self.positions.oldest if compacted is UNSET else compacted.index + 1

    def commit(self, appends: Sequence[Append]) -> list[Record]:
        """Write to the log, then to the state, and wake its waiters; return the new records.

        For the thread that has the turn. Raises the errors of the log: then nothing changed. After any other exception,
        the records are in the log and in the state, or in neither.
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
                is_appended or isinstance(error, TaskfoldError) or isinstance(self.log, RecoverableLog)
            )
            with suppress(LogError, Unreadable):  # the next turn tries again, and reports it
                self.settle()
            raise
        return records

    def settle(self) -> None:
        """Bring the state in line with the log if a write was interrupted; else do nothing. In the turn.

        O(records) if the state had begun to change, else O(records that it lacks). Raises LogError when the log cannot
        tell.
        """
        if isinstance(self.log, RecoverableLog):
            self._ask_log(self.log.recover)
        if self._is_log_unknown:
            raise LogError(f"{_INTERRUPTED}, and {type(self.log).__name__} cannot tell its outcome: reopen the log")
        if self.is_unsettled:
            with self.lock:
                self._settle_state()
            if self.shared is not None or self.log.seq != self.seq:
                self.catch_up()
            self.watches.wake()
            self.is_unsettled = False

    def _settle_state(self) -> None:
        """Fold the log from scratch if the state had begun to change. Under the lock."""
        if self._is_half_moved:
            # Views save what has not changed yet and is about to.
            for record in self._ask_log(lambda: list(kept_records(self.log, self.seq))):
                self._keep(record.alloc)
            self._ask_log(self._fold_log)
            self._recent.forget(self.seq)
            self.watches.take_all()
            self._is_half_moved = False

    def _ask_log(self, ask: Callable[[], T]) -> T:
        """Call the log. Raises LogError that explains the purpose."""
        try:
            return ask()
        except (LogError, OSError) as error:
            raise LogError(
                f"{_INTERRUPTED}, and the log cannot be read to find its outcome: fix that, or reopen the log ({error})"
            ) from error

    def check_whole(self) -> None:
        """Ensure that no write is half applied. Every reader calls it first, under the lock. O(1).

        Raises LogError when a write and its recovery were interrupted, and another thread has the turn.
        """
        if self._is_half_moved:
            if not self.turn.acquire(blocking=False):
                raise LogError(f"{_INTERRUPTED}: its outcome is being determined; try again, or reopen the log")
            try:
                self._settle_state()
            finally:
                self.turn.release()

    def catch_up(self) -> dict[str, None]:
        """Fold the appends of other processes, write by write; return the allocations that changed.

        Records compacted since then are not needed for the state. For the writing thread. O(records). Raises LogError,
        also when the log has fewer records than before.
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
        """Fold records that are in the log, and wake their waiters."""
        with self._gate, self.lock:
            try:
                if records[0].index == records[-1].index:  # the usual case
                    self._fold_in(records)
                else:  # one change for each write, as a reader of the log would see it
                    for _, write in groupby(records, key=attrgetter("index")):
                        self._fold_in(list(write))
            except BaseException:
                self._is_half_moved = self.is_unsettled = True
                with suppress(LogError, Unreadable):  # the next reader retries
                    self._settle_state()
                raise
        self.watches.wake()

    def save_checkpoint(self) -> bool:
        """Write the state as a checkpoint, if the log has checkpoints; tell whether it has. O(tasks).

        For the writing thread. Raises LogError.
        """
        if not isinstance(self.log, CheckpointLog):
            return False
        self.settle()
        self.log.save_checkpoint(to_parts(self.seq, self.fold, self.positions))
        self.checkpoint_seq = self.seq
        return True

    def _fold_in(self, records: list[Record]) -> None:
        """Apply one write to the state and the directory, and take out the waiters to wake."""
        changed: dict[str, bool] = {}
        core, is_listed = self.core, bool(self._listings)
        for record in records:
            alloc = record.alloc
            if alloc not in changed:
                if is_listed:
                    self._keep(alloc)
                changed[alloc] = False
            if not record.task and not isinstance(record.event, Coordinated):
                # The top-level fields changed.
                changed[alloc] = True
        core.move(records)
        self._epoch_index = max(self._epoch_index, records[0].index)
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
        """Save an allocation in the listings that want it, before it changes."""
        if alloc not in self._unwanted:
            waiting = [listing for listing in self._listings if listing.wants(alloc)]
            if waiting:
                before = self.fold.allocations.get(alloc)
                state = None if before is None else before.freeze()
                for listing in waiting:
                    listing.keep(alloc, state, self.directory.get(alloc))
            if len(self._unwanted) >= _KEPT_KNOWN:
                self._unwanted.clear()
            self._unwanted.add(alloc)

    # --- reading ---

    def read(self, alloc: str) -> AllocationState:
        """Return the state of an allocation. O(tasks). Raises UnknownAllocation."""
        with self.lock:
            self.check_whole()
            return self.fold[alloc]

    def listing(
        self,
        *,
        prefix: str = "",
        job: str | None = None,
        node: str | None = None,
        status: str | None = None,
        namespace: str | None = None,
    ) -> Listing:
        """Return a consistent listing of the allocations that match all arguments, sorted by ID.

        O(log n + the narrowest range). Writers continue meanwhile: it locks for a limited number of IDs at a time.
        """
        query = Filter(prefix, job, node, status, namespace)
        with self.lock:
            self.check_whole()
            listing = Listing(self, query, self.index)
            self._unwanted.clear()
            self._listings.add(listing)
        while not listing.is_complete:
            self.yield_to_writer()
            with self.lock:
                self.check_whole()
                listing.collect()
        return listing

    def yield_to_writer(self) -> None:
        """Let a waiting writer have the lock first. Not to be called under the lock."""
        with self._gate:
            pass

    # --- following ---

    def follow(self) -> None:
        """Start buffering the newest changes; ends with as many calls of `unfollow`."""
        with self.lock:
            self._recent.follow(self.seq)

    def unfollow(self) -> None:
        """Undo one `follow`."""
        with self.lock:
            self._recent.unfollow()

    def _remember(self, records: list[Record], changed: dict[str, bool]) -> None:
        """Add a change to the buffer for followers."""
        by_allocation: dict[str, list[Record]] = {alloc: [] for alloc in changed}
        for record in records:
            by_allocation[record.alloc].append(record)
        states = tuple((self.fold[alloc], tuple(own)) for alloc, own in by_allocation.items())
        self._recent.add(Change(records[0].seq, records[-1].seq, records[0].index, states))

    def _forget_recent(self, seq: int) -> None:
        """Drop the buffered changes up to a position: followers read them from the log."""
        with self.lock:
            self._recent.forget(seq)

    def recent(self, after_seq: int, limit: int = 64) -> list[Change] | None:
        """Return the next changes after a position; None if they are only in the log. O(buffered changes)."""
        with self.lock:
            self.check_whole()
            return self._recent.after(after_seq, limit)

    def release(self) -> None:
        """End every wait, and every later one at once: each returns the current value."""
        with self.lock:
            self.is_released = True
            self.watches.take_all()
        self.watches.wake()

    def close(self) -> None:
        """End every wait, and close the log. Later writes raise LogError."""
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
    """Yield the parts of a log's checkpoint, up to the first damaged one, which makes the checkpoint invalid."""
    if isinstance(log, CheckpointLog):
        with suppress(LogError):
            yield from log.checkpoint_parts()


class Listing(Owned):
    """Allocations as of one index, whatever is written meanwhile; iterable once.

    Allocations that are about to change are saved until the listing is read to its end, closed, or garbage.
    """

    instead = "`list(listing)` has its snapshots"

    def __init__(self, store: Store, query: Filter, index: int) -> None:
        self.index = index
        """The index of the store when the listing was taken."""
        self.is_complete = False
        """All its IDs have been gathered."""
        self._store = store
        self._query = query
        self._ids: list[str] = []
        self._last: str | None = None
        """The ID after which IDs are still to be gathered."""
        self._ahead: dict[str, bool] = {}
        """Changed allocations among those: whether each matched before its change."""
        self._read = 0
        """How many allocations were read."""
        self._states: dict[str, AllocationState] | None = {}

    def __repr__(self) -> str:
        """Return its number of allocations, its index, and whether it can still be read."""
        closed = ", read or closed" if self._states is None else ""
        return f"<Listing of {len(self):,} allocations at index {self.index}{closed}>"

    def __len__(self) -> int:
        """Return the number of allocations."""
        return len(self._ids)

    @property
    def ids(self) -> Sequence[str]:
        """The IDs, sorted."""
        return self._ids

    def collect(self) -> None:
        """Gather the next IDs, as of the listing's index. The store calls it, under its lock."""
        ids, last = self._store.directory.page(self._query, self._last, _IDS_AT_ONCE)
        changes = {alloc: was for alloc, was in self._ahead.items() if last is None or alloc <= last}
        if changes:
            # Saved matches and current ones, each without the allocations that changed meanwhile.
            ids = sorted([alloc for alloc, was in changes.items() if was] + [a for a in ids if a not in changes])
            self._ahead = {alloc: was for alloc, was in self._ahead.items() if alloc not in changes}
        self._ids += ids
        self._last = last
        self.is_complete = last is None

    def _is_ahead(self, alloc: str) -> bool:
        """Return whether an allocation's ID is still to be gathered."""
        return self._last is None or alloc > self._last

    def wants(self, alloc: str) -> bool:
        """Return whether an allocation must be saved before it changes, as it may still be read. O(log n).

        The store calls it, under its lock.
        """
        if not self.is_complete and self._is_ahead(alloc):
            return alloc not in self._ahead
        if self._states is None or alloc in self._states:
            return False
        ids = self._ids
        place = bisect_left(ids, alloc, self._read)
        return place < len(ids) and ids[place] == alloc

    def keep(self, alloc: str, state: AllocationState | None, entry: ListEntry | None) -> None:
        """Save a wanted allocation as it is before a write: its state and its entry, if it has them.

        The store calls it, under its lock.
        """
        is_ahead = not self.is_complete and self._is_ahead(alloc)
        is_wanted = not is_ahead or (entry is not None and self._query.matches(alloc, entry))
        if is_wanted and state is not None and self._states is not None:
            self._states[alloc] = state
        if is_ahead:
            self._ahead[alloc] = is_wanted  # set last: after an interruption it is saved again

    def states(self) -> Iterator[AllocationState]:
        """Yield the folded state of each allocation, sorted by ID."""
        return self.states_unless(lambda _: None)

    def states_unless(self, look_up: Callable[[str], V | None]) -> Iterator[AllocationState | V]:
        """Yield, sorted by ID, the cached value of each allocation if it has the right version, else its folded state.

        ``look_up`` returns the cached value of an ID; it is called under the store's lock.
        """
        try:
            for start in range(0, len(self._ids), _VIEW_CHUNK):
                self._store.yield_to_writer()
                with self._store.lock:
                    self._store.check_whole()
                    states = [self._state(alloc, look_up(alloc)) for alloc in self._ids[start : start + _VIEW_CHUNK]]
                    self._read = start + len(states)
                yield from states
        finally:
            self.close()

    def _state(self, alloc: str, cached: V | None) -> AllocationState | V:
        if self._states is None:
            raise RuntimeError("the listing is closed, or was read before: take another one")
        before = self._states.pop(alloc, None)
        now: AllocationState | Allocation = self._store.fold.owned(alloc) if before is None else before
        if cached is not None and cached.version == now.version:
            return cached
        return now.freeze() if isinstance(now, Allocation) else now

    def __iter__(self) -> Iterator[Snapshot]:
        """Yield the snapshot of each allocation, sorted by ID."""
        return (Snapshot.of(state, self._store.dialect) for state in self.states())

    def close(self) -> None:
        """Drop the saved allocations."""
        with self._store.lock:
            self._states = None
            self._store._listings.discard(self)  # noqa: SLF001 - the two classes are one unit
