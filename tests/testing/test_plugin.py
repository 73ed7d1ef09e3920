"""The pytest plugin: its fixtures, and the table of what a run reached, also under pytest-xdist."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import entry_points

import pytest

from support.running_pytest import pytest_in
from taskfold import diagram, events
from taskfold.decision import decision
from taskfold.decision.decision import Decision
from taskfold.decision.rules import ALLOCATION_RULES, RULES
from taskfold.fold.lifecycle import Lifecycle, lifecycle_of
from taskfold.model.dialect import DIALECTS
from taskfold.sources.shipped import EXAMPLE_STREAM, shipped
from taskfold.testing.coverage import Reached, reachable, refusable, watched
from taskfold.testing.plugin import _least, _picture_file

TESTS = """
import pytest

from taskfold import IllegalEvent, events
from taskfold.testing import Run


def test_one(engine, manual_clock):
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Started())
    assert engine.clock is manual_clock


def test_another(engine):
    assert list(engine.allocations()) == []
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Started())
    with pytest.raises(IllegalEvent):
        engine.record("a", "web", events.Received())


def test_a_world(world):
    job = {"ID": "x", "Type": "batch", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "web"}],
        "RestartPolicy": {"Attempts": 0, "Interval": 10**10, "Delay": 1, "Mode": "fail"}}]}
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


def test_pytest_and_hypothesis_find_the_kit_where_it_is_installed():
    assert {point.value for point in entry_points(group="pytest11")} >= {"taskfold.testing.plugin"}
    assert {point.value for point in entry_points(group="hypothesis")} >= {"taskfold.testing._hypothesis:register"}


def test_the_stream_that_is_shipped_is_small():
    assert (shipped("examples") / EXAMPLE_STREAM).stat().st_size <= 100_000


def test_the_fixtures_are_there_and_each_test_has_its_own(run):
    code, output = run()

    assert code == 0, output
    assert "5 passed" in output
    assert "what was reached" not in output


@pytest.mark.parametrize("options", [[], ["-p", "xdist", "-n", "2"]], ids=["one process", "two workers"])
def test_a_run_shows_what_it_reached_and_draws_it(run, tmp_path, options):
    alone = ["-k", "one or another or world"]
    code, output = run("--taskfold-coverage-diagram", "reached.md", *alone, *options)

    assert code == 0, output
    _, _, table = output.partition("taskfold: what was reached")
    rows = re.findall(r"^  (\w+) +(\d+) +(\d+)", table, re.MULTILINE)
    assert {name: (int(count), int(total)) for name, count, total in rows} == {
        kind: (count, len(reachable(kind, "1.1.2")))
        for kind, count in {"transitions": 4, "inputs": 3, "effects": 2, "restarts": 1}.items()
    } | {"refused": (1, len(refusable("1.1.2")))}
    assert "Terminated: Restart unnecessary as task terminated successfully\n" in table
    assert re.search(r"pending: [^:]*Driver Failure", table)
    assert not re.search(r"pending: [^:]*\b(Started|Received)", table)
    picture = (tmp_path / "reached.md").read_text(encoding="utf-8")
    assert f"the diagram is in {tmp_path / 'reached.md'}" in table
    assert re.findall(r"✓ ([\w ()]+)", picture) == ["Started", "(no event)", "Received", "Terminated"]
    assert "## Dialect 1.1.2\n\n```mermaid\nstateDiagram-v2\n" in picture


@pytest.mark.parametrize(
    ("least", "said"),
    [
        ("90", "1.1.2: fewer than 90 % of the transitions were reached"),
        ("inputs=90", "1.1.2: fewer than 90 % of the inputs were reached"),
        ("1", ""),
        ("effects=40", ""),
    ],
)
def test_a_run_that_reached_too_little_fails(run, least, said):
    code, output = run("--taskfold-coverage-min", least, "-k", "one or another or world")

    assert (code, said in output) == (1 if said else 0, True), output
    assert output.count("fewer than") == (4 if least == "90" else bool(said))


def test_a_run_that_reached_nothing_of_what_is_asked_for_fails(tmp_path):
    (tmp_path / "test_none.py").write_text("def test_none():\n    pass\n", encoding="utf-8")

    code, output = pytest_in(tmp_path, "--taskfold-coverage-min", "restarts=1")

    assert (code, "no restarts was reached at all, and 1 % are asked for" in output) == (1, True), output


@pytest.mark.parametrize(
    ("read", "text", "error"),
    [
        (_least, "many", "'many' is neither a percentage from 0 to 100 nor one with what it is of"),
        (_least, "101", "'101' is neither a percentage"),
        (_least, "states=9", "there are transitions, inputs, effects, restarts"),
        (_picture_file, "a.svg", "'a.svg' ends with none of .md, .dot, .gv"),
        (_picture_file, "no/a.md", "'no/a.md': there is no folder"),
    ],
)
def test_the_value_of_an_option_that_says_nothing_is_refused_in_a_sentence(read, text, error):
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(error)):
        read(text)


def test_pytest_ends_where_the_value_of_an_option_is_refused(tmp_path):
    code, output = pytest_in(tmp_path, "--taskfold-coverage-min", "101")

    assert (code, "'101' is neither a percentage" in output) == (4, True), output
    assert "Traceback" not in output


def test_who_only_asks_the_lifecycle_reaches_nothing():
    with watched(Reached()) as reached:
        lifecycle = lifecycle_of("1.1.2")
        assert lifecycle.may("pending", events.Started())
        assert lifecycle.allowed("dead")
        assert lifecycle.explain("running", events.Received())
        assert diagram("1.1.2", "table")
        assert reached.dialects == []


def test_the_tables_are_what_they_were_when_nobody_watches_any_more():
    def tables():
        lifecycles = [rule for name in DIALECTS for rule in lifecycle_of(name).rules.items()]
        methods = Lifecycle.illegal, Decision.step, vars(decision)["decide_restart"]
        return [*lifecycles, *RULES.items(), *ALLOCATION_RULES.items(), *methods]

    before = tables()
    with watched(Reached()):
        assert all(one is not another for one, another in zip(before, tables(), strict=True))
        assert before != tables()
    assert before == tables()


def test_nothing_but_what_resolves_names_is_imported_until_it_is_used(tmp_path):
    (tmp_path / "test_none.py").write_text(
        "import sys\n\ndef test_none():\n    assert {m for m in sys.modules if m.startswith('taskfold.')} == {\n"
        "        'taskfold.model', 'taskfold.model.lazy', 'taskfold.testing', 'taskfold.testing.plugin'}\n",
        encoding="utf-8",
    )
    code, output = pytest_in(tmp_path)
    assert code == 0, output
