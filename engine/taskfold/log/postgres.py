"""A log in a PostgreSQL database: the one to share. Any number of processes write it, and hear of each other.

Whoever appends holds the row with the newest position until what it wrote is committed. So positions are given in the
order of the commits, without a hole, and no reader passes over what is committed late. The price is that appends come
one after the other, whoever makes them: many records in one append cost little more than one.

The tables are in the schema that the connection finds first: a log is a database, or a schema
(``postgresql://host/database?options=-csearch_path%3Dtasks``). Needs psycopg: ``pip install 'taskfold[postgres]'``.
"""

from __future__ import annotations

import selectors
import socket
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

import msgspec
import psycopg

from taskfold.dialect import Dialect
from taskfold.errors import LogError, SourceError
from taskfold.log.contract import Append, Ledger, check_dialect, check_header, new_header
from taskfold.log.opening import shown_name
from taskfold.record import LogHeader, Record

__all__ = ["PostgresLog", "is_begun", "read_postgres"]

_CHANNEL: Final = "taskfold"
_ROWS: Final = 1_000
"""How many records are read at a time."""
_ROWS_PER_COPY: Final = 10_000
"""How many records that nobody waits for are kept before they are sent."""
_CONNECT_SECONDS: Final = 10
_LOCK_SECONDS: Final = 10
"""How long an append waits for the one before it."""
_IDLE_SECONDS: Final = 60
"""After how long the server ends the transaction of a process that stands still in it, and keeps the others waiting."""
_READERS_KEPT: Final = 4
"""How many connections that read are kept open for the next reading."""

_SCHEMA: Final = """
CREATE TABLE taskfold_head (header text NOT NULL, seq bigint NOT NULL) WITH (fillfactor = 10);
CREATE TABLE taskfold_records (
    seq bigint PRIMARY KEY,
    alloc text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    index bigint NOT NULL,
    id text COLLATE "C",
    ordinal bigint,
    checksum bigint NOT NULL,
    body text NOT NULL,
    UNIQUE (alloc, version)
);
CREATE UNIQUE INDEX taskfold_records_by_id ON taskfold_records (id) WHERE id IS NOT NULL;
CREATE TABLE taskfold_checkpoint (part integer PRIMARY KEY, checksum bigint NOT NULL, body bytea NOT NULL);
"""
_COPY: Final = (
    "COPY taskfold_records (seq, alloc, version, index, id, ordinal, checksum, body) FROM STDIN (FORMAT BINARY)"
)
_COPIED_TYPES: Final = ("int8", "text", "int8", "int8", "text", "int8", "int8", "text")

_OF_ALL: Final = """
SELECT seq, seq, checksum, convert_to(body, 'UTF8') FROM taskfold_records
WHERE seq > %(after)s AND seq <= %(newest)s ORDER BY seq LIMIT %(rows)s
"""
_OF_ALLOCATION: Final = """
SELECT seq, version, checksum, convert_to(body, 'UTF8') FROM taskfold_records
WHERE alloc = %(alloc)s AND version > %(after)s AND seq <= %(newest)s ORDER BY version LIMIT %(rows)s
"""

_encode: Final = msgspec.json.Encoder().encode
_decode_header: Final = msgspec.json.Decoder(LogHeader).decode

Connection = psycopg.Connection[tuple[Any, ...]]


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
            query = "SELECT id FROM taskfold_records WHERE id = ANY(%s)"
            self.ids.update(found for (found,) in connection.execute(query, [ids]))
        imported = {record.alloc for record in records if isinstance(record.id, int)} - self._imported.keys()
        if imported:
            query = """
            SELECT DISTINCT ON (alloc) alloc, index, ordinal FROM taskfold_records
            WHERE alloc = ANY(%s) AND ordinal IS NOT NULL ORDER BY alloc, version DESC
            """
            found = connection.execute(query, [list(imported)]).fetchall()
            self._imported.update((alloc, (index, ordinal)) for alloc, index, ordinal in found)

    def forget(self) -> None:
        """Look everything up again: somebody else has written, or what was noted was taken back."""
        self.ids.clear()
        self.versions.clear()
        self._imported.clear()


