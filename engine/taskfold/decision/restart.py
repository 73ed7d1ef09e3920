"""The restart policy at work: whether a task that ended, or could not start, is started again, and when.

Theory of operation
===================

A tracker counts attempts in a window of time. `decide_restart` is asked with what happened (a `Result`), and says what
to do, with which delay and for which reason, and how the tracker stands afterwards. Its steps, in order:

1. it was killed (new client only): ``Killed``;
2. a restart was asked for that is no failure: ``Restarting`` at once; it does not count;
3. the policy allows no restarts: ``Not Restarting``, or ``Terminated`` after a success that may be the end;
4. it counts, in this window or in the next one (the old client counts first, and then opens the window with zero: an
   off-by-one of Nomad before 0.9.3, which is behaviour here);
5. it could not start, and nobody thinks that it ever will: ``Not Restarting``;
6. it ended well, and may end: ``Terminated``;
7. the attempts are used up: ``Not Restarting`` in mode fail, else ``Restarting`` when the window is over;
8. else ``Restarting`` after the delay and up to a quarter of it more.

A window is over strictly after its interval, and is never moved but by step 4. Nomad forgets its tracker when the
client restarts; here it is recorded with the decision, and folded again.

Sources: client/restarts.go (v0.5.6) and client/allocrunner/taskrunner/restarts/restarts.go (new).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.policy import (
    DELAYED,
    MODE_FAIL,
    NO_RESTARTS,
    SUCCEEDED,
    UNRECOVERABLE,
    WITHIN_POLICY,
    RestartPolicy,
)

__all__ = [
    "Decision",
    "Failure",
    "Hook",
    "Random",
    "RestartDecision",
    "Result",
    "Tracker",
    "decide_restart",
    "default_policy",
    "restarts_after_success",
    "simulate",
]

Decision: TypeAlias = Literal["Restarting", "Not Restarting", "Terminated", "Killed"]
Hook: TypeAlias = Literal["", "prestart", "poststart", "poststop"]

_JITTER: Final = 0.25
"""How much of the delay is added at most. Source: jitter in both trackers."""

ENDING_JOB_TYPES: Final = ("batch", "sysbatch")
"""The types of jobs whose tasks may end well."""


class Random(Protocol):
    """A source of randomness, such as ``random.Random(seed)``."""

    def randrange(self, stop: int, /) -> int:
        """Return a uniform integer in [0, stop)."""
        ...


class Tracker(Struct, frozen=True, gc=False):
    """How a task's restarts stand: the window that is open, and the attempts counted in it."""

    window_start_ns: int
    """When the window began (unix nanoseconds); the first begins when the client gets the task."""
    count: int = 0


class Result(Struct, frozen=True, kw_only=True, gc=False):
    """What happened to a task, as the restart policy sees it."""

    exit_code: int | None = None
    """The exit code; None when it did not exit (a failed start, a restart that is asked for)."""
    signal: int = 0
    error: str = ""
    killed: bool = False
    start_failed: bool = False
    recoverable: bool = False
    """A failed start may succeed later."""
    restart: Literal["", "asked", "failed"] = ""
    """Somebody asked for a restart, or asked since something failed (a health check): only that counts."""

    @property
    def is_success(self) -> bool:
        """Whether it ended well: code 0, no signal and no error."""
        return self.exit_code == 0 and not self.signal and not self.error


class RestartDecision(Struct, frozen=True, gc=False):
    """What to do with a task, and how the tracker stands afterwards."""

    decision: Decision
    tracker: Tracker
    delay_ns: int = 0
    reason: str = ""


def default_policy(job_type: str, dialect: str | Dialect) -> RestartPolicy | None:
    """Return the policy of a job of this type that names none; None for a type that has no default (sysbatch).

    >>> default_policy("batch", "1.1.2").attempts
    3
    """
    spoken = dialect_of(dialect)
    return {"service": spoken.service_policy, "system": spoken.service_policy, "batch": spoken.batch_policy}.get(
        job_type
    )


def restarts_after_success(job_type: str, hook: Hook, *, sidecar: bool, dialect: str | Dialect) -> bool:
    """Tell whether a task that ended well is started again. Source: setOnSuccess (new), NewRestartTracker (v0.5.6)."""
    if dialect_of(dialect).has_new_client and hook:
        return sidecar and hook != "poststop"
    return job_type not in ENDING_JOB_TYPES


