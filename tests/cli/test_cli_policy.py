"""`taskfold policy`: every policy of a job, what is wrong with it, a timeline, warnings; bad input is one sentence."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from support import command_line, recordings
from support.command_line import refused
from taskfold.cli.policy import policy as policy_command
from taskfold.decision.restart import REQUESTED, default_policy, simulate
from taskfold.model.dialect import DEFAULT_DIALECT, DIALECTS
from taskfold.model.policy import RestartPolicy
from taskfold.nomad.groups import job_policy
from taskfold.nomad.views import Job, view

SECOND_NS = 1_000_000_000
SHORT = ("--attempts", "3", "--interval", "10s", "--delay", "1s", "--mode", "fail", "--dialect", "1.1.2")
"""A policy that is used up by a task that fails at once, and never by one that runs for three seconds."""


def run(*args: object, input: bytes | None = None, env: dict[str, str | None] | None = None) -> Result:
    return command_line.run("policy", *args, input=input, env=env)


def told(*args: object, status: int = 0, input: bytes | None = None) -> dict[str, Any]:
    """Return what the command says as JSON."""
    result = run(*args, "--format", "json", input=input)
    assert result.exit_code == status, result.stderr
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def only(*args: object, status: int = 0, input: bytes | None = None) -> dict[str, Any]:
    """Return the one policy that the command tells of."""
    (found,) = told(*args, status=status, input=input)["policies"]
    assert isinstance(found, dict)
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [warning["name"] for warning in found["warnings"]]


def as_told(policy: RestartPolicy | None) -> dict[str, Any] | None:
    """Return a policy in Nomad's JSON."""
    if policy is None:
        return None
    return {
        "Attempts": policy.attempts,
        "Interval": policy.interval_ns,
        "Delay": policy.delay_ns,
        "Mode": policy.mode,
    }


def job_of(*groups: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"ID": "web", "Type": "service", "TaskGroups": list(groups), **fields}


def written(job: Any, folder: Path) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


OWN = {"Attempts": 1, "Interval": 60 * SECOND_NS, "Delay": SECOND_NS, "Mode": "fail"}
OTHER = OWN | {"Attempts": 5}


# --- without a file ---


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("job_type", ["service", "system", "batch"])
def test_without_flags_it_is_the_default_of_the_type(job_type: str, dialect: str) -> None:
    found = only("--type", job_type, "--dialect", dialect)

    assert found["policy"] == as_told(default_policy(job_type, dialect))
    assert (found["source"], found["type"], found["valid"]) == ("default", job_type, True)


def test_unless_named_it_is_a_service_in_the_default_dialect() -> None:
    assert told() == told("--type", "service", "--dialect", DEFAULT_DIALECT, "--run-for", "1s", "--seed", "0")


def test_a_flag_changes_its_part_of_the_default() -> None:
    found = only("--type", "batch", "--attempts", "7", "--dialect", "1.1.2")

    assert found["source"] == "flags"
    assert found["policy"] == (as_told(default_policy("batch", "1.1.2")) or {}) | {"Attempts": 7}


def test_durations_are_gos() -> None:
    found = only("--interval", "1h30m", "--delay", "1.5s")

    assert (found["policy"]["Interval"], found["policy"]["Delay"]) == (5400 * SECOND_NS, 1_500_000_000)


def test_sysbatch_has_to_be_told_everything() -> None:
    assert only(*SHORT, "--type", "sysbatch")["type"] == "sysbatch"


# --- the timeline ---


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_timeline_is_what_the_library_simulates(dialect: str) -> None:
    found = told("--dialect", dialect, "--run-for", "2s", "--failures", "6", "--seed", "7")

    policy = default_policy("service", dialect)
    assert policy is not None
    expected = simulate(policy, [2 * SECOND_NS] * 6, rng=random.Random(7), dialect=dialect)
    assert found["policies"][0]["timeline"] == [
        {
            "at_ns": step.at_ns,
            "decision": step.verdict.decision,
            "delay_ns": step.verdict.delay_ns,
            "reason": step.verdict.reason,
            "count": step.verdict.tracker.count,
            "window_start_ns": step.verdict.tracker.window_start_ns,
        }
        for step in expected
    ]
    assert (found["run_for_ns"], found["seed"], found["dialect"]) == (2 * SECOND_NS, 7, dialect)


