"""The Arrow schemas of what is handed to data tools: types that every reader takes, and no keyword of SQL as a name.

Times are nanosecond timestamps in UTC; a duration is a whole number whose name ends in ``_ns``, since Parquet has no
type of its own. A column that may be null says what null means.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

__all__ = ["ALLOCATIONS", "DEATHS", "INTERVALS", "RECORDS", "SCHEMAS", "TASKS", "TEXT", "TIME"]

TIME: Final[Any] = pa.timestamp("ns", tz="UTC")
TEXT: Final[Any] = pa.dictionary(pa.int32(), pa.string())
"""A text of which there are few: as numbers, and each text once."""


def _field(name: str, kind: Any, what: str, null: str = "") -> Any:
    """Return a column; one that may be null says what null means."""
    return pa.field(name, kind, nullable=bool(null), metadata={"what": what} | ({"null": null} if null else {}))


_ALLOC: Final[Any] = _field("alloc", TEXT, "the allocation")

RECORDS: Final[Any] = pa.schema(
    [
        _field("seq", pa.int64(), "the position in the log: 1, 2, 3 …"),
        _field("modify_index", pa.int64(), "the write it belongs to: Nomad's ModifyIndex when imported"),
        _ALLOC,
        _field("version", pa.int64(), "1, 2, 3 … inside the allocation"),
        _field("task", TEXT, "the task", "it is of the allocation itself"),
        _field("task_key", pa.int64(), "a number for allocation and task: of equal ones, equal in one file"),
        _field("time", TIME, "when it was applied", "nobody told"),
        _field("ordinal", pa.int64(), "its place in the index, where it was imported", "it was not imported"),
        _field("id", pa.string(), "the key of repeats", "it has none"),
        _field("type", TEXT, "Nomad's word for the event; Unknown for a type that nobody knows"),
        _field("event_time", TIME, "when it happened", "nobody told, or it is an internal event"),
        _field("fails_task", pa.bool_(), "whether the event marks the task as failed"),
        _field("exit_code", pa.int64(), "the exit code of a Terminated", "unknown, or no Terminated"),
        _field("signal", pa.int64(), "the signal of a Terminated", "none"),
        _field("oom_killed", pa.bool_(), "whether the kernel killed it for want of memory", "no Terminated"),
        _field("start_delay_ns", pa.int64(), "the delay of a Restarting", "none"),
        _field("kill_timeout_ns", pa.int64(), "the timeout of a Killing", "none"),
        _field("reason", TEXT, "the reason of a restart, a kill, a signal", "none"),
        _field("message", TEXT, "the text of a driver, a hook, an error", "none"),
        _field("event", pa.string(), "the JSON of the event", "the columns say everything"),
    ]
)
"""The records of a log; export and import give back the same ones."""

TASKS: Final[Any] = pa.schema(
    [
        _ALLOC,
        _field("task", TEXT, "the task"),
        _field("state", TEXT, "pending, running or dead; empty where a Nomad has not set it yet"),
        _field("failed", pa.bool_(), "whether an event marked it as failed"),
        _field("restarts", pa.int64(), "how often it was restarted"),
        _field("last_restart", TIME, "when it was restarted last", "never"),
        _field("started_at", TIME, "when it was started last", "never, or not told"),
        _field("finished_at", TIME, "when it ended, as the dialect tells it", "never, or not told"),
        _field("events_total", pa.int64(), "how many events it ever had"),
        _field("irregular", pa.int64(), "how many of them the lifecycle refused"),
        _field("counts", pa.map_(pa.string(), pa.int64()), "how many events of each type it ever had"),
        _field("shown", pa.list_(pa.int64()), "the positions of the newest ten events, oldest first"),
        _field("hidden", pa.bool_(), "whether it is missing from the task states of its allocation"),
    ]
)
"""The state of each task."""

INTERVALS: Final[Any] = pa.schema(
    [
        _ALLOC,
        _field("task", TEXT, "the task"),
        _field("state", TEXT, "the state it was in"),
        _field("since", TIME, "when it began", "nobody told"),
        _field("until", TIME, "when it ended", "it has not ended, or nobody told when"),
        _field("duration_ns", pa.int64(), "how long it was", "it has not ended, or nobody told when"),
        _field("began_with", TEXT, "the type of the record that began it"),
        _field("ended_with", TEXT, "the type of the record that ended it", "it has not ended"),
        _field("began_seq", pa.int64(), "the position of that which began it"),
        _field("ended_seq", pa.int64(), "the position of that which ended it", "it has not ended"),
    ]
)
"""The intervals in which each task was in one state."""

ALLOCATIONS: Final[Any] = pa.schema(
    [
        _ALLOC,
        _field("name", pa.string(), "its name", "not told"),
        _field("namespace", TEXT, "its namespace", "not told"),
        _field("job", TEXT, "the ID of its job", "not told"),
        _field("task_group", TEXT, "its group of the job", "not told"),
        _field("node", TEXT, "the ID of its node", "not told"),
        _field("node_name", TEXT, "the name of its node", "not told"),
        _field("eval", TEXT, "the evaluation that placed it", "not told"),
        _field("desired_status", TEXT, "the status that the servers want", "not told"),
        _field("client_status", TEXT, "the status that its client tells", "no task tells one"),
        _field("created_at", TIME, "when it was created", "not told"),
        _field("modified_at", TIME, "the time of its newest record", "nobody told"),
        _field("modify_index", pa.int64(), "the index of its newest record"),
        _field("version", pa.int64(), "how many records it has"),
        _field("collected", pa.bool_(), "whether it was collected"),
    ]
)
"""The allocations: job, group, node, statuses."""

DEATHS: Final[Any] = pa.schema(
    [
        _ALLOC,
        _field("task", TEXT, "the task"),
        _field("time", TIME, "when it died", "nobody told"),
        _field("modify_index", pa.int64(), "the index of the record that says so"),
        _field("seq", pa.int64(), "the position of the record that says so"),
        _field("reason", TEXT, "the first reason that applies"),
        _field("event_type", TEXT, "the type of the event that tells the reason", "none does"),
        _field("failed", pa.bool_(), "whether the task failed, as Nomad has it"),
        _field("exit_code", pa.int64(), "the exit code of the last process", "none ended, or nobody knows"),
        _field("signal", pa.int64(), "the signal that ended it", "none"),
        _field("oom_killed", pa.bool_(), "whether the kernel killed it for want of memory"),
        _field("ran_ns", pa.int64(), "how long the last process ran", "none was started, or nobody told when"),
        _field("restarts", pa.int64(), "how often it had been started again by then"),
    ]
)
"""The deaths of tasks: one row for each."""

SCHEMAS: Final[dict[str, Any]] = {
    "records": RECORDS,
    "tasks": TASKS,
    "intervals": INTERVALS,
    "allocations": ALLOCATIONS,
    "deaths": DEATHS,
}
"""The schemas of all tables, by name."""
