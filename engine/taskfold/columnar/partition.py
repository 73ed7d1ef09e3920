"""More than one process: partitions of whole allocations, folded by any executor."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pyarrow as pa

from taskfold.columnar.conversion import header_of
from taskfold.columnar.fold import FOLDED_COLUMNS, ColumnarFold
from taskfold.columnar.reading import read, slot_of_file
from taskfold.columnar.schemas import TASKS
from taskfold.model.errors import SourceError, Unavailable
from taskfold.sources.replay import At

__all__ = ["WorkersLost", "fold_all", "fold_partition"]


class WorkersLost(Unavailable):
    """Partitions whose worker died each time they were tried."""


def fold_partition(
    paths: str | Path | Iterable[str | Path], *, dialect: str | None = None, at: At | int | str | None = None
) -> Any:
    """Return the table of tasks of Parquet files that hold whole allocations in the order of their log. O(records).

    It is pure and can be pickled: the unit of work of any engine. Raises as `read` and `ColumnarFold.apply` do.
    """
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    fold = None if dialect is None else ColumnarFold(dialect, at=at)
    for batch in read(*several, columns=FOLDED_COLUMNS):
        if fold is None:
            header = header_of(batch.schema)
            assert header is not None, "a file that is read has the header of its log"
            fold = ColumnarFold(header.dialect, at=at)
        fold.apply(batch)
    return TASKS.empty_table() if fold is None else fold.tasks()


def fold_all(
    folder: str | Path,
    *,
    executor: Callable[[], Executor] | None = None,
    retries: int = 2,
    at: At | int | str | None = None,
) -> Any:
    """Return the table of tasks of an export with slots, each folded by a worker. O(records / workers).

    ``executor`` makes a `concurrent.futures.Executor`; the default has a process for each CPU. An executor that breaks,
    as a pool of processes does when a worker dies, is replaced, and only the missing slots are done again. The rows are
    in the order of the slots. Raises WorkersLost after so many retries, SourceError for files that are no slots.
    """
    missing = _slots(Path(folder))
    order, tables = list(missing), {}
    for _ in range(retries + 1):
        with (executor or _processes)() as workers:
            tables.update(_attempt(workers, missing, at))
        missing = [path for path in missing if path not in tables]
        if not missing:
            return pa.concat_tables([TASKS.empty_table(), *(tables[path] for path in order)]).unify_dictionaries()
    raise WorkersLost(f"the workers of {len(missing)} slots died {retries + 1} times, the first of {missing[0]}")


def _attempt(workers: Executor, paths: Sequence[Path], at: At | int | str | None) -> dict[Path, Any]:
    """Return the tables of the slots whose worker lived."""
    tables = {}
    futures = {}
    try:
        for path in paths:
            futures[workers.submit(fold_partition, path, at=at)] = path
    except BrokenExecutor:
        pass  # what was submitted before may be there
    for future in as_completed(futures):
        try:
            tables[futures[future]] = future.result()
        except BrokenExecutor:
            continue
    return tables


def _processes() -> Executor:
    # Forking copies the locks of threads that pyarrow has.
    return ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))


def _slots(folder: Path) -> list[Path]:
    """Return the files of a folder, each with whole allocations. Raises SourceError."""
    files = sorted(folder.glob("records*.parquet"))
    if not files:
        raise SourceError(str(folder), "has no records*.parquet: `taskfold export … --slots N` writes them")
    if len(files) > 1 and (others := [file for file in files if slot_of_file(file) is None]):
        raise SourceError(str(others[0]), "is no slot: an allocation may have records in other files, too")
    return files
