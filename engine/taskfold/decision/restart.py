"""The restart policy at work: whether and when a task is started again after its end, and cases that surprise.

Theory of operation
===================

A tracker counts attempts in a window of time. `decide_restart` takes the result of a task (`Result`), and returns a
`Verdict`: what to do, after which delay and for which reason, and the tracker afterwards. Its steps, in order:

1. it was killed (new client only): ``Killed``;
2. a restart was asked for that is no failure: ``Restarting`` at once; it does not count;
3. the policy allows no restarts: ``Not Restarting``, or ``Terminated`` after a success that may be the end;
4. it counts, in this window or in the next one (the old client counts first, and then opens the window with zero: an
   off-by-one of Nomad before 0.9.3, which is behaviour here);
5. it could not start, and nobody thinks that it ever will: ``Not Restarting``;
6. it ended well, and may end: ``Terminated``;
7. the attempts are used up: ``Not Restarting`` in mode fail, else ``Restarting`` when the window is over;
8. else ``Restarting`` after the delay and up to a quarter of it more.

A window is over strictly after its interval; only step 4 moves it. Nomad forgets its tracker when the client restarts;
here the tracker is recorded with the decision, and folded again.

`advice_on` warns of surprises in a policy. A task that always runs equally long before it fails, fails
at equal distances: the run and the delay. So each window holds as many failures as fit into the interval, and the
attempts are used up when more failures fit than there are attempts. Delays are random within bounds; `decide_restart`
gives both bounds, so that they are written once. With the shortest delays most failures fit: if those do not use the
attempts up, nothing does. With the longest delays fewest fit: if even those use them up, that is certain. The tests
compare both with `simulate`.

Sources: client/restarts.go (v0.5.6) and client/allocrunner/taskrunner/restarts/restarts.go (new).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.go.durations import duration_text
from taskfold.model.policy import (
    DELAYED,
    EXCEEDED,
    MODE_DELAY,
    MODE_FAIL,
    NO_RESTARTS,
    SUCCEEDED,
    UNRECOVERABLE,
    WITHIN_POLICY,
    RestartPolicy,
)

__all__ = [
    "REQUESTED",
    "VERDICTS",
    "Advice",
    "Hook",
    "Random",
    "RestartDecision",
    "SimulatedFailure",
    "TaskEnd",
    "Tracker",
    "UsedUp",
    "Verdict",
    "advice_on",
    "decide_restart",
    "default_policy",
    "most_counted",
    "restarts_after_success",
    "simulate",
    "used_up",
]

RestartDecision: TypeAlias = Literal["Restarting", "Not Restarting", "Terminated", "Killed"]
Hook: TypeAlias = Literal["", "prestart", "poststart", "poststop"]

_JITTER: Final = 0.25
"""How much of the delay is added at most. Source: jitter in both trackers."""

ENDING_JOB_TYPES: Final = ("batch", "sysbatch")
"""The types of jobs whose tasks may end well."""


VERDICTS: Final[Mapping[RestartDecision, tuple[str, ...]]] = {
    "Killed": ("",),
    "Restarting": (WITHIN_POLICY, DELAYED, ""),
    "Not Restarting": (EXCEEDED, NO_RESTARTS, UNRECOVERABLE),
    "Terminated": (SUCCEEDED, NO_RESTARTS),
}
"""Every decision, with the reasons that it can have: none where somebody asked for it. Behind `EXCEEDED` a reason has
numbers of the policy; `Killed` is the new client's."""


class Random(Protocol):
    """A source of randomness, such as ``random.Random(seed)``."""

    def randrange(self, stop: int, /) -> int:
        """Return a uniform integer in [0, stop)."""
        ...


class Tracker(Struct, frozen=True, gc=False):
    """The restarts of a task so far: the open window, and the attempts counted in it."""

    window_start_ns: int
    """When the window began (unix nanoseconds); the first begins when the client gets the task."""
    count: int = 0


class TaskEnd(Struct, frozen=True, kw_only=True, gc=False):
    """The end of a task, or of the try to start it, as the restart policy sees it."""

    exit_code: int | None = None
    """The exit code; None when no process exited (a start that failed, a restart that somebody asks for)."""
    signal: int = 0
    error: str = ""
    killed: bool = False
    start_failed: bool = False
    recoverable: bool = False
    """A start that failed may succeed later."""
    restart: Literal["", "asked", "failed"] = ""
    """Somebody asked for a restart, or asked since something failed (a health check): only that counts."""

    @property
    def is_success(self) -> bool:
        """Whether it ended well: code 0, no signal and no error."""
        return self.exit_code == 0 and not self.signal and not self.error


class Verdict(Struct, frozen=True, gc=False):
    """The policy's verdict on a task, and the tracker afterwards."""

    decision: RestartDecision
    tracker: Tracker
    delay_ns: int = 0
    reason: str = ""


def default_policy(job_type: str, dialect: str | Dialect) -> RestartPolicy | None:
    """Return the policy of a job of this type that names none; None for a type that has no default (sysbatch).

    >>> default_policy("batch", "1.1.2").attempts
    3
    """
    rules = dialect_of(dialect)
    return {
        "service": rules.service_policy,
        "system": rules.service_policy,
        "batch": rules.batch_policy,
    }.get(job_type)


