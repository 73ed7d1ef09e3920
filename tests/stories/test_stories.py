"""Stories that a newcomer can read: commands, and what follows from each. `support.stories` describes the format.

``python -m pytest tests/stories --rewrite`` writes what the commands print now; the difference is to be read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.stories import KINDS, blocks_of, tell
from taskfold.inputs import INPUTS

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_is_what_happens(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text("utf-8")
    story = tell(text)
    if request.config.getoption("--rewrite"):
        path.write_text(story, "utf-8")
    else:
        assert story.splitlines() == text.splitlines()


def test_every_input_is_in_a_story() -> None:
    commands = {
        line.split()[0] for path in STORIES for block in blocks_of(path.read_text("utf-8")) for line in block.command
    }

    assert len(KINDS) == len(INPUTS)
    assert set(KINDS) <= commands


def test_a_story_that_is_not_what_happens_is_noticed() -> None:
    assert tell("place\n  web\n----\nweb: Started\n") == ("place\n  web\n----\nweb: Received\n> start web\n")
