"""A log in a PostgreSQL database: the one to share. Any number of processes write it, and hear of each other.

Whoever appends holds the row with the newest position until what it wrote is committed. So positions are given in the
order of the commits, without a hole, and no reader passes over what is committed late. The price is that appends come
one after the other, whoever makes them: many records in one append cost little more than one.

The tables are in the schema that the connection finds first: a log is a database, or a schema
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
    Ledger,
    OnHole,
    Removal,
    check_whole,
    hole,
    kept_hole,
    newest,
    present,
    taken_header,
)
from taskfold.log.entries import Entry, digest_in, entries_of
from taskfold.log.header import header_text
from taskfold.log.names import shown_name
from taskfold.log.postgres import tables
from taskfold.log.postgres.tables import Connection
from taskfold.log.upcast import upcaster
from taskfold.model.dialect import Dialect
from taskfold.model.errors import Gone, LogError, TaskfoldError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["PostgresLog"]

_CHANNEL: Final = "taskfold"
_ROWS_WITH_COMMIT: Final = 16
"""Up to how many rows go in one message with the commit; more are copied before it, which is faster for many."""
_ROWS_PER_COPY: Final = 10_000
"""How many records that nobody waits for are kept before they are sent."""
_MOST_CACHED: Final = 10_000
"""How many IDs and versions are kept at most between two appends: what is not among them is asked for."""
_READERS_KEPT: Final = 4
"""How many connections that read are kept open for the next reading."""


@cache
def _commit_of(rows: int) -> bytes:
    """Return the statements that write so many rows, move the head, wake who listens, and commit."""
    insert = f"{tables.INSERT} {', '.join([tables.ROW] * rows)}; " if rows else ""
    return f"{insert}UPDATE taskfold_head SET seq = %s; NOTIFY {_CHANNEL}; COMMIT".encode()  # noqa: S608 - no value is in it


class _Known(Ledger):
    """What the log must remember, as long as nobody else writes it."""

    def look_up(self, connection: Connection, appends: Sequence[Append]) -> None:
        """Learn what these appends are checked against; at most three questions, whatever they are."""
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

    def let_go(self) -> None:
        """Forget, where much is kept, what the database can be asked for: nothing may be pending."""
        if max(len(self.ids), len(self.versions)) > _MOST_CACHED:
            self.forget()

    def forget(self) -> None:
        """Look everything up again: somebody else has written, or what was noted was taken back."""
        self.ids.clear()
        self.versions.clear()
        self._imported.clear()


class PostgresLog(BaseLog):
    """A log in a PostgreSQL database, for any number of processes.

    One thread at a time writes through one object; any thread may read.
    """

    _ledger: _Known

    def __init__(self, url: str, dialect: str | Dialect | None = None, region: str = "global") -> None:
        """Open a log, or begin one where the database has none, for which the dialect must be named.

        Raises LogError when the database cannot be reached or used, and DialectError when it is of another dialect.
        """
        self.name = shown_name(url)
        self._own(self.name)
        self.location = url
        self._ledger = _Known()
        self._depth = 0
        self._pending: list[Entry] = []
        """Records that were appended, and not sent yet."""
        self._is_sent = False
        """Records were sent, and not committed yet."""
        self._is_stale = False
        """The position may be another than the one that is known, also where the two are equal."""
        self._has_unacknowledged = False
        """Something was appended and not acknowledged yet."""
        self._readers: deque[Connection] = deque()
        self._listener: Connection | None = None
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
        """Bring the records of an older format to the present one, all or none."""
        bring = upcaster(self.header.taskfold)
        if bring is None:
            return
        header = present(self.header)
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
        """Keep everybody else from appending until `end_turn`, or the next append; return the newest position.

        Turns may be inside one another. Raises LogError when somebody else holds the log for too long.
        """
        return self._guarded(self._begin_turn)

    def _begin_turn(self) -> int:
        with self._translate_errors():
            seq = self._locked()
        self._depth += 1
        return seq

    def end_turn(self) -> None:
        """Undo one `begin_turn`; where there is none, do nothing."""
        self._depth = max(self._depth - 1, 0)
        self._release()

    def _release(self) -> None:
        """End a transaction in which nothing was written, unless it is somebody's turn."""
        if self._depth or self._pending or self._is_sent or self._is_interrupted or self._connection.closed:
            return
        try:
            if self._in_transaction:
                with suppress(psycopg.Error):  # a connection that is lost holds nothing
                    self._connection.execute("ROLLBACK")
        except BaseException:
            self._is_interrupted = True
            raise

    def recover(self) -> None:
        """Be what is in the database, where a call was interrupted; else do nothing. O(1). Raises LogError.

        What was not acknowledged yet is taken back, and every turn is over. The connection may have been left in the
        middle of anything: another one takes its place, which waits until the server knows what became of the first.
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
        """Be the only one who appends, until the transaction ends; return the newest position."""
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
        """Begin a transaction that holds the head; return the position that is in it."""
        try:
            return self._begin()
        except psycopg.OperationalError:
            if not self._connection.closed:
                with suppress(psycopg.Error):
                    self._connection.execute("ROLLBACK")
                raise
        # The server was started again since the last append: nothing was under way.
        self._connection = tables.connected_writer(self.location)
        return self._begin()

    def _begin(self) -> int:
        cursor = self._connection.execute("BEGIN; SELECT header, seq FROM taskfold_head FOR UPDATE")
        cursor.nextset()
        header, seq = tables.head_of(cursor.fetchone(), self.name)
        self._take(header)
        return seq

    def _take(self, header: LogHeader) -> None:
        """Take a header that was read now: others may have removed records. Raises LogError for that of another log."""
        if header.uuid != self.header.uuid:
            raise LogError(f"{self.name}: another log is in the database since this one was opened: open it again")
        self.header = header

    def append_all(self, appends: Sequence[Append], *, sync: bool = True, after_seq: int | None = None) -> list[Record]:
        """Append records to several allocations in one transaction; return those that were new. O(records × log n).

        With ``sync=False`` it is acknowledged by the next `sync`; until then nobody sees it, and nobody else appends.
        With ``after_seq`` nothing is appended unless the log is at that position.
        Raises VersionConflict, and LogError when the database refuses the write: then nothing was appended; where the
        connection is lost while it is committed, the message says that nobody knows.
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
        """Refuse to append after a position that is not the newest. Raises LogError."""
        if after_seq not in {None, seq}:
            raise LogError(f"{self.name}: somebody else has written since: read the log again and decide anew")

    def _send(self) -> None:
        """Send what is pending, in the transaction."""
        with self._connection.cursor() as cursor, cursor.copy(tables.COPY) as copy:
            copy.set_types(tables.COPIED_TYPES)
            for entry in self._pending:
                copy.write_row(tables.row_of(entry))
        self._pending.clear()
        self._is_sent = True

    def _commit(self) -> None:
        """Send what is pending, commit, and wake who listens."""
        if len(self._pending) > _ROWS_WITH_COMMIT:
            self._send()
        values = [value for entry in self._pending for value in tables.row_of(entry)]
        try:
            # One message, one round trip. Several statements can be one where the client has put in their values.
            cursor = psycopg.ClientCursor(self._connection)
            cursor.execute(_commit_of(len(self._pending)), [*values, self._ledger.seq])
        except psycopg.OperationalError as error:
            if not self._connection.closed:
                raise
            self._undo()
            raise LogError(
                f"{self.name}: the connection was lost while a write was committed, so that nobody knows whether "
                f"it was: read the log again ({tables.sentence(error)})"
            ) from None
        self._pending.clear()
        self._is_sent = self._has_unacknowledged = False
        self._committed_seq = self._ledger.seq
        self._ledger.let_go()

    def _undo(self) -> None:
        """Take back what was not committed, here and there."""
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
        """Copy the records of another log into this one, which is empty: each at its place. O(records × log n)."""
        with self._translate_errors():
            self._locked()
            copied = taken_header(self.header, header)
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
        """Remove rows in one transaction: others go on appending until then.

        Nobody writes to what was collected, so that it was found before it is the turn of this process.
        """
        self.begin_turn()
        try:
            self._guarded(self._delete, removable)
        finally:
            if not self._is_interrupted:  # else there is no turn any more
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
        """Take back what was appended and not acknowledged, and close the log; one that was begun here is removed."""
        with self._translate_errors():
            if self._is_interrupted:
                self._connection.close()
            self._undo()
            if self._is_new and self._locked() == 0:
                self._connection.execute("DROP TABLE taskfold_head, taskfold_records, taskfold_checkpoint")
                self._connection.execute("COMMIT")
            self._close()

    def _close(self) -> None:
        """Let go of everything; once more where that was interrupted."""
        self._is_closed = True
        self._connection.close()
        while self._readers:
            self._readers.pop().close()
        if self._listener is not None:
            self._listener.close()
        self._interrupted.close()
        self._interrupting.close()

    def _disown(self) -> None:
        """Let go of the connections, which would last as long as this process; not a word is sent on them."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for connection in (self._connection, *self._readers, self._listener):
            if connection is not None and not connection.closed:
                os.dup2(nowhere, connection.fileno(), inheritable=False)
        os.close(nowhere)
        self._interrupted.close()
        self._interrupting.close()

    # --- reading ---

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(log n)."""
        return self.digest_of(id) is not None

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record of an ID; None where none was appended. O(log n)."""
        digest = self._ledger.digest_of(id)
        if digest is None:
            query = "SELECT convert_to(body, 'UTF8') FROM taskfold_records WHERE id = %s"
            with self._translate_errors("read"), self._reader() as connection:
                row = connection.execute(query, [id], binary=True).fetchone()
            digest = None if row is None else digest_in(row[0])
        return digest

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(log n + records that are read). Any thread may."""
        return self._read(tables.OF_ALLOCATION, {"alloc": alloc, "after": after_version}, self._hole)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(log n + records that are read), in constant memory. Any thread may."""
        return self._read(tables.OF_ALL, {"after": after_seq}, self._hole)

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records after a position that are there. O(log n + records that are read). Any thread may."""
        return self._read(tables.OF_ALL, {"after": after_seq}, self._kept_hole)

    def _read(self, query: str, values: dict[str, Any], on_hole: OnHole) -> Iterator[Record]:
        with self._translate_errors("read"), self._reader() as connection:
            # Another process may have removed records since.
            header, newest = tables.head(connection, self.name)
            self._take(header)
            if on_hole == self._hole and query is tables.OF_ALL:
                check_whole(self.header, self.name, values["after"])
            yield from tables.records(connection, self.name, self.header, query, {**values, "newest": newest}, on_hole)

    def _hole(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog:
        """Say why a place is missing: records may have been removed while others were read."""
        with self._translate_errors("read"), self._reader() as connection:
            self._take(tables.head(connection, self.name)[0])
        return hole(self.header, self.name, alloc, place, following)

    def _kept_hole(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog | None:
        error = self._hole(alloc, place, following)
        return kept_hole(self.header, self.name)(alloc, place, following) if isinstance(error, Gone) else error

    @contextmanager
    def _reader(self) -> Iterator[Connection]:
        """Lend a connection that reads, or open one; it is kept for the next, unless it is lost, or was interrupted."""
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

    # --- hearing of others ---

    def newest(self) -> int:
        """Return the position of the newest record, whoever wrote it. Raises LogError."""
        with self._translate_errors("read"), self._reader() as connection:
            return tables.head(connection, self.name)[1]

    def listen(self) -> None:
        """Begin to hear of appends: whatever is committed from now on ends a `wait`. Raises LogError."""
        with self._translate_errors("read"):
            if self._listener is None or self._listener.closed:
                self._listener = tables.connect(self.location)
                self._listener.execute(f"LISTEN {_CHANNEL}")

    def wait(self, seconds: float) -> bool:
        """Wait until somebody has appended since the last call, or so long; tell whether. For one thread at a time.

        Raises LogError when the connection is lost; then the next `listen` makes another.
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
        """End a `wait` at once. Any thread may."""
        self._interrupting.send(b".")

    # --- checkpoints ---

    def save_checkpoint(self, parts: Iterable[bytes]) -> None:
        """Keep a checkpoint in place of the one before, in one transaction. O(parts). Raises LogError."""
        with self._translate_errors(), self._reader() as connection, connection.transaction():
            connection.execute("LOCK TABLE taskfold_checkpoint IN EXCLUSIVE MODE")
            connection.execute("DELETE FROM taskfold_checkpoint")
            with connection.cursor() as cursor:
                rows = ((place, zlib.crc32(part), part) for place, part in enumerate(parts))
                cursor.executemany("INSERT INTO taskfold_checkpoint VALUES (%s, %s, %s)", rows)

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; nothing without one. Raises LogError for a part that is damaged."""
        with self._translate_errors("read"), self._reader() as connection:
            yield from tables.checkpoint_parts(connection, self.name)

    # --- connections ---

    @contextmanager
    def _translate_errors(self, what: str = "written") -> Iterator[None]:
        """Turn what the database says into a LogError that names it."""
        with tables.translate_errors(self.name, what):
            yield