def test_the_same_seed_is_the_same_output_and_another_is_not() -> None:
    assert run(*SHORT).stdout == run(*SHORT).stdout
    assert run(*SHORT).stdout != run(*SHORT, "--seed", "1").stdout


def test_it_ends_with_the_failures_that_are_asked_for() -> None:
    assert len(only("--dialect", "0.5.6")["timeline"]) == 10
    assert len(only("--dialect", "0.5.6", "--failures", "3")["timeline"]) == 3


def test_the_table_is_plain_when_piped() -> None:
    result = run(*SHORT)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "the policy of the flags",
        "attempts 3 in 10s, delay 1s, mode fail: valid",
        "",
        "    AT  DECISION         DELAY   COUNT  REASON",
        "    1s  Restarting      1.226s  1 of 3  Restart within policy",
        "3.226s  Restarting      1.103s  2 of 3  Restart within policy",
        " 5.33s  Restarting      1.203s  3 of 3  Restart within policy",
        '7.533s  Not Restarting       -  4 of 3  Exceeded allowed attempts 3 in interval 10s and mode is "fail"',
        "",
        "given up after 4 failures, 7.533s after it began",
        "",
        f"note: {REQUESTED.text}",
        "",
        "dialect 1.1.2; every run lasts 1s; seed 0",
    ]


def test_the_table_fits_a_terminal() -> None:
    shown = run(*SHORT, env={"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color", "NO_COLOR": None}).stdout

    assert "\x1b[" in shown
    rows = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines() if "Restarting" in line]
    assert len(rows) == 4
    assert max(map(len, rows)) <= 80


# --- warnings ---


def test_the_warnings_are_sentences_above_the_table() -> None:
    shown = run(*SHORT, "--run-for", "3s").stdout

    assert (
        "warning: a task that runs 3s before it fails is started again for ever: no window of 10s counts more than 3, "
        "so that attempts 3 are never used up\n"
    ) in shown
    assert "started again even after 10 failures" in shown


WARNED = [
    ((*SHORT,), []),
    ((*SHORT, "--run-for", "3s"), ["for-ever"]),
    ((*SHORT, "--run-for", "3s", "--mode", "delay"), ["never-waits", "never-fails"]),
    ((*SHORT, "--interval", "6.5s"), ["by-chance"]),
    (("--dialect", "0.5.6"), ["never-fails", "one-more"]),
    (("--dialect", "1.1.2"), []),
    (("--dialect", "1.1.2", "--run-for", "15m"), ["for-ever"]),
]


@pytest.mark.parametrize(("args", "expected"), WARNED, ids=" ".join)
def test_a_policy_that_surprises_is_warned_of(args: tuple[str, ...], expected: list[str]) -> None:
    assert names(only(*args)) == expected


def test_a_restart_that_is_asked_for_is_noted_once_whatever_the_policies(tmp_path: Path) -> None:
    job = job_of({"Name": "a", "RestartPolicy": OWN}, {"Name": "b", "RestartPolicy": OTHER})
    path = written(job, tmp_path)

    assert run(path).stdout.count(REQUESTED.text) == 1
    assert told(path)["notes"] == [{"name": REQUESTED.name, "text": REQUESTED.text}]


# --- policies that are refused ---