class PostgresLog:
    """A log in a PostgreSQL database, for any number of processes.

    One thread at a time writes through one object; any thread may read.
    """

    def __init__(self, url: str, dialect: str | Dialect | None = None, region: str = "global") -> None:
        """Open a log, or begin one where the database has none, for which the dialect must be named.

        Raises LogError when the database cannot be reached or used, and DialectError when it is of another dialect.
        """
        self.name = shown_name(url)
        self._url = url
        self._ledger = _Known()
        self._depth = 0
        self._pending: list[Record] = []
        """Records that were appended, and not sent yet."""
        self._is_sent = False
        """Records were sent, and not committed yet."""
        self._is_stale = False
        """The position may be another than the one that is known, also where the two are equal."""
        self._readers: deque[Connection] = deque()
        self._listener: Connection | None = None
        self._is_closed = False
        with self._told():
            self._connection = self._connected_writer()
            self._interrupted, self._interrupting = socket.socketpair()
            try:
                self.header, self._is_new = _checked_header(self._connection, self.name, dialect, region)
                self._ledger.seq = self._committed_seq = _newest(self._connection)
            except BaseException:
                self._close()
                raise

    @property
    def seq(self) -> int:
        """The position of the newest record that this process knows of."""
        return self._ledger.seq

    # --- writing ---

    def begin_turn(self) -> int:
        """Keep everybody else from appending until `end_turn`, or the next append; return the newest position.

        Turns may be inside one another. Raises LogError when somebody else holds the log for too long.
        """
        with self._told():
            seq = self._locked()
        self._depth += 1
        return seq

    def end_turn(self) -> None:
        """Undo one `begin_turn`."""
        self._depth -= 1
        self._release()

    def _release(self) -> None:
        """End a transaction in which nothing was written, unless it is somebody's turn."""
        if not (self._depth or self._pending or self._is_sent or self._connection.closed) and self._in_transaction:
            with suppress(psycopg.Error):  # a connection that is lost holds nothing
                self._connection.execute("ROLLBACK")

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
            return self._begun()
        except psycopg.OperationalError:
            if not self._connection.closed:
                with suppress(psycopg.Error):
                    self._connection.execute("ROLLBACK")
                raise
        # The server was started again since the last append: nothing was under way.
        self._connection = self._connected_writer()
        return self._begun()

    def _begun(self) -> int:
        cursor = self._connection.execute("BEGIN; SELECT seq FROM taskfold_head FOR UPDATE")
        cursor.nextset()
        row = cursor.fetchone()
        if row is None:
            raise LogError(f"{self.name}: the log is gone from its database")
        return int(row[0])

    def append(
        self, alloc: str, expected_version: int, records: Sequence[Record], *, sync: bool = True
    ) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new. O(records × log n).

        Raises VersionConflict, and LogError when the database refuses the write: then nothing was appended.
        """
        return self.append_all([Append(alloc, expected_version, records)], sync=sync)

    def append_all(self, appends: Sequence[Append], *, sync: bool = True, after_seq: int | None = None) -> list[Record]:
        """Append records to several allocations in one transaction; return those that were new. O(records × log n).

        With ``sync=False`` it is acknowledged by the next `sync`; until then nobody sees it, and nobody else appends.
        With ``after_seq`` nothing is appended unless the log is at that position.
        Raises VersionConflict, and LogError when the database refuses the write: then nothing was appended; where the
        connection is lost while it is committed, the message says that nobody knows.
        """
        with self._told():
            try:
                seq = self._locked()
                if after_seq not in {None, seq}:
                    raise LogError(f"{self.name}: somebody else has written since: read the log again and decide anew")
                self._ledger.look_up(self._connection, appends)
                placed = self._ledger.place(appends)
                self._pending += placed
                self._ledger.note_placed(placed)
                if sync and self._pending:
                    self._commit()
                elif len(self._pending) >= _ROWS_PER_COPY:
                    self._send()
            except (psycopg.Error, OverflowError, UnicodeError):
                self._undo()
                raise
            finally:
                self._release()
        return placed

    def _send(self) -> None:
        """Send what is pending, in the transaction."""
        with self._connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_COPIED_TYPES)
            for record in self._pending:
                copy.write_row(_row(record))
        self._connection.execute("UPDATE taskfold_head SET seq = %s", [self._ledger.seq])
        self._pending.clear()
        self._is_sent = True

    def _commit(self) -> None:
        """Send what is pending, commit, and wake who listens."""
        if self._pending:
            self._send()
        try:
            self._connection.execute(f"NOTIFY {_CHANNEL}; COMMIT")
        except psycopg.OperationalError as error:
            if not self._connection.closed:
                raise
            self._undo()
            raise LogError(
                f"{self.name}: the connection was lost while a write was committed, so that nobody knows whether "
                f"it was: read the log again ({_sentence(error)})"
            ) from None
        self._is_sent = False
        self._committed_seq = self._ledger.seq

    def _undo(self) -> None:
        """Take back what was not committed, here and there."""
        self._pending.clear()
        self._is_sent = False
        if not self._connection.closed:
            with suppress(psycopg.Error):
                self._connection.execute("ROLLBACK")
        self._ledger.forget()
        self._ledger.seq = self._committed_seq
        self._is_stale = True

    def sync(self) -> None:
        """Acknowledge what was appended: have it committed. Raises LogError when that cannot be."""
        with self._told():
            if not self._pending and not self._is_sent:
                return
            try:
                self._commit()
            except (psycopg.Error, OverflowError, UnicodeError):
                self._undo()
                raise

    def roll_back(self) -> None:
        """Take back what was appended and not acknowledged, and close the log; one that was begun here is removed."""
        with self._told():
            self._undo()
            if self._is_new and self._locked() == 0:
                tables = "taskfold_head, taskfold_records, taskfold_checkpoint"
                self._connection.execute(f"DROP TABLE {tables}")
                self._connection.execute("COMMIT")
            self._close()

    def close(self) -> None:
        """Acknowledge what was appended, and let go of the database."""
        if not self._is_closed:
            try:
                self.sync()
            finally:
                self._close()

    def _close(self) -> None:
        self._is_closed = True
        self._connection.close()
        while self._readers:
            self._readers.pop().close()
        if self._listener is not None:
            self._listener.close()
        self._interrupted.close()
        self._interrupting.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading ---

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(log n)."""
        if id in self._ledger.ids:
            return True
        with self._told("read"), self._reader() as connection:
            return connection.execute("SELECT 1 FROM taskfold_records WHERE id = %s", [id]).fetchone() is not None

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(log n + records that are read). Any thread may."""
        return self._read(_OF_ALLOCATION, {"alloc": alloc, "after": after_version})

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(log n + records that are read), in constant memory. Any thread may."""
        return self._read(_OF_ALL, {"after": after_seq})

    def _read(self, query: str, asked: dict[str, Any]) -> Iterator[Record]:
        with self._told("read"), self._reader() as connection:
            yield from _records(connection, self.name, query, asked)

    @contextmanager
    def _reader(self) -> Iterator[Connection]:
        """Lend a connection that reads, or open one; it is kept for the next, unless it is lost."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = _connect(self._url)
        try:
            yield connection
        except psycopg.Error:
            connection.close()
            raise
        finally:
            if connection.closed or self._is_closed or len(self._readers) >= _READERS_KEPT:
                connection.close()
            else:
                self._readers.append(connection)

    # --- hearing of others ---

    def newest(self) -> int:
        """Return the position of the newest record, whoever wrote it. Raises LogError."""
        with self._told("read"), self._reader() as connection:
            return _newest(connection)

    def listen(self) -> None:
        """Begin to hear of appends: whatever is committed from now on ends a `wait`. Raises LogError."""
        with self._told("read"):
            if self._listener is None or self._listener.closed:
                self._listener = _connect(self._url)
                self._listener.execute(f"LISTEN {_CHANNEL}")

    def wait(self, seconds: float) -> bool:
        """Wait until somebody has appended since the last call, or so long; tell whether. For one thread at a time.

        Raises LogError when the connection is lost; then the next `listen` makes another.
        """
        with self._told("read"):
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
        with self._told(), self._reader() as connection, connection.transaction():
            connection.execute("LOCK TABLE taskfold_checkpoint IN EXCLUSIVE MODE")
            connection.execute("DELETE FROM taskfold_checkpoint")
            with connection.cursor() as cursor:
                rows = ((place, zlib.crc32(part), part) for place, part in enumerate(parts))
                cursor.executemany("INSERT INTO taskfold_checkpoint VALUES (%s, %s, %s)", rows)

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; nothing without one. Raises LogError for a part that is damaged."""
        with self._told("read"), self._reader() as connection:
            query = "SELECT part, checksum, body FROM taskfold_checkpoint ORDER BY part"
            for part, checksum, body in connection.cursor().stream(query):
                if zlib.crc32(body) != checksum:
                    raise LogError(f"{self.name}: part {part} of the checkpoint is damaged")
                yield body

    # --- connections ---

    def _connected_writer(self) -> Connection:
        connection = _connect(self._url)
        connection.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
        connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
        return connection

    @contextmanager
    def _told(self, what: str = "written") -> Iterator[None]:
        """Turn what the database says into a LogError that names it."""
        with _told(self.name, what):
            yield


