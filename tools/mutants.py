"""Mutation testing: which changes of the rules would no test notice.

``make mutants`` changes the modules of `AREAS` in one place at a time, runs the tests of their area on each changed
module, and compares the changes that no test noticed with the ones that ``tests/mutants/`` lists and explains. It takes
hours; ``make mutants ONLY=fold/task.py`` runs a module or a folder, and ``SAMPLE=50`` so many changes of each module,
chosen by ``SEED``.

The operators that change code are mutmut's. mutmut itself changes functions only, and most of what is decided here
stands in tables; Cosmic Ray starts pytest anew for each change. So the changes are made here, also of tables. One
inside a function is tried in a fork of a process that has collected the tests (`tools.trials`); for any other one
everything is imported anew, in a fork of a process that has imported pytest and Hypothesis, but nothing of taskfold.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from time import monotonic
from types import CodeType
from typing import Any, Final, NamedTuple, TextIO

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper
from mutmut.mutation.mutators import mutation_operators

from tools.areas import AREAS, NAMED_ONLY
from tools.survivors import PACKAGE, ROOT, Change, Survivor, listed_survivors

__all__ = ["Mutation", "mutations_of"]


_LOGGER: Final = logging.getLogger(__name__)

# --- which changes there are ---


class Mutation(NamedTuple):
    """A change of a module, and the whole module with it."""

    change: Change
    text: str


_UNCHANGED: Final = (cst.Annotation, cst.Assert, cst.Decorator, cst.Import, cst.ImportFrom)
"""What no test can notice (annotations, assertions), or what every test does (imports)."""

_STATES: Final = ("PENDING", "RUNNING", "DEAD")


def _row(call: cst.Call) -> Iterator[cst.CSTNode]:
    """Change each state of a row of the lifecycle: what was legal is illegal or leads elsewhere, and the reverse."""
    states = list(_STATES) if call.args[0].star else [cst.Module([]).code_for_node(arg.value) for arg in call.args[:3]]
    for n, state in enumerate(states):
        others = [_STATES[n]] if state == "None" else ["None", _STATES[(_STATES.index(state) + 1) % 3]]
        for other in others:
            cells = [*states[:n], other, *states[n + 1 :]]
            yield call.with_changes(args=[*(cst.Arg(cst.Name(cell)) for cell in cells), call.args[-1]])


def _without_one(literal: cst.Dict | cst.Set | cst.List | cst.Tuple) -> Iterator[cst.CSTNode]:
    """Leave out each element of a table."""
    elements = list(literal.elements)
    # A tuple without parentheses is several values, and no table.
    if len(elements) > 1 and not (isinstance(literal, cst.Tuple) and not literal.lpar):
        for n in range(len(elements)):
            rest = [*elements[:n], *elements[n + 1 :]]
            if isinstance(literal, cst.Tuple):
                rest[-1] = rest[-1].with_changes(comma=cst.Comma())
            yield literal.with_changes(elements=rest)


def _negated(statement: cst.If | cst.While) -> Iterator[cst.CSTNode]:
    """Negate a condition that has no operator to be changed."""
    if not isinstance(statement.test, (cst.Comparison, cst.BooleanOperation, cst.UnaryOperation)):
        test = statement.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield statement.with_changes(test=cst.UnaryOperation(cst.Not(), test))


def _silent(statement: cst.Expr) -> Iterator[cst.CSTNode]:
    """Leave out a statement that only calls."""
    if isinstance(statement.value, cst.Call):
        yield cst.Pass()


Operator = Callable[[Any], Iterable[cst.CSTNode]]
_OPERATORS: Final[list[tuple[Any, Operator]]] = [
    *mutation_operators,
    ((cst.Dict, cst.Set, cst.List, cst.Tuple), _without_one),
    (cst.Expr, _silent),
]


def _is_noise(before: cst.CSTNode, after: cst.CSTNode) -> bool:
    """Tell whether a change is one of many alike, or breaks everything."""
    if isinstance(before, cst.Call) and isinstance(after, cst.Call):
        has_all = len(before.args) == len(after.args)
        positional = [sum(arg.keyword is None for arg in call.args) for call in (before, after)]
        changed = [one for one, other in zip(before.args, after.args, strict=False) if one is not other]
        # A keyword argument is left out, a positional one is None: otherwise each would be changed twice.
        return bool(changed[0].keyword) if has_all and changed else positional[0] != positional[1]
    if isinstance(before, cst.SimpleString):
        # One change of a text is enough, and the wording of a sentence is no rule.
        return "XX" not in str(getattr(after, "value", "")) or len(before.value.split()) > 3  # noqa: PLR2004
    # A value that the annotation does not admit is noticed by the type checker.
    return isinstance(before, cst.AnnAssign)


class _Mutations(cst.CSTVisitor):
    """The changes of a module, in order."""

    METADATA_DEPENDENCIES = (ByteSpanPositionProvider,)

    def __init__(self, name: str, text: str) -> None:
        super().__init__()
        self.name = name
        self.source = text.encode()
        self.scope: list[str] = []
        self.parts = _parts(text)
        self.texts: set[str] = {text}
        self.mutations: list[Mutation] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Change a node, and go on into it unless nothing in it is to be changed."""
        if isinstance(node, _UNCHANGED) or _is_for_type_checkers(node):
            return False
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self.scope.append(node.name.value)
            parts = [node.params, node.body] if isinstance(node, cst.FunctionDef) else [node.body]
            for part in parts:
                part.visit(self)
            self.scope.pop()
            return False
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "Row":
            self._add(node, _row(node))
            return False
        if isinstance(node, (cst.If, cst.While)):
            self._add(node.test, (new.test for new in _negated(node)))  # type: ignore[attr-defined]
        for kind, operator in _OPERATORS:
            if isinstance(node, kind):
                self._add(node, operator(node))
        return True

    def _add(self, node: cst.CSTNode, changed: Iterable[cst.CSTNode]) -> None:
        span = self.get_metadata(ByteSpanPositionProvider, node)
        start, end = span.start, span.start + span.length
        for after in changed:
            if _is_noise(node, after):
                continue
            # The parentheses around an expression stand outside its span.
            bare = after.with_changes(lpar=(), rpar=()) if getattr(node, "lpar", ()) else after
            code = cst.Module([]).code_for_node(bare)
            text = (self.source[:start] + code.strip().encode() + self.source[end:]).decode()
            first, last = next(part for part in self.parts if part[0] <= start < part[1])
            if text not in self.texts and _compiles(
                text.encode()[first : len(text.encode()) - len(self.source) + last]
            ):
                self.texts.add(text)
                scope = ".".join(self.scope)
                change = Change.between(self.name, scope, self.source.decode(), text)
                self.mutations.append(Mutation(change, text))