REFUSED = [
    (
        ("--attempts", "0", "--mode", "delay", "--interval", "2s"),
        ['Restart policy "delay" with 0 attempts is ambiguous', "Interval can not be less than 5s (got 2s)"],
        ["no-attempts"],
    ),
    (
        (*SHORT, "--interval", "2s"),
        [
            "Interval can not be less than 5s (got 2s)",
            "Nomad can't restart the TaskGroup 3 times in an interval of 2s with a delay of 1s",
        ],
        [],
    ),
    ((*SHORT, "--delay", "-5s"), ["Delay can not be negative (got -5s)"], []),
    ((*SHORT, "--attempts", "-1"), ["Attempts can not be negative (got -1)"], []),
    (
        (*SHORT, "--interval", "-5s"),
        [
            "Interval can not be less than 5s (got -5s)",
            "Nomad can't restart the TaskGroup 3 times in an interval of -5s with a delay of 1s",
        ],
        [],
    ),
]


@pytest.mark.parametrize(("args", "errors", "warnings"), REFUSED, ids=lambda value: " ".join(value)[-30:])
def test_everything_that_is_wrong_is_told_and_the_answer_is_no(
    args: tuple[str, ...], errors: list[str], warnings: list[str]
) -> None:
    found = only(*args, status=1)

    assert (found["errors"], found["valid"], found["timeline"]) == (errors, False, [])
    assert names(found) == warnings
    shown = run(*args)
    assert shown.exit_code == 1
    assert shown.stderr == ""
    for error in errors:
        assert f"error: {error}\n" in shown.stdout
    assert ": refused\n" in shown.stdout
    assert "DECISION" not in shown.stdout


def test_one_refused_policy_of_many_makes_the_answer_no_and_the_others_are_shown(tmp_path: Path) -> None:
    bad = OWN | {"Mode": "never"}
    path = written(job_of({"Name": "a", "RestartPolicy": bad}, {"Name": "b", "RestartPolicy": OWN}), tmp_path)

    refused, fine = told(path, status=1)["policies"]

    assert refused["errors"] == ['Unsupported restart mode: "never"']
    assert fine["valid"]
    assert fine["timeline"]


# --- with a file ---


def test_each_group_is_shown_and_each_task_with_its_own_policy(tmp_path: Path) -> None:
    job = job_of(
        {"Name": "a", "RestartPolicy": OWN, "Tasks": [{"Name": "one"}, {"Name": "two", "RestartPolicy": OTHER}]},
        {"Name": "b", "Tasks": [{"Name": "three"}]},
        {"Name": "c", "Tasks": [{"Name": "four", "RestartPolicy": OTHER}]},
    )
    path = written(job, tmp_path)

    found = told(path, "--dialect", "1.1.2")["policies"]

    default = as_told(default_policy("service", "1.1.2"))
    assert [(each["group"], each["task"], each["source"], each["policy"]) for each in found] == [
        ("a", None, "group", OWN),
        ("a", "two", "task", OTHER),
        ("b", None, "default", default),
        ("c", "four", "task", OTHER),
    ]
    titles = [line for line in run(path, "--dialect", "1.1.2").stdout.splitlines() if line.startswith("job ")]
    assert titles == [
        "job web, group a: the group's policy",
        "job web, group a, task two: the task's own policy",
        "job web, group b: the default policy of service jobs",
        "job web, group c, task four: the task's own policy",
    ]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda job: job,
        lambda job: {"Job": job},
        lambda job: [job],
        lambda job: [{"Job": job}],
    ],
    ids=["bare", "wrapped", "a list", "a list of wrapped"],
)
def test_a_job_is_read_in_every_form(wrap: Any, tmp_path: Path) -> None:
    found = only(written(wrap(job_of({"Name": "a", "RestartPolicy": OWN})), tmp_path))

    assert (found["job"], found["policy"]) == ("web", OWN)


def test_a_job_may_come_from_standard_input_and_be_compressed() -> None:
    content = json.dumps(job_of({"Name": "a", "RestartPolicy": OWN})).encode()

    assert only("-", input=content)["policy"] == OWN
    assert only("-", input=gzip.compress(content))["policy"] == OWN


