"""The restart policy: how often a task is started again on its node, and what makes such a policy valid.

The decision itself is in `taskfold.decision.restart`. Source of the rules and texts: nomad/structs/structs.go
RestartPolicy.Validate, the same in v0.5.6 and new.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from taskfold.model.events import wire_name
from taskfold.model.go.durations import NS_PER_SECOND, duration_text
from taskfold.model.go.quoting import go_quoted

__all__ = [
    "DELAYED",
    "EXCEEDED",
    "MINIMUM_INTERVAL_NS",
    "MODES",
    "MODE_DELAY",
    "MODE_FAIL",
    "NO_RESTARTS",
    "SUCCEEDED",
    "UNRECOVERABLE",
    "WITHIN_POLICY",
    "RestartPolicy",
]

MODE_FAIL: Final = "fail"
MODE_DELAY: Final = "delay"
MODES: Final = (MODE_DELAY, MODE_FAIL)

MINIMUM_INTERVAL_NS: Final = 5 * NS_PER_SECOND
"""The shortest interval that is valid (since Nomad 0.5.5)."""

NO_RESTARTS: Final = "Policy allows no restarts"
UNRECOVERABLE: Final = "Error was unrecoverable"
SUCCEEDED: Final = "Restart unnecessary as task terminated successfully"
EXCEEDED: Final = "Exceeded allowed attempts"
DELAYED: Final = f"{EXCEEDED}, applying a delay"
WITHIN_POLICY: Final = "Restart within policy"
"""The reasons that a decision gives; this is the one that a DisplayMessage leaves out."""


class RestartPolicy(Struct, frozen=True, kw_only=True, rename=wire_name):
    """How often a task is started again on its node: `attempts` in `interval_ns`, then mode `fail` or `delay`."""

    attempts: int = 0
    interval_ns: int = 0
    delay_ns: int = 0
    mode: str = ""

    def errors(self) -> list[str]:
        """Return everything that Nomad finds wrong with the policy, in its words and order; empty when it is valid.

        >>> RestartPolicy(attempts=3, interval_ns=2 * 10**9, delay_ns=5 * 10**9, mode="delay").errors()[0]
        'Interval can not be less than 5s (got 2s)'
        """
        problems = []
        if self.mode not in MODES:
            problems.append(f"Unsupported restart mode: {go_quoted(self.mode)}")
        if self.attempts == 0 and self.mode != MODE_FAIL:
            problems.append(f"Restart policy {go_quoted(self.mode)} with 0 attempts is ambiguous")
        if self.interval_ns < MINIMUM_INTERVAL_NS:
            least, got = duration_text(MINIMUM_INTERVAL_NS), duration_text(self.interval_ns)
            problems.append(f"Interval can not be less than {least} (got {got})")
        if self.attempts * self.delay_ns > self.interval_ns:
            problems.append(
                f"Nomad can't restart the TaskGroup {self.attempts} times in an interval of "
                f"{duration_text(self.interval_ns)} with a delay of {duration_text(self.delay_ns)}"
            )
        return problems

    def refusals(self) -> list[str]:
        """Return everything that keeps taskfold from deciding by the policy: Nomad's errors, and negative numbers.

        Nomad itself lets negative numbers pass.
        """
        problems = self.errors()
        if self.attempts < 0:
            problems.append(f"Attempts can not be negative (got {self.attempts})")
        if self.delay_ns < 0:
            problems.append(f"Delay can not be negative (got {duration_text(self.delay_ns)})")
        return problems

    @property
    def exceeded(self) -> str:
        """The reason for which a task is not started again when its attempts are used up."""
        interval = duration_text(self.interval_ns)
        return f'{EXCEEDED} {self.attempts} in interval {interval} and mode is "fail"'