def _parts(text: str) -> list[tuple[int, int]]:
    """Return where each statement of a module begins and ends (bytes)."""
    ends = list(accumulate(len(line.encode()) for line in text.splitlines(keepends=True)))
    lines = [
        min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))]) - 1
        for node in ast.parse(text).body
    ]
    starts = [0, *(ends[line - 1] for line in lines[1:])]
    return list(zip(starts, [*starts[1:], ends[-1]], strict=True))


def _is_for_type_checkers(node: cst.CSTNode) -> bool:
    """Tell whether a statement says something to type checkers, or which names are public."""
    if isinstance(node, cst.If):
        return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
    if isinstance(node, cst.AnnAssign):
        annotation = node.annotation.annotation
        return node.value is None or (isinstance(annotation, cst.Name) and annotation.value == "TypeAlias")
    if not isinstance(node, cst.Assign):
        return False
    target, value = node.targets[0].target, node.value
    is_variable = isinstance(value, cst.Call) and isinstance(value.func, cst.Name) and value.func.value == "TypeVar"
    return is_variable or (isinstance(target, cst.Name) and target.value in {"__all__", "__slots__"})


def _compiles(text: bytes) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def mutations_of(name: str) -> list[Mutation]:
    """Return the changes of a module, in the order of the source."""
    text = (PACKAGE / name).read_text(encoding="utf-8")
    mutations = _Mutations(name, text)
    MetadataWrapper(cst.parse_module(text)).visit(mutations)
    return mutations.mutations


