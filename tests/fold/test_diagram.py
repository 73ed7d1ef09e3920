"""Diagrams are drawn from the machine; the documentation shows those that the machine draws today."""

from pathlib import Path

import pytest

from taskfold import TaskfoldError, diagram
from taskfold.fold.lifecycle import STATES, TABLES, lifecycle_of
from taskfold.model.record import Finished

PAGE = Path(__file__).parents[2] / "docs" / "lifecycle.md"


@pytest.mark.parametrize("dialect", TABLES)
def test_the_table_has_a_row_for_every_row_of_the_lifecycle_and_says_the_same(dialect):
    rows = [line.strip("| ").split(" | ") for line in diagram(dialect, "table").splitlines()[2:]]

    assert len(rows) == len(TABLES[dialect])
    for (cls, row), cells in zip(TABLES[dialect].items(), rows, strict=True):
        assert cells[0] == ("(no event)" if cls is Finished else cls.__struct_config__.tag)
        for state, target, cell in zip(STATES, row[:3], cells[1:4], strict=True):
            assert cell == ("–" if target is None else "=" if target == state else f"**{target}**")
        assert cells[4] == row.source


@pytest.mark.parametrize("dialect", TABLES)
@pytest.mark.parametrize("form", ["mermaid", "dot"])
def test_every_legal_event_is_in_the_picture_once_for_each_state(dialect, form):
    picture = diagram(dialect, form)

    for state in STATES:
        for name in lifecycle_of(dialect).allowed(state):
            assert name in picture
    assert picture.count("(no event)") == 3


def test_an_unknown_format_is_refused_with_those_that_exist():
    with pytest.raises(TaskfoldError, match="'svg' is not a format of diagrams; there are mermaid, dot, table"):
        diagram("0.5.0", "svg")


@pytest.mark.parametrize("dialect", TABLES)
def test_the_page_of_the_lifecycle_shows_the_diagram_of_today(dialect):
    page = PAGE.read_text(encoding="utf-8")

    assert f"## Dialect {dialect}\n\n```mermaid\n{diagram(dialect, 'mermaid')}```" in page
