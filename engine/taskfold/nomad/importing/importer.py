"""The importer: observations of a real Nomad become records.

Nomad's event stream and its answers carry state (task states with the 10 newest events each), and they repeat, skip and
at times roll back. The importer compares each observation with the state it has folded, and writes records of the
events in between, which fold to exactly the observed state:

1. an observation with the same ModifyIndex as the last one of its allocation adds the fields that were missing: sources
   differ in their fields, and an older observation may have been the last to have one. An observation of an older index
   adds only the Job (a stub: its version and type), if no newer Job is known. If neither the allocation nor the stream
   event has an index, a second observation must agree with the first;
2. new events in the ring become records (`taskfold.nomad.importing.rings`), in order;
3. an older ring is `Observed` as an older copy, and its events are not appended again later;
4. a ring that starts again with Received belongs to a task that was created again: `Placed` for the task;
5. any other ring means that events were lost: `Gap`, which sets a state from which the visible events follow;
6. a task that is dead without a final event is `Finished`; a time that changed alone is a `Finished` without a change
of
   state; remaining differences are `Observed`, with exactly the fields that differ;
7. other fields are `Placed` at first sight and `Updated` when they change. ClientStatus and ClientDescription follow
   from the tasks, and are stored only while they do not. The stream's name of a write is stored if it does not follow
   from the change (`taskfold.nomad.importing.writes`);
8. the Job, which no payload of a stream has, is concluded from the stream's facts on jobs
   (`taskfold.nomad.importing.job_finder`), and is an `Updated` marked as such. A Job observed with the allocation
itself
   takes precedence, and a contradiction is reported.

So the number of `Observed` records measures how well the lifecycle table knows Nomad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import compress
from operator import attrgetter, ne
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from taskfold.fold.allocation import Allocation, Fold, apply_record, current_fields, newest_time_ns
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, STATES, Lifecycle
from taskfold.fold.status import is_terminal
from taskfold.fold.task import Task
from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError
from taskfold.model.events import AnyTaskEvent, Restarting
from taskfold.model.go.timestamps import is_known_time
from taskfold.model.record import Event, Finished, Gap, Observed, Placed, Record, State, Updated
from taskfold.nomad.fields import (
    DEFAULT_NAMESPACE,
    STUB_ONLY,
    derived_fields,
    fields_to_json,
    is_untold,
    job_in_stub,
    same_json,
)
from taskfold.nomad.importing.facts import Fact, JobWrite
from taskfold.nomad.importing.field_cache import FieldCache
from taskfold.nomad.importing.job_finder import Subject, contradicts
from taskfold.nomad.importing.memory import Memory, Provenance
from taskfold.nomad.importing.observation import (
    OPTIONAL_KEYS,
    Observation,
    ObservationKind,
    Statement,
    has_field,
    mismatches,
)
from taskfold.nomad.importing.rings import compare, is_whole, same_events
from taskfold.nomad.task_states import WireTask

__all__ = ["Importer", "JobConflict"]

_decode_number: Callable[[bytes], int | None] = msgspec.json.Decoder(int | None, strict=False).decode
_TIMES: Final = ("last_restart_ns", "started_at_ns", "finished_at_ns")
_SETTLED: Final = ("state", "failed", "restarts")
_VALUES: Final[dict[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {
    names: attrgetter(*names) for names in (_TIMES, _SETTLED)
}


class JobConflict(Struct, frozen=True):
    """A contradiction: an allocation's own Job differs from its job in a stream."""

    name: str
    """The source with the contradiction."""
    line: int
    index: int
    alloc: str
    job: bytes
    """The Job of the allocation."""
    write: JobWrite
    """The write of the job in the stream."""


