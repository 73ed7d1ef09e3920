"""Slots that several workers fold are what one process folds, and a worker that dies costs its slot twice, no more."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import taskfold as tf
from support.columns import by_task, rows_in
from support.dying import die_once
from taskfold.columnar import ColumnarFold, fold_all, fold_partition, read
from taskfold.columnar.partition import WorkersLost
from taskfold.errors import SourceError
from taskfold.sources.replay import At

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"
SLOTS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slots") / "tables"
    tf.export(STREAM, to=path, slots=SLOTS)
    return path


def expected(at: At | None = None) -> dict:
    fold = ColumnarFold("1.1.2", at=at)
    for batch in read(STREAM):
        fold.apply(batch)
    return by_task(rows_in(fold.tasks()))


class Fragile(Executor):
    """An executor that does everything at once, and of which a run breaks after so many."""

    def __init__(self, lifes: list[int], submitted: list[Path]) -> None:
        self.rest, self.submitted = lifes.pop(0), submitted

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future:
        future: Future = Future()
        self.rest -= 1
        if self.rest < -1:
            raise BrokenExecutor
        if self.rest < 0:
            future.set_exception(BrokenExecutor())
        else:
            self.submitted.append(arguments[0])
            future.set_result(function(*arguments, **options))
        return future


def test_all_slots_together_are_what_one_process_folds(folder: Path) -> None:
    assert by_task(rows_in(fold_all(folder, executor=lambda: ThreadPoolExecutor(2)))) == expected()


@pytest.mark.parametrize("at", [At(seq=100), At(index=200), At(time_ns=1795422510000000000)])
def test_an_end_point_counts_in_each_slot(folder: Path, at: At) -> None:
    assert by_task(rows_in(fold_all(folder, executor=lambda: ThreadPoolExecutor(1), at=at))) == expected(at)


def test_an_executor_that_breaks_is_replaced_and_only_what_is_missing_is_done_again(folder: Path) -> None:
    files, submitted = sorted(folder.glob("records*")), []
    lifes = [1, 2, 99]
    table = fold_all(folder, executor=lambda: Fragile(lifes, submitted))
    assert by_task(rows_in(table)) == expected()
    assert submitted == files
    assert lifes == []


def test_workers_that_always_die_are_an_error(folder: Path) -> None:
    lifes = [0, 0, 0]
    with pytest.raises(WorkersLost, match=f"the workers of {len(list(folder.glob('records*')))} slots died 3 times"):
        fold_all(folder, executor=lambda: Fragile(lifes, []))


def test_a_process_that_is_killed_costs_nothing_but_time(folder: Path, tmp_path: Path) -> None:
    def pool() -> Executor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(2, mp_context=context, initializer=die_once, initargs=(str(tmp_path / "died"),))

    table = fold_all(folder, executor=pool)
    assert (tmp_path / "died").exists()
    assert by_task(rows_in(table)) == expected()


def test_the_rows_do_not_depend_on_who_was_first(folder: Path) -> None:
    one, two = (fold_all(folder, executor=lambda n=n: ThreadPoolExecutor(n)) for n in (1, 3))
    assert one == two


def test_the_unit_of_work_can_be_pickled(folder: Path) -> None:
    file = min(folder.glob("records*"))
    again = pickle.loads(pickle.dumps(fold_partition))  # noqa: S301 - what was pickled here
    assert again(file) == fold_partition([file], dialect="1.1.2")


def test_files_that_are_no_slots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no records"):
        fold_all(tmp_path)
    tf.export(STREAM, to=tmp_path / "one")
    (tmp_path / "one" / "records-2.parquet").write_bytes((tmp_path / "one" / "records.parquet").read_bytes())
    with pytest.raises(SourceError, match="is no slot"):
        fold_all(tmp_path / "one")
