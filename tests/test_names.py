"""Names are nouns and verbs: a bare participle says that something happened, and not what it is.

The checker works on source text, so that the small sources at the end of this file prove that it is able to fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
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
