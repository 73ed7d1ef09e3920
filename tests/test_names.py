"""Names are nouns and verbs, each with one owner: a bare participle says that something happened, and not what it is.

The checker works on source text, so that the small sources at the end of this file prove that it is able to fail.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import taskfold

PACKAGE = Path(__file__).parents[1] / "engine" / "taskfold"

PARTICIPLES = frozenset(
    [
        "answered",
        "asked",
        "begun",
        "checked",
        "chosen",
        "decided",
        "done",
        "expected",
        "found",
        "given",
        "heard",
        "held",
        "kept",
        "known",
        "left",
        "listed",
        "made",
        "meant",
        "missed",
        "named",
        "noted",
        "placed",
        "posted",
        "received",
        "recorded",
        "reported",
        "said",
        "seen",
        "sent",
        "served",
        "shown",
        "spoken",
        "stored",
        "taken",
        "told",
        "touched",
        "wanted",
        "written",
    ]
)


def bindings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a source binds, with its line: functions, arguments, variables, fields.

    Classes are left out: those of events and inputs have the words of Nomad, as Received.
    """
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, 0


def bare_participles(source: str) -> list[str]:
    """Return the bindings of a source that are nothing but a participle, as `line: name`."""
    names = sorted({(line, name) for name, line in bindings(ast.parse(source))})
    return [f"{line}: {name}" for line, name in names if name.strip("_").lower() in PARTICIPLES]


ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in (PACKAGE, ROOT / "tools", ROOT / "benchmarks") for path in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_a_bare_participle(path: Path) -> None:
    assert bare_participles(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["found = 1", "def told(): ...", "def f(known): ...", "for _kept in x: ...", "a.held = 1"],
)
def test_the_checker_refuses(source: str) -> None:
    assert len(bare_participles(source)) == 1


@pytest.mark.parametrize("source", ["found_at = 1", "def records(): ...", "print(x.found)", "is_known = True"])
def test_the_checker_allows(source: str) -> None:
    assert bare_participles(source) == []


PUBLIC_MODULES = ("effects", "errors", "events", "http", "inputs", "log", "nomad", "nomad.views", "testing")

TWO_OWNERS = {
    "running": "Nomad's word for an event; the function runs an App, and is called as a sentence: `with running(app)`",
}
"""Public names that mean two things, and why they must."""


def public_names() -> Iterator[tuple[str, object]]:
    """Yield every public name, as often as a module has it, with what it stands for; modules are left out."""
    for module in (taskfold, *(import_module(f"taskfold.{name}") for name in PUBLIC_MODULES)):
        names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        for name in names:
            if not isinstance(value := getattr(module, name), ModuleType):
                yield name, value


def is_result(function: object, cls: object) -> bool:
    """Tell whether a function returns what the class of its name is: `replay` a Replay."""
    return (
        inspect.isfunction(function)
        and inspect.isclass(cls)
        and inspect.get_annotations(function)["return"] == cls.__name__
    )


def two_owners(names: Iterable[tuple[str, object]]) -> list[str]:
    """Return the names, in lower case, that stand for two things."""
    owners: dict[str, dict[int, object]] = defaultdict(dict)
    for name, value in names:
        owners[name.lower()][id(value)] = value
    several = {name: list(values.values()) for name, values in owners.items() if len(values) > 1}
    return sorted(
        name
        for name, values in several.items()
        if not (len(values) == 2 and (is_result(*values) or is_result(*reversed(values))))
    )


def test_no_public_name_has_two_owners() -> None:
    assert two_owners(public_names()) == sorted(TWO_OWNERS)


def test_two_owners_are_seen() -> None:
    class Report:
        """What a method returns."""

    def report() -> int: ...

    def told() -> Report: ...

    assert two_owners([("Report", Report), ("report", report)]) == ["report"]
    assert two_owners([("Report", Report), ("report", told)]) == two_owners([("Report", Report)] * 2) == []


def classes(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the classes and of the types that a module defines, without private ones."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript()) if name[:1].isupper():
                yield name


def test_no_class_of_the_package_has_the_name_of_another() -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in classes(ast.parse(path.read_text("utf-8"))):
            if not name.startswith("_"):
                owners[name].append(path.relative_to(PACKAGE).as_posix())
    assert {name: paths for name, paths in owners.items() if len(paths) > 1} == {}
