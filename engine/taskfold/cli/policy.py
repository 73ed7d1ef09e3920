"""``taskfold policy``: the restart policy in force, its validity, and its effect when a task fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, Final, NamedTuple

import click
import msgspec

from taskfold.cli import _options as options
from taskfold.cli._guard import NO, Unanswerable
from taskfold.cli._jobs import JOB_TYPES, JobFile, read_jobs
from taskfold.cli._screen import Column, Screen, Table
from taskfold.cli._words import count_text, visible
from taskfold.decision.restart import REQUESTED, Advice, SimulatedFailure, advice_on, default_policy, simulate
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect, dialect_of
from taskfold.model.go.durations import NS_PER_SECOND, duration_text
from taskfold.model.policy import MODES, RestartPolicy
from taskfold.nomad.groups import job_policy, own_policy
from taskfold.nomad.views.job import TaskView

__all__ = ["policy"]

_MOST_FAILURES: Final = 100_000
_NS_PER_MS: Final = 1_000_000
_INT64: Final = range(-(2**63), 2**63)
"""The range of a policy's numbers in Nomad."""


class _InForce(NamedTuple):
    """The policy of a task, a group, a default or the flags; None if one is needed and missing."""

    source: str
    """Its owner: ``task``, ``group``, ``default`` or ``flags``."""
    job_type: str
    policy: RestartPolicy | None
    job: str = ""
    group: str = ""
    task: str = ""


class _Judged(NamedTuple):
    """The verdict on a policy in force."""

    in_force: _InForce
    errors: list[str]
    warnings: list[Advice]
    timeline: list[SimulatedFailure]
    """Empty if there are errors."""


@options.command()
@click.argument("job", metavar="[JOB.json|-]", required=False)
@click.option("--attempts", type=int, metavar="N", help="Restarts within the interval.")
@click.option("--interval", "interval_ns", type=options.DURATION, help="The length of a window, such as 30m.")
@click.option("--delay", "delay_ns", type=options.DURATION, help="The shortest wait before a restart, such as 15s.")
@click.option("--mode", type=click.Choice(MODES), help="What happens when the attempts are used up.")
@click.option(
    "--type",
    "job_type",
    type=click.Choice(JOB_TYPES),
    help="The type of job, for its default policy; service by default.",
)
@options.dialect_option(f"The dialect of the rules; default: {DEFAULT_DIALECT}.")
@click.option(
    "--run-for", "run_ns", type=options.DURATION, default="1s", show_default=True, help="How long each run lasts."
)
@click.option(
    "--failures",
    type=click.IntRange(1, _MOST_FAILURES),
    default=10,
    show_default=True,
    help="The number of failures to simulate.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The seed of the delays' random part.")
@options.format_option("table", "json")
def policy(job: str | None, dialect: str | None, run_ns: int, failures: int, seed: int, format: str, **own: Any) -> int:
    """Show what a restart policy does with a task that fails again and again.

    JOB.json is a job in the JSON of Nomad's API; every policy in it is shown. Without a file, the options make a
    policy; missing values are the default of the type of job.
    """
    if run_ns <= 0:
        raise Unanswerable(f"--run-for is {duration_text(run_ns)}, and must be positive: every run takes time")
    flags = {name: value for name, value in own.items() if value is not None}
    rules = dialect_of(dialect or DEFAULT_DIALECT)
    policies = [_of_flags(flags, rules)] if job is None else _of_file(job, flags, rules)
    judged = [_judged(in_force, rules, [run_ns] * failures, seed) for in_force in policies]
    if format == "json":
        click.echo(_to_json(judged, rules, run_ns, seed))
    else:
        _show(judged, f"dialect {rules.name}; every run lasts {duration_text(run_ns)}; seed {seed}")
    return NO if any(each.errors for each in judged) else 0


def _of_flags(flags: dict[str, Any], dialect: Dialect) -> _InForce:
    """Return the policy of the flags. Raises Unanswerable for a missing value without a default."""
    job_type = flags.pop("job_type", JOB_TYPES[0])
    default = default_policy(job_type, dialect)
    missing = [name for name in RestartPolicy.__struct_fields__ if name not in flags]
    if default is None and missing:
        names = ", ".join(map(_flag, missing))
        raise Unanswerable(f"a job of type {job_type} has no default policy: add {names}, or use another --type")
    own = msgspec.structs.replace(default or RestartPolicy(), **flags)
    return _InForce("flags" if flags else "default", job_type, own)


def _flag(name: str) -> str:
    return "--type" if name == "job_type" else f"--{name.removesuffix('_ns')}"


def _of_file(name: str, flags: dict[str, Any], dialect: Dialect) -> list[_InForce]:
    """Return every policy of the jobs in a file. Raises SourceError, and Unanswerable for additional flags."""
    if flags:
        raise Unanswerable(
            f"{', '.join(map(_flag, flags))}: a job file has its own policies; leave out the file or these options"
        )
    return [in_force for file in read_jobs(name, dialect) for in_force in _of_job(file, dialect)]


def _of_job(file: JobFile, dialect: Dialect) -> Iterator[_InForce]:
    """Yield the policy of each group, and of each task that has its own."""
    job, job_type = file.job, file.job.type
    for group, own_json in zip(job.task_groups or (), file.json["TaskGroups"], strict=True):
        tasks = group.tasks or ()
        own = [
            task
            for task, as_written in zip(tasks, own_json.get("Tasks") or (), strict=True)
            if own_policy(task, dialect) and as_written.get("RestartPolicy") is not None
        ]
        where = {"job": job.id or job.name, "group": group.name}
        is_written = own_json.get("RestartPolicy") is not None
        # A group needs no policy if all its tasks have their own.
        if is_written or not tasks or len(own) < len(tasks):
            source = "group" if is_written else "default"
            yield _check(_InForce(source, job_type, job_policy(job, group, TaskView(), dialect), **where))
        for task in own:
            in_force = _InForce("task", job_type, job_policy(job, group, task, dialect), **where, task=task.name)
            yield _check(in_force)


