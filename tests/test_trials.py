"""Trials of changes: which function changes, on which lines, and which tests meet it."""

from __future__ import annotations

import pytest

from tools.areas import AREAS, FOLDERS, NAMED_ONLY
from tools.survivors import PACKAGE, ROOT
from tools.trials import changed_function, changed_lines

SOURCE = """\
LIMIT = 1
DOUBLE = {"a": lambda n: n + n}

def first(a, b=2):
    if a == LIMIT:
        return sum(
            n
            for n in range(b)
        )
    return None

class Kind:
    SQUARES = [n * n for n in range(3)]

    def first(self, a):
        return a + 1
"""


def changed(old: str, new: str) -> tuple[str | None, list[int]]:
    """Return the function that a change of the source changes, if it changes one alone, and the lines of the change."""
    assert SOURCE.count(old) == 1
    text = SOURCE.replace(old, new)
    pair = changed_function(compile(SOURCE, "x.py", "exec"), compile(text, "x.py", "exec"))
    return pair and pair[0].co_qualname, list(changed_lines(SOURCE, text))


@pytest.mark.parametrize(
    ("old", "new", "function", "lines"),
    [
        ("a == LIMIT", "a != LIMIT", "first", [5]),
        ("            n\n", "            -n\n", "first", [6, 7, 8, 9]),
        ("return None", "return 0", "first", [10]),
        ("a + 1", "a - 1", "Kind.first", [16]),
        ("n + n", "n - n", "<lambda>", [2]),
        ("a + 1", "(\n            a - 1\n        )", "Kind.first", [16]),
    ],
)
def test_a_change_inside_a_function_is_of_its_statement(old, new, function, lines):
    assert changed(old, new) == (function, lines)


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 1", "LIMIT = 2"), ("b=2", "b=3"), ("n * n", "n + n"), ("def first(a", "def second(a")],
)
def test_what_an_import_runs_is_no_change_of_a_function(old, new):
    function, _ = changed(old, new)
    assert function is None


def test_every_module_of_the_folders_is_changed_and_every_area_exists():
    modules = {
        str(path.relative_to(PACKAGE))
        for folder in FOLDERS
        for path in (PACKAGE / folder).glob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= set(AREAS)
    assert set(AREAS) > NAMED_ONLY
    assert [module for module in AREAS if not (PACKAGE / module).exists()] == []
    assert [path for path in {path for tests in AREAS.values() for path in tests} if not (ROOT / path).exists()] == []
