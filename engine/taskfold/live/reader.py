"""The reader: the read interface of an engine for servers, from any thread, while writers continue.

All answers come from memory, except for `Reader.records` and `Reader.log_after`. A write is visible to every reader or
to none. Methods that document LogError raise it when a write was interrupted, and another thread is still recovering.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from msgspec import Struct

from taskfold.fold.allocation import AllocationState, current_field
from taskfold.live.changes import Change
from taskfold.live.directory import Filter
from taskfold.live.store import Listing, Store
from taskfold.live.waiters import Question, Reply, Waiter
from taskfold.log.contract import kept_records
from taskfold.model.dialect import Dialect
from taskfold.model.record import LogHeader, Record
from taskfold.nomad.snapshot import Snapshot

__all__ = ["COMPARED_AT_MOST", "Reader", "StatePosition"]

T = TypeVar("T")

COMPARED_AT_MOST: Final = 1_024
"""How many allocations are looked at under the lock at most, to tell whether a list is still the same."""


class StatePosition(Struct, frozen=True, gc=False):
    """The position of the folded state."""

    index: int
    """The index of its newest write; 0 if there is none."""
    seq: int
    """The position of its newest record; 0 if there is none."""


class Reader:
    """The read interface of an engine: `taskfold.Engine.reader`.

    Positions: `index`, `seq`, `oldest_index`, `oldest_seq`, `removed_index`, `position_before`, `is_current`.
    One allocation: ``in``, `version`, `modify_index`, `namespace`, `job`, `field`, `has_task`, `read`, `find`,
    `snapshot`, `records`.
    Many: ``len``, `ids`, `jobs`, `listing`, `position_if_same`, `count_by_status`.
    Changes: `follow`, `recent`, `unfollow`, and the cursor of `taskfold.live.cursor`.
    Waiting: questions (`allocation_question`, `job_question`, `list_question`, `newest_index`, `newest_seq`), which
    `ask` answers at once, and `taskfold.live.waiters` waits for.

    >>> from taskfold import Engine
    >>> engine = Engine(dialect="1.1.2")
    >>> engine.place({"ID": "203266e5", "JobID": "example"})
    >>> reader = engine.reader
    >>> "203266e5" in reader, reader.seq, reader.modify_index("203266e5"), reader.count_by_status()
    (True, 1, 1, {'pending': 1})
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dialect: Dialect = store.dialect
        self.texts = store.texts
        """Writes the JSON of single allocations, in any thread."""

    @property
    def name(self) -> str:
        """The name of the log; empty in memory."""
        return getattr(self._store.log, "name", "")

    @property
    def header(self) -> LogHeader:
        """The header of the log."""
        return self._store.log.header

    @property
    def region(self) -> str:
        """The region of the log."""
        return self._store.log.header.region

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write the log, too."""
        return self._store.shared is not None

    @property
    def is_released(self) -> bool:
        """Whether waits have been ended: every question is answered at once."""
        return self._store.is_released

    @property
    def is_closed(self) -> bool:
        """Whether the engine is closed."""
        return self._store.is_closed

    # --- positions ---

    @property
    def index(self) -> int:
        """The index of the newest write; 0 if there is none."""
        return self._store.index

    @property
    def seq(self) -> int:
        """The position of the newest record in the state; 0 if there is none."""
        return self._store.seq

    @property
    def oldest_seq(self) -> int:
        """The position after which the log has every record; 0 if none was compacted."""
        return self._store.oldest_seq

    @property
    def oldest_index(self) -> int:
        """The index from which the log has every record; 0 if there is none."""
        return self._store.oldest_index

    @property
    def removed_index(self) -> int:
        """The greatest index of compacted records; 0 if none was compacted."""
        return self._store.removed_index

    def position_before(self, index: int) -> int:
        """Return a position after which all records of an index, and of later ones, lie. O(log n)."""
        return self._store.positions.before(index)

    def is_current(self, seq: int) -> bool:
        """Return whether nothing was written after a position. O(1). Raises LogError."""
        with self._store.lock:
            self._store.check_whole()
            return seq == self._store.seq

    # --- one allocation ---

    def __contains__(self, alloc: object) -> bool:
        """Return whether there is an allocation with this ID. O(1)."""
        return alloc in self._store.directory

    def version(self, alloc: str) -> int:
        """Return the version of an allocation; 0 if there is none. O(1). Raises LogError."""
        with self._store.lock:
            self._store.check_whole()
            allocation = self._store.fold.allocations.get(alloc)
            return 0 if allocation is None else allocation.version

    def modify_index(self, alloc: str) -> int | None:
        """Return the index of an allocation's newest write; None if there is none. O(1)."""
        entry = self._store.directory.get(alloc)
        return None if entry is None else entry.modify_index

    def namespace(self, alloc: str) -> str | None:
        """Return the namespace of an allocation; None where there is none. O(1)."""
        entry = self._store.directory.get(alloc)
        return None if entry is None else entry.namespace

    def job(self, alloc: str) -> str | None:
        """Return the ID of an allocation's job; None where there is none. O(1)."""
        entry = self._store.directory.get(alloc)
        return None if entry is None else entry.job

    def field(self, alloc: str, name: str) -> bytes | None:
        """Return a top-level field of an allocation as JSON; None where it has none. O(length of its fields).

        Raises LogError.
        """
        with self._store.lock:
            self._store.check_whole()
            allocation = self._store.fold.allocations.get(alloc)
            return None if allocation is None else current_field(allocation.placed_body, allocation.updates, name)

    def has_task(self, alloc: str, task: str) -> bool:
        """Return whether an allocation has a task of this name. O(1). Raises UnknownAllocation and LogError."""
        with self._store.lock:
            self._store.check_whole()
            return task in self._store.fold.owned(alloc).tasks

    def find(self, alloc: str) -> AllocationState | None:
        """Return the state of an allocation; None if there is none. O(tasks). Raises LogError."""
        with self._store.lock:
            self._store.check_whole()
            allocation = self._store.fold.allocations.get(alloc)
            return None if allocation is None else allocation.freeze()

    def read(self, alloc: str) -> AllocationState:
        """Return the state of an allocation. O(tasks). Raises UnknownAllocation and LogError."""
        return self._store.read(alloc)

    def snapshot(self, state: AllocationState) -> Snapshot:
        """Return an allocation with typed access, and JSON in any dialect; the JSON of unchanged ones is cached."""
        return self._store.texts.snapshot(state)

    def records(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of an allocation from the log, also of a collected one. May wait for a disk.

        Raises Gone where records were compacted, and LogError.
        """
        return iter(self._store.log.read(alloc, after_version))

    # --- many ---

    def __len__(self) -> int:
        """Return the number of allocations. O(1)."""
        return len(self._store.directory)

    def ids(self, namespace: str | None = None, *, prefix: str = "") -> list[str]:
        """Return the IDs of all allocations, or of those of a namespace or prefix, sorted. O(n). Raises LogError."""
        with self._store.lock:
            self._store.check_whole()
            return self._store.directory.ids(namespace=namespace, prefix=prefix)

    def jobs(self, namespace: str | None = None) -> list[str]:
        """Return the IDs of the jobs that have allocations, in a namespace or in any, sorted. Raises LogError."""
        with self._store.lock:
            self._store.check_whole()
            return self._store.directory.jobs(namespace)

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
        return self._store.listing(prefix=prefix, job=job, node=node, status=status, namespace=namespace)

    def position_if_same(self, query: Filter, versions: Mapping[str, int]) -> StatePosition | None:
        """Return the position of the state if exactly these allocations match, at these versions; else None.

        O(log n + the narrowest range), of a limited number of candidates; None with more. Raises LogError.
        """
        store = self._store
        with store.lock:
            store.check_whole()
            page = store.directory.page(query, None, COMPARED_AT_MOST)
            allocations = store.fold.allocations
            if page.last is not None or {alloc: allocations[alloc].version for alloc in page.ids} != versions:
                return None
            return StatePosition(store.index, store.seq)

    def count_by_status(self) -> dict[str, int]:
        """Return the number of allocations by client status. O(statuses × log n). Raises LogError."""
        with self._store.lock:
            self._store.check_whole()
            return self._store.directory.count_by_status()

    # --- changes ---

    def follow(self) -> None:
        """Start buffering the newest changes; ends with as many calls of `unfollow`."""
        self._store.follow()

    def unfollow(self) -> None:
        """Undo one `follow`."""
        self._store.unfollow()

    def recent(self, after_seq: int) -> list[Change] | None:
        """Return the next changes after a position, at most 64; None if only the log has them. O(buffered changes)."""
        return self._store.recent(after_seq)

    def log_after(self, seq: int) -> Iterator[Record]:
        """Yield every record of the log after a position. May wait for a disk. Raises Gone and LogError."""
        return iter(self._store.log.read_all(seq))

    def kept_after(self, seq: int) -> Iterator[Record]:
        """Yield the records after a position that no compaction has removed. May wait for a disk. Raises LogError."""
        return kept_records(self._store.log, seq)

    def wake_follower(self) -> None:
        """Wake the thread that follows a shared log, after a write of another process. Else do nothing."""
        if self._store.shared is not None:
            self._store.shared.interrupt()

    # --- waiting ---

    @property
    def waiters(self) -> int:
        """The number of waiters. O(keys with waiters)."""
        with self._store.lock:
            return len(self._store.watches)

    def ask(self, question: Question[T]) -> Reply[T]:
        """Answer a question at once. Raises LogError."""
        with self._store.lock:
            self._store.check_whole()
            return question()

    def reply(self, question: Question[T], after: int, waiter: Waiter | None) -> Reply[T] | None:
        """Answer a question; if the answer's index is not greater than this, register the waiter and return None.

        Without a waiter, and after waits have been ended, it always answers. Raises LogError.
        """
        store = self._store
        with store.lock:
            store.check_whole()
            reply = question()
            if waiter is None or reply.index > after or store.is_released:
                return reply
            store.watches.add(waiter, reply.kind, reply.key)
            return None

    def forget(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        with self._store.lock:
            self._store.watches.remove(waiter)

    def allocation_question(self, alloc: str) -> Question[None]:
        """Return the question for an allocation's ModifyIndex; a missing allocation has the index of the store."""
        store = self._store

        def question() -> Reply[None]:
            allocation = store.fold.allocations.get(alloc)
            if allocation is None:
                return Reply(store.index, None, "any")
            return Reply(allocation.modify_index, None, "allocation", alloc)

        return question

    def state_question(self, alloc: str) -> Question[AllocationState | None]:
        """Return the question for an allocation's ModifyIndex and state."""
        store = self._store

        def question() -> Reply[AllocationState | None]:
            allocation = store.fold.allocations.get(alloc)
            if allocation is None:
                return Reply(store.index, None, "any")
            return Reply(allocation.modify_index, allocation.freeze(), "allocation", alloc)

        return question

    def job_question(self, job: str) -> Question[None]:
        """Return the question for the newest index of a job's allocations; 0 if there are none. O(its allocations)."""
        store = self._store

        def question() -> Reply[None]:
            ids = store.directory.ids(job=job)
            newest = max((store.fold.allocations[alloc].modify_index for alloc in ids), default=0)
            return Reply(newest, None, "job", job)

        return question

    def list_question(self, query: Filter, after: int) -> Question[None]:
        """Return a list's question: the index of the store, or, once it waits, only changes of listed allocations.

        O(1) at first, then O(writes after the index).
        """
        store = self._store
        is_first = True

        def question() -> Reply[None]:
            nonlocal is_first
            index = store.index
            if (
                not is_first
                and not store.is_later_epoch
                and not any(map(is_listed, store.directory.written_after(after)))
            ):
                index = min(index, after)
            is_first = False
            return Reply(index, None, "any") if query.job is None else Reply(index, None, "job", query.job)

        def is_listed(alloc: str) -> bool:
            entry = store.directory.get(alloc)
            return entry is not None and query.matches(alloc, entry)

        return question

    def newest_index(self) -> Reply[None]:
        """Answer with the index of the newest write."""
        return Reply(self._store.index, None, "any")

    def newest_seq(self) -> Reply[None]:
        """Answer with the position of the newest record."""
        return Reply(self._store.seq, None, "any")
