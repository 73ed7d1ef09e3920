"""The events of the stream, with the values for filters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from taskfold.fold.allocation import AllocationState
from taskfold.http.nomad.frames import TOPIC, StreamEvent, StreamPayload
from taskfold.http.nomad.stand_in import stand_in
from taskfold.model.record import Record
from taskfold.nomad.fields import DEFAULT_NAMESPACE
from taskfold.nomad.importing.writes import write_type
from taskfold.nomad.snapshot import AllocationTexts, Snapshot

__all__ = ["EventText", "EventTexts"]

_CAPACITY: Final = 1_024


class EventText(NamedTuple):
    """An event whose parts are JSON already, with the values for filters."""

    key: str
    filter_keys: tuple[str, str]
    namespace: str
    event: StreamEvent


class EventTexts:
    """A cache of events as JSON: each is written once, however many clients get it."""

    def __init__(self, texts: AllocationTexts) -> None:
        self._bodies = texts
        self._texts: OrderedDict[tuple[str, int], EventText] = OrderedDict()

    def get(self, state: AllocationState, records: Sequence[Record], index: int) -> EventText:
        """Return the event of an allocation after a write."""
        key = state.id, state.version
        event = self._texts.get(key)
        if event is None:
            event = self._texts[key] = _event(self._bodies.snapshot, state, records, index)
            if len(self._texts) > _CAPACITY:
                self._texts.popitem(last=False)
        return event

    def event(self, state: AllocationState, records: Sequence[Record], index: int) -> EventText:
        """Return an event without caching it, in any thread: old events would evict the current ones."""
        return _event(lambda state: Snapshot.of(state, self._bodies.dialect), state, records, index)


def _event(
    snapshot_of: Callable[[AllocationState], Snapshot], state: AllocationState, records: Sequence[Record], index: int
) -> EventText:
    """Return the event of an allocation; for one that cannot be written, that of its stand-in."""
    kind = write_type(records)
    try:
        snapshot = snapshot_of(state)
        return _event_of(state.id, snapshot.fields, snapshot.to_stream_json(), kind, index)
    except Exception as problem:  # noqa: BLE001 - other events are sent in any case
        fields = {"ID": msgspec.json.encode(state.id.encode(errors="backslashreplace").decode())}
        return _event_of(state.id, fields, stand_in(state.id, problem), kind, index)


def _event_of(alloc: str, fields: Mapping[str, bytes], payload: bytes, kind: str, index: int) -> EventText:
    """Return the event of an allocation with these fields, as JSON, and this payload."""
    job, deployment = (fields.get(name, b'""') for name in ("JobID", "DeploymentID"))
    namespace = fields.get("Namespace", b'"%b"' % DEFAULT_NAMESPACE.encode())
    event = StreamEvent(
        FilterKeys=(Raw(job), Raw(deployment)),
        Index=index,
        Key=Raw(fields["ID"]),
        Namespace=Raw(namespace),
        Payload=StreamPayload(Allocation=Raw(payload)),
        Topic=TOPIC,
        Type=kind,
    )
    filter_keys = str(msgspec.json.decode(job)), str(msgspec.json.decode(deployment))
    return EventText(alloc, filter_keys, str(msgspec.json.decode(namespace)), event)
