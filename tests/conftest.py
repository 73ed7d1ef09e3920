"""What every test shares: which Hypothesis profile runs, and from which seed."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent

# tests/typing is material for the type checkers (see test_typing.py), and is never imported.
collect_ignore = ["typing"]

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True, max_examples=1000)
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose a seed before Hypothesis reads it, so that a run that explores can be repeated; hear signals again.

    Who runs the tests in the background, or under nohup, has them ignore signals, and what they start inherits that.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    if config.option.hypothesis_profile == "explore" and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def of_benchmarks(item: pytest.Item) -> bool:
    """Tell whether a test is about what the benchmarks write."""
    return item.path.name == "test_benchmarks.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what waits for the benchmarks last: they are run meanwhile."""
    items.sort(key=of_benchmarks)


@pytest.fixture(scope="session", autouse=True)
def quick_benchmarks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """Run the benchmarks beside the tests, where any test asks for what they write: a folder with their results.

    Of several processes that share the tests (pytest-xdist) the first one runs them. The file ``ended`` has the exit
    status, and ``errors`` what was written to standard error.
    """
    if not any(map(of_benchmarks, request.session.items)):
        yield None
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    shared = tmp_path_factory.getbasetemp() if worker is None else tmp_path_factory.getbasetemp().parent
    folder = shared / "quick-benchmarks"
    if worker not in {None, "gw0"}:
        yield folder
        return
    folder.mkdir()
    benchmarks = shlex.join([sys.executable, "-m", "benchmarks", "--quick", "--results", str(folder)])
    command = f"{benchmarks} >/dev/null 2>errors; echo $? >code; mv code ended"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "engine")])}
    with subprocess.Popen(["/bin/sh", "-c", command], cwd=folder, env=environment, start_new_session=True) as process:
        yield folder
        if worker is None:
            with suppress(ProcessLookupError):  # nobody waits for them any more
                os.killpg(process.pid, signal.SIGKILL)


def pytest_report_header(config: pytest.Config) -> str:
    """Say what to pass to see the same examples again."""
    profile = config.option.hypothesis_profile or "ci"
    if hypothesis.settings().derandomize:
        return f"seed: none needed, Hypothesis profile {profile!r} derives its examples from the tests"
    return f"seed: --hypothesis-profile={profile} --hypothesis-seed={config.option.hypothesis_seed}"
