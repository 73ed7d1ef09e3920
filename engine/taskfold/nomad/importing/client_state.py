"""The allocations of a Nomad client, as ``nomad operator client-state`` prints them.

A client stores the allocation as received from its servers, and its own state of each task.
Source: command/operator_client_state.go, since Nomad 0.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec import Raw, Struct

from taskfold.nomad.fields import object_to_json

__all__ = ["client_allocations"]

_NULL: Final = Raw(b"null")


class _Task(Struct):
    RemoteState: Raw = _NULL
    """The state that the client reports to its servers."""


class _Allocation(Struct):
    Alloc: dict[str, Raw] | None = None
    DeployStatus: Raw = _NULL
    Tasks: dict[str, _Task | None] | None = None


_decode: Final[Callable[[Raw], dict[str, _Allocation | None]]] = msgspec.json.Decoder(
    dict[str, _Allocation | None]
).decode
_decode_tasks: Final[Callable[[Raw], dict[str, Raw] | None]] = msgspec.json.Decoder(dict[str, Raw] | None).decode


def client_allocations(text: Raw) -> Iterator[dict[str, bytes]]:
    """Yield the fields of each allocation of a client, with the client's states of its tasks. O(length).

    Raises msgspec.DecodeError.

    >>> text = b'{"a": {"Alloc": {"ID": "a"}, "Tasks": {"web": {"RemoteState": {"State": "running"}}}}}'
    >>> list(client_allocations(Raw(text)))
    [{'ID': b'"a"', 'TaskStates': b'{"web":{"State": "running"}}'}]
    """
    for allocation in _decode(text).values():
        if allocation is None or not allocation.Alloc:
            continue
        fields = {name: bytes(part) for name, part in allocation.Alloc.items()}
        own_states = {
            name: task.RemoteState
            for name, task in (allocation.Tasks or {}).items()
            if task is not None and task.RemoteState != _NULL
        }
        if own_states:
            # Tasks that were never started are missing in the client's states.
            states = {**(_decode_tasks(Raw(fields.get("TaskStates", b"null"))) or {}), **own_states}
            fields["TaskStates"] = object_to_json({name: bytes(state) for name, state in states.items()}, tuple(states))
        if allocation.DeployStatus != _NULL:
            fields["DeploymentStatus"] = bytes(allocation.DeployStatus)
        yield fields
