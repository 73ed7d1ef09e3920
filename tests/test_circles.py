"""No module imports itself by way of others: not at once, not in a function, not for its types, not by its name.

The checker works on source text, so that the small packages at the end of this file prove that it is able to fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "engine" / "taskfold"


def module_name(path: Path) -> str:
    parts = [PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, modules: Mapping[str, object]) -> Iterator[str]:
    """Yield every module of the package that a source imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, (ast.Tuple, ast.List, ast.Dict)):
            entries = node.values if isinstance(node, ast.Dict) else node.elts
            # What a table of modules names is imported by it.
            yield from (
                each.value for each in entries if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )


def circles(sources: Mapping[str, str]) -> list[list[str]]:
    """Return the groups of modules of which each imports all others, by way of them. O(modules + imports)."""
    graph = {name: set(imports(text, sources)) & sources.keys() - {name} for name, text in sources.items()}
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:  # Tarjan's algorithm
        numbers[name] = lowest[name] = len(numbers)
        path.append(name)
        for other in sorted(graph[name]):
            if other not in numbers:
                visit(other)
            if other in path:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == numbers[name]:
            group = path[path.index(name) :]
            del path[path.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in numbers:
            visit(name)
    return groups


SOURCES = {module_name(path): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert len(SOURCES) > 100
    assert circles(SOURCES) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"p.a": "from p.b import x", "p.b": "from p.a import y"},
        {"p.a": "from p import b", "p.b": "def f():\n    from p.a import y"},
        {"p.a": "import p.b", "p.b": "import p.c", "p.c": "if TYPE_CHECKING:\n    from p.a import y"},
        {"p": "from p.a import x", "p.a": "from p import y"},
        {"p.a": 'KINDS = ("p.b",)', "p.b": "from p import a"},
    ],
)
def test_the_checker_finds_a_circle(sources: dict[str, str]) -> None:
    assert circles(sources) == [sorted(sources)]


@pytest.mark.parametrize(
    "sources",
    [
        {"p.a": "from p.b import x\nfrom p.c import y", "p.b": "from p.c import y", "p.c": "import os"},
        {"p": "", "p.a": "from p import b", "p.b": ""},
    ],
)
def test_the_checker_allows_what_goes_one_way(sources: dict[str, str]) -> None:
    assert circles(sources) == []
