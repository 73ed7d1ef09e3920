"""What the documents show is what the code does today."""

import doctest
import re
from pathlib import Path

import msgspec
import pytest

from taskfold.lifecycle import lifecycle_of
from taskfold.record import INTERNAL_EVENTS, LogHeader, Record

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
LINES = re.search(r"```json\n(.*?)```", ARCHITECTURE, re.DOTALL)[1].splitlines()


def test_the_header_line_is_the_one_that_is_written_today():
    header = msgspec.json.decode(LINES[0], type=LogHeader)

    assert msgspec.json.encode(header).decode() == LINES[0]
    assert header.lifecycle == lifecycle_of(header.dialect).fingerprint


@pytest.mark.parametrize("line", LINES[1:])
def test_each_record_line_is_what_the_log_writes(line):
    record = msgspec.json.decode(line, type=Record)

    assert msgspec.json.encode(record).decode() == line


def test_every_kind_of_internal_event_has_its_line():
    shown = {type(msgspec.json.decode(line, type=Record).event) for line in LINES[1:]}

    assert set(INTERNAL_EVENTS) <= shown


def test_every_module_has_its_floor_in_the_table():
    table = ARCHITECTURE.split("## The floors")[1].split("## Written once")[0]
    package = ROOT / "engine" / "taskfold"
    names = {path.stem if path.is_file() else f"{path.name}/" for path in package.iterdir()}

    for name in names - {"__init__", "__main__", "py", "__pycache__/"}:
        assert f"`{name}`" in table, f"{name} has no floor in ARCHITECTURE.md"


def test_what_readme_shows_in_python_is_what_happens():
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

    failed, attempted = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=flags)

    assert attempted > 10
    assert failed == 0
