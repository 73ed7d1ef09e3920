"""Every error of taskfold can be pickled and copied, with its message and its fields: workers raise them, too."""

from __future__ import annotations

import concurrent.futures
import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import taskfold
from taskfold.errors import (
    AppendRefused,
    DecodeError,
    Gone,
    IllegalEvent,
    ListenerError,
    LogError,
    Refused,
    TaskfoldError,
    Unavailable,
    Unreadable,
    UnreadableLog,
    VersionConflict,
)
from taskfold.model import errors as module_of_errors
from taskfold.testing.deviations import FieldDeviation


def errors_of_the_tree() -> list[type[Exception]]:
    """Return every class of errors that any module of taskfold defines."""
    names = [module.name for module in pkgutil.walk_packages(taskfold.__path__, "taskfold.")]
    modules = [importlib.import_module(name) for name in names if name != "taskfold.__main__"]
    return sorted(
        {
            found
            for module in modules
            for found in vars(module).values()
            if isinstance(found, type) and issubclass(found, Exception) and found.__module__ == module.__name__
        },
        key=lambda found: (found.__module__, found.__name__),
    )


VALUES: dict[str, Any] = {
    "str": "redis",
    "int": 7,
    "bool": True,
    "float": 1.5,
    "int | None": 8,
    "tuple[str, ...]": ("Started", "Killed"),
    "Sequence[str]": ["it is wrong", "so is this"],
    "Sequence[Exception]": [ValueError("of a listener"), KeyError("x")],
    "Sequence[object]": ["a record"],
    "Sequence[FieldDeviation]": [FieldDeviation("web", "state", "dead", "running")],
    "Sequence[tuple[int, TaskfoldError]]": [(3, VersionConflict(allocation="a", expected_version=1, actual_version=2))],
}
"""What an error is made of, by the type of its argument: one of another type is added here."""


def made(kind: type[Exception]) -> Exception:
    """Return an error of a kind, with something in each of its fields."""
    if kind.__init__ in {base.__init__ for base in (Exception, AssertionError, ValueError, KeyError)}:
        return kind("a sentence")
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    maker = kind.__new__ if issubclass(kind, ExceptionGroup) else kind.__init__
    for parameter in list(inspect.signature(maker).parameters.values())[1:]:
        value = VALUES[str(parameter.annotation)]
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            arguments.append(value)
    return kind(*arguments, **named)


def told(value: Any) -> Any:
    """Return all that an error says; errors inside of it by what they say."""
    if isinstance(value, BaseException):
        return type(value), str(value), told(value.args), told(vars(value))
    if isinstance(value, dict):
        return {name: told(part) for name, part in value.items()}
    return [told(part) for part in value] if isinstance(value, list | tuple) else value


def pickled(error: Exception) -> Exception:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - made here


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy], ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", errors_of_the_tree(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_is_the_same_after_it_was_pickled_or_copied(
    kind: type[Exception], again: Callable[[Exception], Exception]
) -> None:
    error = made(kind)
    error.add_note("a note")

    assert told(again(error)) == told(error)


def test_the_errors_that_are_documented_are_among_those_that_are_tried() -> None:
    found = errors_of_the_tree()

    assert {IllegalEvent, VersionConflict, AppendRefused, DecodeError} <= set(found)
    assert {found for found in every_subclass(TaskfoldError) if found.__module__.startswith("taskfold")} <= set(found)


@pytest.mark.parametrize("kind", errors_of_the_tree(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_is_of_one_family_which_says_what_to_do_about_it(kind: type[Exception]) -> None:
    if kind is TaskfoldError or not issubclass(kind, TaskfoldError):
        return
    families = {family for family in (Refused, Unreadable, Unavailable, ListenerError) if issubclass(kind, family)}

    # A log that is damaged is caught with all that a log raises, and yet is not mended by trying again.
    if issubclass(kind, UnreadableLog):
        assert families == {Unreadable, Unavailable}
    else:
        assert len(families) == 1


def test_the_tree_that_is_printed_has_every_public_error_where_it_belongs() -> None:
    tree = inspect.getdoc(module_of_errors) or ""
    lines = [line for line in tree.splitlines() if "\u2500\u2500 " in line]
    parents: list[str] = ["TaskfoldError"]
    printed = {"TaskfoldError"}
    for line in lines:
        stem, _, rest = line.partition("\u2500\u2500 ")
        depth, name = len(stem) // 4, rest.split()[0]
        parents[depth:] = [name]
        printed.add(name)
        assert issubclass(getattr(taskfold.errors, name), getattr(taskfold.errors, parents[depth - 1])), line

    assert printed == set(taskfold.errors.__all__)


def test_a_conflict_is_no_error_of_a_log_and_neither_is_what_was_removed() -> None:
    assert not issubclass(VersionConflict, LogError)
    assert not issubclass(Gone, LogError)


def every_subclass(kind: type) -> Iterator[type]:
    for found in kind.__subclasses__():
        yield found
        yield from every_subclass(found)


def illegal() -> None:
    """Raise what a lifecycle table says of an event that does not fit."""
    engine = taskfold.Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    engine.record("a", "web", taskfold.events.Signaling())


def refused() -> None:
    engine = taskfold.Engine(dialect="1.1.2")
    engine.append([taskfold.Write(alloc="a", task="web", event=taskfold.events.Started())] * 2)


def test_an_error_reaches_who_waits_for_a_worker_in_another_process() -> None:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(IllegalEvent) as raised:
            pool.submit(illegal).result(60)
        assert raised.value.task == "web"
        assert raised.value.allowed
        assert raised.value.event in str(raised.value)
        with pytest.raises(AppendRefused) as several:
            pool.submit(refused).result(60)
        assert [place for place, _ in several.value.refusals] == [0, 1]
        assert all(isinstance(refusal, taskfold.UnknownAllocation) for _, refusal in several.value.refusals)
