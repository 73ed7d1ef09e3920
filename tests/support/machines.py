"""How machines of Hypothesis are run that have to find planted faults: the same in every run, and shrunk."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

SPARE = 4
"""How many steps more may be left: what Hypothesis draws depends on which modules are imported."""

QUICK = settings(
    max_examples=5000,
    stateful_step_count=25,
    phases=[Phase.generate, Phase.shrink],
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
