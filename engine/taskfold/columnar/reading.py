"""Any source as record batches: Parquet files as they are, everything else by way of its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from taskfold.columnar.conversion import BatchMaker, header_of
from taskfold.columnar.schemas import RECORDS
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.log.registry import LogLike
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import DecodeError, SourceError
from taskfold.model.record import FORMAT, LogHeader, Record
from taskfold.sources.replay import Replay

__all__ = ["ROWS", "SLOT", "header_of_file", "read", "slot_of_file", "steps"]

ROWS: Final = 1 << 18
"""The records of a batch: enough to be worth a sort, and few enough for the cache."""

SLOT: Final = b"taskfold.slot"
"""The metadata of a file of records with its slot and their number, as ``3/16``."""
_MAGIC: Final = b"PAR1"
_ENCODED: Final = ("alloc", "task", "type", "reason", "message")


def read(
    *sources: LogLike, dialect: str | None = None, rows: int = ROWS, columns: Sequence[str] | None = None
) -> Iterator[Any]:
    """Yield the records of sources as `pyarrow.RecordBatch`, at most so many in each. O(records); memory for one batch.

    A source is whatever `taskfold.replay` reads, or Parquet files that `taskfold export` has made, or a folder of such.
    The metadata of each batch has the header of the log. Of Parquet files only ``columns`` are read, if they are given:
    `fold.FOLDED_COLUMNS` are those that a fold needs. Raises SourceError, DialectError as `replay` does.
    """
    return (batch for batch, _ in steps(*sources, dialect=dialect, rows=rows, columns=columns))


def steps(
    *sources: LogLike,
    dialect: str | None = None,
    rows: int = ROWS,
    columns: Sequence[str] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Any, Sequence[Record] | None]]:
    """Yield the batches of sources, each with its records where they were decoded anyway. Raises as `read` does."""
    if paths := _parquet_files(sources):
        yield from ((batch, None) for batch in _of_parquet(paths, rows, columns))
        return
    replay = Replay(*sources, dialect=dialect, on_note=on_note)
    maker: BatchMaker | None = None
    for records in _blocks(replay, rows):
        if maker is None:
            maker = BatchMaker(_header(replay))
        yield maker.batch(records), records


def _header(replay: Replay) -> LogHeader:
    """Return the header of a log; for another source, one that says its dialect."""
    if replay.header is not None:
        return replay.header
    dialect = replay.dialect or NEWEST_DIALECT
    return LogHeader(taskfold=FORMAT, dialect=dialect, lifecycle=lifecycle_of(dialect).fingerprint)


def _blocks(replay: Replay, rows: int) -> Iterator[list[Record]]:
    """Yield the records of a source in lists of a length."""
    waiting: list[Record] = []
    for _, records in replay.steps():
        waiting += records
        while len(waiting) >= rows:
            yield waiting[:rows]
            del waiting[:rows]
    if waiting:
        yield waiting


def _parquet_files(sources: Sequence[LogLike]) -> list[Path]:
    """Return the Parquet files that sources are; none if they are something else. Raises SourceError for a mixture."""
    files: list[Path] = []
    others = []
    for source in sources:
        path = Path(source) if isinstance(source, (str, Path)) and str(source) != "-" else None
        if path is not None and path.is_dir() and (parts := sorted(path.glob("records*.parquet"))):
            files += parts
        elif path is not None and path.is_file() and _is_parquet(path):
            files.append(path)
        else:
            others.append(str(source))
    if files and others:
        raise SourceError(others[0], "is no Parquet file: it cannot be read together with some")
    return files


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def header_of_file(path: Path, label: str = "") -> LogHeader:
    """Return the header in a Parquet file of records. Raises SourceError for another file, or one slot of several."""
    label = label or str(path)
    with _readable(label), pq.ParquetFile(path) as file:
        header = _own_header(file.schema_arrow, label)
    if (slot := slot_of_file(path)) is not None:
        raise SourceError(label, f"has only slot {slot} of the records: `taskfold.columnar.read` reads all")
    return header


def slot_of_file(path: Path) -> str | None:
    """Return the slot that a file of records is, as ``3/16``; None for one that is no slot. Raises SourceError."""
    with _readable(str(path)), pq.ParquetFile(path) as file:
        slot = (file.schema_arrow.metadata or {}).get(SLOT)
    return None if slot is None else slot.decode()


def _own_header(schema: Any, label: str) -> LogHeader:
    header = header_of(schema)
    if header is None or schema.names != RECORDS.names:
        raise SourceError(label, "has not the columns of records: `taskfold export` makes them")
    return header


@contextmanager
def _readable(label: str) -> Iterator[None]:
    """Convert errors of reading Parquet. Raises SourceError."""
    try:
        yield
    except (pa.ArrowException, OSError, DecodeError) as error:
        raise SourceError(label, f"cannot be read: {error}") from None


def _of_parquet(paths: Sequence[Path], rows: int, columns: Sequence[str] | None) -> Iterator[Any]:
    """Yield the batches of Parquet files, one file after the other."""
    header: LogHeader | None = None
    for path in paths:
        with _readable(str(path)), pq.ParquetFile(path, read_dictionary=list(_ENCODED)) as file:
            own = _own_header(file.schema_arrow, str(path))
            header = header or own
            if (own.dialect, own.region, own.uuid) != (header.dialect, header.region, header.uuid):
                raise SourceError(str(path), f"is of another log than {paths[0]}")
            yield from file.iter_batches(rows, columns=columns and list(columns), use_threads=False)
