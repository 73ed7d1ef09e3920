"""The JSON of allocations at each index, in little room: every text once, and of each index the changes.

A reader puts a body together without reading JSON: it is a list of members, each with its text as it is on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from taskfold.fold.allocation import Allocation, apply_record
from taskfold.fold.lifecycle import Lifecycle
from taskfold.model.record import Record
from taskfold.nomad.snapshot import Snapshot

__all__ = ["BodyChange", "BodyColumns"]

BodyChange: TypeAlias = list[Any]
"""An index: its number, its members as [name, text, …] (text -1: removed), its tasks as [name, members, dropped, …].

A task is [name, members, number of dropped events or -1, [text, …] of the new events]; names and texts are numbers.
"""

_decode: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_tasks: Final = msgspec.json.Decoder(dict[str, dict[str, Raw]] | None).decode
_decode_events: Final = msgspec.json.Decoder(list[Raw] | None).decode
_STEP_BYTES: Final = 16
"""About what the numbers of a step, or of a member, take."""


class BodyColumns:
    """The bodies of allocations, as many as fit."""

    def __init__(self, number_of: Callable[[str], int], limit_bytes: int) -> None:
        self._number_of = number_of
        """Gives each text its number."""
        self._room = limit_bytes
        self._numbers: dict[bytes, int] = {}

    def steps(self, alloc: str, records: Sequence[Record], lifecycle: Lifecycle) -> list[BodyChange] | None:
        """Return the steps of an allocation, an index each; None when they do not fit. O(records, and their bodies)."""
        if self._room <= 0:
            return None
        allocation = Allocation(alloc)
        steps: list[BodyChange] = []
        members: dict[str, bytes] = {}
        tasks: dict[str, dict[str, Raw]] = {}
        for index, group in groupby(records, attrgetter("index")):
            for record in group:
                apply_record(allocation, record, lifecycle, "keep")
            text = Snapshot.of(allocation.freeze(), lifecycle.dialect).to_json()
            now = _decode(text)
            task_states = _decode_tasks(now.pop("TaskStates", b"null")) or {}
            steps.append([index, self._members(members, now), self._tasks(tasks, task_states)])
            members, tasks = {name: bytes(value) for name, value in now.items()}, task_states
            if self._room <= 0:
                return None
        return steps

    def _text(self, text: bytes) -> int:
        """Return the number of a text, which takes room when it is new."""
        number = self._numbers.get(text)
        if number is None:
            self._room -= len(text)
            number = self._numbers[text] = self._number_of(text.decode())
        return number

    def _members(self, before: dict[str, bytes], now: dict[str, Raw]) -> list[int]:
        changes: list[int] = []
        for name, value in now.items():
            if before.get(name) != bytes(value):
                changes += (self._number_of(name), self._text(bytes(value)))
        for name in before.keys() - now.keys():
            changes += (self._number_of(name), -1)
        self._room -= _STEP_BYTES + len(changes) * _STEP_BYTES // 4
        return changes

    def _tasks(self, before: dict[str, dict[str, Raw]], now: dict[str, dict[str, Raw]]) -> list[Any]:
        changes: list[Any] = []
        for name, task in now.items():
            one = {key: bytes(value) for key, value in before.get(name, {}).items()}
            events = [bytes(event) for event in _decode_events(task.get("Events", Raw(b"null"))) or ()]
            older = [bytes(event) for event in _decode_events(one.pop("Events", b"null")) or ()]
            members = self._members(one, {key: value for key, value in task.items() if key != "Events"})
            dropped = next(n for n in range(len(older) + 1) if older[n:] == events[: len(older) - n])
            new = events[len(older) - dropped :]
            if members or dropped or new or name not in before:
                changes.append([self._number_of(name), members, dropped, [self._text(event) for event in new]])
        changes += [[self._number_of(name), [], -1, []] for name in before.keys() - now.keys()]
        return changes