class Importer:
    """Turns observations of allocations, and facts on their jobs, into records, and folds each record once.

    Memory for the live state only, not for the input. It can continue from the fold of a log.
    """

    def __init__(
        self,
        dialect: str | Dialect,
        fold: Fold | None = None,
        *,
        memory: Memory | None = None,
    ) -> None:
        """Continue from a fold, and from another importer's memory; or start empty."""
        self.fold = Fold(dialect, on_illegal="keep") if fold is None else fold
        self.fold.on_illegal = "keep"
        self.observations = 0
        self.seq = 0
        """The number of records written."""
        self.repeats = 0
        """The number of observations without anything new."""
        self.conflicts_total = 0
        """The number of observations that contradict another of their index, and of Jobs that contradict a stream."""
        self.conflicts: list[Observation] = []
        """The last 100 of these observations."""
        self.job_conflicts: list[JobConflict] = []
        """The last 100 of these Jobs."""
        self.memory = Memory() if memory is None else memory
        self._sights = FieldCache()

    def observe(self, statement: Statement) -> list[Record]:
        """Return the records that explain a statement, in order; none for a repeat.

        Their ``Seq`` counts the records of this importer; a log assigns its own. The records of an observation share
        its index; those of a fact belong to allocations of its job. They are folded already. O(length of the
        statement). Raises DecodeError, and changes nothing, for an observation without an index that differs from the
        known state: it is unknown which is newer.
        """
        if not isinstance(statement, Observation):
            is_news = self.memory.jobs.add(statement) or self.memory.is_uncertain
            concerned = self.memory.concerned(statement) if is_news else ()
            return [record for alloc in concerned for record in self._concluded(alloc, statement)]
        self.observations += 1
        allocation = self.fold.allocations.get(statement.alloc)
        if allocation is not None and allocation.collected:
            self.repeats += 1  # its allocation was collected
            return []
        if allocation is not None and not statement.index:
            self._check_repeat(allocation, statement)
            self.repeats += 1
            return []
        if allocation is not None and self.memory.is_repeat(statement, allocation):
            self.repeats += 1
            return []
        records = self._observed(allocation, statement)
        self.repeats += not records
        return records

    def _observed(self, allocation: Allocation | None, observation: Observation) -> list[Record]:
        """Return the records of an observation."""
        before = provenance = self._provenance_of(allocation, observation)
        conflicts_total = self.conflicts_total
        step = _Step(self.fold, observation, self.seq, provenance, self._sights)
        if step.is_late:
            step.additions()
        else:
            step.records()
        allocation = self.fold.allocations[observation.alloc]
        if observation.index == allocation.modify_index:
            provenance = provenance.at(observation.index, observation.kind, observation.write_type)
        provenance = self._job(step, allocation, provenance).with_records(step.new_records)
        if provenance.missing_type:
            step.keep_write_type(provenance.missing_type)
            provenance = replace(provenance, recorded_type=provenance.stream_type)
        self.memory.provenances[observation.alloc] = provenance
        self.seq += len(step.new_records)
        step.cache_fields()
        if step.is_late and observation.index == allocation.modify_index:
            self._compare(allocation, observation)
        if step.is_late and not step.new_records and provenance == before and self.conflicts_total == conflicts_total:
            self.memory.repeated(observation, allocation)
        return step.new_records

    def _provenance_of(self, allocation: Allocation | None, observation: Observation | None) -> Provenance:
        """Return the provenance of an allocation before an observation, which may have a newer index."""
        if allocation is None:
            return Provenance(-1)
        provenance = self.memory.provenances.get(allocation.id)
        if provenance is None or provenance.index != allocation.modify_index:
            # The index came from a log or another writer: any name of its write counts as stored.
            stream_type = "" if observation is None else observation.write_type
            provenance = replace(Provenance.resumed(allocation.modify_index), recorded_type=stream_type)
        return provenance

    def concerned(self, statement: Statement) -> list[str]:
        """Return the allocations that a statement may concern."""
        return [statement.alloc] if isinstance(statement, Observation) else self.memory.concerned(statement)

    # --- the Job, if only the stream has it ---

    def stream_job(self, alloc: str) -> JobWrite | None:
        """Return the write of an allocation's job according to streams; None if unknown. O(fields)."""
        allocation = self.fold.owned(alloc)
        fields = current_fields(allocation.placed_body, allocation.updates)
        subject = _subject(allocation, fields, self._provenance_of(allocation, None))
        return None if subject is None else self.memory.jobs.job_of(subject)

    def _concluded(self, alloc: str, fact: Fact) -> list[Record]:
        """Return the records for an allocation's Job that follow from a fact."""
        allocation = self.fold.allocations.get(alloc)
        if allocation is None or allocation.collected:
            self.memory.release(alloc, fact.job_key)
            return []
        nothing = Observation(
            kind="stream",
            alloc=alloc,
            index=allocation.modify_index,
            fields={},
            tasks=None,
            name=fact.name,
            line=fact.line,
        )
        provenance = self._provenance_of(allocation, None)
        step = _Step(self.fold, nothing, self.seq, provenance, self._sights)
        self.memory.provenances[alloc] = self._conclude(
            step, allocation, provenance, late=fact if isinstance(fact, JobWrite) else None
        )
        self.seq += len(step.new_records)
        step.cache_fields()
        return step.new_records

    def _job(self, step: _Step, allocation: Allocation, provenance: Provenance) -> Provenance:
        """Note the source of an allocation's Job; without one, conclude the Job from the stream's facts."""
        observation, jobs = step.observation, self.memory.jobs
        if observation.kind == "stream":
            jobs.stream_index = max(jobs.stream_index, observation.index)
        evaluation = observation.fields.get("EvalID", b"")
        if observation.fields.get("Job", b"").startswith(b"{") and evaluation == step.current.get("EvalID", b""):
            job_index = max(provenance.job_index, observation.index)
            provenance = replace(
                provenance, job_source="told", job_index=job_index, job_evaluation=evaluation, job_write=0
            )
        plan = evaluation, observation.fields.get("AllocModifyIndex")
        if provenance.job_write and plan == (provenance.job_evaluation, provenance.job_planned):
            return provenance  # no plan since then
        return (
            provenance
            if jobs.has_no_facts and observation.kind == "body"
            else self._conclude(step, allocation, provenance)
        )

    def _conclude(
        self, step: _Step, allocation: Allocation, provenance: Provenance, *, late: JobWrite | None = None
    ) -> Provenance:
        """Write the Job that follows from the stream's facts, if any; compare it with the allocation's own Job.

        ``late`` is a write of the job from before the allocation's plan, which arrived only now.
        """
        current = step.current
        subject = _subject(allocation, current, provenance)
        if subject is None:
            return provenance
        write, job = self.memory.jobs.job_of(subject), current.get("Job", b"null")
        is_same_plan = provenance.job_evaluation == current.get("EvalID", b"")
        self.memory.wait(allocation.id, subject)
        if write is None or _version(current.get("JobVersion", b"-1")) > write.version:
            is_newer = late is not None and late.registered_index > _registered(job)[0]
            if provenance.job_source == "stream" and (is_newer or not is_same_plan):
                step.write_job(None)  # now several versions are possible
                return replace(provenance, job_source="", job_write=0)
            return provenance
        is_told = provenance.job_source == "told" and is_same_plan
        write_indexes = write.registered_index, write.index
        is_ours = (
            provenance.job_source == "stream"
            and is_same_plan
            and job != write.text
            and write_indexes == _registered(job)
        )
        if is_ours or (not is_told and write_indexes > _registered(job)):
            step.write_job(write.text)
            provenance = replace(provenance, job_source="stream")
        elif provenance.job_write != write.index and (is_told or write.registered_index == _registered(job)[0]):
            self._compare_job(step.observation, job, write)
        if provenance.job_source == "stream":
            provenance = replace(provenance, job_evaluation=current.get("EvalID", b""))
        return replace(provenance, job_write=write.index, job_planned=current.get("AllocModifyIndex", b""))

    # --- contradictions ---

    def _check_repeat(self, allocation: Allocation, observation: Observation) -> None:
        """Check that an observation without an index agrees with the known state. Raises DecodeError."""
        for path, *_ in mismatches(allocation, observation, self.fold.dialect):
            if path != "$.ModifyIndex":
                raise DecodeError(
                    f"$.ModifyIndex: expected the index of this write of {observation.alloc}, found none: {path} is "
                    "different from the last observation, and it is unknown which is newer"
                )

    def _compare_job(self, observation: Observation, job: bytes, write: JobWrite) -> None:
        """Count and keep an observed Job that contradicts the stream's fact on the job."""
        if job != write.text and contradicts(job, write):
            self.conflicts_total += 1
            conflict = JobConflict(observation.name, observation.line, observation.index, observation.alloc, job, write)
            self.job_conflicts = [*self.job_conflicts[-99:], conflict]

    def _compare(self, allocation: Allocation, observation: Observation) -> None:
        """Count and keep an observation that contradicts another of its index."""
        if any(mismatches(allocation, observation, self.fold.dialect)):
            self.conflicts_total += 1
            self.conflicts = [*self.conflicts[-99:], observation]


