"""What every test shares: which Hypothesis profile runs, and from which seed."""

from __future__ import annotations

import random

import hypothesis
import pytest

# tests/typing is material for the type checkers (see test_typing.py), and is never imported.
collect_ignore = ["typing"]

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True, max_examples=1000)
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose a seed before Hypothesis reads it, so that a run that explores can be repeated."""
    if config.option.hypothesis_profile == "explore" and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what to pass to see the same examples again."""
    profile = config.option.hypothesis_profile or "ci"
    if hypothesis.settings().derandomize:
        return f"seed: none needed, Hypothesis profile {profile!r} derives its examples from the tests"
    return f"seed: --hypothesis-profile={profile} --hypothesis-seed={config.option.hypothesis_seed}"
