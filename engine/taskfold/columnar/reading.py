"""Any source as record batches: Parquet files as they are, everything else by way of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from taskfold.columnar.conversion import BatchMaker, header_of
from taskfold.columnar.schemas import RECORDS
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.log.registry import LogLike
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import SourceError
from taskfold.model.record import FORMAT, LogHeader, Record
from taskfold.sources.replay import Replay

__all__ = ["ROWS", "read"]

ROWS: Final = 1 << 18
"""The records of a batch: enough to be worth a sort, and few enough for the cache."""

_MAGIC: Final = b"PAR1"
_ENCODED: Final = ("alloc", "task", "type", "reason", "message")


def read(*sources: LogLike, dialect: str | None = None, rows: int = ROWS) -> Iterator[Any]:
    """Yield the records of sources as `pyarrow.RecordBatch`, at most so many in each. O(records); memory for one batch.

    A source is whatever `taskfold.replay` reads, or Parquet files that `taskfold export` has made, or a folder of such.
    The metadata of each batch has the header of the log. Raises SourceError, DialectError as `replay` does.
    """
    paths = _parquet_files(sources)
    if paths:
        yield from _of_parquet(paths, rows)
        return
    replay = Replay(*sources, dialect=dialect)
    maker: BatchMaker | None = None
    for records in _blocks(replay, rows):
        if maker is None:
            maker = BatchMaker(_header(replay))
        yield maker.batch(records)


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


def _of_parquet(paths: Sequence[Path], rows: int) -> Iterator[Any]:
    """Yield the batches of Parquet files, one file after the other."""
    header: LogHeader | None = None
    for path in paths:
        try:
            with pq.ParquetFile(path, read_dictionary=list(_ENCODED)) as file:
                own = header_of(file.schema_arrow)
                if own is None or file.schema_arrow.names != RECORDS.names:
                    raise SourceError(str(path), "has not the columns of records: `taskfold export` makes them")
                header = header or own
                if (own.dialect, own.region, own.uuid) != (header.dialect, header.region, header.uuid):
                    raise SourceError(str(path), f"is of another log than {paths[0]}")
                yield from file.iter_batches(rows, use_threads=False)
        except (pa.ArrowException, OSError, msgspec.MsgspecError) as error:
            raise SourceError(str(path), f"cannot be read: {error}") from None