def _subject(allocation: Allocation, fields: Mapping[str, bytes], provenance: Provenance) -> Subject | None:
    """Return the key for concluding the Job of an allocation with these fields; None without a job."""
    job = _text(fields, "JobID")
    if not job:
        return None
    # An observation without the index of the plan shows that the plan is no newer than the observation.
    planned_index = _version(fields.get("AllocModifyIndex", b"-1")) if _has_plan_index(provenance.kinds) else 0
    return Subject(
        job_key=(_text(fields, "Namespace") or DEFAULT_NAMESPACE, job),
        evaluation=_text(fields, "EvalID"),
        deployment=_text(fields, "DeploymentID"),
        planned_index=planned_index if planned_index > 0 else allocation.modify_index,
        is_terminal=is_terminal(
            _text(fields, "DesiredStatus"),
            _text(fields, "ClientStatus") if "ClientStatus" in fields else allocation.client_status or "",
        ),
    )


@cache
def _has_plan_index(kinds: frozenset[ObservationKind]) -> bool:
    """Return whether an observation of any of these kinds has the index of the plan."""
    return any(has_field(kind, "AllocModifyIndex") for kind in kinds)


def _text(fields: Mapping[str, bytes], name: str) -> str:
    """Return a text field; an empty text for any other value."""
    try:
        return _decode_text(fields.get(name, b'""'))
    except (msgspec.DecodeError, UnicodeError):
        return ""


