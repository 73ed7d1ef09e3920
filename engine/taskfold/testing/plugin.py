"""The pytest plugin: fixtures, and the table of what a run reached (``--taskfold-coverage``).

Installed with taskfold, it is there without a word, and imports nothing of it until a fixture or an option is used.
Each fixture belongs to one test, since an engine remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from taskfold.live.engine import Engine
    from taskfold.model.clock import ManualClock
    from taskfold.testing.coverage import Reached
    from taskfold.testing.worlds import World

__all__ = ["engine", "manual_clock", "nomad_api", "recorded_stream", "world"]

_REACHED: pytest.StashKey[Reached] = pytest.StashKey()
_WATCH = pytest.StashKey[ExitStack]()
_OUTPUT = "taskfold_reached"


# So that a promise of a log that is broken is shown with its values.
pytest.register_assert_rewrite("taskfold.testing.logs")


# --- fixtures ---


@pytest.fixture
def manual_clock() -> ManualClock:
    """Return a clock that stands still until the test moves it."""
    from taskfold.model.clock import ManualClock
    from taskfold.testing.histories import BEGIN_NS

    return ManualClock(BEGIN_NS)


@pytest.fixture
def engine(manual_clock: ManualClock) -> Iterator[Engine]:
    """Yield an empty engine of the newest dialect in memory, on `manual_clock`."""
    from taskfold.live.engine import Engine

    with Engine(clock=manual_clock, seed=0) as empty:
        yield empty


@pytest.fixture
def world() -> Callable[..., World]:
    """Return what makes a `World`: ``world(job, seed=…, scripts=…)``."""
    from taskfold.testing.worlds import World

    return World


@pytest.fixture
def recorded_stream() -> Path:
    """Return the event stream of a real Nomad 1.1.2 that comes with taskfold: NDJSON, compressed."""
    from taskfold.sources.shipped import EXAMPLE_STREAM, shipped

    return shipped("examples") / EXAMPLE_STREAM


@pytest.fixture
def nomad_api(engine: Engine) -> Iterator[str]:
    """Yield the URL of a real server on a free loopback port that serves `engine`; skips without ``taskfold[http]``."""
    if find_spec("uvicorn") is None:
        pytest.skip("the server needs what comes with `pip install 'taskfold[http]'`")
    from taskfold.http import App, running

    with running(App(engine)) as server:
        yield server.url


# --- what was reached ---


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("taskfold", "taskfold")
    group.addoption(
        "--taskfold-coverage", action="store_true", help="show which transitions of the lifecycle tables were reached"
    )
    group.addoption(
        "--taskfold-coverage-min",
        type=float,
        metavar="PERCENT",
        help="fail where fewer of the legal transitions of a dialect that was used were reached",
    )


def _is_wanted(config: pytest.Config) -> bool:
    return bool(config.getoption("taskfold_coverage") or config.getoption("taskfold_coverage_min") is not None)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to watch, where that is wanted."""
    if not _is_wanted(session.config):
        return
    from taskfold.testing.coverage import Reached, watched

    watch = ExitStack()
    session.config.stash[_REACHED] = watch.enter_context(watched(Reached()))
    session.config.stash[_WATCH] = watch


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop to watch; a worker of pytest-xdist sends what it has; fail where too little was reached."""
    config = session.config
    if _REACHED not in config.stash:
        return
    config.stash[_WATCH].close()
    reached = config.stash[_REACHED]
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is not None:
        output[_OUTPUT] = sorted(map(list, reached.pairs))
        return
    least = config.getoption("taskfold_coverage_min")
    too_few = [name for name in reached.dialects if least is not None and reached.percent(name) < least]
    if too_few and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ARG001 - pytest-xdist passes it by name
    """Add what a worker of pytest-xdist has reached."""
    pairs = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if pairs and _REACHED in node.config.stash:
        node.config.stash[_REACHED].add(pairs)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show the table."""
    if _REACHED not in config.stash:
        return
    reached = config.stash[_REACHED]
    terminalreporter.section("taskfold: what was reached")
    for line in reached.lines():
        terminalreporter.line(line)
    least = config.getoption("taskfold_coverage_min")
    for name in reached.dialects:
        if least is not None and reached.percent(name) < least:
            terminalreporter.line(f"{name}: fewer than {least:g} % were reached", red=True)
    if not reached.dialects:
        terminalreporter.line("no event was folded")
