"""docs/deciding.md says what is so: its table of outcomes, its names, and its examples."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import get_args

from support.deciding import NEW, OLD, WHERE, placed_at
from taskfold.decision.rules import RULES
from taskfold.effects import AnyEffect
from taskfold.inputs import INPUTS, NEW_CLIENT_ONLY, Input

PAGE = Path(__file__).parents[2] / "docs" / "deciding.md"


def outcomes(kind: type[Input], dialect: str) -> list[str]:
    """Return what comes of an input at each of the four places."""
    if kind in NEW_CLIENT_ONLY and dialect == OLD:
        return ["–"] * len(WHERE)
    return [placed_at(where, dialect).say(kind(), "web").outcome for where in WHERE]


def outcome_rows() -> list[str]:
    """Return the table of the page: where the clients differ, the old one comes first."""
    rows = []
    for kind in RULES:
        cells = zip(outcomes(kind, OLD), outcomes(kind, NEW), strict=True)
        told = [new if old in {new, "–"} else f"{old} / {new}" for old, new in cells]
        rows.append(f"| `{kind.__name__}`{' ¹' if kind in NEW_CLIENT_ONLY else ''} | {' | '.join(told)} |")
    return rows


def test_the_page_says_what_comes_of_each_input():
    table = PAGE.read_text(encoding="utf-8").split("| input | pending |")[1].split("\n\n")[0].splitlines()[2:]

    assert table == outcome_rows()


def test_the_page_names_every_input_and_every_effect():
    text = PAGE.read_text(encoding="utf-8")

    for kind in (*INPUTS, *get_args(AnyEffect)):
        assert f"`{kind.__name__}`" in text, kind.__name__


def test_what_the_page_shows_in_python_is_what_happens():
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)

    assert attempted > 10
    assert failed == 0