_decode_text: Final[Callable[[bytes], str]] = msgspec.json.Decoder(str).decode


class _Step:
    """The conversion of one observation into records."""

    __slots__ = (
        "allocation",
        "created_ns",
        "current",
        "field_cache",
        "fold",
        "index",
        "is_late",
        "modified_ns",
        "new_records",
        "observation",
        "provenance",
        "seq",
        "time_ns",
        "version",
    )

    def __init__(
        self, fold: Fold, observation: Observation, seq: int, provenance: Provenance, field_cache: FieldCache
    ) -> None:
        self.fold = fold
        self.field_cache = field_cache
        self.seq = seq
        self.observation = observation
        self.provenance = provenance
        self.allocation = fold.allocations.get(observation.alloc)
        self.current = {} if self.allocation is None else field_cache.take(self.allocation)
        """The top-level fields after the records so far."""
        self.index = (
            observation.index if self.allocation is None else max(observation.index, self.allocation.modify_index)
        )
        """The index of the records: an index never falls."""
        self.is_late = self.allocation is not None and observation.index <= self.allocation.modify_index
        self.version = 0 if self.allocation is None else self.allocation.version
        self.time_ns = 0
        """The newest known time, once a record is written."""
        self.new_records: list[Record] = []
        self.created_ns, self.modified_ns = self._number("CreateTime"), self._number("ModifyTime")

    def cache_fields(self) -> None:
        """Cache the fields for the next observation of the allocation."""
        assert self.allocation is not None, "an allocation that is not known is placed"
        self.field_cache.keep(self.allocation, self.current)

    def records(self) -> None:
        """Write and fold the records for a new index."""
        if self.allocation is None:
            first = self._first_fields()
            body = fields_to_json(first)
            self._write("", Placed(body=Raw(body)), self.created_ns)
            self.allocation = self.fold.allocations[self.observation.alloc]
            # Go escapes some characters in a body: its text then differs from the observed one.
            self.current = first if body.isascii() else self.field_cache.take(self.allocation)
            self._tasks(self.allocation)
        else:
            self._tasks(self.allocation)
            changed = self._changes(self.allocation)
            if changed is not None or not self.new_records:
                self._write("", changed or Updated(), self.modified_ns)

    def keep_write_type(self, write_type: str) -> None:
        """Store the name of the write, in the event of the allocation's fields, or in an event of its own."""
        last = self.new_records[-1] if self.new_records else None
        if last is not None and isinstance(last.event, Updated) and not last.task:
            event = replace(last.event, write_type=write_type)  # it folds to the same state
            self.new_records[-1] = replace(last, event=event)
        else:
            self._write("", Updated(write_type=write_type), self.modified_ns)

    def write_job(self, job: bytes | None) -> None:
        """Write the Job concluded from the stream's facts; None withdraws it."""
        assert self.allocation is not None, "an allocation that is not known is placed"
        # The Job replaces the fields of stubs.
        cleared = tuple(sorted(STUB_ONLY & self.current.keys())) if job is not None else ("Job",)
        fields = {} if job is None else {"Job": Raw(job)}
        self._write("", Updated(fields=fields, cleared=cleared, job_source="stream"), self.allocation.modified_ns)

    def additions(self) -> None:
        """Write and fold the records of fields that were missing, at the known index or an older one."""
        allocation = self.allocation
        assert allocation is not None, "an allocation that is not known is placed"
        if self.observation.index == allocation.modify_index:
            self._added_tasks(allocation)
            changed = self._added_fields(allocation)
        else:
            changed = self._added_job()
        if changed is not None:
            self._write("", changed, allocation.modified_ns)

    def _write(self, task: str, event: Event, time_ns: int | None) -> None:
        """Write the next record, and fold it. If its time is unknown, the newest earlier time is used."""
        # Ordinals grow inside an index: no index has more records than its allocation has versions.
        ordinal = self.version if self.is_late else len(self.new_records)
        self.version += 1
        self.seq += 1
        if self.allocation is not None and not self.new_records:
            self.time_ns = newest_time_ns(self.allocation.tasks.values())
        if time_ns is None or not is_known_time(time_ns):
            time_ns = None
        elif time_ns > self.time_ns:
            self.time_ns = time_ns
        record = Record(
            seq=self.seq,
            index=self.index,
            alloc=self.observation.alloc,
            version=self.version,
            task=task,
            time_ns=time_ns or self.time_ns,
            id=ordinal,
            event=event,
        )
        if self.allocation is None:
            self.fold.apply(record)
        else:
            apply_record(self.allocation, record, self.fold.lifecycle, self.fold.on_illegal)
        if not task and isinstance(event, Updated):
            self.current.update({name: bytes(text) for name, text in event.fields.items()})
            for name in event.cleared:
                self.current.pop(name, None)
        self.new_records.append(record)

    def _number(self, name: str) -> int | None:
        """Return an integer top-level field; None for null. Raises DecodeError."""
        text = self.observation.fields.get(name, b"null")
        try:
            return _decode_number(text)
        except msgspec.DecodeError:
            msg = f"$.{name}: expected a time in nanoseconds, found {text[:60].decode(errors='replace')}"
            raise DecodeError(msg) from None

    # --- the other fields ---

    def _first_fields(self) -> dict[str, bytes]:
        """Return the fields to be placed: without those that follow from the index and the tasks."""
        dialect = self.fold.dialect
        derived = derived_fields(self.observation.tasks or {}, dialect)
        fields = {name: text for name, text in self.observation.fields.items() if derived.get(name) != text}
        fields.pop("ModifyIndex", None)
        if self.observation.kind == "stub":
            # A stub writes empty fields, which a body leaves out.
            return {n: text for n, text in fields.items() if n in derived or not is_untold(n, text, dialect)}
        return fields

    def _changes(self, allocation: Allocation) -> Updated | None:
        """Return the update of the other fields; None if nothing changed."""
        current, observation, dialect = self.current, self.observation, self.fold.dialect
        had_of, texts = current.get, observation.fields
        derived = derived_fields(
            {name: task for name, task in allocation.tasks.items() if not task.seldom.hidden}, dialect
        )
        if not STUB_ONLY.isdisjoint(texts):
            derived |= job_in_stub(current)
        fields: dict[str, bytes] = {}
        cleared: list[str] = []
        # Most fields are equal; comparing them is most of the work, in loops that run in C.
        for name in compress(texts, map(ne, map(had_of, texts), texts.values())):
            text, had = texts[name], had_of(name)
            if name == "ModifyIndex":
                continue
            if text == derived.get(name) or (name not in derived and is_untold(name, text, dialect)):
                if had is not None and not (name not in derived and is_untold(name, had, dialect)):
                    cleared.append(name)
            elif had is None or not same_json(text, had):
                fields[name] = text
        if dialect.omits_empty and observation.kind != "stub":
            cleared += [
                name
                for name in current.keys() - texts.keys()
                if name not in OPTIONAL_KEYS and not is_untold(name, current[name], dialect)
            ]
        elif "TaskStates" in current and "TaskStates" not in texts:
            cleared.append("TaskStates")
        if "Job" in fields:
            # A new Job replaces the fields of stubs.
            cleared += [name for name in STUB_ONLY & current.keys() if name not in (*fields, *cleared)]
        return _updated(fields, cleared)

    def _added_fields(self, allocation: Allocation) -> Updated | None:
        """Return the other fields that earlier observations of this index lacked; None if there are none."""
        current, observation, dialect = self.current, self.observation, self.fold.dialect
        follows = derived_fields(allocation.tasks, dialect)
        of_job = {} if STUB_ONLY.isdisjoint(observation.fields) else job_in_stub(current)
        fields: dict[str, bytes] = {}
        cleared: list[str] = []
        for name, text in observation.fields.items():
            had = current.get(name)
            if name in follows or name == "ModifyIndex" or (had is not None and not self._is_open(name)):
                continue
            if is_untold(name, text, dialect) or text == of_job.get(name):
                cleared += [name] if had is not None and not is_untold(name, had, dialect) else []
            elif had is None or not same_json(text, had):
                fields[name] = text
        if dialect.omits_empty and observation.kind != "stub":
            cleared += [
                name
                for name, had in current.items()
                if name not in observation.fields
                and name not in OPTIONAL_KEYS
                and self._is_open(name)
                and not is_untold(name, had, dialect)
            ]
        return _updated(fields, [*cleared, *self._follows_from_job(current, fields)])

    def _is_open(self, name: str) -> bool:
        """Return whether no source has had this field at this index, so that its value may be older."""
        if name == "Job":
            return self.allocation is None or self.provenance.job_index != self.allocation.modify_index
        return not any(has_field(kind, name) for kind in self.provenance.kinds)

    def _added_job(self) -> Updated | None:
        """Return the update of the Job from an older observation; None if a newer Job is known."""
        current, news = self.current, self.observation.fields
        job, had = (fields.get("Job", b"null") for fields in (news, current))
        is_told_of_same = (
            self.provenance.job_source == "stream"
            and news.get("EvalID") == current.get("EvalID") == self.provenance.job_evaluation
            and not same_json(job, had)
        )
        if job.startswith(b"{") and (is_told_of_same or _registered(job) > _registered(had)):
            return _updated({"Job": job}, self._follows_from_job(current, {"Job": job}))
        version, had_version = (_version(fields.get("JobVersion", b"-1")) for fields in (news, current))
        if version > had_version and not had.startswith(b"{"):
            return _updated({name: news[name] for name in STUB_ONLY & news.keys()}, ())
        return None

    def _follows_from_job(self, current: Mapping[str, bytes], added: Mapping[str, bytes]) -> list[str]:
        """Return the stub fields that the Job makes redundant."""
        if "Job" not in added:
            return []
        return [name for name, text in job_in_stub(added).items() if current.get(name) == text]

    # --- the tasks ---

    def _added_tasks(self, allocation: Allocation) -> None:
        """Write the parts of tasks that earlier observations lacked."""
        for name, wire in sorted((self.observation.tasks or {}).items()):
            task = allocation.tasks.get(name)
            if task is None:
                self._task(name, None, wire)
                continue
            if wire.events and not task.total and wire.state in {task.state, UNSET}:
                self._write(name, _gap(task, wire, self.fold.lifecycle), None)
                self._events(name, wire.events, wire)
                self._settle(name, wire, {})
                continue
            times = {
                key: value for key, value in _differences(task, wire, _TIMES).items() if getattr(task, key) is None
            }
            if times:
                self._write(name, Finished(dies=False, **times), None)
            fields = {key: Raw(text) for key, text in wire.fields.items() if key not in task.seldom.fields}
            if fields:
                self._write(name, Updated(fields=fields), None)

    def _tasks(self, allocation: Allocation) -> None:
        """Write the changes of each task."""
        wire = self.observation.tasks
        if wire is None:
            return
        for name in sorted(wire):
            self._task(name, allocation.tasks.get(name), wire[name])
        for name in sorted(allocation.tasks.keys() - wire.keys()):
            if not allocation.tasks[name].seldom.hidden:
                self._write(name, Observed(hidden=True), None)

    def _task(self, name: str, task: Task | None, wire: WireTask) -> None:
        """Write the changes of one task, up to its observed state."""
        old = () if task is None else task.events()
        restarts = None if wire.restarts is UNSET else wire.restarts - (0 if task is None else task.restarts)
        if task is None:
            kind, new = ("grown" if is_whole(wire.events) else "gap"), wire.events
        else:
            kind, new = compare(old, wire.events, restarts, task.dropped)
        if kind == "anew":
            self._write(name, Placed(), new[0].time_ns)
        elif kind == "gap":
            self._write(name, _gap(task or Task(), wire, self.fold.lifecycle), None)
        older: dict[str, Any] = {}
        if kind == "rolled back":
            older["older_events"] = new
        else:
            self._events(name, new, wire)
        self._settle(name, wire, older)

    def _events(self, name: str, new: tuple[AnyTaskEvent, ...], wire: WireTask) -> None:
        """Write the new events; those that start or end the task get the observed times."""
        allocation = self.fold.allocations[self.observation.alloc]
        task = allocation.tasks.get(name)
        states = _states(PENDING if task is None else task.state, new, self.fold.lifecycle)
        starts = [n for n, (before, after) in enumerate(states) if after == RUNNING != before]
        for n, event in enumerate(new):
            time_ns: int | None = event.time_ns
            if states[n][1] == DEAD and isinstance(wire.finished_at_ns, int):
                time_ns = wire.finished_at_ns
            elif starts and n == starts[-1] and isinstance(wire.started_at_ns, int):
                time_ns = wire.started_at_ns
            self._write(name, event, time_ns)

    def _settle(self, name: str, wire: WireTask, older: dict[str, Any]) -> None:
        """Write what no event explains: the end of the task, its times, and other differences."""
        task = self.fold.allocations[self.observation.alloc].tasks.get(name) or Task()
        if wire.state == DEAD != task.state and not older:
            time_ns = wire.finished_at_ns if isinstance(wire.finished_at_ns, int) else None
            self._write(name, Finished(), time_ns)
            task = self.fold.allocations[self.observation.alloc].tasks[name]
        times = _differences(task, wire, _TIMES)
        others = _differences(task, wire, _SETTLED) | older
        if task.seldom.hidden:
            others["hidden"] = False
        older_before = task.seldom.older_events
        if not older and older_before is not None and not same_events(older_before, wire.events):
            others["older_events"] = None
        if others:
            self._write(name, Observed(**others, **times), None)
        elif times or name not in self.fold.allocations[self.observation.alloc].tasks:
            self._write(name, Finished(dies=False, **times), None)
        had = task.seldom.fields
        fields = {
            key: Raw(text) for key, text in wire.fields.items() if key not in had or not same_json(text, had[key])
        }
        cleared = tuple(key for key in had if key not in wire.fields)
        if fields or cleared:
            self._write(name, Updated(fields=fields, cleared=cleared), None)


