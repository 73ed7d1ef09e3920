"""A closed set is written once: a new member touches these files and no others, as is tried on a copy of the package.

A test that has to name one more file shows that something is written twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "engine" / "taskfold"

Patch = tuple[str, str, str]
"""A file below the package, the text in it before which something is inserted, and what; a new file has no text yet."""

EVENT_TYPE: list[Patch] = [
    (
        "model/events.py",
        "class UnknownEvent(",
        (
            '@event_type(since="1.0.5")\n'
            'class Thawing(TaskEvent, frozen=True, kw_only=True, tag="Thawing Out"):\n'
            '    """The task is taken out of the cold."""\n\n'
            '    degrees: int = 0\n    message: str = ""\n\n\n'
        ),
    ),
]
"""The registry is one place; what the lifecycle and a message say of the type are facts of their own."""
EVENT_FACTS: list[Patch] = [
    ("fold/lifecycle.py", "    ev.Generic: Row(*_NOTE", '    ev.Thawing: Row(RUNNING, None, None, "of a test"),\n'),
    ("nomad/messages.py", '    ev.Received: "Task received', '    ev.Thawing: "It thaws",\n'),
]
INPUT: list[Patch] = [
    (
        "model/inputs.py",
        "class HealthFailed(Input",
        (
            'class Thawed(Input, frozen=True, kw_only=True, tag="Thawed"):\n'
            '    """The task was taken out of the cold."""\n\n'
            "    needs_new_client = True\n\n    degrees: int = 0\n\n\n"
        ),
    ),
    (
        "decision/rules.py",
        "    inputs.SetUp: _Rule(",
        (
            "    inputs.Thawed: _Rule(\n        lambda decision, task, report: decision.emit(\n"
            "            task, ev.TaskSetup(message=str(report.degrees))\n        ),\n"
            '        ("pending",),\n        _LATE,\n    ),\n'
        ),
    ),
]
DIALECT: list[Patch] = [
    (
        "model/dialect.py",
        "NEWEST_DIALECT: Final",
        (
            "import msgspec as _msgspec\n\n"
            'DIALECTS["1.6.0"] = _msgspec.structs.replace(DIALECTS["1.1.2"], name="1.6.0", told_by="LastRestart")\n\n'
        ),
    ),
    ("fold/lifecycle.py", '"""The lifecycle of each dialect."""', 'TABLES["1.6.0"] = _TABLE_1_1_2\n'),
]
STORE: list[Patch] = [
    ("log/toy.py", "", (ROOT / "tests" / "support" / "toy_store.py").read_text("utf-8")),
    ("log/registry.py", '"taskfold.log.postgres.kind")', '"taskfold.log.toy", '),
]
ENDPOINT: list[Patch] = [
    (
        "http/own/double.py",
        "",
        (
            "import msgspec\n\nfrom taskfold.http.answers import json_answer\n\n\n"
            'class Double(msgspec.Struct):\n    """A number that was doubled."""\n\n    value: int\n\n\n'
            "async def double(_, __, number):\n"
            "    return json_answer(msgspec.json.encode(Double(2 * int(number))))\n"
        ),
    ),
    ("http/routes.py", "from taskfold.http.own import", "from taskfold.http.own.double import Double, double\n"),
    (
        "http/routes.py",
        '        Route(\n            "regions",',
        (
            '        Route("double", "/v1/double/{number}", ("GET",), double, "Double a number.",\n'
            "              answers={200: Double}, is_own=True, is_regional=False),\n"
        ),
    ),
]

OF_EVENT = """
import json, sys
import taskfold as tf
from taskfold import events, inputs
from taskfold.nomad.snapshot import Snapshot
from tools import schemas

for name in ("x.db", "x.jsonl"):
    with tf.Engine.open(name) as engine:
        engine.place({"ID": "a"})
        engine.record("a", "web", events.Received())
        engine.record("a", "web", events.Thawing(degrees=3, message="slowly"))
        body = engine.snapshot("a").to_json()
        engine.checkpoint()
    with tf.Engine.open(name) as engine:
        assert engine.task("a", "web").counts == {"Received": 1, "Thawing Out": 1}, engine.task("a", "web").counts
        assert engine.snapshot("a").to_json() == body
    state = tf.replay(name).fold()["a"].tasks["web"]
    assert state.events[-1].degrees == 3
    if sys.argv[1:] == ["facts"]:
        assert (state.state, tf.display_message(state.events[-1])) == ("running", "It thaws")
    wire = json.loads(body)["TaskStates"]["web"]["Events"][-1]
    assert (wire["Type"], wire["Message"]) == ("Thawing Out", "slowly"), wire
    assert type(Snapshot.from_json(body).tasks["web"].events[-1]) is events.Thawing
assert "Thawing" in events.__all__
files = schemas.documents()
assert "Thawing Out" in str(files["event-types.json"])
assert "Thawing" in str(files["record-3.json"])
assert "Thawing Out" in str(files["allocation-1.1.2.json"])
assert "Thawing Out" not in str(files["allocation-0.5.6.json"])
"""

OF_INPUT = """
import taskfold as tf
from taskfold import inputs
from tools import schemas

