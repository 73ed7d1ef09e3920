"""Stories as users run them: a folder in three lines, what differs is shown, and a bad script names file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.running_pytest import pytest_in
from taskfold.testing import StoryError, check_story, stories_in
from taskfold.testing.stories import tell

GOOD = "# One starts.\nplace\n  web\n----\nweb: Received\n> start web\n"
PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
[THREE_LINES] = re.findall(r"```python\n(.*?stories_in.*?)```", PAGE.partition("## Stories")[2], re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test_stories.py").write_text(THREE_LINES, encoding="utf-8")
    stories = tmp_path / "stories"
    stories.mkdir()
    (stories / "good.txt").write_text(GOOD, encoding="utf-8")
    return tmp_path


def test_the_story_that_the_guide_shows_is_what_happens():
    [story] = re.findall(r"```text\n(# .*?)```", PAGE.partition("## Stories")[2], re.DOTALL)

    assert tell(story) == story


def test_a_folder_of_stories_is_run_in_three_lines_and_written_anew_on_request(folder):
    wrong = folder / "stories" / "wrong.txt"
    wrong.write_text(GOOD.replace("Received", "Started"), encoding="utf-8")

    code, output = pytest_in(folder, "-rA")
    assert code == 1, output
    assert "PASSED test_stories.py::test_a_story_is_what_happens[good]" in output
    assert "FAILED test_stories.py::test_a_story_is_what_happens[wrong]" in output
    assert f"--- {wrong}" in output
    assert f"{wrong}:5: the story is not what happens" in output
    assert re.search(r"^ +-web: Started\n +\+web: Received$", output, re.MULTILINE), output

    code, output = pytest_in(folder, "--taskfold-rewrite")
    assert (code, wrong.read_text("utf-8")) == (0, GOOD), output
    assert pytest_in(folder)[0] == 0


def test_a_story_that_is_not_what_happens_is_noticed():
    assert tell("place\n  web\n----\nweb: Started\n") == "place\n  web\n----\nweb: Received\n> start web\n"


BAD = [
    ("place\n  web\n", 1, "'place' has no line ---- below it, where its output begins"),
    ("----\n", 1, "there is no command above this ----"),
    ("exited web\n----\n", 1, "exited comes before any allocation is placed: begin with place or schedule"),
    (GOOD + "\nexitd web\n----\n", 8, "'exitd' is no command; did you mean 'exited'?"),
    (GOOD + "\nzzz\n----\n", 8, "'zzz' is no command; there are advance, "),
    (GOOD + "\nexited web code=1\n----\n", 8, "exited: 'code' is not known; there are exit_code=, signal=, "),
    (GOOD + "\nexited web exit_code=one\n----\n", 8, "exited: Expected `int | null`, got `str` - at `$.ExitCode`"),
    (GOOD + "\nstart-failed web error='no\n----\n", 8, "no closing quotation"),
    (GOOD + "\nexited web\n  db\n----\n", 9, "exited has no lines below it, but ----"),
    (GOOD + "\nadvance\n----\n", 8, "advance takes one duration, as in: advance 5s"),
    (GOOD + "\nadvance soon\n----\n", 8, "'soon' is no duration; one is written as 5s or 1m30s"),
    (GOOD + "\ndue web\n----\n", 8, "due stands alone: 'web' is too much"),
    (GOOD + "\nupdate DesiredStatus=stop\n----\n", 8, "'DesiredStatus=stop' is no field with a value in JSON, as in: "),
    (GOOD + "\ntogether\n----\n", 8, "together has no inputs: name one on each line below it"),
    (GOOD + "\ntogether\n  exited\n----\n", 9, "'exited' is no input of a task, such as: exited web exit_code=1"),
    (GOOD + "\ntogether\n  due web\n----\n", 9, "'due web' is no input of a task"),
    (GOOD + "\ntogether\n  \n----\n", 9, "a line of spaces is no command"),
    ("place\n----\n", 1, "place has no task: name one on each line below it"),
    ("place dialect=0.4\n  web\n----\n", 1, "'0.4' is no dialect; there are 0.5.0, 0.5.6, 1.1.2"),
    ("place tries=3\n  web\n----\n", 1, "place: 'tries' is not known; there are dialect=, type=, attempts="),
    ("place attempts=many\n  web\n----\n", 1, "attempts=many: 'many' is no number"),
    ("place delay=1\n  web\n----\n", 1, "'1' is no duration"),
    ("place\n  web\n  db lead\n----\n", 3, "db: 'lead' is not known; there are leader, sidecar, hook=, kill_timeout="),
    ("place\n  web leader=yes\n----\n", 2, "web: 'leader' takes no value; there are leader, "),
    ("place\n  web hook\n----\n", 2, "web: 'hook' needs a value, as in NAME=VALUE; there are leader, "),
]


@pytest.mark.parametrize(("text", "line", "said"), BAD, ids=[said[:40] for _, _, said in BAD])
def test_a_bad_script_names_the_file_the_line_and_what_is_wrong(tmp_path, text, line, said):
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8")

    for rewrite in (False, True):
        with pytest.raises(StoryError) as caught:
            check_story(path, rewrite=rewrite)
        assert str(caught.value).startswith(f"{path}:{line}: ")
        assert said in str(caught.value)
    assert path.read_text("utf-8") == text


def test_what_taskfold_refuses_is_what_a_story_tells():
    told = tell(GOOD + "\nexited db\n----\n").splitlines()

    assert told[-1].startswith("UnknownTask: ")


def test_a_folder_without_stories_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no story"):
        stories_in(tmp_path)