def test_durations_of_the_documented_api_are_read(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(
        '{"TaskGroups":[{"Name":"a","RestartPolicy":{"Attempts":10,"Delay":2.5e+10,"Interval":3e+11,"Mode":"delay"}}]}'
    )

    found = only(path)

    assert (found["policy"]["Delay"], found["policy"]["Interval"]) == (25 * SECOND_NS, 300 * SECOND_NS)


def test_null_is_what_is_not_said(tmp_path: Path) -> None:
    """`nomad job run -output` writes null for everything that a job file leaves out."""
    group = {"Name": "a", "Count": None, "RestartPolicy": None, "Tasks": [{"Name": "t", "User": None}]}
    found = only(written(job_of(group, Region=None, Type=None), tmp_path), "--dialect", "1.1.2")

    assert (found["source"], found["type"]) == ("default", "service")


def test_what_a_policy_leaves_out_is_filled_in_as_a_newer_agent_does(tmp_path: Path) -> None:
    task = {"Name": "t", "RestartPolicy": {"Delay": 2 * SECOND_NS}}
    job = job_of({"Name": "a", "RestartPolicy": {"Attempts": 5, "Mode": None}, "Tasks": [task, {"Name": "u"}]})
    path = written(job, tmp_path)

    of_group, of_task = told(path, "--dialect", "1.1.2")["policies"]

    default = as_told(default_policy("service", "1.1.2")) or {}
    assert of_group["policy"] == default | {"Attempts": 5}
    assert of_task["policy"] == default | {"Attempts": 5, "Delay": 2 * SECOND_NS}


def test_a_zero_that_is_said_is_not_filled_in(tmp_path: Path) -> None:
    path = written(job_of({"Name": "a", "RestartPolicy": OWN | {"Interval": 0}}), tmp_path)

    assert only(path, "--dialect", "1.1.2", status=1)["errors"][0] == "Interval can not be less than 5s (got 0s)"


def test_an_older_agent_fills_nothing_in_but_the_mode(tmp_path: Path) -> None:
    """Agents complete policies since 0.5.5."""
    path = written(job_of({"Name": "a", "RestartPolicy": {"Attempts": 3}}), tmp_path)

    assert only(path, "--dialect", "0.5.0", status=1)["policy"] == {
        "Attempts": 3,
        "Interval": 0,
        "Delay": 0,
        "Mode": "delay",
    }
    assert only(path, "--dialect", "0.5.6")["policy"] == as_told(default_policy("service", "0.5.6")) | {"Attempts": 3}


def test_a_type_without_a_default_needs_a_policy_where_no_task_has_its_own(tmp_path: Path) -> None:
    own = {"Name": "t", "RestartPolicy": OWN}
    path = written(job_of({"Name": "a", "Tasks": [own]}, {"Name": "b", "Tasks": [own, {"Name": "u"}]}), tmp_path)
    job = json.loads(path.read_text()) | {"Type": "sysbatch"}
    path = written(job, tmp_path)

    found = told(path, "--dialect", "1.1.2", status=1)["policies"]

    assert [(each["group"], each["task"], each["valid"]) for each in found] == [
        ("a", "t", True),
        ("b", None, False),
        ("b", "t", True),
    ]
    assert found[1]["errors"] == ["a job of type sysbatch has no default policy, and none is named"]
    assert found[1]["policy"] is None
    assert "error: a job of type sysbatch has no default policy" in run(path).stdout


def without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None}


@pytest.mark.parametrize("scenario", recordings.scenarios(), ids=str)
def test_the_policy_of_every_recorded_job_is_the_one_that_is_decided_by(scenario: recordings.Scenario) -> None:
    path = scenario.path / "job.json"
    # As for an allocation: the null of a submitted job is left out.
    submitted = json.loads(path.read_bytes(), object_pairs_hook=without_nulls)
    jobs = [view(json.dumps(job).encode(), Job) for job in (submitted if isinstance(submitted, list) else [submitted])]

    result = run(path, "--dialect", scenario.version, "--format", "json")

    found = json.loads(result.stdout)["policies"]
    expected = [
        (job.id, group.name, as_told(job_policy(job, group, task, scenario.version)))
        for job in jobs
        for group in job.task_groups or ()
        for task in (group.tasks or ())[:1]
    ]
    assert [(each["job"], each["group"], each["policy"]) for each in found] == expected
    assert result.exit_code == (0 if all(each["valid"] for each in found) else 1)


