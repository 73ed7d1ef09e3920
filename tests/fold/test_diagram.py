"""Diagrams are drawn from the machine; the documentation shows those that the machine draws today."""

import re
from pathlib import Path

import pytest

from taskfold import TaskfoldError, diagram, replay
from taskfold.events import Terminated, UnknownEvent
from taskfold.fold.diagram import path_of
from taskfold.fold.lifecycle import STATES, TABLES, lifecycle_of
from taskfold.model.record import Finished, Record

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


STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


def path_of_example():
    records = [record for record in replay(STREAM) if record.alloc.startswith("e368643b") and record.task]
    return records, path_of(records, "1.1.2")


def test_a_path_has_every_record_of_the_task_once_and_restarts_as_the_fold_counts_them():
    records, path = path_of_example()

    assert sum(path.values()) == len(records)
    assert path["pending", "Started", "running"] == 9
    assert path["running", "Not Restarting", "dead"] == 1
    # Those that were lost are in no record.
    assert sum(count for (_, name, _), count in path.items() if name == "Restarting") == 8


@pytest.mark.parametrize("form", ["mermaid", "dot", "table"])
def test_a_path_is_drawn_with_the_times_of_each_move_and_with_no_other_move(form):
    _, path = path_of_example()
    picture = diagram("1.1.2", form, path=path)

    for name in {name for _, name, _ in path}:
        assert name in picture
    assert "Killing" not in picture
    times = re.findall(r"×(\d+)" if form != "table" else r"\| (\d+) \|$", picture, re.MULTILINE)
    assert sorted(map(int, times)) == sorted(path.values())


def test_an_event_that_the_table_refuses_is_a_move_that_stays():
    records = [Record(index=1, alloc="a", version=1, task="web", event=Terminated())]

    assert dict(path_of(records, "1.1.2")) == {("pending", "Terminated", "pending"): 1}


def test_no_text_of_an_unknown_type_ends_the_label_that_it_stands_in():
    event = UnknownEvent(wire_type='x" ];\n<b>| %%')
    path = path_of([Record(index=1, alloc="a", version=1, task="web", event=event)], "1.1.2")

    assert "[label=\"x' ]''n'b'' %% ×1\", style=dashed];" in diagram("1.1.2", "dot", path=path)
    assert diagram("1.1.2", "table", path=path).splitlines()[2].count("|") == 5