with tf.Engine.open("x.db") as engine:
    engine.place({"ID": "a"})
    engine.report("a", "web", inputs.PlacementReceived())
    step = engine.report("a", "web", inputs.Thawed(degrees=4))
    assert [event.message for _, event in step.events] == ["4"]
    assert inputs.Thawed in inputs.INPUTS and "Thawed" in inputs.__all__
old = tf.Engine(dialect="0.5.6")
old.place({"ID": "a"})
try:
    old.report("a", "web", inputs.Thawed())
except tf.InputRefused:
    pass
else:
    raise AssertionError("the old client has no such input")
assert "Thawed" in str(schemas.documents()["input-3.json"])
"""

OF_DIALECT = """
import taskfold as tf
from taskfold import events
from taskfold.nomad.snapshot import Snapshot
from tools import schemas

assert tf.DEFAULT_DIALECT == "1.6.0" == tf.Engine().dialect.name
with tf.Engine.open("x.db") as engine:
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Received())
    engine.record("a", "web", events.Started())
    body = engine.snapshot("a").to_json()
with tf.Engine.open("x.db") as engine:
    assert engine.dialect.name == "1.6.0"
assert Snapshot.from_json(body).dialect.name == "1.6.0"
assert tf.Engine(dialect="1.1.2").dialect.name == "1.1.2"
assert "allocation-1.6.0.json" in schemas.documents()
print(tf.diagram("1.6.0", "table")[:20])
"""

OF_STORE = """
import taskfold as tf
from taskfold import events
from support.command_line import run
from taskfold.log.toy import ToyKind

with tf.Engine.open("x.toy") as engine:
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Received())
assert open("x.toy", "rb").read().startswith(ToyKind.magic)
with tf.Engine.open("x.toy") as engine:
    assert engine.record("a", "web", events.Started()).seq == 3
assert tf.replay("x.toy").fold()["a"].tasks["web"].state == "running"
try:
    tf.Engine.open("x.csv")
except tf.LogError as error:
    assert "or ends in .toy (a toy)" in str(error), error
for command in (["log"], ["verify"], ["history", "a"], ["diff", "--from", "1", "--to", "3"]):
    assert run(command[0], "x.toy", *command[1:]).exit_code == 0, command
"""

OF_ENDPOINT = """
from support.asgi import ask
from taskfold import Engine
from taskfold.http.app import App
from tools import openapi

app = App(Engine())
assert ask(app, "GET /v1/double/21").text == '{"value":42}'
assert ask(app, "PUT /v1/double/21").status == 405
assert "double" in ask(app, "GET /v1/metrics?format=prometheus").text
document = openapi.document()
assert document["paths"]["/v1/double/{number}"]["get"]["summary"] == "Double a number."
assert document["components"]["schemas"]["Double"]["properties"] == {"value": {"type": "integer"}}
"""


def try_out(folder: Path, patches: list[Patch], program: str, *arguments: str) -> None:
    """Run a program on a copy of the package in which something new is written."""
    shutil.copytree(PACKAGE, folder / "engine" / "taskfold", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name, before, text in patches:
        file = folder / "engine" / "taskfold" / name
        if not before:
            assert not file.exists(), f"{name} is there already"
            file.write_text(text, "utf-8")
            continue
        source = file.read_text("utf-8")
        assert source.count(before) == 1, f"{name}: {before!r} stands there {source.count(before)} times"
        file.write_text(source.replace(before, text + before), "utf-8")
    (folder / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder / "work",
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder / "engine"), str(folder), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def files_of(patches: list[Patch]) -> set[str]:
    return {name for name, _, _ in patches}


@pytest.mark.parametrize("arguments", [(), ("facts",)], ids=["the registry alone", "with its facts"])
def test_a_new_event_type_is_one_class_and_what_the_tables_say_of_it(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    try_out(tmp_path, [*EVENT_TYPE, *(EVENT_FACTS if arguments else ())], OF_EVENT, *arguments)
    assert files_of(EVENT_TYPE) == {"model/events.py"}
    assert files_of(EVENT_FACTS) == {"fold/lifecycle.py", "nomad/messages.py"}


def test_a_new_input_is_one_class_and_one_rule(tmp_path: Path) -> None:
    try_out(tmp_path, INPUT, OF_INPUT)
    assert files_of(INPUT) == {"model/inputs.py", "decision/rules.py"}


def test_a_new_dialect_is_one_entry_and_one_table(tmp_path: Path) -> None:
    try_out(tmp_path, DIALECT, OF_DIALECT)
    assert files_of(DIALECT) == {"model/dialect.py", "fold/lifecycle.py"}


def test_a_new_store_is_one_module_and_its_name_in_the_registry(tmp_path: Path) -> None:
    try_out(tmp_path, STORE, OF_STORE)
    assert files_of(STORE) == {"log/toy.py", "log/registry.py"}


def test_a_new_endpoint_is_one_handler_and_its_row(tmp_path: Path) -> None:
    try_out(tmp_path, ENDPOINT, OF_ENDPOINT)
    assert files_of(ENDPOINT) == {"http/own/double.py", "http/routes.py"}
