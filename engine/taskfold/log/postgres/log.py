"""A log in a PostgreSQL database, shared by any number of processes, which are notified of each other's appends.

An append locks the row with the newest position until its commit. So positions follow the order of commits, without a
hole, and no reader misses a late commit. The price is that appends of all processes run one after the other; many
records in one append cost little more than one.

The tables are in the first schema of the connection's search path: a log is a database, or a schema
(``postgresql://host/database?options=-csearch_path%3Dtasks``). Needs psycopg: ``pip install 'taskfold[postgres]'``.
"""

from __future__ import annotations

import os
import selectors
import socket
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from typing import Any, Final

import msgspec
import psycopg
from msgspec import UNSET

from taskfold.log._base import BaseLog
from taskfold.log.contract import (
    Append,
    HoleCheck,
    Ledger,
    Removal,
    check_whole,
    copied_header,
    current_header,
    hole_check,
    hole_error,
    newest,
)
from taskfold.log.entries import Entry, digest_in, entries_of
from taskfold.log.header import header_text
from taskfold.log.names import shown_name
from taskfold.log.postgres import tables
from taskfold.log.postgres.tables import PostgresConnection
from taskfold.log.upcast import upcaster
from taskfold.model.dialect import Dialect
from taskfold.model.errors import Gone, LogError, TaskfoldError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["PostgresLog"]

_CHANNEL: Final = "taskfold"
_ROWS_WITH_COMMIT: Final = 16
"""Up to so many rows share one message with the commit; more are copied before it, which is faster for many."""
_ROWS_PER_COPY: Final = 10_000
"""How many unacknowledged records are collected before they are sent."""
_MOST_CACHED: Final = 10_000
"""The most IDs and versions cached between two appends; others are queried."""
_READERS_KEPT: Final = 4
"""How many idle reading connections are kept open."""


@cache
def _commit_of(rows: int) -> bytes:
    """Return the statements that insert so many rows, advance the head, notify listeners, and commit."""
    insert = f"{tables.INSERT} {', '.join([tables.ROW] * rows)}; " if rows else ""
    return f"{insert}UPDATE taskfold_head SET seq = %s; NOTIFY {_CHANNEL}; COMMIT".encode()  # noqa: S608 - it has no values


class _CachedLedger(Ledger):
    """A ledger that caches the database, valid as long as no other process writes."""

    def look_up(self, connection: PostgresConnection, appends: Sequence[Append]) -> None:
        """Load everything that these appends are checked against, in at most three queries."""
        records = [record for append in appends for record in append.records]
        allocs = [append.alloc for append in appends if append.alloc not in self.versions]
        if allocs:
            query = "SELECT alloc, max(version) FROM taskfold_records WHERE alloc = ANY(%s) GROUP BY alloc"
            self.versions.update(dict.fromkeys(allocs, 0))
            self.versions.update(connection.execute(query, [allocs]).fetchall())
        if ids := [record.id for record in records if isinstance(record.id, str) and record.id not in self.ids]:
            query = "SELECT id, convert_to(body, 'UTF8') FROM taskfold_records WHERE id = ANY(%s)"
            self.ids.update((name, digest_in(body)) for name, body in connection.execute(query, [ids], binary=True))
        imported = {record.alloc for record in records if isinstance(record.id, int)} - self._imported.keys()
        if imported:
            query = """
            SELECT DISTINCT ON (alloc) alloc, index, ordinal FROM taskfold_records
            WHERE alloc = ANY(%s) AND ordinal IS NOT NULL ORDER BY alloc, version DESC
            """
            rows = connection.execute(query, [list(imported)]).fetchall()
            self._imported.update((alloc, (index, ordinal)) for alloc, index, ordinal in rows)

    def trim(self) -> None:
        """Empty a large cache; no record may be pending."""
        if max(len(self.ids), len(self.versions)) > _MOST_CACHED:
            self.forget()

    def forget(self) -> None:
        """Empty the cache, after a write of another process or a rollback."""
        self.ids.clear()
        self.versions.clear()
        self._imported.clear()