def decide_restart(  # noqa: PLR0911 - one return for each step, in order
    policy: RestartPolicy,
    tracker: Tracker,
    result: Result,
    *,
    after_success: bool,
    now_ns: int,
    rng: Random,
    dialect: Dialect,
) -> RestartDecision:
    """Say whether a task is started again; pure, and O(1).

    ``after_success`` is what `restarts_after_success` says of the task.

    >>> import random
    >>> from taskfold.model.dialect import DIALECTS
    >>> policy = RestartPolicy(attempts=1, interval_ns=60 * 10**9, delay_ns=10**9, mode="fail")
    >>> found = Tracker(0)
    >>> for _ in range(2):
    ...     step = decide_restart(policy, found, Result(exit_code=1), after_success=True, now_ns=0,
    ...                           rng=random.Random(7), dialect=DIALECTS["1.1.2"])
    ...     found = step.tracker
    ...     print(step.decision, step.reason)
    Restarting Restart within policy
    Not Restarting Exceeded allowed attempts 1 in interval 1m0s and mode is "fail"
    """
    if result.killed:
        return RestartDecision("Killed", tracker)
    if result.restart == "asked":
        return RestartDecision("Restarting", tracker)
    success = result.is_success
    if policy.attempts == 0:
        ends = success and not (after_success and dialect.success_may_need_restart)
        return RestartDecision("Terminated" if ends else "Not Restarting", tracker, 0, NO_RESTARTS)
    tracker = _counted(policy, tracker, now_ns, dialect)
    if result.start_failed:
        if not result.recoverable:
            return RestartDecision("Not Restarting", tracker, 0, UNRECOVERABLE)
    elif success and not after_success:
        return RestartDecision("Terminated", tracker, 0, SUCCEEDED)
    if tracker.count > policy.attempts:
        if policy.mode == MODE_FAIL:
            return RestartDecision("Not Restarting", tracker, 0, policy.exceeded)
        return RestartDecision("Restarting", tracker, tracker.window_start_ns + policy.interval_ns - now_ns, DELAYED)
    # A delay of nothing is one of a nanosecond, so that the generator has something to choose from.
    delay_ns = policy.delay_ns or 1
    return RestartDecision("Restarting", tracker, delay_ns + int(_JITTER * rng.randrange(delay_ns)), WITHIN_POLICY)


def _counted(policy: RestartPolicy, tracker: Tracker, now_ns: int, dialect: Dialect) -> Tracker:
    """Return the tracker after one more attempt."""
    if now_ns <= tracker.window_start_ns + policy.interval_ns:
        return Tracker(tracker.window_start_ns, tracker.count + 1)
    return Tracker(now_ns, 1 if dialect.window_before_count else 0)


class Failure(Struct, frozen=True):
    """A step of a simulated timeline: a failure, and what is decided."""

    at_ns: int
    """When it failed, from the beginning (nanoseconds)."""
    decided: RestartDecision


def simulate(
    policy: RestartPolicy,
    failures_ns: Iterable[int],
    *,
    rng: Random,
    dialect: str | Dialect,
    after_success: bool = True,
    result: Result = Result(exit_code=1),  # noqa: B008 - immutable
) -> list[Failure]:
    """Return what the policy does with a task that runs this long (nanoseconds) before each failure.

    The timeline ends with the first decision that is not to restart. O(failures).

    >>> import random
    >>> policy = RestartPolicy(attempts=1, interval_ns=60 * 10**9, delay_ns=10**9, mode="fail")
    >>> [step.decided.decision for step in simulate(policy, [10**9] * 5, rng=random.Random(1), dialect="0.5.6")]
    ['Restarting', 'Not Restarting']
    """
    spoken = dialect_of(dialect)
    timeline: list[Failure] = []
    tracker, now_ns = Tracker(0), 0
    for run_ns in failures_ns:
        now_ns += run_ns
        decided = decide_restart(
            policy, tracker, result, after_success=after_success, now_ns=now_ns, rng=rng, dialect=spoken
        )
        timeline.append(Failure(now_ns, decided))
        if decided.decision != "Restarting":
            break
        tracker, now_ns = decided.tracker, now_ns + decided.delay_ns
    return timeline
