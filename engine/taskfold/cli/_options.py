"""Options that several commands share, and the kinds of values they take."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from taskfold.cli._completion import Completed, complete_allocation, complete_task
from taskfold.model.clock import SystemClock
from taskfold.model.dialect import DIALECTS
from taskfold.model.events import BY_WIRE_TYPE
from taskfold.model.go.durations import parse_duration_ns
from taskfold.model.instants import parse_instant_ns
from taskfold.model.record import INTERNAL_EVENTS
from taskfold.sources.replay import At, parse_at
from taskfold.sources.summary import Flapping

__all__ = [
    "DURATION",
    "EVENT_TYPES",
    "FLAPPING",
    "INSTANT",
    "NUMBERS",
    "POINT",
    "alloc_argument",
    "alloc_option",
    "at_option",
    "command",
    "dialect_option",
    "format_option",
    "job_option",
    "node_option",
    "since_option",
    "skip_bad_option",
    "source_argument",
    "sources_argument",
    "status_option",
    "task_argument",
    "task_option",
    "type_option",
    "until_option",
]


if TYPE_CHECKING:
    _ParamType = click.ParamType
else:

    class _ParamType(click.ParamType):
        """A click.ParamType that names what it converts to, which click itself can only since 8.4."""

        def __class_getitem__(cls, _: type) -> type:
            """Return the class: the name of the type is for type checkers."""
            return cls


class _Point(_ParamType[At]):
    name = "INDEX|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> At:
        """Parse a point."""
        try:
            return value if isinstance(value, At) else parse_at(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Instant(_ParamType[int]):
    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse an instant to unix nanoseconds."""
        try:
            return value if isinstance(value, int) else parse_instant_ns(value, SystemClock().time_ns())
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Duration(_ParamType[int]):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a duration in Go's syntax to nanoseconds."""
        try:
            return value if isinstance(value, int) else parse_duration_ns(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Flapping(_ParamType[Flapping]):
    name = "N/DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Flapping:
        """Parse a number of restarts and a span of time."""
        if isinstance(value, Flapping):
            return value
        number, _, span = value.partition("/")
        try:
            flapping = Flapping(int(number), parse_duration_ns(span))
        except ValueError:
            self.fail(f"expected a number of restarts and a span of time, such as 5/1h, found {value!r}", param, ctx)
        if flapping.restarts < 1 or flapping.within_ns < 0:
            self.fail(f"{value!r}: a task flaps with 1 restart or more, within a span of time such as 1h", param, ctx)
        return flapping


class _EventTypes(_ParamType[frozenset[str]]):
    name = "TYPE,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        """Return types of events, in small letters; a name that nobody knows, but that is like one, is refused."""
        if isinstance(value, frozenset):
            return value
        kinds = {name.lower(): name for name in (*BY_WIRE_TYPE, *map(_tag, INTERNAL_EVENTS))}
        names = [name.strip().lower() for name in value.split(",") if name.strip()]
        if not names:
            self.fail("expected types of events with commas between them, such as Restarting,Terminated", param, ctx)
        for name in names:
            likely = [] if name in kinds else get_close_matches(name, kinds, n=1)
            if likely:
                self.fail(f"there is no type {name!r} of events; did you mean {kinds[likely[0]]!r}?", param, ctx)
        return frozenset(names)


def _tag(kind: type[Any]) -> str:
    """Return the type of an internal event, as records have it."""
    return str(kind.__struct_config__.tag)


class _Numbers(_ParamType[tuple[int, ...]]):
    name = "NUMBER,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return numbers that are separated by commas."""
        if isinstance(value, tuple):
            return value
        try:
            return () if value == "none" else tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"expected whole numbers with commas between them, or none, found {value!r}", param, ctx)


Command: TypeAlias = Callable[..., int]
Decorator: TypeAlias = Callable[[Command], Command]

_dialects: Final = click.Choice(tuple(DIALECTS))

sources_argument = click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
source_argument = click.argument("source", metavar="SOURCE")
alloc_argument = click.argument("alloc", shell_complete=complete_allocation)
task_argument = click.argument("task", required=False, shell_complete=complete_task)
POINT: Final = _Point()
"""The type of `--at`: an index, a time or a position."""
DURATION: Final = _Duration()
FLAPPING: Final = _Flapping()
"""A threshold of restarts within a span of time, as ``5/1h``."""
INSTANT: Final = _Instant()
EVENT_TYPES: Final = _EventTypes()
"""Types of events with commas between them, in any case of letters."""
NUMBERS: Final = _Numbers()
"""Numbers with commas between them."""
at_option = click.option("--at", type=POINT, help="The state at this index, time, or position (@7); default: the end.")
alloc_option = click.option(
    "--alloc",
    metavar="PREFIX",
    shell_complete=complete_allocation,
    help="One allocation: its ID, or a unique prefix.",
)
task_option = click.option("--task", metavar="NAME", shell_complete=complete_task, help="Only tasks of this name.")
job_option = click.option("--job", metavar="ID", help="Only allocations of this job.")
node_option = click.option("--node", metavar="PREFIX", help="Only allocations on nodes whose ID starts with this.")
status_option = click.option(
    "--status",
    type=click.Choice(("pending", "running", "complete", "failed", "lost", "unknown")),
    help="Only allocations with this client status.",
)
type_option = click.option(
    "--type", "types", type=EVENT_TYPES, help="Only events of these types, such as Restarting,Terminated."
)
since_option = click.option(
    "--since", type=INSTANT, help="Only with a last record (log: a record) at or after this time."
)
until_option = click.option(
    "--until", type=INSTANT, help="Only with a last record (log: a record) at or before this time."
)


skip_bad_option = click.option(
    "--skip-bad",
    is_flag=True,
    help="Skip unreadable documents, and note where they are; the exit status is that of the others.",
)


def format_option(*formats: str) -> Decorator:
    """Return the option that picks one of these formats; the first is the default."""
    return click.option(
        "--format",
        "format",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="The output format.",
    )


def dialect_option(help: str) -> Decorator:
    """Return the option that names a dialect."""
    return click.option("--dialect", type=_dialects, help=help)


def command(name: str | None = None) -> Callable[[Command], click.Command]:
    """Return the decorator that makes a command whose options complete the allocations and tasks of its source."""
    return click.command(name, cls=Completed)
