"""The typed inputs: what a driver, an operator or a scheduler can say, for taskfold to decide what follows.

An input says what happened or what is wished; `taskfold.decide` answers with events, effects and timers. Its class says
where it fits (`Input.fits`, `Input.needs_new_client`); the sets and the union of all inputs are made of the classes. So
a new input is its class here, and its rule in `taskfold.decision.rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self, TypeAlias, Union

from msgspec import Struct

from taskfold.model.errors import InputRefused
from taskfold.model.events import wire_name
from taskfold.model.record import Addressed

_SIGNALED: Final = 128
"""The exit code of a process that a signal ended is this more than the signal."""


class Input(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename=wire_name,
    tag_field="Type",
    gc=False,
):
    """Something that is reported, or asked for."""

    fits: ClassVar[Literal["task", "allocation", "either"]] = "task"
    """The subject of a report: a task, the allocation, or a task or, without one, all tasks that it concerns."""
    needs_new_client: ClassVar[bool] = False
    """It comes from the client of Nomad 0.9.0 and later, and does not exist before."""


class PlacementReceived(Input, frozen=True, kw_only=True, tag="Placed"):
    """The client has received the allocation (or, for a task, that one): its tasks may be prepared."""

    fits = "either"


class SetUp(Input, frozen=True, kw_only=True, tag="SetUp"):
    """The task is being prepared; the message says how far it is."""

    message: str = "Building Task Directory"


class DownloadBegun(Input, frozen=True, kw_only=True, tag="DownloadBegun"):
    """The download of the task's artifacts has begun."""


class DownloadFailed(Input, frozen=True, kw_only=True, tag="DownloadFailed"):
    """An artifact could not be downloaded."""

    error: str = ""
    recoverable: bool = True
    """It may succeed later: the restart policy decides. Nomad 1.1.2 takes every download error for one of these."""


class HookFailed(Input, frozen=True, kw_only=True, tag="HookFailed"):
    """A hook that prepares the task failed: logs, templates, the check of its user."""

    needs_new_client = True

    hook: str = ""
    error: str = ""
    recoverable: bool = False


class ValidationFailed(Input, frozen=True, kw_only=True, tag="ValidationFailed"):
    """The task's configuration is not valid."""

    error: str = ""


class SetupFailed(Input, frozen=True, kw_only=True, tag="SetupFailed"):
    """The task, or the allocation as a whole, could not be set up."""

    fits = "either"

    error: str = ""


class ProcessStarted(Input, frozen=True, kw_only=True, tag="Started"):
    """The task's process runs."""


class StartFailed(Input, frozen=True, kw_only=True, tag="StartFailed"):
    """The task's process could not be started."""

    error: str = ""
    recoverable: bool = False
    """It may succeed later: the restart policy decides."""


class Exited(Input, frozen=True, kw_only=True, tag="Exited"):
    """The task's process ended, by itself or since it was killed."""

    exit_code: int | None = 0
    """The exit code: 128 + n where signal n ended it; None when nobody knows it, which is no success."""
    signal: int = 0
    """The signal that ended it; 0 where none did."""
    error: str = ""
    oom_killed: bool = False

    @classmethod
    def of_returncode(cls, returncode: int) -> Self:
        """Return how a process ended whose ``Popen.returncode`` this is: -n where signal n ended it.

        >>> Exited.of_returncode(3)
        Exited(exit_code=3, signal=0, error='', oom_killed=False)
        >>> Exited.of_returncode(-9)
        Exited(exit_code=137, signal=9, error='', oom_killed=False)

        Source: executor.go in v0.5.6 and new, which Nomad's raw_exec reports by. Raises InputRefused for what is no
        number: the process has not ended, or was not waited for.
        """
        if type(returncode) is not int:
            raise InputRefused(f"the returncode is {returncode!r}, not a number: wait for the process to end")
        if returncode < 0:
            return cls(exit_code=_SIGNALED - returncode, signal=-returncode)
        return cls(exit_code=returncode)


class DriverMessage(Input, frozen=True, kw_only=True, tag="DriverMessage"):
    """The driver has something to say."""

    message: str = ""