# --- what the tests make of one ---


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads a module whose text was changed, and finds no other one."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__("taskfold." + name.removesuffix(".py").replace("/", "."), str(PACKAGE / name))
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the changed text."""
        code: CodeType = compile(self._text, self.get_filename(fullname), "exec")
        return code

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the changed module; None for another one."""
        is_it = fullname == self.name
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self) if is_it else None


class Verdict(NamedTuple):
    """What the tests made of a change."""

    is_noticed: bool
    cpu_seconds: float


class _Answer(NamedTuple):
    """What `Trials` says of a change."""

    is_noticed: bool | None
    """None if everything has to be imported anew to tell."""
    cpu_seconds: float
    by: str
    """The test that noticed."""


def _arguments(*tests: str) -> list[str]:
    plugins = [part for plugin in ("_hypothesis_pytestplugin", "pytest_timeout") for part in ("-p", plugin)]
    return [
        "-x",
        "-q",
        "--tb=native",
        *plugins,
        "-p",
        "no:cacheprovider",
        "--timeout=600",
        "--hypothesis-profile=mutants",
        *tests,
    ]


def _silence(log: Path | None = None) -> None:
    """Write to a file, or nowhere, from now on."""
    output = os.open(os.devnull if log is None else log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)


def _tried(modules: Sequence[str], mutations: Sequence[Mutation], *, part: str) -> Iterator[_Answer]:
    """Try changes of modules that have the same tests, by `Trials`; yield an answer to each, in order.

    Exits where a test fails without a change.
    """
    import pytest

    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            _silence()
            from tools.trials import Trial, Trials

            with os.fdopen(writer, "w", buffering=1) as pipe:
                trials = [Trial(mutation.change.module, mutation.text, mutation.change) for mutation in mutations]
                tests = [*AREAS[modules[0]], *(f"engine/taskfold/{module}" for module in modules)]
                pytest.main(_arguments(*tests), plugins=[Trials(modules, trials, pipe.write, is_dry=part == "tables")])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        for line in lines:
            message = json.loads(line)
            if "failed" in message:
                sys.exit(f"a test fails without a change: {message['failed']}")
            if "tests" in message and "n" not in message:
                _say(f"{message['tests']} tests, {message['seconds']:.0f} s", sys.stderr)
            else:
                yield _Answer(message["noticed"], message.get("seconds", 0.0), message.get("by") or "")
    os.waitpid(child, 0)


def _run(name: str, text: str, *, cpu_seconds: int, log: Path | None = None) -> Verdict:
    """Run the tests of a module with this text, in a process of its own, for so long at most."""
    import pytest

    child = os.fork()
    if not child:
        code = 2
        try:
            _silence(log)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            changed = _Changed(name, text)
            sys.meta_path.insert(0, changed)
            # Now: pytest would find the module of a doctest by itself.
            assert importlib.import_module(changed.name).__loader__ is changed
            code = 0
            for tests in (*AREAS[name], f"engine/taskfold/{name}"):
                ended = pytest.main(_arguments(tests))
                # A module need not have doctests.
                if ended not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
                    code = 1
                    break
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    return Verdict(status != 0, usage.ru_utime + usage.ru_stime)


def _prepare() -> None:
    """Import what every test needs, but nothing of taskfold, and choose how Hypothesis works."""
    # Its plugin would import taskfold.
    os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import hypothesis
    import hypothesis.internal.conjecture.engine
    import hypothesis.strategies
    import msgspec
    import pytest
    import sortedcontainers
    import transitions

    del msgspec, pytest, sortedcontainers, transitions
    # One example that fails is enough: nobody asks for the shortest. What few examples do not notice is a survivor.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, deadline=None, database=None, phases=phases, max_examples=30
    )
    assert "taskfold" not in sys.modules
    gc.freeze()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "engine"))


# --- all of it ---


def _say(line: str, stream: TextIO = sys.stdout) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def _selection(only: Sequence[str]) -> list[str]:
    """Return the modules that are asked for: by their path, or that of a folder. Exits where one names none."""
    modules: list[str] = []
    for part in only or [""]:
        path = part.removeprefix("engine/taskfold/")
        names = [name for name in AREAS if name.startswith(path) and (name == path or name not in NAMED_ONLY)]
        if not names:
            sys.exit(f"ONLY={part} names none of: {', '.join(AREAS)}")
        modules += [name for name in names if name not in modules]
    return modules


