"""The type of a write that changed an allocation: the Type of an event of Nomad's stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from taskfold.model.record import Collected, Event, Placed, Record, Updated

__all__ = ["BY_CLIENT", "WRITE_TYPES", "naming", "write_type"]

BY_PLAN, BY_WISH, BY_CLIENT = "PlanResult", "AllocationUpdateDesiredStatus", "AllocationUpdated"
HEALTH, PROMOTED = "DeploymentAllocHealth", "DeploymentPromotion"
COLLECTED = "AllocationCollected"
"""Taskfold's own type, for the last record of an allocation. Nomad sends nothing when it collects one."""
WRITE_TYPES: Final = BY_PLAN, BY_WISH, BY_CLIENT, HEALTH, PROMOTED, COLLECTED
"""The types of writes: each names the writer, not the change."""

_PLANNED: Final = frozenset(("AllocModifyIndex", "DesiredStatus", "NextAllocation"))
"""Fields that only a plan changes; a request to stop or restart changes DesiredTransition alone."""


def write_type(records: Sequence[Record]) -> str:
    """Return the type of the write with these records: the stored one, else the implied one. O(records).

    Source: nomad/state/events.go, which names the writer and not the change; the recordings agree.
    """
    stored_type, implied = naming(records)
    return stored_type or implied or BY_CLIENT


def naming(records: Sequence[Record]) -> tuple[str, str]:
    """Return the stored type of the write with these records, and the type that its changes imply. O(records).

    Either is empty if unknown.
    """
    implied = ""
    for record in records:
        event = record.event
        if isinstance(event, Updated) and event.write_type:
            return event.write_type, implied
        if not implied and not record.task:
            implied = _of_event(event)
    return "", implied


def _of_event(event: Event) -> str:
    """Return the type of write that one event of the allocation implies; an empty text if none."""
    if isinstance(event, Collected):
        return COLLECTED
    if isinstance(event, Placed):
        return BY_PLAN
    return _of_fields(event) if isinstance(event, Updated) else ""


def _of_fields(event: Updated) -> str:
    """Return the type of write that its changed fields imply; an empty text if none."""
    if "DeploymentStatus" in event.fields and "ModifyTime" not in event.fields:
        # Health is set from outside, neither by a client nor by a plan.
        return PROMOTED if "AllocModifyIndex" in event.fields else HEALTH
    # A write without a visible change is a plan that replaced the allocation.
    if not _PLANNED.isdisjoint(event.fields) or not (event.fields or event.cleared):
        return BY_PLAN
    return BY_WISH if "DesiredTransition" in event.fields else ""