def _row(record: Record) -> tuple[object, ...]:
    body = _encode(record)
    text = record.id if isinstance(record.id, str) else None
    ordinal = record.id if isinstance(record.id, int) else None
    return (
        record.seq,
        record.alloc,
        record.version,
        record.index,
        text,
        ordinal,
        zlib.crc32(body),
        body.decode(),
    )


def _connect(url: str) -> Connection:
    more: dict[str, Any] = {} if "connect_timeout" in url else {"connect_timeout": _CONNECT_SECONDS}
    # What is read has to be the text of the record, and nothing else, whatever the server is set to.
    return psycopg.connect(url, autocommit=True, client_encoding="UTF8", application_name="taskfold", **more)


def _newest(connection: Connection) -> int:
    row = connection.execute("SELECT seq FROM taskfold_head").fetchone()
    return 0 if row is None else int(row[0])


def _is_begun(connection: Connection) -> bool:
    # to_regclass may not know yet of what was made while this transaction waited.
    query = "SELECT 1 FROM pg_class WHERE relname = 'taskfold_head' AND pg_table_is_visible(oid)"
    return connection.execute(query).fetchone() is not None


def _checked_header(
    connection: Connection, name: str, dialect: str | Dialect | None = None, region: str = ""
) -> tuple[LogHeader, bool]:
    """Return the header of the log, and whether it was begun here. Raises LogError and DialectError."""
    is_new = dialect is not None and not _is_begun(connection) and _begin(connection, new_header(dialect, region))
    row = connection.execute("SELECT header FROM taskfold_head").fetchone() if _is_begun(connection) else None
    if row is None:
        raise LogError(f"{name}: there is no log, and a new one needs a dialect")
    header = _decode_header(row[0])
    check_header(header)
    if dialect is not None:
        check_dialect(header, dialect)
    return header, is_new


