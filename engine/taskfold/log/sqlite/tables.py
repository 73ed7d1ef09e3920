"""The tables of a log in SQLite, and the operations shared by writers and readers: create, open, read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

import msgspec
from msgspec import UNSET

from taskfold.log.contract import HoleCheck, current_header, hole_check
from taskfold.log.files import new_file, sync_folder
from taskfold.log.header import header_of, header_text
from taskfold.log.lines import is_database
from taskfold.log.sqlite.files import SqliteConnection, sidecar, uri
from taskfold.log.sqlite.head import Head
from taskfold.log.sqlite.wal import Wal, check_newest, check_no_sidecars, check_sidecars, without_writers
from taskfold.log.upcast import record_decoder, upcaster
from taskfold.model.errors import LogError, SourceError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["newest_in", "read_checkpoint_of", "read_database", "reader"]

_APPLICATION_ID: Final = 0x74666C64
"""``tfld``: marks a database as a log of taskfold."""
_ROWS: Final = 1_000
"""How many records one query reads."""
_FIRST_WITH_HEAD: Final = 3
"""The first record format whose databases have a head."""

_INTEGRITY_BYTES: Final = 16 << 20
"""Up to this size, opening for writing checks the integrity of the whole database."""

_HEAD_TABLE: Final = "CREATE TABLE head (head BLOB NOT NULL)"
_SCHEMA: Final = f"""
PRAGMA application_id = {_APPLICATION_ID};
CREATE TABLE header (text TEXT NOT NULL);
{_HEAD_TABLE};
CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    alloc TEXT NOT NULL,
    version INTEGER NOT NULL,
    "index" INTEGER NOT NULL,
    id,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (alloc, version)
);
CREATE TABLE checkpoint (part INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX records_by_id ON records (id) WHERE typeof(id) = 'text';
"""

_checksum: Final = itemgetter(2)


_Row: TypeAlias = tuple[int, str, int, int, int | str | None, int, bytes]


def rows_of(records: list[Record], checksums: list[int], lines: list[bytes]) -> list[_Row]:
    """Return the rows of records, whose lines have these checksums."""
    return [
        (one.seq, one.alloc, one.version, one.index, None if one.id is UNSET else one.id, checksum, line)
        for one, checksum, line in zip(records, checksums, lines, strict=True)
    ]


OF_ALL: Final = """
SELECT seq, seq, checksum, body FROM records WHERE seq > :after AND seq <= :newest ORDER BY seq LIMIT :rows
"""
OF_ALLOCATION: Final = """
SELECT seq, version, checksum, body FROM records
WHERE alloc = :alloc AND version > :after AND seq <= :newest ORDER BY version LIMIT :rows
"""


def read_rows(
    database: sqlite3.Connection,
    path: Path,
    source: int,
    query: str,
    values: dict[str, Any],
    on_hole: HoleCheck,
    on_end: Callable[[int], None] = lambda _: None,
) -> Iterator[Record]:
    """Yield records in batches; each query continues after the last record. ``on_end`` is called with their digest.

    Raises LogError for damage, and the error that ``on_hole`` returns for missing records.
    """
    decode = record_decoder(source)
    alloc, after = values.get("alloc"), values["after"]
    digest = 0
    while rows := database.execute(query, {**values, "after": after, "rows": _ROWS}).fetchall():
        for seq, place, checksum, body in rows:
            if place != after + 1 and (error := on_hole(alloc, after + 1, place)):
                raise error
            after = place
            if body.__class__ is not bytes or crc32(body) != checksum:
                raise UnreadableLog(f"{path}, Seq {seq}: the record is damaged: its checksum does not match")
            try:
                record = decode(body)
            except msgspec.DecodeError as error:
                raise UnreadableLog(f"{path}, Seq {seq}: not a record of a taskfold log: {error}") from None
            # The columns that the query used; checking a log compares the others, too.
            if record.seq != seq or (alloc is not None and (record.alloc != alloc or record.version != place)):
                raise UnreadableLog(f"{path}, Seq {seq}: the record is damaged: its columns differ from it")
            yield record
        digest += sum(map(_checksum, rows))
        if len(rows) < _ROWS:
            break
    on_end(digest)


def check_digest(path: Path, header: LogHeader, head: Head, after_seq: int, digest: int) -> None:
    """Check that the records from a position to the end are the acknowledged ones. Raises LogError."""
    acknowledged = head.digest_after(after_seq)
    if acknowledged is not None and digest != acknowledged and header.taskfold >= _FIRST_WITH_HEAD:
        raise UnreadableLog(
            f"{path}: the log is damaged: its records up to Seq {head.seq} are not those that were acknowledged; "
            f"`taskfold log {path} --check` lists the damage"
        )


class ReadTransaction(NamedTuple):
    """A log in a database as of one moment, while others write."""

    database: sqlite3.Connection
    wal: Wal
    is_own: bool
    """This process holds the writer's lock: no other process writes."""


Connect: TypeAlias = Callable[[Path], sqlite3.Connection]


@contextmanager
def snapshot(
    path: Path, *, is_own: bool = False, is_scan: bool = False, connect: Connect | None = None
) -> Iterator[ReadTransaction]:
    """Open a log, which another process may be writing, in one read transaction. O(frames of the write-ahead log).

    ``is_own``: this process holds the writer's lock. Raises LogError when the file is no database, or a sidecar file
    belongs to another log, or, unless ``is_scan``, is damaged. The check precedes the opening, since SQLite may rebuild
    the index of the write-ahead log, which can be the evidence of the damage.
    """
    with translate_errors(path, "read"):
        if not is_database(path):
            raise UnreadableLog(f"{path}: is not a taskfold log, and is never overwritten")
        wal = check_sidecars(path, is_own=is_own)
        if wal.damage and not is_scan:
            check_newest(path, wal, None)
        with closing((connect or reader)(path)) as database:
            database.execute("BEGIN")
            yield ReadTransaction(database, wal, is_own)


def check_snapshot(path: Path, view: ReadTransaction) -> tuple[LogHeader, Head]:
    """Return the header and the head of a log that was opened. Raises LogError for damage."""
    header = header_in(view.database, path)
    check_schema(view.database, path, header)
    head = head_in(view.database, path, header)
    unacknowledged_in(path, view, header, head)
    return header, head


def unacknowledged_in(path: Path, view: ReadTransaction, header: LogHeader, head: Head) -> int:
    """Return the size of the torn write at the end of the write-ahead log, in bytes. Raises LogError for damage."""
    known_head = head if header.taskfold >= _FIRST_WITH_HEAD else None
    try:
        return check_newest(path, view.wal, known_head)
    except LogError:
        if view.wal.damage or view.is_own:
            raise
        # Another process may have written between the two looks, at the file and at the head.
        with without_writers(path) as is_quiet:
            if not is_quiet:
                return 0
            view.database.execute("COMMIT")
            view.database.execute("BEGIN")
            return check_newest(path, check_sidecars(path), head_in(view.database, path, header))


def read_database(name: str, path: str | Path = "") -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of a log in a database, and its records in blocks, read lazily, as of one moment.

    Errors show ``name``; ``path`` is given if it is another. Raises SourceError.
    """
    blocks = _blocks(name, Path(path or name).absolute())
    header = next(blocks)
    assert isinstance(header, LogHeader)
    return header, blocks  # type: ignore[return-value]  # the header comes first


def read_matching(name: str, path: str | Path, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
    """Return the header of a log, and the records of the only allocation whose ID starts with a prefix, or is it.

    If several IDs start with it, return them without records. O(log n) for each ID, and O(records) of the allocation.
    Raises SourceError.
    """
    file = Path(path or name).absolute()
    try:
        with snapshot(file) as view:
            header, head = check_snapshot(file, view)
            ids = list(_ids(view.database, prefix))
            if len(ids) > 1 and ids[0] != prefix:
                return header, {alloc: [] for alloc in ids}
            values = {"newest": head.seq if header.taskfold >= _FIRST_WITH_HEAD else 2**63 - 1, "after": 0}
            on_hole = hole_check(header, name)
            read = partial(read_rows, view.database, file, header.taskfold, OF_ALLOCATION, on_hole=on_hole)
            return header, {alloc: list(read(values={**values, "alloc": alloc})) for alloc in ids[:1]}
    except LogError as error:
        raise SourceError(name, str(error).removeprefix(f"{name}").lstrip(":, ")) from None


def _ids(database: sqlite3.Connection, prefix: str) -> Iterator[str]:
    """Yield the IDs with this prefix, in order, each found by the index; stop after an exact match."""
    query = "SELECT min(alloc) FROM records WHERE alloc >= ? AND alloc > ?"
    last = ""
    while (alloc := database.execute(query, (prefix, last)).fetchone()[0]) is not None and alloc.startswith(prefix):
        yield alloc
        if alloc == prefix:
            return
        last = alloc


def newest_in(name: str) -> int | None:
    """Return the position of the newest record of a log in a database; None if it cannot be read."""
    with suppress(sqlite3.Error), closing(reader(Path(name))) as database:
        newest = database.execute("SELECT max(seq) FROM records").fetchone()[0]
        return newest if isinstance(newest, int) else None
    return None


def _blocks(name: str, path: Path) -> Iterator[LogHeader | list[Record]]:
    """Yield the header, and then the records in blocks."""
    try:
        with snapshot(path) as view:
            header, head = check_snapshot(path, view)
            yield header
            values = {"after": 0, "newest": 2**63 - 1}
            on_end = partial(check_digest, path, header, head, 0)
            on_hole = hole_check(header, name)
            block: list[Record] = []
            for record in read_rows(view.database, path, header.taskfold, OF_ALL, values, on_hole, on_end):
                block.append(record)
                if len(block) == _ROWS:
                    yield block
                    block = []
            if block:
                yield block
    except LogError as error:
        raise SourceError(name, str(error).removeprefix(f"{path}").removeprefix(name).lstrip(":, ")) from None


@contextmanager
def translate_errors(path: Path, what: str = "written") -> Iterator[None]:
    """Convert errors of SQLite and the system. Raises LogError with the file's name."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeError) as error:  # such as an index of more than 63 bits
        raise LogError(f"{path}: cannot be {what} (SQLite): {error}") from None
    except OSError as error:
        raise LogError(f"{path}: cannot be {what}: {error.strerror or error}") from None


def connected(path: Path) -> SqliteConnection:
    """Open the writing connection. Raises LogError when the file is no database."""
    if not is_database(path):
        raise UnreadableLog(f"{path}: is not a taskfold log, and is never overwritten")
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=SqliteConnection)


