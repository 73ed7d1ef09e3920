"""The benchmarks run, and write down what they should; how fast anything is, no test says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.harness import Budget, Row
from benchmarks.report import BEGIN, END, PAGE, README, RESULTS

ROOT = Path(__file__).parent.parent
SUBJECTS = (
    "apply",
    "columnar",
    "deciding",
    "encode",
    "folding",
    "growth",
    "importing",
    "memory",
    "replay",
    "serving",
    "recording",
    "sharing",
    "startup",
    "storing",
    "testing",
    "waiting",
    "pauses",
)


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "engine")}
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def results(quick_benchmarks):
    while not (quick_benchmarks / "ended").exists():
        time.sleep(0.1)
    assert (quick_benchmarks / "ended").read_text().strip() == "0", (quick_benchmarks / "errors").read_text()
    return quick_benchmarks


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_writes_all_that_it_measured(results, subject):
    text = (results / f"{subject}.json").read_text(encoding="utf-8")
    result = json.loads(text)

    assert text == json.dumps(result, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert result["subject"] == subject
    assert result["quick"] is True
    assert result["machine"].keys() == {"cpu", "cpus", "libraries", "platform", "python"}
    assert result["rows"]
    for row in result["rows"]:
        assert row["contestants"][0]["name"].removeprefix("python -c '").startswith(("taskfold", "import taskfold"))
        for contestant in row["contestants"]:
            assert contestant["values"]
            assert all(value > 0 for value in contestant["values"])


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_has_a_rival_and_a_budget(results, subject):
    rows = json.loads((results / f"{subject}.json").read_text(encoding="utf-8"))["rows"]

    assert any(len(row["contestants"]) > 1 for row in rows)
    assert any(row["budgets"] for row in rows)


def test_the_table_has_every_row_and_every_contestant(results):
    table = run("--table", "--results", results).stdout

    for subject in SUBJECTS:
        for row in json.loads((results / f"{subject}.json").read_text(encoding="utf-8"))["rows"]:
            assert f"**{subject}: {row['what']}**" in table
            for contestant in row["contestants"]:
                assert f"| {contestant['name']} |" in table


def test_the_pages_get_the_results_between_their_markers(results, tmp_path):
    (tmp_path / "docs").mkdir()
    pages = tmp_path / "docs" / "performance.md", tmp_path / "README.md"
    for page in pages:
        page.write_text("before\n<!-- benchmarks -->\nof before\n<!-- /benchmarks -->\nafter\n", encoding="utf-8")

    for _ in range(2):
        assert run("--write-pages", tmp_path, "--results", results).returncode == 0

    table = run("--table", "--results", results).stdout
    expected = f"before\n<!-- benchmarks -->\n{table}<!-- /benchmarks -->\nafter\n"
    assert pages[0].read_text(encoding="utf-8") == expected
    assert "of before" not in pages[1].read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "shown"), [(PAGE, report.table), (README, report.headlines)])
def test_a_page_shows_the_committed_results(page, shown):
    text = (ROOT / page).read_text(encoding="utf-8")

    assert text.partition(BEGIN)[2].partition(END)[0] == f"\n{shown(RESULTS)}"


def test_each_row_of_the_readme_is_one_of_the_results():
    assert len(report.headlines(RESULTS).splitlines()) == 2 + len(report.HEADLINES)


def test_a_miss_says_why_and_what_is_met_does_not():
    row = Row(
        "what", "s", {"taskfold": [3.0]}, budgets=(Budget("≤", 2, why="it waits"), Budget("≤", 4, why="never shown"))
    )

    (_, _, _, _, budgets), *_ = report.lines(row)

    assert budgets == "≤ 2 s: **missed**: it waits; ≤ 4 s: met"


def test_a_subject_that_nobody_knows_is_refused():
    done = run("nothing")

    assert done.returncode == 2
    assert "there is no subject nothing" in done.stderr
