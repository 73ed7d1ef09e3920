"""Where a restart policy surprises: what whoever wrote it should know before it is in force.

Theory of operation
===================

A task that always runs equally long before it fails, fails at equal distances: the run and the delay. So each window
holds as many failures as fit into the interval, and the attempts are used up when that is more than there are
attempts. Delays are random within bounds; `decide_restart` is asked for both ends of them, so that the bounds are
written once. With the shortest delays most failures fit: where those do not use the attempts up, nothing does. With
the longest delays fewest fit: where even those use them up, that is certain. The tests compare both with `simulate`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct

from taskfold.decision.restart import Random, simulate
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.duration import duration_text
from taskfold.model.policy import MODE_DELAY, MODE_FAIL, RestartPolicy

__all__ = ["REQUESTED", "Advice", "UsedUp", "advice_on", "most_counted", "used_up"]


class Advice(Struct, frozen=True):
    """One surprise: a name that stays the same, for programs, and a sentence for people."""

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
"""What holds for every policy. Source: step 2 of `taskfold.decision.restart`."""


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
    return simulate(policy, [0], rng=rng, dialect=dialect)[0].decided.delay_ns


def most_counted(policy: RestartPolicy, run_ns: int, delay_ns: int, dialect: str | Dialect) -> int:
    """Return the most that one window counts of a task with these runs and delays (nanoseconds), were there no limit.

    The first window begins with the first run, each later one with a failure, which the old client leaves out. O(1).

    >>> policy = RestartPolicy(attempts=3, interval_ns=10 * 10**9, delay_ns=10**9, mode="fail")
    >>> most_counted(policy, 3 * 10**9, 10**9, "1.1.2"), most_counted(policy, 3 * 10**9, 10**9, "0.5.6")
    (3, 2)
    """
    apart_ns = run_ns + delay_ns
    first = 0 if run_ns > policy.interval_ns else 1 + (policy.interval_ns - run_ns) // apart_ns
    later = policy.interval_ns // apart_ns + (1 if dialect_of(dialect).window_before_count else 0)
    return max(first, later)


def used_up(policy: RestartPolicy, run_ns: int, dialect: str | Dialect) -> UsedUp:
    """Tell whether a task that runs this long before each failure (nanoseconds) uses the attempts of a policy up. O(1).

    The policy is one without `refusals`, and with attempts.
    """
    spoken = dialect_of(dialect)
    if most_counted(policy, run_ns, _delay_ns(policy, spoken, _Shortest()), spoken) <= policy.attempts:
        return UsedUp.NEVER
    if most_counted(policy, run_ns, _delay_ns(policy, spoken, _Longest()), spoken) <= policy.attempts:
        return UsedUp.BY_CHANCE
    return UsedUp.CERTAINLY


def advice_on(policy: RestartPolicy, *, run_ns: int, dialect: str | Dialect) -> list[Advice]:
    """Return where a policy surprises a task that runs this long before each failure (nanoseconds); often nowhere.

    A policy that is refused is advised on only where its attempts and mode contradict each other. `REQUESTED` is left
    out, since it holds for all. O(1).

    >>> policy = RestartPolicy(attempts=3, interval_ns=10 * 10**9, delay_ns=10**9, mode="fail")
    >>> [advice.name for advice in advice_on(policy, run_ns=3 * 10**9, dialect="1.1.2")]
    ['for-ever']
    """
    if policy.attempts == 0 and policy.mode == MODE_DELAY:
        return [Advice("no-attempts", "with 0 attempts it is never started again, whatever mode delay seems to say")]
    if policy.attempts == 0 or policy.refusals():
        return []
    spoken = dialect_of(dialect)
    found = _on_attempts(policy, run_ns, spoken)
    if policy.mode == MODE_DELAY:
        found.append(
            Advice("never-fails", "mode delay never gives a task up: it is started again however often it fails")
        )
    if not spoken.window_before_count:
        found.append(
            Advice(
                "one-more",
                f"dialect {spoken.name} counts each window but the first from 0: those allow {policy.attempts + 1} "
                f"restarts, not {policy.attempts}",
            )
        )
    return found


def _on_attempts(policy: RestartPolicy, run_ns: int, dialect: Dialect) -> list[Advice]:
    """Return what is surprising of attempts that are not, or not certainly, used up."""
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