def _begin(connection: Connection, header: LogHeader) -> bool:
    """Begin a log; tell whether it was begun here: of several who do so at the same time, one does."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('taskfold'))")
        if _is_begun(connection):
            return False
        connection.execute(_SCHEMA)
        connection.execute("INSERT INTO taskfold_head VALUES (%s, 0)", [_encode(header).decode()])
    return True


def _records(connection: Connection, name: str, query: str, asked: dict[str, Any]) -> Iterator[Record]:
    """Yield records, some at a time, each time after the last place that was read. Raises LogError for damage."""
    decode = msgspec.json.Decoder(Record).decode
    asked |= {"rows": _ROWS, "newest": _newest(connection)}
    while rows := connection.execute(query, asked, binary=True).fetchall():
        for seq, place, checksum, body in rows:
            asked["after"] = place
            if zlib.crc32(body) != checksum:
                raise LogError(f"{name}, Seq {seq}: the record is damaged: its checksum is another one")
            try:
                yield decode(body)
            except msgspec.DecodeError as error:
                raise LogError(f"{name}, Seq {seq}: not a record of a taskfold log: {error}") from None
        if len(rows) < _ROWS:
            return


def is_begun(url: str) -> bool:
    """Tell whether a database has a log. Raises LogError when it cannot be reached."""
    with _told(shown_name(url), "read"), _connect(url) as connection:
        return _is_begun(connection)


def read_postgres(url: str) -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of a log in a database, and its records in blocks, read as asked for. Raises SourceError."""
    name = shown_name(url)
    try:
        with _told(name, "read"), _connect(url) as connection:
            header, _ = _checked_header(connection, name)
    except LogError as error:
        raise _source_error(name, error) from None
    return header, _blocks(url)


def _blocks(url: str) -> Iterator[list[Record]]:
    name = shown_name(url)
    block: list[Record] = []
    try:
        with _told(name, "read"), _connect(url) as connection:
            for record in _records(connection, name, _OF_ALL, {"after": 0}):
                block.append(record)
                if len(block) == _ROWS:
                    yield block
                    block = []
    except LogError as error:
        raise _source_error(name, error) from None
    if block:
        yield block


def _source_error(name: str, error: LogError) -> SourceError:
    return SourceError(name, str(error).removeprefix(name).lstrip(":, "))


@contextmanager
def _told(name: str, what: str = "written") -> Iterator[None]:
    """Turn what the database says into a LogError that names it."""
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        raise LogError(
            f"{name}: another process has held the log for {_LOCK_SECONDS} seconds, and holds it still"
        ) from None
    except (psycopg.Error, OverflowError, UnicodeError) as error:
        raise LogError(f"{name}: cannot be {what} (PostgreSQL): {_sentence(error)}") from None


def _sentence(error: BaseException) -> str:
    """Return the first line of what the database says."""
    return (str(error).strip() or repr(error)).partition("\n")[0]