def roll_back_journal(path: Path) -> None:
    """Let SQLite roll back a process killed while it changed the journal mode of a log of an older format.

    Only a writing connection can. Raises LogError for a journal that belongs to another database.
    """
    if sidecar(path, "-journal").exists():
        check_sidecars(path, is_own=True)
        with closing(connected(path)) as database:
            database.execute("SELECT count(*) FROM sqlite_master")


def read_checkpoint_of(path: Path, connect: Connect | None = None) -> Iterator[bytes]:
    """Yield the parts of the checkpoint of a log, as of one moment. Raises LogError for a damaged part."""
    with translate_errors(path, "read"), closing((connect or reader)(path)) as database:
        for part, checksum, body in database.execute("SELECT part, checksum, body FROM checkpoint ORDER BY part"):
            if not isinstance(body, bytes) or crc32(body) != checksum:
                raise UnreadableLog(f"{path}: part {part} of the checkpoint is damaged")
            yield body


def converted(database: sqlite3.Connection, header: LogHeader) -> LogHeader:
    """Convert records of an older format to the current one, all or none; return the new header."""
    bring = upcaster(header.taskfold)
    if bring is None:
        return header
    header = current_header(header)
    try:
        database.execute("BEGIN IMMEDIATE")
        query = "SELECT seq, checksum, body FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
        seq = digest = 0
        while rows := database.execute(query, (seq, _ROWS)).fetchall():
            for seq, checksum, body in rows:
                # Damaged records stay unchanged, and are reported when they are read.
                if isinstance(body, bytes) and crc32(body) == checksum and (brought := bring(body)) != body:
                    row = (brought, crc32(brought), seq)
                    database.execute("UPDATE records SET body = ?, checksum = ? WHERE seq = ?", row)
                    checksum = row[1]  # noqa: PLW2901 - the row has the new one
                digest += checksum
        database.execute("UPDATE header SET text = ?", (header_text(header),))
        database.execute(_HEAD_TABLE)
        database.execute("INSERT INTO head VALUES (?)", (Head(header.uuid).after(seq, digest).packed(),))
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    return header


