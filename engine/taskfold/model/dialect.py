"""The dialects: what one Nomad's JSON and lifecycle look like, as facts.

A dialect is named after the Nomad it was checked against. ``0.5.0`` is the documented API, ``0.5.6`` and ``1.1.2``
were recorded. Everything that differs between them is a field of `Dialect`; no other module compares versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Final

from msgspec import Struct

from taskfold.model.errors import DialectError
from taskfold.model.policy import MODE_DELAY, MODE_FAIL, RestartPolicy

__all__ = [
    "DEFAULT_DIALECT",
    "DIALECTS",
    "EVENTS_PER_TASK",
    "NEWEST_DIALECT",
    "Dialect",
    "dialect_of",
    "dialect_of_version",
]

EVENTS_PER_TASK: Final = 10
"""How many of a task's newest events Nomad shows. Source: the documented API; the same in every version."""


@cache
def _numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers that compare: as texts, 0.11 would come before 0.9."""
    return tuple(map(int, version.split(".")))


class Dialect(Struct, frozen=True, eq=False):
    """One Nomad's spelling of the JSON and its rules for the fields of a task state.

    There is one object for each dialect, also after copying and pickling, so that it can be compared by identity.
    """

    name: str
    told_by: str
    """The field of a task state that no dialect before it has, which tells a body of it; empty: any task state does.

    The top-level fields that tell it are those of `taskfold.nomad.fields` that no dialect before it has.
    """
    bodies_since: str
    """The first Nomad whose bodies are told to be of this dialect."""
    omits_empty: bool
    """Leave empty top-level keys of an allocation out (since Nomad 0.10.0); before, every key is sent."""
    zero_time: str | None
    """How a time that was never set is written."""
    has_times: bool
    """TaskState has StartedAt and FinishedAt (since Nomad 0.5.6)."""
    has_restarts: bool
    """TaskState has Restarts and LastRestart (since Nomad 0.6.0), and TaskHandle (1.1.0)."""
    sibling_type: str
    """How `Sibling Task Failed` is spelled: the documented spelling ended with Nomad 0.5.4."""
    finished_at_moves: bool
    """Every update to dead sets FinishedAt, if the task ever started (0.5.6); else the first one does, and it stays."""
    describes_status: bool
    """ClientDescription follows from the task states (since Nomad 0.9.0)."""
    has_ui: bool
    """The agent serves a user interface (since Nomad 0.7.0): its root redirects there, and a 404 has no text."""
    has_namespaces: bool
    """Lists are of one namespace, ``default`` unless named (since Nomad 0.7.0)."""
    has_actions: bool
    """Allocations are stopped, restarted and signalled below their path (since Nomad 0.9.2)."""
    has_stub_choices: bool
    """A list may be asked for with resources, or without task states (since Nomad 1.0.0)."""
    has_event_stream: bool
    """There is ``/v1/event/stream`` (since Nomad 1.0.0)."""
    service_policy: RestartPolicy
    """The restart policy of a service or system job that names none."""
    batch_policy: RestartPolicy
    """The restart policy of a batch job that names none."""
    window_before_count: bool
    """A failure after the end of a restart window opens the next one, and then counts (since Nomad 0.9.3); before, it
    counts and then opens the next one at zero, so that later windows allow one restart more."""
    success_may_need_restart: bool
    """If no restarts are allowed, a success ends only a task that would not be started again after one (since Nomad
    0.8.0); before, it ends every task."""
    keeps_restart_policy: bool
    """A running allocation keeps the restart policy that it was placed with, also when its job is updated in place
    (recorded of 1.1.2); before, the new one holds at once."""
    has_new_client: bool
    """The client is the one written anew for Nomad 0.9.0: it ends tasks in another order, with other events, knows
    lifecycle hooks (0.11.0), and tells a task that is killed apart from one that fails."""
    completes_policies: bool
    """An agent completes the restart policies of a job that it is sent, field by field (since Nomad 0.5.5); before, the
    servers make up for one that is missing altogether."""
    cleans_variables: bool
    """The names of a task's variables are cleaned of what no shell can name, keys of Meta come as they are written, too
    (since Nomad 0.5.5), and tasks know the ports of their siblings (since 0.5.3)."""
    withheld_variables: frozenset[str]
    """The environment variables that a task does not inherit. Source: client/config/config.go."""

    lists_lost: bool = False
    """AllocStates tells of allocations that were lost (1.1.2 was recorded without), not only of unknown ones."""
    first_network_status: str = ""
    """The NetworkStatus that a client tells with its first report of an allocation without a network of its own, as
    JSON; empty where it tells none (before Nomad 1.0.0)."""

    def has(self, since: str) -> bool:
        """Tell whether this Nomad has what exists since another one. O(1).

        >>> DIALECTS["1.1.2"].has("0.11.2"), DIALECTS["0.5.6"].has("0.11.2")
        (True, False)
        """
        return _numbers(since) <= _numbers(self.name)

    def __reduce__(self) -> tuple[Callable[[str], Dialect], tuple[str]]:
        return dialect_of, (self.name,)

    def __copy__(self) -> Dialect:
        return self

    def __deepcopy__(self, _: object) -> Dialect:
        return self


_MINUTE_NS: Final = 60_000_000_000
_HOUR_NS: Final = 60 * _MINUTE_NS
_DELAY_NS: Final = 15_000_000_000

_SERVICE_0_5: Final = RestartPolicy(attempts=2, interval_ns=_MINUTE_NS, delay_ns=_DELAY_NS, mode=MODE_DELAY)
_BATCH_0_5: Final = RestartPolicy(attempts=15, interval_ns=7 * 24 * _HOUR_NS, delay_ns=_DELAY_NS, mode=MODE_DELAY)
_SERVICE_0_8: Final = RestartPolicy(attempts=2, interval_ns=30 * _MINUTE_NS, delay_ns=_DELAY_NS, mode=MODE_FAIL)
_BATCH_0_8: Final = RestartPolicy(attempts=3, interval_ns=24 * _HOUR_NS, delay_ns=_DELAY_NS, mode=MODE_FAIL)
"""The defaults of v0.5.6 to 0.7.x, and since 0.8.0. Source: nomad/structs/structs.go NewRestartPolicy."""

_SECRETS: Final = frozenset(
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "CONSUL_TOKEN", "VAULT_TOKEN")
) | {"GOOGLE_APPLICATION_CREDENTIALS"}

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="0.5.0",
            told_by="",
            bodies_since="0.0.0",
            omits_empty=False,
            zero_time="0001-01-01T00:00:00Z",
            has_times=False,
            has_restarts=False,
            sibling_type="Sibling task failed",
            finished_at_moves=True,
            describes_status=False,
            has_ui=False,
            has_namespaces=False,
            has_actions=False,
            has_stub_choices=False,
            has_event_stream=False,
            service_policy=_SERVICE_0_5,
            batch_policy=_BATCH_0_5,
            window_before_count=False,
            success_may_need_restart=False,
            keeps_restart_policy=False,
            has_new_client=False,
            completes_policies=False,
            cleans_variables=False,
            withheld_variables=_SECRETS | {"ATLAS_TOKEN"},
        ),
        Dialect(
            name="0.5.6",
            told_by="StartedAt",
            bodies_since="0.5.6",
            omits_empty=False,
            zero_time="0001-01-01T00:00:00Z",
            has_times=True,
            has_restarts=False,
            sibling_type="Sibling Task Failed",
            finished_at_moves=True,
            describes_status=False,
            has_ui=False,
            has_namespaces=False,
            has_actions=False,
            has_stub_choices=False,
            has_event_stream=False,
            service_policy=_SERVICE_0_5,
            batch_policy=_BATCH_0_5,
            window_before_count=False,
            success_may_need_restart=False,
            keeps_restart_policy=False,
            has_new_client=False,
            completes_policies=True,
            cleans_variables=True,
            withheld_variables=_SECRETS | {"ATLAS_TOKEN"},
        ),
        Dialect(
            name="1.1.2",
            told_by="Restarts",
            bodies_since="0.6.0",
            omits_empty=True,
            zero_time=None,
            has_times=True,
            has_restarts=True,
            sibling_type="Sibling Task Failed",
            finished_at_moves=False,
            describes_status=True,
            has_ui=True,
            has_namespaces=True,
            has_actions=True,
            has_stub_choices=True,
            has_event_stream=True,
            service_policy=_SERVICE_0_8,
            batch_policy=_BATCH_0_8,
            window_before_count=True,
            success_may_need_restart=True,
            keeps_restart_policy=True,
            has_new_client=True,
            completes_policies=True,
            cleans_variables=True,
            withheld_variables=_SECRETS | {"CONSUL_HTTP_TOKEN"},
            first_network_status='{"Address":"","DNS":null,"InterfaceName":""}',
        ),
    )
}

NEWEST_DIALECT: Final = next(reversed(DIALECTS))
"""The newest of them: what a Nomad newer than all of them is read with."""

DEFAULT_DIALECT: Final = NEWEST_DIALECT
"""The default dialect. The documented API is ``0.5.0``."""


_VERSION: Final = re.compile(r"v?([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")


def dialect_of(name: str | Dialect) -> Dialect:
    """Return the dialect of this name.

    Raises DialectError, naming those that exist.

    >>> dialect_of("1.1.2").omits_empty
    True
    """
    if isinstance(name, Dialect):
        return name
    try:
        return DIALECTS[name]
    except KeyError:
        names = ", ".join(DIALECTS)
        msg = f"{name!r} is not a dialect of taskfold; it speaks {names}"
        raise DialectError(msg) from None


def dialect_of_version(version: str) -> Dialect:
    """Return the dialect in which a Nomad of a version writes; the newest where it is no version.

    >>> [dialect_of_version(version).name for version in ("0.5.4", "0.5.6-rc1", "0.9.7+ent", "v1.8.2", "")]
    ['0.5.0', '0.5.6', '1.1.2', '1.1.2', '1.1.2']
    """
    match = _VERSION.match(version)
    numbers = _numbers(DIALECTS[NEWEST_DIALECT].bodies_since) if match is None else tuple(map(int, match.groups()))
    return next(dialect for dialect in reversed(DIALECTS.values()) if _numbers(dialect.bodies_since) <= numbers)
