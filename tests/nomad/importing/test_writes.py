"""The type of a write, as Nomad's stream names it: the writer, not the change."""

from __future__ import annotations

import pytest
from msgspec import Raw

from taskfold.events import Started
from taskfold.model.record import Collected, Coordinated, Event, Placed, Record, Updated
from taskfold.nomad.importing.writes import naming, write_type


def records(*events: Event | tuple[str, Event]) -> list[Record]:
    """Return records of one write: of the allocation, or of a task that is named."""
    pairs = [event if isinstance(event, tuple) else ("", event) for event in events]
    return [Record(index=7, alloc="a", version=1, task=task, time_ns=1, event=event) for task, event in pairs]


def updated(*names: str, cleared: tuple[str, ...] = (), stored: str = "") -> Updated:
    return Updated(fields={name: Raw(b"1") for name in names}, cleared=cleared, write_type=stored)


IMPLIED = [
    (Placed(), "PlanResult"),
    (Coordinated(), ""),
    (Collected(reason="gone"), "AllocationCollected"),
    (updated("DeploymentStatus"), "DeploymentAllocHealth"),
    (updated("DeploymentStatus", "AllocModifyIndex"), "DeploymentPromotion"),
    (updated("DeploymentStatus", "ModifyTime"), ""),
    (updated("DeploymentStatus", "ModifyTime", "AllocModifyIndex"), "PlanResult"),
    (updated("AllocModifyIndex"), "PlanResult"),
    (updated("DesiredStatus"), "PlanResult"),
    (updated("NextAllocation", "DesiredTransition"), "PlanResult"),
    (updated(), "PlanResult"),
    (updated(cleared=("ClientStatus",)), ""),
    (updated("DesiredTransition"), "AllocationUpdateDesiredStatus"),
    (updated("ClientStatus"), ""),
]


@pytest.mark.parametrize(("event", "implied"), IMPLIED)
def test_a_change_implies_its_writer(event, implied):
    assert naming(records(event)) == ("", implied)
    assert write_type(records(event)) == (implied or "AllocationUpdated")


def test_the_stored_type_goes_before_what_the_changes_imply():
    write = records(Placed(), updated("DesiredStatus", stored="DeploymentPromotion"))

    assert naming(write) == ("DeploymentPromotion", "PlanResult")
    assert write_type(write) == "DeploymentPromotion"


def test_the_first_change_of_the_allocation_that_implies_a_writer_tells_it():
    write = records(("web", updated("DesiredStatus")), updated("ClientStatus"), updated("DesiredTransition"), Placed())

    assert naming(write) == ("", "AllocationUpdateDesiredStatus")


def test_a_write_without_a_change_of_the_allocation_is_of_its_client():
    write = records(("web", Started()))

    assert (naming(write), write_type(write)) == (("", ""), "AllocationUpdated")
