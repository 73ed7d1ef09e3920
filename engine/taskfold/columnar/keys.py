"""Numbers for texts: of allocations, of tasks, and of the pairs of both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from taskfold.columnar.maps import Integers

__all__ = ["KEY_BITS", "Keys", "dictionary_of"]

KEY_BITS: Final = 24
"""The bits of a key that count pairs; those above tell files apart, so that keys of two files are never taken for each
other."""
_MASK: Final = (1 << KEY_BITS) - 1
_UNKNOWN: Final = np.iinfo(np.int64).min
_LEAST_WIDTH: Final = 4


def dictionary_of(column: Any) -> tuple[Integers, list[str]]:
    """Return a column of texts as codes and the texts that they mean; -1 for null. O(rows)."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = column.indices
    if codes.null_count:
        codes = codes.fill_null(-1)
    return codes.to_numpy(zero_copy_only=False).astype(np.int64), column.dictionary.to_pylist()


class _Codes(dict[str, int]):
    """A number for each text, in the order in which they come."""

    def __missing__(self, text: str) -> int:
        self[text] = code = len(self)
        return code

    def of(self, texts: Iterable[str]) -> Integers:
        return np.array([self[text] for text in texts], np.int64)


class Keys:
    """A key for each task of each allocation: 0, 1, 2 … in the order in which they come.

    Of each row of a batch it tells the key, and for a row of an allocation itself -1 minus the code of the allocation.
    """

    def __init__(self) -> None:
        self._allocs, self._tasks = _Codes(), _Codes()
        self._table = np.full((0, _LEAST_WIDTH), _UNKNOWN)
        """The key by the codes of allocation and task."""
        self._pairs: list[Integers] = []
        """The codes of allocation and task, by key."""
        self._all_pairs = np.empty((0, 2), np.int64)
        self._numbers: dict[int, Integers] = {}
        """The key by the number of a pair in a file, for each file."""

    def __len__(self) -> int:
        """Return how many tasks there are."""
        return sum(map(len, self._pairs))

    @property
    def pairs(self) -> Integers:
        """The codes of allocation and task, by key."""
        if len(self._all_pairs) != len(self):
            self._all_pairs = np.concatenate(self._pairs)
            self._pairs = [self._all_pairs]
        return self._all_pairs

    @property
    def allocs(self) -> list[str]:
        """The allocations, by code."""
        return list(self._allocs)

    @property
    def tasks(self) -> list[str]:
        """The names of tasks, by code."""
        return list(self._tasks)

    @property
    def alloc_count(self) -> int:
        """How many allocations there are."""
        return len(self._allocs)

    def alloc_code(self, alloc: str) -> int | None:
        """Return the code of an allocation; None for one that never came. O(1)."""
        return self._allocs.get(alloc)

    def of_alloc(self, code: int) -> dict[str, int]:
        """Return the keys of the tasks of an allocation, by name. O(names of tasks)."""
        names = self.tasks
        row = self._table[code] if code < len(self._table) else ()
        return {names[task]: int(key) for task, key in enumerate(row) if key != _UNKNOWN}

    def of(self, batch: Any) -> Integers:
        """Return the key of each row. O(rows), and a look-up for each text where the batch has no numbers."""
        names = batch.schema.names
        if "task_key" in names and batch.num_rows and not batch.column("task_key").null_count:
            numbers = batch.column("task_key").to_numpy()
            file = int(numbers[0]) >> KEY_BITS
            if file >= 0 and ((numbers >> KEY_BITS) == file).all():
                return self._of_numbers(batch, file, numbers & _MASK)
        return self._of_texts(batch)

    def _of_numbers(self, batch: Any, file: int, numbers: Integers) -> Integers:
        keys = self._numbers.get(file, np.empty(0, np.int64))
        top = int(numbers.max()) + 1
        if top > len(keys):
            more = np.full(max(top, 2 * len(keys)) - len(keys), _UNKNOWN)
            keys = self._numbers[file] = np.concatenate((keys, more))
        key = keys[numbers]
        if (unknown := np.flatnonzero(key == _UNKNOWN)).size:
            _, first = np.unique(numbers[unknown], return_index=True)
            rows = unknown[np.sort(first)]
            keys[numbers[rows]] = self._of_texts(batch.select(["alloc", "task"]).take(pa.array(rows)))
            key = keys[numbers]
        elif not self._is_named(batch, int(key[0])):
            return self._of_texts(batch)  # another file has the number of this one
        return key

    def _is_named(self, batch: Any, key: int) -> bool:
        """Tell whether the first row of a batch has the names of a key."""
        code = -1 - key if key < 0 else self.pairs[key, 0]
        return self._allocs.get(batch.column("alloc")[0].as_py()) == code

    def _of_texts(self, batch: Any) -> Integers:
        codes, texts = dictionary_of(batch.column("alloc"))
        alloc = self._allocs.of(texts)[codes]
        codes, texts = dictionary_of(batch.column("task"))
        is_own = codes < 0
        task = self._tasks.of(texts)[codes] if texts else codes
        key = self._of_codes(alloc, np.where(is_own, 0, task))
        key[is_own] = -1 - alloc[is_own]
        if (new := key == _UNKNOWN).any():
            self._add(alloc[new], task[new])
            key[new] = self._table[alloc[new], task[new]]
        return key

    def _of_codes(self, alloc: Integers, task: Integers) -> Integers:
        """Return what the table has, which has a place for every pair."""
        height, width = self._table.shape
        needed = len(self._allocs)
        while width < len(self._tasks):
            width *= 2
        if needed > height or width > self._table.shape[1]:
            table = np.full((max(needed, 2 * height) if needed > height else height, width), _UNKNOWN)
            table[:height, : self._table.shape[1]] = self._table
            self._table = table
        return self._table[alloc, task]

    def _add(self, alloc: Integers, task: Integers) -> None:
        """Give keys to pairs, in the order in which they come."""
        width = self._table.shape[1]
        pair, first = np.unique(alloc * width + task, return_index=True)
        pair = pair[np.argsort(first)]
        size = len(self)
        self._table.reshape(-1)[pair] = np.arange(size, size + len(pair))
        self._pairs.append(np.stack((pair // width, pair % width), 1))
