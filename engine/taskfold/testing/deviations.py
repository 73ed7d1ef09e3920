"""Deviations of a tested subject from the model: values for a program, and a text short enough to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final, NamedTuple

__all__ = ["Deviation", "FieldDeviation", "json_deviations"]

_MOST_FIELDS: Final = 6
"""How many fields the text names; the others follow from the same fault, as a rule."""
_WIDTH: Final = 160
"""How much of a value the text shows."""
_NOTHING: Final = object()


class FieldDeviation(NamedTuple):
    """One field that is not what the model has."""

    task: str
    """The task; empty for the allocation as a whole."""
    field: str
    model: Any
    actual: Any

    def text(self, noun: str) -> str:
        """Return it as a line; lists without what they begin with both."""
        model, actual = self.model, self.actual
        if isinstance(model, tuple) and isinstance(actual, tuple):
            same = _common(model, actual)
            model, actual = _list_text(model, same), _list_text(actual, same)
        name = f"{self.task} {self.field}" if self.task else self.field
        return f"{name}: model {_short(model)}, {noun} {_short(actual)}"


class Deviation(AssertionError):
    """The tested subject deviates from the model: in which fields, and after which steps.

    >>> raise Deviation("scheduler", "1.1.2", [FieldDeviation("web", "restarts", 1, 0)], ["start web", "exit web 1"])
    Traceback (most recent call last):
    ...
    taskfold.testing.deviations.Deviation: the scheduler deviates from the model (1.1.2)
      web restarts: model 1, scheduler 0
    after
      start web
      exit web 1
    """

    def __init__(self, noun: str, dialect: str, fields: Sequence[FieldDeviation], steps: Sequence[str]) -> None:
        self.noun = noun
        """The tested subject: a scheduler, a fold."""
        self.dialect = dialect
        self.fields = tuple(fields)
        """The fields that are not what the model has."""
        self.steps = tuple(steps)
        """The steps so far; they deviate after the last one."""
        lines = [f"  {field.text(noun)}" for field in self.fields[:_MOST_FIELDS]]
        if len(self.fields) > _MOST_FIELDS:
            lines.append(f"  and {len(self.fields) - _MOST_FIELDS} more")
        head = f"the {noun} deviates from the model ({dialect})"
        super().__init__("\n".join([head, *lines, "after", *(f"  {step}" for step in self.steps)]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what it is made of, to be pickled: pytest-xdist sends what fails from a worker."""
        return type(self), (self.noun, self.dialect, self.fields, self.steps), self.__dict__


def json_deviations(task: str, model: Any, actual: Any, path: str = "") -> list[FieldDeviation]:
    """Return where two parsed JSON values deviate, each by its path. O(size).

    >>> [(each.field, each.model, each.actual) for each in json_deviations("web", {"A": [1, 2]}, {"A": [1, 3]})]
    [('A[1]', 2, 3)]
    """
    if isinstance(model, Mapping) and isinstance(actual, Mapping):
        return [
            deviation
            for key in {**model, **actual}
            for deviation in json_deviations(
                task,
                model.get(key, _NOTHING),
                actual.get(key, _NOTHING),
                f"{path}.{key}" if path else key,
            )
        ]
    if isinstance(model, list) and isinstance(actual, list):
        return [
            deviation
            for place, pair in enumerate(zip_longest(model, actual, fillvalue=_NOTHING))
            for deviation in json_deviations(task, *pair, f"{path}[{place}]")
        ]
    # True is 1 in Python, and not in JSON.
    if model == actual and isinstance(model, bool) == isinstance(actual, bool):
        return []
    return [FieldDeviation(task, path or "value", model, actual)]


def _short(value: object) -> str:
    text = "nothing" if value is _NOTHING else value if isinstance(value, _Text) else repr(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"


class _Text(str):
    """A text that is shown as it is."""

    __slots__ = ()


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return with how many values both begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _list_text(values: Sequence[Any], same: int) -> _Text:
    """Return the values behind those that are the same."""
    texts = [*(["…"] if same else []), *map(str, values[same:])]
    return _Text(f"[{', '.join(texts)}]")
