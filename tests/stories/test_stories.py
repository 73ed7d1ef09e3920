"""Stories that a newcomer can read: commands, and what follows from each. `taskfold.testing.stories` has the format.

``python -m pytest tests/stories --taskfold-rewrite`` writes what the commands print now; the difference is to be read.
"""

from __future__ import annotations

from pathlib import Path

from taskfold.inputs import INPUTS
from taskfold.testing import stories_in
from taskfold.testing.stories import INPUT_COMMANDS, blocks_of

FOLDER = Path(__file__).parent

test_the_story_is_what_happens = stories_in(FOLDER)


def test_every_input_is_in_a_story() -> None:
    commands = {
        line.split()[0]
        for path in FOLDER.glob("*.txt")
        for block in blocks_of(path.read_text("utf-8"))
        for line in block.command
    }

    assert len(INPUT_COMMANDS) == len(INPUTS)
    assert {*INPUT_COMMANDS} <= commands
