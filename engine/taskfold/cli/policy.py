"""``taskfold policy``: which restart policy is in force, whether it is valid, and what it does when a task fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, Final, NamedTuple

import click
import msgspec

from taskfold.cli import options
from taskfold.cli.guard import NO, Unanswerable
from taskfold.cli.jobs import JOB_TYPES, JobFile, read_jobs
from taskfold.cli.wording import count_text, visible
from taskfold.decision.policy_advice import REQUESTED, Advice, advice_on
from taskfold.decision.restart import Failure, default_policy, simulate
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect, dialect_of
from taskfold.model.duration import NS_PER_SECOND, duration_text
from taskfold.model.policy import MODES, RestartPolicy
from taskfold.nomad.groups import job_policy, own_policy
from taskfold.nomad.views.job import Task

__all__ = ["policy"]

_MOST_FAILURES: Final = 100_000
_NS_PER_MS: Final = 1_000_000
_INT64: Final = range(-(2**63), 2**63)
"""What the numbers of a policy are in Nomad."""


class _InForce(NamedTuple):
    """A policy that is in force somewhere, or None where there is none though one is needed."""

    source: str
    """Whose it is: ``task``, ``group``, ``default`` or ``flags``."""
    job_type: str
    policy: RestartPolicy | None
    job: str = ""
    group: str = ""
    task: str = ""


class _Judged(NamedTuple):
    """What there is to say of a policy in force."""

    found: _InForce
    errors: list[str]
    warnings: list[Advice]
    timeline: list[Failure]
    """Empty where there are errors."""


@click.command()
@click.argument("job", metavar="[JOB.json|-]", required=False)
@click.option("--attempts", type=int, metavar="N", help="Restarts within the interval.")
@click.option("--interval", "interval_ns", type=options.DURATION, help="The length of a window, such as 30m.")
@click.option("--delay", "delay_ns", type=options.DURATION, help="The least wait before a restart, such as 15s.")
@click.option("--mode", type=click.Choice(MODES), help="What is done when the attempts are used up.")
@click.option(
    "--type", "job_type", type=click.Choice(JOB_TYPES), help="Whose default the rest is; service unless named."
)
@options.dialect_option(f"Whose rules; {DEFAULT_DIALECT} unless named.")
@click.option(
    "--run-for", "run_ns", type=options.DURATION, default="1s", show_default=True, help="How long each run lasts."
)
@click.option(
    "--failures", type=click.IntRange(1, _MOST_FAILURES), default=10, show_default=True, help="After how many to end."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random part of the delays.")
@options.format_option("table", "json")
def policy(job: str | None, dialect: str | None, run_ns: int, failures: int, seed: int, format: str, **own: Any) -> int:
    """Show what a restart policy does with a task that fails again and again.

    JOB.json is a job as Nomad's API takes it: every policy in it is shown. Without it the flags make a policy; what
    they leave out is the default of the type of job.
    """
    if run_ns <= 0:
        raise Unanswerable(
            f"--run-for is {duration_text(run_ns)}, and should be more than nothing: every run takes time"
        )
    given = {name: value for name, value in own.items() if value is not None}
    spoken = dialect_of(dialect or DEFAULT_DIALECT)
    in_force = [_of_flags(given, spoken)] if job is None else _of_file(job, given, spoken)
    judged = [_judged(found, spoken, [run_ns] * failures, seed) for found in in_force]
    if format == "json":
        click.echo(_to_json(judged, spoken, run_ns, seed))
    else:
        _show(judged, f"dialect {spoken.name}; every run lasts {duration_text(run_ns)}; seed {seed}")
    return NO if any(each.errors for each in judged) else 0


def _of_flags(given: dict[str, Any], dialect: Dialect) -> _InForce:
    """Return the policy that the flags name. Raises Unanswerable where something is left out that has no default."""
    job_type = given.pop("job_type", JOB_TYPES[0])
    default = default_policy(job_type, dialect)
    missing = [name for name in RestartPolicy.__struct_fields__ if name not in given]
    if default is None and missing:
        flags = ", ".join(map(_flag, missing))
        raise Unanswerable(f"a job of type {job_type} has no default policy: name {flags} as well, or another --type")
    own = msgspec.structs.replace(default or RestartPolicy(), **given)
    return _InForce("flags" if given else "default", job_type, own)


def _flag(name: str) -> str:
    return "--type" if name == "job_type" else f"--{name.removesuffix('_ns')}"


def _of_file(name: str, given: dict[str, Any], dialect: Dialect) -> list[_InForce]:
    """Return every policy of the jobs in a file. Raises SourceError, and Unanswerable for flags beside it."""
    if given:
        raise Unanswerable(
            f"{', '.join(map(_flag, given))}: a job file says this itself; leave the one or the other out"
        )
    return [found for told in read_jobs(name, dialect) for found in _of_job(told, dialect)]


def _of_job(found: JobFile, dialect: Dialect) -> Iterator[_InForce]:
    """Yield the policy of each group, and of each task for which one was written."""
    job, job_type = found.job, found.job.type
    for group, written in zip(job.task_groups or (), found.told["TaskGroups"], strict=True):
        tasks = group.tasks or ()
        own = [
            task
            for task, as_written in zip(tasks, written.get("Tasks") or (), strict=True)
            if own_policy(task, dialect) and as_written.get("RestartPolicy") is not None
        ]
        where = {"job": job.id or job.name, "group": group.name}
        is_written = written.get("RestartPolicy") is not None
        # A group whose tasks all have their own needs none.
        if is_written or not tasks or len(own) < len(tasks):
            source = "group" if is_written else "default"
            yield _checked(_InForce(source, job_type, job_policy(job, group, Task(), dialect), **where))
        for task in own:
            in_force = _InForce("task", job_type, job_policy(job, group, task, dialect), **where, task=task.name)
            yield _checked(in_force)


def _checked(found: _InForce) -> _InForce:
    """Return what is in force, unless a number of it is none of Nomad's. Raises Unanswerable."""
    own = found.policy or RestartPolicy()
    for name in ("attempts", "interval_ns", "delay_ns"):
        if getattr(own, name) not in _INT64:
            raise Unanswerable(f"{_title(found)}: {name.removesuffix('_ns')} is a number that 64 bits do not hold")
    return found