class StopRequested(Input, frozen=True, kw_only=True, tag="StopRequested"):
    """A scheduler wants the allocation stopped, or evicts it for one of a higher priority."""

    fits = "allocation"

    desired: Literal["stop", "evict"] = "stop"
    """Its new DesiredStatus."""
    description: str = "alloc not needed due to job update"
    migrate: bool = False
    """It is to be placed anew elsewhere: its DesiredTransition says so (where the dialect has one)."""


class KillRequested(Input, frozen=True, kw_only=True, tag="KillRequested"):
    """Somebody (a template, a secret, the client) wants the task, or all of them, killed."""

    fits = "either"

    reason: str = ""
    fails_task: bool = False


class KillFailed(Input, frozen=True, kw_only=True, tag="KillFailed"):
    """The driver could not kill the task's process."""

    error: str = ""


class RestartRequested(Input, frozen=True, kw_only=True, tag="RestartRequested"):
    """Somebody wants the task, or all that run, restarted."""

    fits = "either"

    reason: str = "User requested restart"
    failure: bool = False
    """Something failed (a health check): it counts against the restart policy. A wish does not count."""


class SignalRequested(Input, frozen=True, kw_only=True, tag="SignalRequested"):
    """Somebody wants the task, or all that run, sent a signal."""

    fits = "either"

    signal: str = ""
    """Its name, such as ``SIGHUP``; empty means what the driver sends unless told."""
    reason: str = ""


class TemplateChanged(Input, frozen=True, kw_only=True, tag="TemplateChanged"):
    """A template of the task was rendered anew."""

    change_mode: Literal["noop", "restart", "signal"] = "restart"
    signal: str = ""


class TemplateBlocked(Input, frozen=True, kw_only=True, tag="TemplateBlocked"):
    """A template of the task waits for something that is missing."""

    needs_new_client = True

    missing: tuple[str, ...] = ()


class HealthFailed(Input, frozen=True, kw_only=True, tag="HealthFailed"):
    """The allocation did not become healthy in time for its deployment."""

    fits = "allocation"
    needs_new_client = True


class Restored(Input, frozen=True, kw_only=True, tag="Restored"):
    """The client was restarted, and found the task's process again or not."""

    fits = "either"

    reattached: bool = True


class ServerContacted(Input, frozen=True, kw_only=True, tag="ServerContacted"):
    """The restarted client reached its servers: what could not be restored is started again."""

    fits = "allocation"
    needs_new_client = True


class NodeDisconnected(Input, frozen=True, kw_only=True, tag="Disconnected"):
    """The servers have lost touch with the allocation's node; its status is unknown."""

    fits = "allocation"
    needs_new_client = True


class NodeLost(Input, frozen=True, kw_only=True, tag="NodeLost"):
    """The allocation's node is down; the allocation counts as lost, until its client says something else."""

    fits = "allocation"


class NodeReconnected(Input, frozen=True, kw_only=True, tag="Reconnected"):
    """The client reached its servers again."""

    fits = "allocation"
    needs_new_client = True


class TimerDue(Input, frozen=True, kw_only=True, tag="TimerDue"):
    """The time of a task's timer has come."""

    kind: Literal["start", "kill"] = "start"


INPUTS: Final[tuple[type[Input], ...]] = tuple(Input.__subclasses__())
"""Every input that can be reported, in the order of this module."""

OF_ALLOCATION: Final = frozenset(kind for kind in INPUTS if kind.fits == "allocation")
OF_EITHER: Final = frozenset(kind for kind in INPUTS if kind.fits == "either")
NEW_CLIENT_ONLY: Final = frozenset(kind for kind in INPUTS if kind.needs_new_client)

if TYPE_CHECKING:
    from taskfold.model import _unions

    AnyInput: TypeAlias = _unions.AnyInput
else:
    AnyInput = Union[INPUTS]  # noqa: UP007 - of a tuple
"""Every input as a closed union: decoders are made of it, and type checkers see whether a match has every type."""


class PostedInput(Addressed, frozen=True, kw_only=True):
    """An input that somebody posts."""

    input: AnyInput


_OTHERS: Final = ("INPUTS", "NEW_CLIENT_ONLY", "OF_ALLOCATION", "OF_EITHER", "AnyInput", "Input", "PostedInput")

if not TYPE_CHECKING:  # who checks types takes every public name
    __all__ = sorted({*_OTHERS, *(kind.__name__ for kind in INPUTS)})  # noqa: PLE0605 - made of the registry