def _check(in_force: _InForce) -> _InForce:
    """Return the policy if its numbers are 64-bit integers. Raises Unanswerable."""
    own = in_force.policy or RestartPolicy()
    for name in ("attempts", "interval_ns", "delay_ns"):
        if getattr(own, name) not in _INT64:
            raise Unanswerable(f"{_title(in_force)}: {name.removesuffix('_ns')} does not fit into 64 bits")
    return in_force


def _judged(in_force: _InForce, dialect: Dialect, runs_ns: list[int], seed: int) -> _Judged:
    """Return the verdict on a policy. Each has its own generator, so that their order has no effect."""
    own = in_force.policy
    if own is None:
        error = f"a job of type {in_force.job_type} has no default policy, and none is named"
        return _Judged(in_force, [error], [], [])
    warnings = advice_on(own, run_ns=runs_ns[0], dialect=dialect)
    if errors := own.refusals():
        return _Judged(in_force, errors, warnings, [])
    rng = Random(seed)  # noqa: S311 - a seed repeats the run; nothing is secret
    return _Judged(in_force, [], warnings, simulate(own, runs_ns, rng=rng, dialect=dialect))


def _title(in_force: _InForce) -> str:
    """Return the title of a policy: its place and its owner."""
    whose = {
        "task": "the task's own policy",
        "group": "the group's policy",
        "default": f"the default policy of {in_force.job_type} jobs",
        "flags": "the policy of the flags",
    }[in_force.source]
    parts = [f"{word} {visible(name)}" for word in ("job", "group", "task") if (name := getattr(in_force, word))]
    return f"{', '.join(parts)}: {whose}" if parts else whose


def _show(judged: Iterable[_Judged], caption: str) -> None:
    """Write each policy with its timeline, then the notes on all."""
    columns = (
        Column("AT", right=True),
        Column("DECISION"),
        Column("DELAY", right=True),
        Column("COUNT", right=True),
        Column("REASON"),
    )
    screen = Screen()
    for each in judged:
        screen.line(_title(each.in_force), style="bold")
        if own := each.in_force.policy:
            interval, delay = duration_text(own.interval_ns), duration_text(own.delay_ns)
            verdict = "refused" if each.errors else "valid"
            screen.line(f"attempts {own.attempts} in {interval}, delay {delay}, mode {visible(own.mode)}: {verdict}")
        for error in each.errors:
            screen.line(f"error: {error}", style="bold red")
        for advice in each.warnings:
            screen.line(f"warning: {advice.text}", style="yellow")
        screen.line("")
        if each.timeline and own:
            Table(screen, columns).show(_row(failure, own) for failure in each.timeline)
            screen.line("")
            screen.line(_verdict(each.timeline))
            screen.line("")
    screen.line(f"note: {REQUESTED.text}")
    screen.caption(caption)


def _row(failure: SimulatedFailure, own: RestartPolicy) -> list[str]:
    decision = failure.verdict
    is_restart = decision.decision == "Restarting"
    return [
        _span_text(failure.at_ns),
        decision.decision,
        _span_text(decision.delay_ns) if is_restart else "-",
        f"{decision.tracker.count} of {own.attempts}",
        decision.reason,
    ]


def _verdict(timeline: list[SimulatedFailure]) -> str:
    """Return the end of a timeline in words."""
    last = timeline[-1]
    when = f"{count_text(len(timeline), 'failure')}, {_span_text(last.at_ns)} after it began"
    return f"started again even after {when}" if last.verdict.decision == "Restarting" else f"given up after {when}"


def _span_text(duration_ns: int) -> str:
    """Return a duration as Go writes it; from a second on in whole milliseconds.

    >>> _span_text(16_839_203_811), _span_text(1)
    ('16.839s', '1ns')
    """
    return duration_text(duration_ns if duration_ns < NS_PER_SECOND else duration_ns // _NS_PER_MS * _NS_PER_MS)


def _to_json(judged: Iterable[_Judged], dialect: Dialect, run_ns: int, seed: int) -> bytes:
    """Return everything as one JSON object; the policies are Nomad's JSON."""
    document = {
        "dialect": dialect.name,
        "run_for_ns": run_ns,
        "seed": seed,
        "policies": [_judged_to_json(each) for each in judged],
        "notes": [REQUESTED],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=4)


def _judged_to_json(each: _Judged) -> dict[str, Any]:
    in_force = each.in_force
    return {
        "job": in_force.job or None,
        "type": in_force.job_type,
        "group": in_force.group or None,
        "task": in_force.task or None,
        "source": in_force.source,
        "policy": in_force.policy,
        "valid": not each.errors,
        "errors": each.errors,
        "warnings": each.warnings,
        "timeline": [
            {
                "at_ns": failure.at_ns,
                "decision": failure.verdict.decision,
                "delay_ns": failure.verdict.delay_ns,
                "reason": failure.verdict.reason,
                "count": failure.verdict.tracker.count,
                "window_start_ns": failure.verdict.tracker.window_start_ns,
            }
            for failure in each.timeline
        ],
    }
