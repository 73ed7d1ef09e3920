"""The pytest plugin: fixtures, and the table of what a run reached (``--taskfold-coverage``).

Installed with taskfold, it is there without a word, and imports nothing of it until a fixture or an option is used.
Each fixture belongs to one test, since an engine remembers.
"""

from __future__ import annotations

import argparse
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


# So that a promise that a log or a driver breaks is shown with its values.
pytest.register_assert_rewrite("taskfold.testing.logs", "taskfold.testing.drivers")


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

_FORMATS = {".md": "mermaid", ".dot": "dot", ".gv": "dot"}


def _least(text: str) -> tuple[str, float]:
    """Return what ``--taskfold-coverage-min`` asks for: a kind, or nothing for all that are used, and a percentage."""
    from taskfold.testing.coverage import KINDS

    kind, _, number = text.rpartition("=")
    try:
        percent = float(number)
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100 or (kind and kind not in KINDS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a percentage from 0 to 100 nor one with what it is of, such as inputs=90; "
            f"there are {', '.join(KINDS)}"
        )
    return kind, percent


def _picture_file(text: str) -> Path:
    """Return where ``--taskfold-coverage-diagram`` writes to."""
    path = Path(text)
    if path.suffix not in _FORMATS:
        raise argparse.ArgumentTypeError(
            f"{text!r} ends with none of {', '.join(_FORMATS)}: a page with mermaid, or a graph for Graphviz"
        )
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.absolute().parent)!r}")
    return path.absolute()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; each has a name that no other plugin has."""
    group = parser.getgroup("taskfold", "taskfold")
    group.addoption("--taskfold-rewrite", action="store_true", help="write into stories what their commands print now")
    group.addoption(
        "--taskfold-coverage",
        action="store_true",
        help="show which transitions, inputs, effects and restarts of taskfold's tables were reached",
    )
    group.addoption(
        "--taskfold-coverage-min",
        type=_least,
        action="append",
        default=[],
        metavar="[KIND=]PERCENT",
        help="fail where fewer were reached in a dialect that was used: of one kind, as in inputs=90, or of each kind "
        "that was reached at all; may be repeated",
    )
    group.addoption(
        "--taskfold-coverage-diagram",
        type=_picture_file,
        metavar="FILE",
        help="write the lifecycle with what was reached marked: FILE.md with mermaid, or FILE.dot for Graphviz",
    )


def _is_wanted(config: pytest.Config) -> bool:
    options = ("taskfold_coverage", "taskfold_coverage_min", "taskfold_coverage_diagram")
    return not config.option.collectonly and any(config.getoption(name) for name in options)


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
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is not None:
        output[_OUTPUT] = config.stash[_REACHED].to_lists()
    elif session.exitstatus == pytest.ExitCode.OK and [*_shortcomings(config)]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _shortcomings(config: pytest.Config) -> Iterator[str]:
    """Yield where fewer were reached than are asked for."""
    reached = config.stash[_REACHED]
    for only, least in config.getoption("taskfold_coverage_min"):
        if not any(not only or reached.of(only, dialect) for dialect in reached.dialects):
            yield f"no {only or 'event'} was reached at all, and {least:g} % are asked for"
        for dialect in reached.dialects:
            for kind in reached.kinds(dialect):
                if only in {"", kind} and reached.percent(kind, dialect) < least:
                    yield f"{dialect}: fewer than {least:g} % of the {kind} were reached"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ARG001 - pytest-xdist passes it by name
    """Add what a worker of pytest-xdist has reached."""
    lists = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if lists and _REACHED in node.config.stash:
        node.config.stash[_REACHED].add(lists)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show the table, and write the picture."""
    if _REACHED not in config.stash:
        return
    reached = config.stash[_REACHED]
    terminalreporter.section("taskfold: what was reached")
    for line in reached.lines():
        terminalreporter.line(line)
    if not reached.dialects:
        terminalreporter.line("nothing: no event was folded, and no input decided on")
    for sentence in _shortcomings(config):
        terminalreporter.line(sentence, red=True)
    path: Path | None = config.getoption("taskfold_coverage_diagram")
    if path is not None:
        try:
            path.write_text(_picture(reached, _FORMATS[path.suffix]), encoding="utf-8")
        except OSError as error:
            terminalreporter.line(f"the diagram could not be written: {error}", red=True)
        else:
            terminalreporter.line(f"the diagram is in {path}")


def _picture(reached: Reached, format: str) -> str:
    """Return a picture for each dialect that was used."""
    pictures = {dialect: reached.picture(dialect, format) for dialect in reached.dialects}
    if format == "dot":
        return "".join(pictures.values())
    sections = (f"## Dialect {dialect}\n\n```mermaid\n{picture}```\n" for dialect, picture in pictures.items())
    return "\n".join(["# What was reached of the lifecycle\n", *sections])
