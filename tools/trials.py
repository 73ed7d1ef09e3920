"""Trials of changes inside functions, by the tests that run the changed lines.

A process collects the tests of an area once, and runs each of them to learn which lines of the area it runs, and how
long it takes. For every change it forks: the fork replaces the code of the changed function, and runs the tests that
meet the changed lines, the quickest first, until one fails. So a change costs some milliseconds, instead of the
import of everything.

A change that an import already runs cannot be tried so: of a table, of a default value, or inside a function by
which a table is made. `Trials.run` says None of these, and `tools.mutants` imports everything anew for each.
"""

from __future__ import annotations

import ast
import functools
import gc
import json
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from time import process_time
from types import CodeType, FrameType, FunctionType
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

from tools.survivors import PACKAGE, Change

__all__ = ["Place", "Trial", "Trials", "changed_function", "changed_lines"]

Place: TypeAlias = tuple[str, str, int, int]
"""A line of a function that ran: file, name of the code, its first line, and the line."""

_COMPREHENSIONS: Final = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class Trial(NamedTuple):
    """A change to be tried."""

    module: str
    text: str
    """The changed text of the module."""
    change: Change


# --- what is changed ---


def _is_function(code: CodeType) -> bool:
    return code.co_name not in _COMPREHENSIONS and bool(code.co_flags & 1)  # CO_OPTIMIZED: no body of a class


