"""What the testing kit draws is drawn with it: no other test has strategies of its own for events or inputs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskfold.decision.group import Group, TaskPlan
from taskfold.events import EVENT_TYPES, UnknownEvent
from taskfold.fold.allocation import AllocationState
from taskfold.fold.task import TaskState
from taskfold.inputs import INPUTS
from taskfold.model.effects import Step, StepWrite
from taskfold.model.policy import RestartPolicy
from taskfold.model.record import INTERNAL_EVENTS, Record, Write
from taskfold.nomad.snapshot import Snapshot

TESTS = Path(__file__).parent
PATHS = [path for path in sorted(TESTS.rglob("*.py")) if TESTS / "testing" not in path.parents]
DRAWN = {
    cls.__name__
    for cls in (
        *(row.cls for row in EVENT_TYPES), UnknownEvent, *INTERNAL_EVENTS, *INPUTS, RestartPolicy, Group, TaskPlan,
        AllocationState, TaskState, Record, Write, Snapshot, Step, StepWrite,
    )
}  # fmt: skip
MOST = 4
"""How many values a test may pick out, so that they come more often than what the kit draws."""

OF_ITS_OWN = {
    "fold/test_course.py": "gaps whose state is unknown, at times between those of the other records",
    "live/test_values.py": "records with fields of wrong types, to be refused",
}
"""The files that draw for themselves, with the reason."""


def name_of(node: ast.expr) -> str:
    """Return the last part of a name: Started of events.Started and of events.Started()."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def own_strategies(text: str) -> Iterator[str]:
    """Yield the strategies in a source of what the kit draws."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        first, strategy = node.args[0], name_of(node.func)
        if strategy == "builds" and name_of(first) in DRAWN:
            yield f"{node.lineno}: builds({name_of(first)})"
        elif strategy == "sampled_from" and isinstance(first, ast.List | ast.Tuple):
            values = [name_of(each) for each in first.elts if isinstance(each, ast.Call) and name_of(each) in DRAWN]
            if len(values) > MOST:
                yield f"{node.lineno}: sampled_from({', '.join(values)})"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(TESTS)))
def test_what_the_kit_draws_no_test_draws_by_itself(path: Path) -> None:
    strategies = list(own_strategies(path.read_text("utf-8")))

    if str(path.relative_to(TESTS)) in OF_ITS_OWN:
        assert strategies, "it needs no exception any more"
    else:
        assert strategies == [], "taskfold.testing.strategies draws them: use it, or promote what it lacks"


def test_a_strategy_of_ones_own_is_noticed() -> None:
    source = """
st.builds(events.Started, time_ns=st.integers())
st.builds(Exited)
st.sampled_from([Started(), events.Received(), Exited(), ProcessStarted(), Terminated(exit_code=1)])
st.sampled_from([Started(), Received()])
st.builds(dict)
"""
    assert list(own_strategies(source)) == [
        "2: builds(Started)",
        "3: builds(Exited)",
        "4: sampled_from(Started, Received, Exited, ProcessStarted, Terminated)",
    ]