def restarts_after_success(job_type: str, hook: Hook, *, sidecar: bool, dialect: str | Dialect) -> bool:
    """Tell whether a task that ended well is started again.

    Source: setOnSuccess (new), NewRestartTracker (v0.5.6).
    """
    if dialect_of(dialect).has_new_client and hook:
        return sidecar and hook != "poststop"
    return job_type not in ENDING_JOB_TYPES


def decide_restart(  # noqa: PLR0911 - one return for each step, in order
    policy: RestartPolicy,
    tracker: Tracker,
    result: TaskEnd,
    *,
    after_success: bool,
    now_ns: int,
    rng: Random,
    dialect: Dialect,
) -> Verdict:
    """Return whether a task is started again, when (from ``now_ns``, unix nanoseconds) and why. O(1).

    ``after_success`` is the answer of `restarts_after_success` for the task.

    >>> import random
    >>> from taskfold.model.dialect import DIALECTS
    >>> policy = RestartPolicy(attempts=1, interval_ns=60 * 10**9, delay_ns=10**9, mode="fail")
    >>> tracker = Tracker(0)
    >>> for _ in range(2):
    ...     verdict = decide_restart(policy, tracker, TaskEnd(exit_code=1), after_success=True, now_ns=0,
    ...                              rng=random.Random(7), dialect=DIALECTS["1.1.2"])
    ...     tracker = verdict.tracker
    ...     print(verdict.decision, verdict.reason)
    Restarting Restart within policy
    Not Restarting Exceeded allowed attempts 1 in interval 1m0s and mode is "fail"
    """
    if result.killed:
        return Verdict("Killed", tracker)
    if result.restart == "asked":
        return Verdict("Restarting", tracker)
    success = result.is_success
    if policy.attempts == 0:
        ends = success and not (after_success and dialect.success_may_need_restart)
        return Verdict("Terminated" if ends else "Not Restarting", tracker, 0, NO_RESTARTS)
    tracker = _counted(policy, tracker, now_ns, dialect)
    if result.start_failed:
        if not result.recoverable:
            return Verdict("Not Restarting", tracker, 0, UNRECOVERABLE)
    elif success and not after_success:
        return Verdict("Terminated", tracker, 0, SUCCEEDED)
    if tracker.count > policy.attempts:
        if policy.mode == MODE_FAIL:
            return Verdict("Not Restarting", tracker, 0, policy.exceeded)
        return Verdict("Restarting", tracker, tracker.window_start_ns + policy.interval_ns - now_ns, DELAYED)
    # A delay of nothing is one of a nanosecond, so that the generator has something to choose from.
    delay_ns = policy.delay_ns or 1
    return Verdict("Restarting", tracker, delay_ns + int(_JITTER * rng.randrange(delay_ns)), WITHIN_POLICY)


def _counted(policy: RestartPolicy, tracker: Tracker, now_ns: int, dialect: Dialect) -> Tracker:
    """Return the tracker after one more attempt."""
    if now_ns <= tracker.window_start_ns + policy.interval_ns:
        return Tracker(tracker.window_start_ns, tracker.count + 1)
    return Tracker(now_ns, 1 if dialect.window_before_count else 0)


class SimulatedFailure(Struct, frozen=True):
    """A step of a simulated timeline: a failure, and the verdict on it."""

    at_ns: int
    """When it failed, from the beginning (nanoseconds)."""
    verdict: Verdict


def simulate(
    policy: RestartPolicy,
    failures_ns: Iterable[int],
    *,
    rng: Random,
    dialect: str | Dialect,
    after_success: bool = True,
    result: TaskEnd = TaskEnd(exit_code=1),  # noqa: B008 - immutable
) -> list[SimulatedFailure]:
    """Return the verdicts on a task that runs this long (nanoseconds) before each failure.

    The timeline ends with the first decision that is not to restart. O(failures).

    >>> import random
    >>> policy = RestartPolicy(attempts=1, interval_ns=60 * 10**9, delay_ns=10**9, mode="fail")
    >>> [failure.verdict.decision for failure in simulate(policy, [10**9] * 5, rng=random.Random(1), dialect="0.5.6")]
    ['Restarting', 'Not Restarting']
    """
    rules = dialect_of(dialect)
    timeline: list[SimulatedFailure] = []
    tracker, now_ns = Tracker(0), 0
    for run_ns in failures_ns:
        now_ns += run_ns
        verdict = decide_restart(
            policy, tracker, result, after_success=after_success, now_ns=now_ns, rng=rng, dialect=rules
        )
        timeline.append(SimulatedFailure(now_ns, verdict))
        if verdict.decision != "Restarting":
            break
        tracker, now_ns = verdict.tracker, now_ns + verdict.delay_ns
    return timeline


# --- where a policy surprises ---


class Advice(Struct, frozen=True):
    """One surprise of a policy: a stable name for programs, and a sentence for people."""

    name: str
    text: str


