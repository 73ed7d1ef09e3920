"""Imports go down only, the lower floors are pure, and every third-party name stays where its extra is.

The checker works on source text, so that the small sources at the end of this file prove that it is able to fail.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "engine" / "taskfold"

# From low to high: the folders of the package. A folder imports from itself and from those before it.
FLOORS = (
    "model",
    "fold",
    "decision",
    "nomad",
    "pictures",
    "log",
    "live",
    "sources",
    "columnar",
    "run",
    "recording",
    "http",
    "testing",
    "cli",
)
FACES = ("http", "testing", "cli")
# These gather what the package offers, from wherever it is; nothing else may import them but a face.
UNBOUND = ("taskfold", "taskfold.__main__", *(f"taskfold.{name}" for name in ("effects", "errors", "events", "inputs")))
# The only faces that a face may import, and only inside a function.
LAZY_FACES = {("cli", "http"), ("cli", "testing"), ("testing", "http")}

PURE_FLOORS = ("model", "fold", "decision")
IMPURE_MODULES = {
    "asyncio",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
}
IMPURE_CALLS = {"input", "open", "print"}
CLOCK_METHODS = {"now", "today", "utcnow"}
# model/clock.py is where the one clock that asks the machine is written; whoever needs it is handed it as an argument.
# Its manual clock may be moved by one thread while another waits for it.
IMPURE_BUT_ALLOWED = {("taskfold.model.clock", "time"), ("taskfold.model.clock", "threading")}

BASE_DEPENDENCIES = {"msgspec", "sortedcontainers", "transitions"}
FLOOR_DEPENDENCIES = {
    "cli": {"click", "rich"},
    "columnar": {"duckdb", "numpy", "pyarrow"},
    "recording": {"httpx"},
    "http": {"httptools", "httpx", "prometheus_client", "uvicorn", "uvloop"},
    "testing": {"hypothesis", "pytest"},
}

# What one module needs that is no face: it comes with an extra, and whoever imports the module does so in a function.
EXTRA_MODULES = {
    "taskfold.cli._parquet": {"pyarrow"},
    "taskfold.cli._top_screen": {"textual"},
    "taskfold.log.postgres.log": {"psycopg"},
    "taskfold.log.postgres.reader": {"psycopg"},
    "taskfold.log.postgres.tables": {"psycopg"},
    "taskfold.log.zstd": {"backports", "compression"},
}

HEIGHT = {floor: height for height, floor in enumerate(FLOORS)}


class Import(NamedTuple):
    """One imported module: its full name, the line, and whether it is imported only when a function runs."""

    module: str
    line: int
    lazy: bool


def part_of(module: str) -> str:
    """Return the name by which FLOORS knows a module: `log` for `taskfold.log.sqlite.log`, empty for `taskfold`."""
    return module.partition(".")[2].partition(".")[0]


class ImportCollector(ast.NodeVisitor):
    """Collects every import of a module, wherever it stands."""

    def __init__(self, module: str, *, is_package: bool) -> None:
        self.package = module if is_package else module.rpartition(".")[0]
        self.function_depth = 0
        self.imports: list[Import] = []

    def add(self, module: str, node: ast.stmt | ast.expr) -> None:
        self.imports.append(Import(module, node.lineno, self.function_depth > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = node.module or ""
        if node.level:
            ancestors = self.package.split(".")
            source = ".".join([*ancestors[: len(ancestors) + 1 - node.level], *filter(None, [source])])
        for alias in node.names:
            # `from taskfold import events` imports a module; `from taskfold import Engine` the package itself.
            is_module = source == "taskfold" and alias.name in HEIGHT
            self.add(f"taskfold.{alias.name}" if is_module else source, node)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in {"import_module", "__import__"} and node.args and isinstance(node.args[0], ast.Constant):
            self.add(str(node.args[0].value), node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        # What only a type checker imports is imported by nobody when the program runs.
        is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        self.function_depth += is_for_types
        self.generic_visit(node)
        self.function_depth -= is_for_types

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit_function(node)

    def visit_function(self, node: ast.AST) -> None:
        self.function_depth += 1
        self.generic_visit(node)
        self.function_depth -= 1


def floor_problem(floor: str, imported: Import) -> str | None:
    """Say why a module of a floor may not import another module of taskfold, or None when it may."""
    target = part_of(imported.module)
    if not target or imported.module in UNBOUND:
        above = f"`import {imported.module}` stands above every floor but the faces: import the module that is meant"
        return None if floor in FACES else above
    if target not in HEIGHT:
        return f"{imported.module} belongs to no floor"
    if floor in FACES and target in FACES and floor != target:
        if (floor, target) not in LAZY_FACES:
            return f"the face {floor} may not import the face {target}"
        if not imported.lazy:
            return f"the face {floor} may import the face {target} only inside a function"
    elif HEIGHT[target] > HEIGHT[floor]:
        return f"imports {imported.module}, which is higher: {floor} may not import {target}"
    return None


def dependency_problem(module: str, imported: Import) -> str | None:
    """Say why a module may not import something from outside, or None when it may."""
    part = part_of(module)
    top = imported.module.partition(".")[0]
    if part in PURE_FLOORS and top in IMPURE_MODULES and (module, top) not in IMPURE_BUT_ALLOWED:
        return f"the floor {part} is pure and may not import {imported.module}"
    known = (
        sys.stdlib_module_names
        | BASE_DEPENDENCIES
        | FLOOR_DEPENDENCIES.get(part, set())
        | EXTRA_MODULES.get(module, set())
    )
    return None if top in known else f"{part} may not import {top}: it is neither in the base nor in an extra of {part}"


def datetime_names(tree: ast.Module) -> set[str]:
    """Return the names under which a module knows datetime and its classes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "datetime"}
        elif isinstance(node, ast.ImportFrom) and node.module == "datetime":
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def purity_problems(tree: ast.Module) -> list[tuple[int, str]]:
    """Find what a pure module may not do: touch files or the terminal, or read the machine's clock."""
    problems = []
    clocks = datetime_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            problems.append((node.lineno, f"a pure module may not call {node.func.id}()"))
        # A reference is enough: `default_factory=datetime.now` reads the clock as well.
        if isinstance(node, ast.Attribute) and node.attr in CLOCK_METHODS:
            written = ast.unparse(node)
            if written.partition(".")[0] in clocks:
                problems.append((node.lineno, f"a pure module may not use {written}"))
    return problems