def test_what_a_job_is_called_cannot_move_the_cursor(tmp_path: Path) -> None:
    group = {"Name": "a\x1b[2J", "RestartPolicy": OWN | {"Mode": "\x1b[31m\n"}}
    result = run(written(job_of(group, ID="w\neb"), tmp_path))

    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert result.stdout.startswith("job w\\neb, group a\\x1b[2J: the group's policy\n")


# --- hostile input ---


def with_policy(text: str) -> bytes:
    return b'{"ID":"web","TaskGroups":[{"Name":"a","RestartPolicy":%b}]}' % text.encode()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not JSON"),
    "prose": (b"Good morning\n", "is not JSON"),
    "a job in HCL": (b'job "web" {\n}\n', "`nomad job run -output FILE` prints a job as JSON"),
    "binary": (bytes(range(256)), "is not JSON"),
    "no UTF-8": (b'{"ID":"\xff"}', "is not JSON"),
    "a lone surrogate": (b'{"ID":"\\ud800","TaskGroups":[{}]}', "is not JSON"),
    "two documents": (b"{}{}", "is not JSON"),
    "a cut-off job": (b'{"TaskGroups":[{', "is not JSON"),
    "JSON that is nested too deeply": (b"[" * 100_000, "nested too deeply"),
    "values that are nested deeply": (b'{"Meta":' + b"[" * 600 + b"]" * 600 + b"}", ""),
    "gzip that is cut off": (gzip.compress(with_policy("{}") * 500)[:60], "compressed data"),
    "a number": (b"42", "$"),
    "a text": (b'"job"', "$"),
    "null": (b"null", "$"),
    "an empty object": (b"{}", "no TaskGroups"),
    "an empty list": (b"[]", "the list is empty"),
    "a list of numbers": (b"[1]", "$[0]"),
    "a Job that is null": (b'{"Job":null}', "$.Job"),
    "a Job that is a text": (b'{"Job":"web"}', "$.Job"),
    "something else": (b'{"kind":"Deployment","spec":{}}', "no TaskGroups"),
    "no groups": (b'{"ID":"web","TaskGroups":[]}', "no TaskGroups"),
    "groups that are an object": (b'{"TaskGroups":{"a":1}}', "$.TaskGroups"),
    "a group that is null": (b'{"TaskGroups":[null]}', "$.TaskGroups[0]"),
    "tasks that are a number": (b'{"TaskGroups":[{"Tasks":3}]}', "$.TaskGroups[0].Tasks"),
    "a task that is a text": (b'{"TaskGroups":[{"Tasks":["t"]}]}', "$.TaskGroups[0].Tasks[0]"),
    "a type that is a number": (b'{"Type":3,"TaskGroups":[{}]}', "$.Type"),
    "a type that is a list": (b'{"Type":["batch"],"TaskGroups":[{}]}', "$.Type"),
    "an unknown type": (b'{"Type":"cron","TaskGroups":[{}]}', "'cron' is no type of job; there are service, system"),
    "a policy that is a list": (with_policy("[]"), "RestartPolicy"),
    "attempts that are a text": (with_policy('{"Attempts":"3"}'), "RestartPolicy.Attempts"),
    "attempts that are a half": (with_policy('{"Attempts":2.5}'), "RestartPolicy.Attempts"),
    "attempts that are true": (with_policy('{"Attempts":true}'), "RestartPolicy.Attempts"),
    "attempts of 65 bits": (
        with_policy('{"Attempts":18446744073709551616}'),
        "RestartPolicy.Attempts: expected a whole number of 64 bits",
    ),
    "a delay of 400 digits": (with_policy('{"Delay":%s}' % ("9" * 400)), "RestartPolicy.Delay: expected nanoseconds"),
    "an interval of 5,000 digits": (with_policy('{"Interval":%s}' % ("9" * 5000)), "out of range"),
    "an interval that is too great a float": (with_policy('{"Interval":1e300}'), "RestartPolicy.Interval"),
    "an interval in HCL": (with_policy('{"Interval":"30m"}'), "RestartPolicy.Interval"),
    "a mode that is a number": (with_policy('{"Mode":1}'), "RestartPolicy.Mode"),
}


