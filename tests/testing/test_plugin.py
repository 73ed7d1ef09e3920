"""The pytest plugin: its fixtures, and the table of what a run reached, also under pytest-xdist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

TESTS = """
from taskfold import events
from taskfold.testing import Run


def test_one(engine, manual_clock):
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Started())
    assert engine.clock is manual_clock


def test_another(engine):
    assert list(engine.allocations()) == []
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Received())


def test_a_world(world):
    job = {"ID": "x", "Type": "batch", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "web"}]}]}
    made = world(job, scripts={"web": [Run(after_ns=1)]})
    made.run_until_idle()
    assert made.engine.snapshot(made.allocs[0]).client_status == "complete"


def test_a_stream(recorded_stream):
    from taskfold import replay

    assert len(list(replay(recorded_stream).snapshots())) > 10


def test_an_api(nomad_api, engine):
    import httpx

    engine.place({"ID": "a"})
    assert [each["ID"] for each in httpx.get(f"{nomad_api}/v1/allocations").json()] == ["a"]
"""


@pytest.fixture
def run(tmp_path):
    """Return what runs the tests above with options, and gives the exit status and the output."""
    (tmp_path / "test_kit.py").write_text(TESTS, encoding="utf-8")

    return lambda *options: pytest_in(tmp_path, *options)


def pytest_in(folder, *options):
    """Run pytest with this plugin and no other; return the exit status and the output."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "taskfold.testing.plugin",
        *options,
    ]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        command, cwd=folder, env=os.environ | alone, capture_output=True, text=True, check=False, timeout=240
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_pytest_and_hypothesis_find_the_kit_where_it_is_installed():
    assert {point.value for point in entry_points(group="pytest11")} >= {"taskfold.testing.plugin"}
    assert {point.value for point in entry_points(group="hypothesis")} >= {"taskfold.testing._hypothesis:register"}


def test_the_fixtures_are_there_and_each_test_has_its_own(run):
    code, output = run()

    assert code == 0, output
    assert "5 passed" in output
    assert "what was reached" not in output


@pytest.mark.parametrize("options", [[], ["-p", "xdist", "-n", "2"]], ids=["one process", "two workers"])
def test_a_run_shows_what_it_reached(run, options):
    code, output = run("--taskfold-coverage", *options)

    assert code == 0, output
    assert "taskfold: what was reached" in output
    [percent] = re.findall(r"^1\.1\.2: ([\d.]+) % of the legal transitions", output, re.MULTILINE)
    assert 1 < float(percent) < 100
    [missing] = re.findall(r"not reached while pending: (.*)", output)
    assert "Driver Failure" in missing
    assert not {"Started", "Received"} & {*missing.split(", ")}


def test_a_run_that_reached_too_little_fails(run):
    code, output = run("--taskfold-coverage-min", "90")
    assert (code, "1.1.2: fewer than 90 % were reached" in output) == (1, True), output

    code, output = run("--taskfold-coverage-min", "1")
    assert code == 0, output


def test_nothing_but_what_resolves_names_is_imported_until_it_is_used(tmp_path):
    (tmp_path / "test_none.py").write_text(
        "import sys\n\ndef test_none():\n    assert {m for m in sys.modules if m.startswith('taskfold.')} == {\n"
        "        'taskfold.model', 'taskfold.model.lazy', 'taskfold.testing', 'taskfold.testing.plugin'}\n",
        encoding="utf-8",
    )
    code, output = pytest_in(tmp_path)
    assert code == 0, output