def reader(path: Path) -> SqliteConnection:
    """Open a reading connection."""
    is_fixed = not os.access(path.parent, os.W_OK) and not sidecar(path, "-wal").exists()
    # Readers share a sidecar file, which cannot be created here; but then no process writes, either.
    name = uri(path, *(("immutable=1",) if is_fixed else ()))
    # A reader may continue in another thread.
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False, factory=SqliteConnection)


def quiet_reader(path: Path) -> SqliteConnection:
    """Open a reading connection that creates no sidecar files.

    If no process writes, there are none, and the file is read as immutable; the caller must then watch for a writer
    that starts.
    """
    more = () if sidecar(path, "-wal").exists() else ("immutable=1",)
    if is_written(path) and not os.access(sidecar(path, "-shm"), os.W_OK):
        # Only then: SQLite shares an immutable file within the process, so that a writer in it could not write.
        more = ("readonly_shm=1",)
    return sqlite3.connect(
        uri(path, *more), uri=True, isolation_level=None, check_same_thread=False, factory=SqliteConnection
    )


def is_written(path: Path) -> bool:
    """Tell whether a database has the sidecar files of an active writer."""
    return all(sidecar(path, end).exists() for end in ("-wal", "-shm"))


def header_in(database: sqlite3.Connection, path: Path) -> LogHeader:
    """Return the header of the log in a database. Raises LogError if there is none, or its format is unknown."""
    if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise UnreadableLog(f"{path}: is an SQLite database, but not a taskfold log, and is never overwritten")
    row = database.execute("SELECT text FROM header").fetchone()
    try:
        return header_of(f"{row[0] if row else ''}\n".encode())
    except LogError as error:
        raise type(error)(f"{path}: not the header of a taskfold log: {error}") from None


