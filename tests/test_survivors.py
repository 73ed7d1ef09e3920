"""The list of changes of the rules that no test notices: ``make mutants`` compares what it sees with it."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from tools.survivors import PACKAGE, Change, Survivor, listed_survivors

SURVIVORS = tuple(listed_survivors())


def text_of(module: str) -> str:
    return (PACKAGE / module).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "survivor", SURVIVORS, ids=lambda survivor: f"{survivor.change.module}:{survivor.change.scope}"
)
def test_a_change_that_is_listed_still_applies(survivor: Survivor) -> None:
    change = survivor.change
    assert change.applies(text_of(change.module)), f"{change} is no change of today's source: run `make mutants`"


def test_a_change_that_is_listed_has_a_reason() -> None:
    assert SURVIVORS
    assert [survivor.change for survivor in SURVIVORS if len(survivor.reason.split()) < 3] == []


def test_no_change_is_listed_twice() -> None:
    counts = Counter(survivor.change for survivor in SURVIVORS)
    assert [change for change, count in counts.items() if count > 1] == []


SOURCE = """\
LIMIT = 1

def first(a):
    return a == LIMIT

class Kind:
    def first(self, a):
        if a == LIMIT:
            return a
        if a == LIMIT:
            return None
"""


def test_a_change_is_its_lines_in_their_function() -> None:
    changed = SOURCE.replace("return a ==", "return a !=")
    change = Change.between("x.py", "first", SOURCE, changed)
    assert change == Change("x.py", "first", "return a == LIMIT", "return a != LIMIT")
    assert change.applies(SOURCE)
    assert change.applies("\n# a line more\n" + SOURCE)
    assert not change.applies(changed)


def test_of_equal_lines_the_second_is_told_from_the_first() -> None:
    start = SOURCE.rindex("==")
    change = Change.between("x.py", "Kind.first", SOURCE, SOURCE[:start] + "!=" + SOURCE[start + 2 :])
    assert (change.before, change.nth) == ("if a == LIMIT:", 1)
    assert change.applies(SOURCE)
    once = SOURCE.replace("        if a == LIMIT:\n            return a\n", "")
    ast.parse(once)
    assert not change.applies(once)


def test_a_change_of_a_function_that_is_gone_does_not_apply() -> None:
    assert not Change("x.py", "Kind.second", "return a", "return None").applies(SOURCE)