class UsedUp(Enum):
    """Whether a task that always runs equally long before it fails uses its attempts up."""

    CERTAINLY = "certainly"
    BY_CHANCE = "by chance"
    """It depends on the random part of the delays."""
    NEVER = "never"


REQUESTED: Final = Advice(
    "requested",
    "a restart that is asked for (by hand, or by a template that changed) does not count: it happens at once, even "
    "where no attempts are left",
)
"""The surprise of every policy: step 2 above."""


class _Shortest:
    """A source of randomness that makes delays as short as they can be."""

    def randrange(self, _stop: int, /) -> int:
        """Return the least."""
        return 0


class _Longest:
    """A source of randomness that makes delays as long as they can be."""

    def randrange(self, stop: int, /) -> int:
        """Return the most."""
        return stop - 1


def _delay_ns(policy: RestartPolicy, dialect: Dialect, rng: Random) -> int:
    """Return the delay before the first restart (nanoseconds)."""
    return simulate(policy, [0], rng=rng, dialect=dialect)[0].verdict.delay_ns


def most_counted(policy: RestartPolicy, run_ns: int, delay_ns: int, dialect: str | Dialect) -> int:
    """Return how many failures one window counts at most, for these runs and delays (nanoseconds) and without a limit.

    The first window begins with the first run, each later one with a failure, which the old client leaves out. O(1).

    >>> policy = RestartPolicy(attempts=3, interval_ns=10 * 10**9, delay_ns=10**9, mode="fail")
    >>> most_counted(policy, 3 * 10**9, 10**9, "1.1.2"), most_counted(policy, 3 * 10**9, 10**9, "0.5.6")
    (3, 2)
    """
    apart_ns = run_ns + delay_ns
    # None, if not even the first run ends in the window: by how much it is longer is less than the distance.
    first = 1 + (policy.interval_ns - run_ns) // apart_ns
    later = policy.interval_ns // apart_ns + (1 if dialect_of(dialect).window_before_count else 0)
    return max(first, later)


def used_up(policy: RestartPolicy, run_ns: int, dialect: str | Dialect) -> UsedUp:
    """Tell whether a task that runs this long before each failure (nanoseconds) uses the attempts of a policy up. O(1).

    The policy must have attempts, and no `refusals`.
    """
    rules = dialect_of(dialect)
    if most_counted(policy, run_ns, _delay_ns(policy, rules, _Shortest()), rules) <= policy.attempts:
        return UsedUp.NEVER
    if most_counted(policy, run_ns, _delay_ns(policy, rules, _Longest()), rules) <= policy.attempts:
        return UsedUp.BY_CHANCE
    return UsedUp.CERTAINLY


def advice_on(policy: RestartPolicy, *, run_ns: int, dialect: str | Dialect) -> list[Advice]:
    """Return the surprises of a policy for a task that runs this long before each failure (nanoseconds). O(1).

    A policy with `refusals` gets advice only if its attempts and mode contradict each other. `REQUESTED` is not among
    the advice, since it holds for every policy.

    >>> policy = RestartPolicy(attempts=3, interval_ns=10 * 10**9, delay_ns=10**9, mode="fail")
    >>> [advice.name for advice in advice_on(policy, run_ns=3 * 10**9, dialect="1.1.2")]
    ['for-ever']
    """
    if policy.attempts == 0 and policy.mode == MODE_DELAY:
        return [Advice("no-attempts", "with 0 attempts it is never started again, whatever mode delay seems to say")]
    if policy.attempts == 0 or policy.refusals():
        return []
    rules = dialect_of(dialect)
    surprises = _on_attempts(policy, run_ns, rules)
    if policy.mode == MODE_DELAY:
        surprises.append(
            Advice("never-fails", "mode delay never gives a task up: it is started again however often it fails")
        )
    if not rules.window_before_count:
        surprises.append(
            Advice(
                "one-more",
                f"dialect {rules.name} counts each window but the first from 0: those allow {policy.attempts + 1} "
                f"restarts, not {policy.attempts}",
            )
        )
    return surprises


def _on_attempts(policy: RestartPolicy, run_ns: int, dialect: Dialect) -> list[Advice]:
    """Return the surprise of attempts that are not certainly used up."""
    certainty = used_up(policy, run_ns, dialect)
    if certainty is UsedUp.CERTAINLY:
        return []
    fails = policy.mode == MODE_FAIL
    task, interval = f"a task that runs {duration_text(run_ns)} before it fails", duration_text(policy.interval_ns)
    if certainty is UsedUp.BY_CHANCE:
        end = "is given up" if fails else "has to wait for the end of an interval"
        text = f"whether {task} ever {end} depends on the random part of its delays: "
        return [Advice("by-chance", text + f"only some windows of {interval} count more than {policy.attempts}")]
    most = most_counted(policy, run_ns, _delay_ns(policy, dialect, _Shortest()), dialect)
    why = f"no window of {interval} counts more than {most}, so that attempts {policy.attempts} are never used up"
    if fails:
        return [Advice("for-ever", f"{task} is started again for ever: {why}")]
    return [Advice("never-waits", f"{task} never has to wait for the end of an interval: {why}")]
