"""``taskfold diagram`` draws the lifecycle, or the path of one task of a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import refused, run

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


def test_a_path_is_drawn_of_one_task_of_a_source() -> None:
    result = run("diagram", "--task", "023db46a/main", STREAM)

    stays = (
        "stays pending",
        "Received ×1",
        "Task Setup ×1",
        "Downloading Artifacts ×2",
        "Failed Artifact Download ×2",
        "Restarting ×1",
    )
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "stateDiagram-v2",
        "    [*] --> pending",
        "    pending --> dead: Not Restarting ×1",
        f"    note right of pending: {'<br/>'.join(stays)}",
    ]


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("023db46a/x", "no task '023db46a/x': allocation 023db46a-0efc-7850-fe61-98306fef84fb has main"),
        ("ffff/main", "no task 'ffff/main': no such allocation"),
    ],
)
def test_a_task_that_is_not_there_is_told_with_those_that_are(task: str, sentence: str) -> None:
    result = run("diagram", "--task", task, STREAM)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"taskfold: nothing matched: {sentence}\n"


def test_half_a_path_is_refused() -> None:
    refused(run("diagram", STREAM), "a path needs both: taskfold diagram --task ALLOC/TASK SOURCE")
    refused(run("diagram", "--task", "023db46a/main"), "a path needs both")
    refused(run("diagram", "--task", "023db46a", STREAM), "'023db46a' names no task: expected ALLOC/TASK")
    refused(
        run("diagram", "--task", "023db46a/main", "--dialect", "0.5.6", STREAM), "a path has the dialect of its source"
    )
