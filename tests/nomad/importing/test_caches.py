"""The caches of an importer: of the fields of allocations, and of repeats."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from taskfold.events import Started
from taskfold.fold.allocation import Allocation
from taskfold.nomad.importing.field_cache import FieldCache
from taskfold.nomad.importing.observation import Observation
from taskfold.nomad.importing.repeats import Repeats
from taskfold.nomad.task_states import WireTask

FIELDS = {"ID": b'"a"', "NodeID": b'"node"'}


def placed(**more: Any) -> Allocation:
    return Allocation("a", version=3, placed_body=b'{"ID":"a"}', **more)


def test_the_fields_that_are_kept_are_taken_while_the_allocation_is_as_it_was():
    allocation, cache = placed(), FieldCache()
    cache.keep(allocation, FIELDS)

    assert cache.take(allocation) is FIELDS
    assert cache.take(placed()) == {"ID": b'"a"'}
    allocation.version += 1
    assert cache.take(allocation) == {"ID": b'"a"'}


def test_the_fields_of_an_allocation_that_is_not_kept_are_made():
    cache = FieldCache()

    assert cache.take(placed(updates={"NodeID": b'"node"'})) == FIELDS


def test_the_size_of_fields_is_that_of_their_texts_and_of_objects():
    cache = FieldCache()
    cache.keep(placed(), FIELDS)

    assert cache.cache.size == len(b'"a"') + len(b'"node"') + 2 * 64


TASKS = {"web": WireTask(state="running", events=(Started(time_ns=1),), fields={"TaskHandle": b"{}"})}
SEEN = Observation(kind="body", alloc="a", index=7, fields=FIELDS, tasks=TASKS)
CONTEXT = (3, "body")


@pytest.mark.parametrize("tasks", [TASKS, {"web": WireTask()}, {}, None])
def test_what_was_seen_before_in_the_same_context_is_a_repeat(tasks):
    seen, repeats = replace(SEEN, tasks=tasks), Repeats()
    assert not repeats.has(seen, CONTEXT)

    repeats.add(seen, CONTEXT)

    assert repeats.has(replace(seen, name="other.json", line=9), CONTEXT)
    assert not repeats.has(seen, (4, "body"))
    assert not repeats.has(replace(seen, alloc="b"), CONTEXT)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 8},
        {"kind": "stub"},
        {"write_type": "PlanResult"},
        {"fields": FIELDS | {"NodeID": b'"other"'}},
        {"tasks": {"web": replace(TASKS["web"], state="dead")}},
        {"tasks": None},
    ],
)
def test_what_differs_in_anything_is_no_repeat(change):
    repeats = Repeats()
    repeats.add(SEEN, CONTEXT)

    assert not repeats.has(replace(SEEN, **change), CONTEXT)


def test_a_repeat_is_what_it_was_when_it_was_seen():
    fields, own = dict(FIELDS), {"TaskHandle": b"{}"}
    tasks = {"web": replace(TASKS["web"], fields=own)}
    repeats = Repeats()
    repeats.add(replace(SEEN, fields=fields, tasks=tasks), CONTEXT)

    fields["NodeID"] = own["TaskHandle"] = b'"other"'
    tasks.clear()

    assert repeats.has(SEEN, CONTEXT)


@pytest.mark.parametrize(("tasks", "objects", "texts"), [(TASKS, 2, 2), ({"web": WireTask()}, 1, 0), (None, 0, 0)])
def test_the_size_of_a_repeat_is_that_of_its_texts_and_of_objects(tasks, objects, texts):
    repeats = Repeats()
    repeats.add(replace(SEEN, tasks=tasks), CONTEXT)

    assert repeats.cache.size == len(b'"a"') + len(b'"node"') + texts + (2 + objects) * 128
