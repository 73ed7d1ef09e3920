"""What hypothesis-jsonschema draws from a JSON Schema, whichever release of Hypothesis there is."""

from __future__ import annotations

from contextlib import ExitStack
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import hypothesis_jsonschema
from hypothesis.internal.conjecture import utils
from hypothesis.strategies import SearchStrategy
from hypothesis_jsonschema import _from_schema

_END = object()


class _Many:
    """Draws another element for as long as there should be more, as Hypothesis did before 6.170.10."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._stack = ExitStack()
        self._elements = self._stack.enter_context(utils.many(*arguments, **options))
        self._loop = iter(self._elements)

    def more(self) -> bool:
        if next(self._loop, _END) is _END:
            self._stack.close()
            return False
        return True

    def reject(self) -> None:
        self._elements.reject()


if not hasattr(utils.many, "more"):
    # hypothesis-jsonschema 0.23.1, the newest, asks `many.more()`.
    _from_schema.cu = SimpleNamespace(many=_Many)


def from_schema(schema: dict[str, Any]) -> SearchStrategy[Any]:
    """Return values that are what a schema says."""
    return hypothesis_jsonschema.from_schema(deepcopy(schema))  # it puts in its own form what it is given