def _judged(found: _InForce, dialect: Dialect, runs_ns: list[int], seed: int) -> _Judged:
    """Return what there is to say of a policy: each has a generator of its own, so that their order changes nothing."""
    own = found.policy
    if own is None:
        return _Judged(found, [f"a job of type {found.job_type} has no default policy, and none is named"], [], [])
    warnings = advice_on(own, run_ns=runs_ns[0], dialect=dialect)
    if errors := own.refusals():
        return _Judged(found, errors, warnings, [])
    rng = Random(seed)  # noqa: S311 - what is drawn can be drawn again, and hides nothing
    return _Judged(found, [], warnings, simulate(own, runs_ns, rng=rng, dialect=dialect))


def _title(found: _InForce) -> str:
    """Say where a policy is in force, and whose it is."""
    whose = {
        "task": "the task's own policy",
        "group": "the group's policy",
        "default": f"the default policy of {found.job_type} jobs",
        "flags": "the policy of the flags",
    }[found.source]
    parts = [f"{word} {visible(name)}" for word in ("job", "group", "task") if (name := getattr(found, word))]
    return f"{', '.join(parts)}: {whose}" if parts else whose


def _show(judged: Iterable[_Judged], caption: str) -> None:
    """Write each policy with its timeline, and what holds for all below them."""
    from taskfold.cli.screen import Column, Screen, Table

    columns = (
        Column("AT", right=True),
        Column("DECISION"),
        Column("DELAY", right=True),
        Column("COUNT", right=True),
        Column("REASON"),
    )
    screen = Screen()
    for each in judged:
        screen.line(_title(each.found), style="bold")
        if own := each.found.policy:
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


def _row(failure: Failure, own: RestartPolicy) -> list[str]:
    decided = failure.decided
    is_restart = decided.decision == "Restarting"
    return [
        _span_text(failure.at_ns),
        decided.decision,
        _span_text(decided.delay_ns) if is_restart else "-",
        f"{decided.tracker.count} of {own.attempts}",
        decided.reason,
    ]


def _verdict(timeline: list[Failure]) -> str:
    """Say how a timeline ends."""
    last = timeline[-1]
    when = f"{count_text(len(timeline), 'failure')}, {_span_text(last.at_ns)} after it began"
    return f"started again even after {when}" if last.decided.decision == "Restarting" else f"given up after {when}"


def _span_text(duration_ns: int) -> str:
    """Return a duration as Go writes it, without what is less than a millisecond where it is a second or more.

    >>> _span_text(16_839_203_811), _span_text(1)
    ('16.839s', '1ns')
    """
    return duration_text(duration_ns if duration_ns < NS_PER_SECOND else duration_ns // _NS_PER_MS * _NS_PER_MS)


def _to_json(judged: Iterable[_Judged], dialect: Dialect, run_ns: int, seed: int) -> bytes:
    """Return everything as one JSON object; the policies are Nomad's JSON."""
    told = {
        "dialect": dialect.name,
        "run_for_ns": run_ns,
        "seed": seed,
        "policies": [_judged_to_json(each) for each in judged],
        "notes": [REQUESTED],
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=4)


def _judged_to_json(each: _Judged) -> dict[str, Any]:
    found = each.found
    return {
        "job": found.job or None,
        "type": found.job_type,
        "group": found.group or None,
        "task": found.task or None,
        "source": found.source,
        "policy": found.policy,
        "valid": not each.errors,
        "errors": each.errors,
        "warnings": each.warnings,
        "timeline": [
            {
                "at_ns": failure.at_ns,
                "decision": failure.decided.decision,
                "delay_ns": failure.decided.delay_ns,
                "reason": failure.decided.reason,
                "count": failure.decided.tracker.count,
                "window_start_ns": failure.decided.tracker.window_start_ns,
            }
            for failure in each.timeline
        ],
    }