def head_in(database: sqlite3.Connection, path: Path, header: LogHeader) -> Head:
    """Return the head of the log in a database; for an older format, only its newest position. Raises LogError."""
    if header.taskfold < _FIRST_WITH_HEAD:
        return Head("", seq=database.execute("SELECT max(seq) FROM records").fetchone()[0] or 0)
    rows = database.execute("SELECT head FROM head").fetchall()
    head = Head.unpacked(rows[0][0]) if len(rows) == 1 else None
    if head is None or head.uuid != header.uuid:
        raise UnreadableLog(f"{path}: the log is damaged: its head differs from what was written")
    return head


def write_head(database: sqlite3.Connection, head: Head) -> None:
    """Write the head, in the open transaction."""
    database.execute("UPDATE head SET head = ?", (head.packed(),))


@cache
def _schema() -> frozenset[tuple[str, str, str]]:
    """Return the tables and indexes of a log, as SQLite describes them."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_SCHEMA)
        return frozenset(database.execute(_DESCRIBED).fetchall())


_DESCRIBED: Final = "SELECT type, name, ifnull(sql, '') FROM sqlite_master"


def check_schema(database: sqlite3.Connection, path: Path, header: LogHeader) -> None:
    """Check that the tables are those of a log, and that there are no triggers. Raises LogError."""
    present_parts = frozenset(database.execute(_DESCRIBED).fetchall())
    needed_parts = _schema() - (
        frozenset() if header.taskfold >= _FIRST_WITH_HEAD else {("table", "head", _HEAD_TABLE)}
    )
    wrong = sorted(name for _, name, _ in needed_parts - present_parts)
    wrong += sorted(name for kind, name, _ in present_parts if kind == "trigger")
    if wrong:
        raise UnreadableLog(f"{path}: the log is damaged: {', '.join(map(repr, wrong))} is not as a log has it")


def check_integrity(database: sqlite3.Connection, path: Path) -> None:
    """Check, unless the file is large, that indexes and tables agree. O(size). Raises LogError."""
    pages, page_bytes = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * page_bytes <= _INTEGRITY_BYTES:
        (problem,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if problem != "ok":
            problem = " ".join(str(problem).split())
            raise UnreadableLog(
                f"{path}: the log is damaged: {problem}; `taskfold log {path} --check` lists the damage, "
                "and --repair NEW copies the good records"
            )


def begin(path: Path, header: LogHeader) -> None:
    """Create a log, atomically."""
    check_no_sidecars(path)
    draft = path.with_name(f"{path.name}-new")
    _remove(draft)
    new_file(draft).close()  # sidecar files inherit its mode
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.executescript(f"PRAGMA synchronous = FULL; BEGIN; {_SCHEMA}")
            database.execute("INSERT INTO header VALUES (?)", (header_text(header),))
            database.execute("INSERT INTO head VALUES (?)", (Head(header.uuid, token=os.urandom(8)).packed(),))
            database.execute("COMMIT")
            # At once, so that a log never has any journal but a write-ahead log: readers could not roll another back.
            write_ahead(database, path)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            _remove(draft)
        raise
    sync_folder(path)


def write_ahead(database: sqlite3.Connection, path: Path) -> None:
    """Switch a database to a write-ahead log. Raises LogError where that fails, as on many network file systems."""
    (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LogError(
            f"{path}: SQLite can keep no write-ahead log there (its journal mode stays {mode!r}), "
            "which readers beside a writer need: put the log on a local file system"
        )


def _remove(draft: Path) -> None:
    """Delete a database and its sidecar files."""
    for end in ("", "-journal", "-wal", "-shm"):
        draft.with_name(draft.name + end).unlink(missing_ok=True)