@pytest.mark.parametrize("dialect", ["0.5.6", "1.1.2"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_job(name: str, dialect: str, tmp_path: Path) -> None:
    content, part = BAD_FILES[name]
    path = tmp_path / "job.json"
    path.write_bytes(content)

    refused(run(path, "--dialect", dialect), part)
    refused(run("-", "--dialect", dialect, "--format", "json", input=content), part)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    refused(run(tmp_path / "missing.json"), tmp_path / "missing.json", "no such file")
    refused(run(tmp_path), tmp_path, "is a directory")
    refused(run("x" * 5000), "File name too long")


def test_a_file_that_is_too_long_for_a_job(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(b'{"ID":"' + b"x" * (33 << 20) + b'"}')

    refused(run(path), path, "longer than 32 MiB")


USAGE: list[tuple[tuple[str, ...], str]] = [
    (("--delay", "5x"), "'5x' is not a duration such as 10s"),
    (("--delay", "5"), "'5' is not a duration"),
    (("--delay", ""), "is not a duration"),
    (("--delay", "9" * 5000 + "s"), "--delay"),
    (("--interval", "1d"), "'1d' is not a duration"),
    (("--interval", "300000h" * 10), "is not a duration"),
    (("--run-for", "soon"), "'soon' is not a duration"),
    (("--run-for", "0s"), "--run-for is 0s"),
    (("--run-for", "-1s"), "--run-for is -1s"),
    (("--attempts", "many"), "--attempts"),
    (("--attempts", "1.5"), "--attempts"),
    (("--attempts", "9" * 5000), "--attempts"),
    (("--mode", "never"), "'never' is not one of 'delay', 'fail'"),
    (("--type", "cron"), "'cron' is not one of 'service', 'system', 'batch', 'sysbatch'"),
    (("--type", "sysbatch"), "add --attempts, --interval, --delay, --mode"),
    (("--type", "sysbatch", "--attempts", "1", "--mode", "fail"), "add --interval, --delay"),
    (("--dialect", "9.9"), "'9.9' is not one of"),
    (("--format", "yaml"), "'yaml' is not one of 'table', 'json'"),
    (("--failures", "0"), "--failures"),
    (("--failures", "100001"), "--failures"),
    (("--seed", "x"), "--seed"),
    (("job.json", "other.json"), "unexpected extra argument"),
    (("job.json", "--attempts", "3"), "--attempts: a job file has its own policies"),
    (("-", "--type", "batch", "--delay", "1s"), "--type, --delay: a job file has its own policies"),
]


@pytest.mark.parametrize(("args", "part"), USAGE, ids=lambda value: " ".join(value)[:40] if value else "")
def test_flags_that_are_wrong(args: tuple[str, ...], part: str) -> None:
    refused(run(*args), part)


@pytest.mark.parametrize("args", [("--attempts", "9" * 400, "--delay", "0s"), ("--run-for", "2562047h")], ids=len)
def test_great_numbers_are_only_great(args: tuple[str, ...]) -> None:
    assert run("--dialect", "1.1.2", *args).exit_code == 0
    assert only("--dialect", "1.1.2", *args)["timeline"]


def test_the_help_names_every_flag() -> None:
    shown = run("--help").stdout

    for parameter in policy_command.params:
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in shown


def test_a_policy_of_a_task_is_none_where_nomad_does_not_know_that(tmp_path: Path) -> None:
    path = written(
        job_of({"Name": "a", "RestartPolicy": OWN, "Tasks": [{"Name": "t", "RestartPolicy": OWN}]}), tmp_path
    )

    for dialect, tasks in (("0.5.6", [None]), ("1.1.2", [None, "t"])):
        assert [each["task"] for each in told(path, "--dialect", dialect)["policies"]] == tasks
