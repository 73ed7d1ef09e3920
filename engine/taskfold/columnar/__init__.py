"""Records as columns: a fold of millions a second, tables for data tools (``pip install 'taskfold[columnar]'``).

Public are `ColumnarFold`, which folds record batches, and `read`, which makes them of any source: imported when
they are first used, since they need numpy and pyarrow.

`maps` has the lifecycle as maps that compose, `kernel` the arrays, `fold` the tables, `conversion` records as rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.columnar.fold import ColumnarFold
    from taskfold.columnar.reading import read

__all__ = ["ColumnarFold", "read"]

__getattr__, __dir__ = lazy_names(__name__, {"ColumnarFold": "fold", "read": "reading"})