class PostgresLog(BaseLog):
    """A log in a PostgreSQL database, for any number of processes.

    One thread at a time writes through one object; any thread may read.
    """

    _ledger: _CachedLedger

    def __init__(self, url: str, dialect: str | Dialect | None = None, region: str = "global") -> None:
        """Open a log, or create it, for which the dialect must be given.

        Raises LogError when the database cannot be reached or used, and DialectError when the log has another dialect.
        """
        self.name = shown_name(url)
        self._own(self.name)
        self.location = url
        self._ledger = _CachedLedger()
        self._depth = 0
        self._pending: list[Entry] = []
        """Records that were appended, and not sent."""
        self._is_sent = False
        """Records were sent, and not committed."""
        self._is_stale = False
        """The head in the database may differ from the ledger, even at the same position."""
        self._has_unacknowledged = False
        """Some appends are not acknowledged."""
        self._readers: deque[PostgresConnection] = deque()
        self._listener: PostgresConnection | None = None
        with self._translate_errors():
            self._connection = tables.connected_writer(self.location)
            self._interrupted, self._interrupting = socket.socketpair()
            try:
                self.header, self._is_new = tables.checked_header(self._connection, self.name, dialect, region)
                self._convert()
                self._ledger.seq = self._committed_seq = tables.head(self._connection, self.name)[1]
            except BaseException:
                self._close()
                raise

    def _convert(self) -> None:
        """Convert records of an older format to the current one, all or none."""
        bring = upcaster(self.header.taskfold)
        if bring is None:
            return
        header = current_header(self.header)
        with self._connection.transaction():
            self._connection.execute("SELECT seq FROM taskfold_head FOR UPDATE")
            for seq, body in tables.bodies(self._connection):
                if (brought := bring(body)) != body:
                    query = "UPDATE taskfold_records SET body = %s, checksum = %s WHERE seq = %s"
                    self._connection.execute(query, [brought.decode(), zlib.crc32(brought), seq])
            self._connection.execute("UPDATE taskfold_head SET header = %s", [header_text(header)])
        self.header = header

    # --- writing ---

    def begin_turn(self) -> int:
        """Lock out all other writers until `end_turn`, or the next append; return the newest position.

        Turns nest. Raises LogError when another process holds the lock for too long.
        """
        return self._guarded(self._begin_turn)

    def _begin_turn(self) -> int:
        with self._translate_errors():
            seq = self._locked()
        self._depth += 1
        return seq

    def end_turn(self) -> None:
        """End the turn of one `begin_turn`; without one, do nothing."""
        self._depth = max(self._depth - 1, 0)
        self._release()

    def _release(self) -> None:
        """End a transaction that wrote nothing, unless a turn is held."""
        if self._depth or self._pending or self._is_sent or self._is_interrupted or self._connection.closed:
            return
        try:
            if self._in_transaction:
                with suppress(psycopg.Error):  # a lost connection holds no lock
                    self._connection.execute("ROLLBACK")
        except BaseException:
            self._is_interrupted = True
            raise

    def recover(self) -> None:
        """Rebuild the state in memory from the database if a call was interrupted; else do nothing.

        O(1). Appends that were not acknowledged are rolled back, and every turn ends. The connection may be in any
        state, so that a new one replaces it, which waits until the server has settled the first. Raises LogError.
        """
        if not self._is_interrupted or self._is_closed:
            return
        with self._translate_errors():
            self._connection.close()
            self._is_lost = self._is_lost or self._has_unacknowledged
            self._undo()
            self._depth = 0
            self._locked()
            self.header, _ = tables.head(self._connection, self.name)
            self._connection.execute("ROLLBACK")
        self._is_interrupted = False

    @property
    def _in_transaction(self) -> bool:
        return self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    def _locked(self) -> int:
        """Lock out other writers until the transaction ends; return the newest position."""
        if self._is_closed:
            raise LogError(f"{self.name}: the log is closed")
        if self._connection.closed or not self._in_transaction:
            seq = self._head()
            if self._is_stale or seq != self._ledger.seq:
                self._ledger.forget()
            self._is_stale = False
            self._ledger.seq = self._committed_seq = seq
        return self._ledger.seq

    def _head(self) -> int:
        """Begin a transaction that locks the head; return its position."""
        try:
            return self._begin()
        except psycopg.OperationalError:
            if not self._connection.closed:
                with suppress(psycopg.Error):
                    self._connection.execute("ROLLBACK")
                raise
        # The server was restarted since the last append: no transaction was open.
        self._connection = tables.connected_writer(self.location)
        return self._begin()

    def _begin(self) -> int:
        cursor = self._connection.execute("BEGIN; SELECT header, seq FROM taskfold_head FOR UPDATE")
        cursor.nextset()
        header, seq = tables.head_of(cursor.fetchone(), self.name)
        self._take(header)
        return seq

    def _take(self, header: LogHeader) -> None:
        """Use a header that was just read: it may have been compacted. Raises LogError for that of another log."""
        if header.uuid != self.header.uuid:
            raise LogError(f"{self.name}: another log is in the database since this one was opened: open it again")
        self.header = header

    def append_all(self, appends: Sequence[Append], *, sync: bool = True, after_seq: int | None = None) -> list[Record]:
        """Append records to several allocations in one transaction; return the new ones. O(records × log n).

        With ``sync=False`` the next `sync` acknowledges it; until then no other process sees it, or appends. With
        ``after_seq``, append only if the log is at that position. Raises VersionConflict, and LogError when the
        database refuses the write: then nothing was appended. If the connection is lost during the commit, the message
        says that the outcome is unknown.
        """
        return self._guarded(self._append_all, appends, sync=sync, after_seq=after_seq)

    def _append_all(self, appends: Sequence[Append], *, sync: bool, after_seq: int | None = None) -> list[Record]:
        with self._translate_errors():
            return self._append_after(appends, sync=sync, after_seq=after_seq)

    def _append_after(self, appends: Sequence[Append], *, sync: bool, after_seq: int | None) -> list[Record]:
        has_pending = self._has_unacknowledged
        try:
            self._check_position(self._locked(), after_seq)
            self._ledger.look_up(self._connection, appends)
            entries = self._ledger.place(appends)
            new = entries[0]
            self._pending += map(Entry, *entries)
            self._ledger.note_placed(new)
            if sync and self._pending:
                self._commit()
            elif new:
                self._has_unacknowledged = True
                if len(self._pending) >= _ROWS_PER_COPY:
                    self._send()
        except (psycopg.Error, OverflowError, UnicodeError):
            self._undo()
            self._is_lost = has_pending
            raise
        except TaskfoldError:
            raise
        except BaseException:
            self._is_interrupted = True  # so that nothing is released
            raise
        finally:
            self._release()
        return new

    def _check_position(self, seq: int, after_seq: int | None) -> None:
        """Check that a position is the newest. Raises LogError."""
        if after_seq not in {None, seq}:
            raise LogError(f"{self.name}: another process has written since: read the log again, and decide again")

    def _send(self) -> None:
        """Send the pending records, in the transaction."""
        with self._connection.cursor() as cursor, cursor.copy(tables.COPY) as copy:
            copy.set_types(tables.COPIED_TYPES)
            for entry in self._pending:
                copy.write_row(tables.row_of(entry))
        self._pending.clear()
        self._is_sent = True

    def _commit(self) -> None:
        """Send the pending records, commit, and notify listeners."""
        if len(self._pending) > _ROWS_WITH_COMMIT:
            self._send()
        values = [value for entry in self._pending for value in tables.row_of(entry)]
        try:
            # One message, one round trip. Several statements fit in one message if the client inserts their values.
            cursor = psycopg.ClientCursor(self._connection)
            cursor.execute(_commit_of(len(self._pending)), [*values, self._ledger.seq])
        except psycopg.OperationalError as error:
            if not self._connection.closed:
                raise
            self._undo()
            raise LogError(
                f"{self.name}: the connection was lost while a write was committed, and it is unknown whether "
                f"it was committed: read the log again ({tables.sentence(error)})"
            ) from None
        self._pending.clear()
        self._is_sent = self._has_unacknowledged = False
        self._committed_seq = self._ledger.seq
        self._ledger.trim()

    def _undo(self) -> None:
        """Roll back the transaction, and the state in memory."""
        self._pending.clear()
        self._is_sent = self._has_unacknowledged = False
        if not self._connection.closed:
            with suppress(psycopg.Error):
                self._connection.execute("ROLLBACK")
        self._ledger.forget()
        self._ledger.seq = self._committed_seq
        self._is_stale = True

    def _acknowledge(self) -> None:
        if self._pending or self._is_sent:
            with self._translate_errors():
                try:
                    self._commit()
                except (psycopg.Error, OverflowError, UnicodeError):
                    self._undo()
                    raise

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        """Copy all records of another log into this empty one, with their positions. O(records × log n)."""
        with self._translate_errors():
            self._locked()
            copied = copied_header(self.header, header)
            ledger, rest = Ledger(copied), iter(records)
            self._connection.execute("UPDATE taskfold_head SET header = %s", [header_text(copied)])
            self._is_sent = True
            while some := list(islice(rest, _ROWS_PER_COPY)):
                ledger.note_all(some)
                self._pending += map(Entry, *entries_of(some))
                self._ledger.note_placed(some)
                self._send()
            self._commit()
            self.header = copied

    def _remove(self, removable: Removal) -> None:
        """Remove rows in one transaction; other processes append until it begins.

        The rows were chosen before this process took its turn; that is safe, as no process writes to a collected
        allocation.
        """
        self.begin_turn()
        try:
            self._guarded(self._delete, removable)
        finally:
            if not self._is_interrupted:  # an interruption has ended the turn
                self.end_turn()

    def _delete(self, removable: Removal) -> None:
        with self._translate_errors(), self._connection.cursor() as cursor:
            header, _ = tables.head(self._connection, self.name)
            compacted = removable.compacted
            if header.compacted is not UNSET:
                compacted = newest(header.compacted, compacted)
            header = msgspec.structs.replace(header, compacted=compacted)
            query = "DELETE FROM taskfold_records WHERE alloc = %s AND version < %s"
            cursor.executemany(query, list(removable.versions.items()))
            cursor.execute("UPDATE taskfold_head SET header = %s", [header_text(header)])
            cursor.execute("COMMIT")
        self.header = header

    def roll_back(self) -> None:
        """Roll back appends that were not acknowledged, and close the log; drop it if this object created it."""
        with self._translate_errors():
            if self._is_interrupted:
                self._connection.close()
            self._undo()
            if self._is_new and self._locked() == 0:
                self._connection.execute("DROP TABLE taskfold_head, taskfold_records, taskfold_checkpoint")
                self._connection.execute("COMMIT")
            self._close()

    def _close(self) -> None:
        """Release every resource. Safe to repeat after an interruption."""
        self._is_closed = True
        self._connection.close()
        while self._readers:
            self._readers.pop().close()
        if self._listener is not None:
            self._listener.close()
        self._interrupted.close()
        self._interrupting.close()

    def _disown(self) -> None:
        """Close the connections, which would last as long as this process, without sending anything."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for connection in (self._connection, *self._readers, self._listener):
            if connection is not None and not connection.closed:
                os.dup2(nowhere, connection.fileno(), inheritable=False)
        os.close(nowhere)
        self._interrupted.close()
        self._interrupting.close()

    # --- reading ---

    def knows(self, id: str) -> bool:
        """Tell whether the log has a record with this ID. O(log n)."""
        return self.digest_of(id) is not None

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. O(log n)."""
        digest = self._ledger.digest_of(id)
        if digest is None:
            query = "SELECT convert_to(body, 'UTF8') FROM taskfold_records WHERE id = %s"
            with self._translate_errors("read"), self._reader() as connection:
                row = connection.execute(query, [id], binary=True).fetchone()
            digest = None if row is None else digest_in(row[0])
        return digest

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(log n + records read). Safe from any thread."""
        return self._read(tables.OF_ALLOCATION, {"alloc": alloc, "after": after_version}, self._hole_error)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(log n + records read), in constant memory. Safe from any thread."""
        return self._read(tables.OF_ALL, {"after": after_seq}, self._hole_error)

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield stored records after a position, skipping compacted ones. O(log n + records read). From any thread."""
        return self._read(tables.OF_ALL, {"after": after_seq}, self._check_hole)

    def _read(self, query: str, values: dict[str, Any], on_hole: HoleCheck) -> Iterator[Record]:
        with self._translate_errors("read"), self._reader() as connection:
            # Another process may have compacted the log.
            header, newest = tables.head(connection, self.name)
            self._take(header)
            if on_hole == self._hole_error and query is tables.OF_ALL:
                check_whole(self.header, self.name, values["after"])
            yield from tables.records(connection, self.name, self.header, query, {**values, "newest": newest}, on_hole)

    def _hole_error(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog:
        """Return the error for a missing record, with the newest header: records may have been compacted meanwhile."""
        with self._translate_errors("read"), self._reader() as connection:
            self._take(tables.head(connection, self.name)[0])
        return hole_error(self.header, self.name, alloc, place, following)

    def _check_hole(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog | None:
        error = self._hole_error(alloc, place, following)
        return hole_check(self.header, self.name)(alloc, place, following) if isinstance(error, Gone) else error

    @contextmanager
    def _reader(self) -> Iterator[PostgresConnection]:
        """Yield an idle reading connection, or a new one; keep it afterwards unless it was lost or interrupted."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = tables.connect(self.location)
        try:
            yield connection
        except psycopg.Error:
            connection.close()
            raise
        finally:
            is_idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            if not is_idle or self._is_closed or len(self._readers) >= _READERS_KEPT:
                connection.close()
            else:
                self._readers.append(connection)

    # --- following other processes ---

    def newest(self) -> int:
        """Return the position of the newest record, including those of other processes. Raises LogError."""
        with self._translate_errors("read"), self._reader() as connection:
            return tables.head(connection, self.name)[1]

    def listen(self) -> None:
        """Subscribe to appends: from now on every commit ends a `wait`. Raises LogError."""
        with self._translate_errors("read"):
            if self._listener is None or self._listener.closed:
                self._listener = tables.connect(self.location)
                self._listener.execute(f"LISTEN {_CHANNEL}")

    def wait(self, seconds: float) -> bool:
        """Wait for an append since the last call, or until the timeout; tell whether there was one.

        For one thread at a time. Raises LogError when the connection is lost; the next `listen` opens another.
        """
        with self._translate_errors("read"):
            self.listen()
            assert self._listener is not None
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                selector.register(self._interrupted, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select(seconds)]
            if self._interrupted in ready:
                self._interrupted.recv(1)
            try:
                return self._listener in ready and any(True for _ in self._listener.notifies(timeout=0))
            except psycopg.Error:
                self._listener.close()
                raise

    def interrupt(self) -> None:
        """End a `wait` at once. Safe from any thread."""
        self._interrupting.send(b".")

    # --- checkpoints ---

    def save_checkpoint(self, parts: Iterable[bytes]) -> None:
        """Replace the checkpoint, in one transaction. O(parts). Raises LogError."""
        with self._translate_errors(), self._reader() as connection, connection.transaction():
            connection.execute("LOCK TABLE taskfold_checkpoint IN EXCLUSIVE MODE")
            connection.execute("DELETE FROM taskfold_checkpoint")
            with connection.cursor() as cursor:
                rows = ((place, zlib.crc32(part), part) for place, part in enumerate(parts))
                cursor.executemany("INSERT INTO taskfold_checkpoint VALUES (%s, %s, %s)", rows)

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; none if there is none. Raises LogError for a damaged part."""
        with self._translate_errors("read"), self._reader() as connection:
            yield from tables.checkpoint_parts(connection, self.name)

    # --- connections ---

    @contextmanager
    def _translate_errors(self, what: str = "written") -> Iterator[None]:
        """Convert errors of the database to LogError with its name."""
        with tables.translate_errors(self.name, what):
            yield