PARTS: Final = ("all", "functions", "tables")
"""The changes that can be asked for: those inside functions, or those that an import runs."""


class _Run(NamedTuple):
    """The changes of a module that are run."""

    module: str
    possible: list[Mutation]
    """All changes that there are."""
    sample: list[Mutation]


def _verdicts_of(runs: Sequence[_Run], *, part: str) -> Iterator[tuple[_Run, Iterator[tuple[Change, bool]]]]:
    """Yield the changes of each module, and whether a test notices; the modules have the same tests."""
    mutations = [mutation for run in runs for mutation in run.sample]
    answers = _tried([run.module for run in runs], mutations, part=part)
    for run in runs:
        yield run, _verdicts_among(run, answers, part=part)


def _verdicts_among(run: _Run, answers: Iterator[_Answer], *, part: str) -> Iterator[tuple[Change, bool]]:
    """Yield the changes of a module, and whether a test notices; take an answer for each."""
    name, limit = run.module, 0
    for n, mutation in enumerate(run.sample, start=1):
        is_noticed, seconds, by = next(answers)
        if part == ("tables" if is_noticed is not None else "functions"):
            continue
        if is_noticed is None:
            if not limit:
                verdict = _run(name, (PACKAGE / name).read_text(encoding="utf-8"), cpu_seconds=600)
                if verdict.is_noticed:
                    sys.exit(f"the tests of {name} fail without a change: {', '.join(AREAS[name])}")
                limit = 10 + int(3 * verdict.cpu_seconds)
            is_noticed, seconds = _run(name, mutation.text, cpu_seconds=limit)
            by = "anew"
        _LOGGER.info("%d/%d %.1f s %s %s", n, len(run.sample), seconds, by, mutation.change)
        yield mutation.change, is_noticed


def _sample(mutations: list[Mutation], options: argparse.Namespace, name: str) -> list[Mutation]:
    """Return the changes of a module that are to be run."""
    if options.scope is not None:
        mutations = [mutation for mutation in mutations if mutation.change.scope == options.scope]
    if options.sample is None or options.sample >= len(mutations):
        return mutations
    return random.Random(f"{options.seed} {name}").sample(mutations, options.sample)  # noqa: S311 - to be repeated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the changes that are asked for, and compare what no test notices with what is listed."""
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("only", nargs="*", help="modules, or folders of them, such as fold/task.py")
    parser.add_argument("--sample", type=int, help="how many changes of each module")
    parser.add_argument("--part", choices=PARTS, default="all", help="the changes inside functions, or the others")
    parser.add_argument("--scope", help="the function or class, such as Decision.task")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample")
    parser.add_argument("--verbose", action="store_true", help="print every change")
    options = parser.parse_args(arguments)
    names = _selection(options.only)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    _prepare()
    survivors = {survivor.change: survivor for survivor in listed_survivors()}
    news: list[Survivor] = []
    is_failed = False
    for tests in dict.fromkeys(AREAS[name] for name in names):
        modules = [name for name in names if AREAS[name] == tests]
        runs = [_Run(name, every := mutations_of(name), _sample(every, options, name)) for name in modules]
        for run, verdicts in _verdicts_of(runs, part=options.part):
            begin = monotonic()
            tried: set[Change] = set()
            alive: set[Change] = set()
            for change, is_noticed in verdicts:
                tried.add(change)
                if is_noticed:
                    continue
                alive.add(change)
                if change not in survivors:
                    news.append(Survivor(change, ""))
                    _say(news[-1].as_toml())
            of_module = {change for change in survivors if change.module == run.module}
            for change in sorted(of_module - {mutation.change for mutation in run.possible}):
                _say(f"listed, and no change of today's source: {change}")
                is_failed = True
            for change in sorted(of_module & tried - alive):
                _say(f"listed, and noticed by now: {change}")
            _say(
                f"{run.module}: {len(tried)} of {len(run.possible)} changes, {len(tried) - len(alive)} noticed, "
                f"{len(alive)} not, {len(alive - of_module)} of these not listed; {monotonic() - begin:.0f} s"
            )
    if news:
        _say(f"{len(news)} changes that no test notices are not listed in tests/mutants: write a test, or the reason")
    return 1 if news or is_failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