def _updated(fields: Mapping[str, bytes], cleared: Sequence[str]) -> Updated | None:
    """Return the event of changed fields; None if there are none."""
    if not fields and not cleared:
        return None
    return Updated(fields={name: Raw(text) for name, text in fields.items()}, cleared=tuple(sorted(cleared)))


class _Registered(Struct):
    JobModifyIndex: int | None = None
    ModifyIndex: int | None = None


def _registered(job: bytes) -> tuple[int, int]:
    """Return the indexes at which a Job was registered and last written; -1 without one."""
    if not job.startswith(b"{"):
        return -1, -1
    try:
        indexes = _decode_registered(job)
    except msgspec.ValidationError:
        return 0, 0
    return indexes.JobModifyIndex or 0, indexes.ModifyIndex or 0


def _version(text: bytes) -> int:
    """Return the version of a Job in a stub; -1 if it is no number."""
    try:
        version = _decode_number(text)
    except msgspec.DecodeError:
        version = None
    return -1 if version is None else version


_decode_registered: Final = msgspec.json.Decoder(_Registered, strict=False).decode


def _differences(task: Task, wire: WireTask, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the observed values, of these fields, that differ from the folded ones."""
    differences: dict[str, Any] = {}
    if _VALUES[names](wire) == _VALUES[names](task):
        return differences  # the usual case
    for name in names:
        value = getattr(wire, name)
        if value is not UNSET and value != getattr(task, name):
            differences[name] = value
    return differences


def _states(state: str, events: tuple[AnyTaskEvent, ...], lifecycle: Lifecycle) -> list[tuple[str, str]]:
    """Return the state before and after each event; a refused event leaves the state."""
    states = []
    for event in events:
        after = lifecycle.target(state, event) or state
        states.append((state, after))
        state = after
    return states


def _gap(task: Task, wire: WireTask, lifecycle: Lifecycle) -> Gap:
    """Return the gap after which the visible events explain the observed state."""
    events = wire.events
    state: State = next((s for s in STATES if _explains(s, wire, lifecycle)), PENDING)
    states = _states(state, events, lifecycle)
    restarting = sum(type(event) is Restarting for event in events)
    starts = any(after == RUNNING != before for before, after in states)
    dies = wire.state == DEAD and state != DEAD
    after = wire.restarts if isinstance(wire.restarts, int) else None
    return Gap(
        restarts_before=task.restarts if after is not None else 0,
        restarts_after=after or 0,
        state=state,
        failed=wire.failed is True and not any(event.fails_task for event in events),
        restarts=task.restarts if after is None else max(after - restarting, 0),
        last_restart_ns=None if restarting else _told_time(wire.last_restart_ns),
        started_at_ns=None if starts else _told_time(wire.started_at_ns),
        finished_at_ns=None if dies else _told_time(wire.finished_at_ns),
    )


def _told_time(time_ns: Any) -> int | None:
    return time_ns if isinstance(time_ns, int) else None


def _explains(state: str, wire: WireTask, lifecycle: Lifecycle) -> bool:
    """Return whether the visible events are all legal from this state, and lead to the observed one."""
    for event in wire.events:
        after = lifecycle.target(state, event)
        if after is None:
            return False
        state = after
    return wire.state is UNSET or wire.state in {state, DEAD}