def check_source(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return every breach of the floors in the source of one module, each as `module:line: sentence`."""
    if module in UNBOUND:
        return []
    part = part_of(module)
    if part not in HEIGHT:
        return [f"{module}:1: belongs to no floor: place {part!r} in FLOORS of tests/test_floors.py"]
    tree = ast.parse(source)
    collector = ImportCollector(module, is_package=is_package)
    collector.visit(tree)
    found = purity_problems(tree) if part in PURE_FLOORS else []
    for imported in collector.imports:
        is_ours = imported.module.partition(".")[0] == "taskfold"
        if imported.module in EXTRA_MODULES and not imported.lazy and module not in EXTRA_MODULES:
            found.append((imported.line, f"{imported.module} needs an extra: import it only inside a function"))
        problem = floor_problem(part, imported) if is_ours else dependency_problem(module, imported)
        if problem:
            found.append((imported.line, problem))
    return [f"{module}:{line}: {problem}" for line, problem in sorted(set(found))]


def module_name(path: Path) -> str:
    parts = ["taskfold", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_there_are_modules_to_check() -> None:
    assert SOURCES


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_keeps_to_its_floor(module: str) -> None:
    path = SOURCES[module]
    problems = check_source(module, path.read_text("utf-8"), is_package=path.name == "__init__.py")
    assert not problems, "\n".join(problems)


def test_the_package_has_the_floors_as_folders_and_only_public_modules_beside_them() -> None:
    assert {part_of(module) for module in SOURCES if module not in UNBOUND} == set(FLOORS)


FORBIDDEN = [
    ("taskfold.somewhere", "", "place 'somewhere' in FLOORS"),
    ("taskfold.fold.task", "from taskfold.live import engine", "fold may not import live"),
    ("taskfold.fold.task", "import taskfold.nomad.snapshot", "fold may not import nomad"),
    ("taskfold.log.memory", "from ..live import engine", "log may not import live"),
    ("taskfold.log", "from .sqlite import x\nfrom .. import cli", "taskfold.log:2: imports taskfold.cli"),
    ("taskfold.live.engine", "def f():\n    from taskfold.http import server", "live may not import http"),
    (
        "taskfold.model.events",
        "if TYPE_CHECKING:\n    from taskfold.fold.task import Task",
        "model may not import fold",
    ),
    ("taskfold.sources.replay", "import_module('taskfold.cli.table')", "sources may not import cli"),
    ("taskfold.sources.replay", "from taskfold.attic import x", "taskfold.attic belongs to no floor"),
    ("taskfold.decision.rules", "from taskfold import Engine", "stands above every floor"),
    ("taskfold.decision.rules", "from taskfold import events", "stands above every floor"),
    ("taskfold.decision.rules", "from taskfold.events import Started", "stands above every floor"),
    ("taskfold.live.engine", "import taskfold", "stands above every floor"),
    ("taskfold.cli.main", "from taskfold.http import server", "only inside a function"),
    ("taskfold.http.serve.server", "def f():\n    from taskfold.cli import main", "may not import the face cli"),
    ("taskfold.testing.rules", "async def f():\n    import taskfold.cli", "may not import the face cli"),
    ("taskfold.fold.ring", "import os.path", "pure and may not import os.path"),
    ("taskfold.decision.rules", "if TYPE_CHECKING:\n    from random import Random", "pure and may not import random"),
    ("taskfold.model.events", "def f():\n    import time", "pure and may not import time"),
    ("taskfold.model.clock", "import asyncio", "pure and may not import asyncio"),
    ("taskfold.fold.task", "print('here')", "may not call print()"),
    ("taskfold.fold.task", "with open('x') as file: pass", "may not call open()"),
    ("taskfold.fold.task", "from datetime import datetime as when\nwhen.now()", "may not use when.now"),
    ("taskfold.fold.task", "import datetime\nf = datetime.datetime.utcnow", "may not use datetime.datetime.utcnow"),
    ("taskfold.fold.task", "from datetime import date\ndate.today()", "may not use date.today"),
    ("taskfold.live.engine", "import click", "live may not import click"),
    ("taskfold.http.serve.server", "def f():\n    import rich.table", "http may not import rich"),
    ("taskfold.cli.main", "import hypothesis", "cli may not import hypothesis"),
    ("taskfold.log.columns", "import numpy", "log may not import numpy"),
    ("taskfold.log.sqlite.log", "import psycopg", "log may not import psycopg"),
    ("taskfold.live.engine", "from taskfold.log.postgres.log import PostgresLog", "only inside a function"),
]

ALLOWED = [
    ("taskfold", "from taskfold.cli import main\nimport numpy"),
    ("taskfold.__main__", "from taskfold.cli import main"),
    ("taskfold.events", "from taskfold.model.events import *"),
    (
        "taskfold.fold.task",
        "from taskfold.model import events\nfrom .ring import Ring\nfrom ..model.record import Record",
    ),
    (
        "taskfold.log.sqlite.log",
        "import sqlite3, os, time\nfrom . import memory\nfrom ..nomad import snapshot\nopen('x')",
    ),
    ("taskfold.model.clock", "import time"),
    ("taskfold.log.postgres.log", "import psycopg"),
    ("taskfold.live.engine", "def f():\n    from taskfold.log.postgres.log import PostgresLog"),
    ("taskfold.model.go.timestamps", "from datetime import datetime\ndatetime.fromisoformat('2026-01-01')"),
    ("taskfold.fold.task", "clock.now()"),
    ("taskfold.live.engine", "from taskfold.nomad import importer\nimport msgspec, transitions, sortedcontainers"),
    ("taskfold.cli.main", "import click, rich.table, taskfold\ndef serve():\n    from taskfold.http import server"),
    ("taskfold.testing.rules", "import hypothesis.strategies\nfrom taskfold.live.engine import Engine"),
]


@pytest.mark.parametrize(("module", "source", "expected"), FORBIDDEN)
def test_the_checker_refuses(module: str, source: str, expected: str) -> None:
    problems = check_source(module, source, is_package=module == "taskfold.log")
    assert len(problems) == 1
    assert expected in problems[0]


@pytest.mark.parametrize(("module", "source"), ALLOWED)
def test_the_checker_allows(module: str, source: str) -> None:
    assert check_source(module, source) == []