def _nested(code: CodeType) -> list[CodeType]:
    return [const for const in code.co_consts if isinstance(const, CodeType)]


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Yield the functions of a module and of its classes, but none inside a function."""
    for part in _nested(code):
        if _is_function(part):
            yield part
        else:
            yield from _functions(part)


def _shape(code: CodeType, *, is_deep: bool) -> tuple[object, ...]:
    """Return what a code does, without its lines; functions inside are left out unless it has to be deep."""
    consts: list[object] = []
    for const in code.co_consts:
        if not isinstance(const, CodeType):
            consts.append((type(const), repr(const)))
        elif is_deep or not _is_function(const):
            consts.append(_shape(const, is_deep=is_deep))
        else:
            consts.append("a function")
    variables = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_code, *variables, code.co_exceptiontable, tuple(consts))


def changed_function(before: CodeType, after: CodeType) -> tuple[CodeType, CodeType] | None:
    """Return the function that differs between two codes of a module, as it is in each; None if other things differ."""
    if _shape(before, is_deep=False) != _shape(after, is_deep=False):
        return None
    pairs = zip(_functions(before), _functions(after), strict=True)
    changed = [pair for pair in pairs if _shape(pair[0], is_deep=True) != _shape(pair[1], is_deep=True)]
    if len(changed) != 1 or changed[0][0].co_freevars != changed[0][1].co_freevars:
        return None
    return changed[0]


def changed_lines(before: str, after: str) -> range:
    """Return the lines (from 1) of the statements that a change of a text touches; of a compound one its head."""
    old, new = before.splitlines(), after.splitlines()
    most = min(len(old), len(new))
    start = next((n for n in range(most) if old[n] != new[n]), most)
    end = next((n for n in range(most - start) if old[-1 - n] != new[-1 - n]), most - start)
    first, last = start + 1, max(len(old) - end, start + 1)
    spans = [span for span in _spans(before) if span.start <= last and span.stop > first]
    return range(min(span.start for span in spans), max(span.stop for span in spans)) if spans else range(0)


@functools.cache
def _spans(text: str) -> list[range]:
    """Return the lines of each statement of a text; of a compound one, those of its head."""
    spans: list[range] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.match_case):
            spans.append(range(node.pattern.lineno, node.body[0].lineno))
        elif isinstance(node, (ast.stmt, ast.ExceptHandler)):
            body = getattr(node, "body", None)
            end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
            spans.append(range(node.lineno, max(end, node.lineno + 1)))
    return spans


# --- which tests run it ---


def _place(code: CodeType, line: int) -> Place:
    return code.co_filename, code.co_name, code.co_firstlineno, line


@contextmanager
def _traced(paths: frozenset[str], places: set[Place]) -> Iterator[None]:
    """Note the lines of these files that run meanwhile, in any thread."""

    def note(frame: FrameType, kind: str, _: object) -> Any:
        if kind == "line":
            places.add(_place(frame.f_code, frame.f_lineno))
        return note

    def enter(frame: FrameType, kind: str, _: object) -> Any:  # noqa: ARG001 - the form of a trace function
        return note if frame.f_code.co_filename in paths else None

    threading.settrace(enter)
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(None)
        threading.settrace(None)


class Trials:
    """A pytest plugin that tries changes, instead of running the tests once."""

    def __init__(
        self, modules: Sequence[str], trials: Sequence[Trial], say: Callable[[str], None], *, is_dry: bool
    ) -> None:
        self.is_dry = is_dry
        """Only say which changes an import runs."""
        self.trials = trials
        self.say = say
        self.paths = {module: str(PACKAGE / module) for module in modules}
        self.texts = {module: (PACKAGE / module).read_text(encoding="utf-8") for module in modules}
        self.codes = {module: compile(text, self.paths[module], "exec") for module, text in self.texts.items()}
        self.by_import: set[Place] = set()
        self.by_test: dict[pytest.Item, set[Place]] = {}
        self.seconds: dict[pytest.Item, float] = {}
        self.wins: dict[str, list[pytest.Item]] = {}
        """The tests that noticed changes of a scope, the latest first."""
        self.is_failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Any:
        """Note what imports run."""
        with _traced(frozenset(self.paths.values()), self.by_import):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure."""
        self.is_failed = self.is_failed or report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn what each test runs, then try every change."""
        paths = frozenset(self.paths.values())
        for item in () if self.is_dry else session.items:
            places = self.by_test[item] = set()
            begin = process_time()
            with _traced(paths, places):
                self._run([item])
            self.seconds[item] = process_time() - begin
            if self.is_failed:
                self._tell(failed=item.nodeid)
                return True
        self._tell(tests=len(session.items), seconds=sum(self.seconds.values()))
        live = [thing for thing in gc.get_objects() if isinstance(thing, FunctionType)]
        self.functions = [function for function in live if function.__code__.co_filename in paths]
        caches = [thing for thing in gc.get_objects() if isinstance(thing, type(_spans))]
        self.caches = [cache for cache in caches if cache.__wrapped__.__module__.startswith("taskfold.")]
        gc.freeze()
        for n, trial in enumerate(self.trials):
            verdict = self._try(trial)
            self._tell(n=n, **verdict)
        return True

    def _tell(self, **message: object) -> None:
        self.say(json.dumps(message) + "\n")

    def _run(self, items: Sequence[pytest.Item]) -> pytest.Item | None:
        """Run tests until one fails, and return that one."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.is_failed:
                return item
        return None

    def _try(self, trial: Trial) -> dict[str, object]:
        path = self.paths[trial.module]
        changed = changed_function(self.codes[trial.module], compile(trial.text, path, "exec"))
        if changed is None:
            return {"noticed": None}
        old, new = changed
        codes = [old]
        for code in codes:
            codes += _nested(code)
        lines = changed_lines(self.texts[trial.module], trial.text)
        places = {_place(code, line) for code in codes for line in lines}
        functions = [function for function in self.functions if function.__code__ == old]
        if places & self.by_import or not functions:
            return {"noticed": None}
        if self.is_dry:
            return {"noticed": True}
        items = [item for item, test_places in self.by_test.items() if places & test_places]
        wins = self.wins.setdefault(trial.change.scope, [])
        rank = {item: n for n, item in enumerate(wins)}
        items.sort(key=lambda item: (rank.get(item, len(rank)) // 4, self.seconds[item]))
        winner, seconds = self._fork(functions, new, items)
        if winner is not None and winner < len(items):
            item = items[winner]
            wins[:] = [item, *(other for other in wins if other is not item)]
        by = None if winner is None else items[winner].nodeid if winner < len(items) else "time"
        return {"noticed": winner is not None, "seconds": seconds, "tests": len(items), "by": by}

    def _fork(
        self, functions: list[FunctionType], code: CodeType, items: list[pytest.Item]
    ) -> tuple[int | None, float]:
        """Run tests with another code of a function; return which one failed (their number: none, but time was up)."""
        if not items:
            return None, 0.0
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                limit = 5 + int(3 * list(accumulate(self.seconds[item] for item in items))[-1])
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
                resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                for cache in self.caches:
                    cache.cache_clear()
                for function in functions:
                    function.__code__ = code
                loser = self._run(items)
                os.write(writer, b"-1" if loser is None else str(items.index(loser)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answers:
            answer = answers.read()
        _, _, usage = os.wait4(child, 0)
        number = int(answer or len(items))
        return None if number == -1 else number, usage.ru_utime + usage.ru_stime
