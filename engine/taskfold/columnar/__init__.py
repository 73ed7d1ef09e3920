"""Records as columns: a fold of millions a second, tables for data tools (``pip install 'taskfold[columnar]'``).

Public are `ColumnarFold`, which folds record batches, `read`, which makes them of any source, and, for several
processes, `fold_all` with its unit of work `fold_partition`: imported when they are first used, since they need numpy
and pyarrow.

`maps` has the lifecycle as maps that compose, `kernel` the arrays, `fold` the tables, `conversion` records as rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.columnar.fold import ColumnarFold
    from taskfold.columnar.partition import fold_all, fold_partition
    from taskfold.columnar.reading import read

__all__ = ["ColumnarFold", "fold_all", "fold_partition", "read"]

__getattr__, __dir__ = lazy_names(
    __name__, {"ColumnarFold": "fold", "fold_all": "partition", "fold_partition": "partition", "read": "reading"}
)
