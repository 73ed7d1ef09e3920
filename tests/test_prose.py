"""Docstrings are plain: a noun or a verb first, a short first sentence, no riddles of relative clauses, and the errors.

The checker works on source text, so that the small sources at the end of this file prove that it is able to fail.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "engine" / "taskfold"
SOURCES = sorted(PACKAGE.rglob("*.py"))

MOST_WORDS = 40
"""The longest first sentence of a docstring."""

RELATIVE = re.compile(r"(what|who|whose|whom|which|that|where)\b", re.IGNORECASE)
"""The words with which no docstring begins: it names a thing, or what a function does."""

RIDDLES = re.compile(
    r"\b(what (is|was|are|were) (wrong|right|there|new|said|told|asked|known|read|written|wanted|removed|given)"
    r"|that which|(of|to|for|by|with|from) who\b|who (is|was|has|waits|writes|reads|asks|tells|listens|leads)\b"
    r"|whoever|what what|go(es)? on from|lets? go of|let go)\b",
    re.IGNORECASE,
)
"""Relative clauses that stand where a noun belongs: the error, the waiter, the caller, the records."""

NO_ERRORS_OF_OURS = frozenset({"AssertionError", "AttributeError", "NotImplementedError", "SystemExit"})


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every docstring with its line: of modules, classes and functions, and those below an attribute."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield child.lineno, child.value.value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield every comment with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def first_sentence(docstring: str) -> str:
    """Return a docstring up to the end of its first sentence, paragraph or list head."""
    paragraph = docstring.strip().split("\n\n")[0]
    return re.split(r"(?<=[.:;])\s", " ".join(paragraph.split()))[0]


def prose_of(docstring: str) -> str:
    """Return a docstring without its examples and without code."""
    lines = [line for line in docstring.splitlines() if not line.strip().startswith((">>>", "..."))]
    return re.sub(r"``[^`]*``|`[^`]*`", "", "\n".join(lines))


def raised(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return the names of the exceptions that a function itself raises, without those of inner functions."""
    names: set[str] = set()
    queue: list[ast.AST] = list(function.body)
    while queue:
        node = queue.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            names.add(node.exc.func.id)
        queue += ast.iter_child_nodes(node)
    return {name for name in names if name[0].isupper()} - NO_ERRORS_OF_OURS


def is_exempt(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function need not name its errors: it is private, or a command, whose docstring is its help."""
    return function.name.startswith("_") or any("command" in ast.unparse(one) for one in function.decorator_list)


def complaints(source: str) -> list[str]:
    """Return what the checker finds in a source, as `line: complaint`."""
    tree = ast.parse(source)
    found = []
    for line, text in docstrings(tree):
        if RELATIVE.match(text.strip()):
            found.append(f"{line}: begins with a relative clause: {first_sentence(text)[:60]}")
        if len(first_sentence(text).split()) > MOST_WORDS:
            found.append(f"{line}: the first sentence has more than {MOST_WORDS} words")
        if riddle := RIDDLES.search(prose_of(text)):
            found.append(f"{line}: {riddle[0]!r} stands for a noun")
    for line, text in comments(source):
        if riddle := RIDDLES.search(text):
            found.append(f"{line}: {riddle[0]!r} stands for a noun")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_exempt(node):
            text = ast.get_docstring(node)
            if text is not None and (names := raised(node)) and not re.search(r"\b[Rr]aise", text):
                found.append(f"{node.lineno}: {node.name} raises {', '.join(sorted(names))}, and does not say so")
    return sorted(found, key=lambda each: int(each.partition(":")[0]))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_prose_is_plain(path: Path) -> None:
    assert complaints(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        '"""What a module does."""',
        'x = 1\n"""Whose it is."""',
        'def f():\n    """Return what is wrong with it."""',
        'def f():\n    """Wake whoever waits."""',
        "x = 1  # lets go of what was read",
        f'"""{"word " * 50}end."""',
        'def f():\n    """Do it."""\n    raise ValueError("no")',
    ],
)
def test_the_checker_refuses(source: str) -> None:
    assert len(complaints(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        '"""The hole check for reads that skip compacted records."""',
        'def f():\n    """Return the error, whatever it is."""',
        'def f():\n    """Do it. Raises ValueError."""\n    raise ValueError("no")',
        'def _f():\n    """Do it."""\n    raise ValueError("no")',
        f'"""A short one.\n\n{"word " * 50}end."""',
        'def f():\n    """Do it.\n\n    >>> what is new\n    """',
    ],
)
def test_the_checker_allows(source: str) -> None:
    assert complaints(source) == []
