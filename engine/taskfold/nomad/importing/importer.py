"""From what a real Nomad says to records: the importer.

Nomad's event stream and its answers carry state (task states with the 10 newest events each), and they repeat, skip
and at times roll back. The importer compares each observation with what it has folded so far, and writes down what
must have happened in between, as records that fold to exactly what was seen:

1. an observation of the same ModifyIndex as the last one of its allocation adds what that did not tell: another source
   tells more, and an older observation may have told it last. An observation of an older index adds nothing but the
   Job (a stub: its version and type), where nobody has told a newer one;
   Where neither the allocation nor the event of the stream tells an index, a second observation must say the same;
2. events that are new in the ring become records (`taskfold.nomad.importing.rings`), in order;
3. a ring of before is `Observed` as an older copy, and its events are not appended again later;
4. a ring that begins anew with Received belongs to a task that was created anew: `Placed` for the task;
5. any other ring means that events were lost: `Gap`, which anchors the fold at a state that explains what is seen;
6. a task that is dead with no event that says so is `Finished`; a time that moved alone is a `Finished` that leaves
   the state; whatever still differs is `Observed`, with exactly the fields that differ;
7. other fields are `Placed` at first sight and `Updated` when they change. ClientStatus and ClientDescription follow
   from the tasks, and are stored only while they do not. What the stream calls the write is stored where that does not
   follow from what changed (`taskfold.nomad.importing.writes`);
8. the Job that no payload of a stream has is found out from what the stream tells of jobs
   (`taskfold.nomad.importing.job_finder`), and is an `Updated` that says so. A Job that was told of the allocation
   itself wins, and a contradiction is told.

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
from taskfold.model.duration import is_known_time
from taskfold.model.errors import DecodeError
from taskfold.model.events import Restarting, TaskEvent
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
from taskfold.nomad.importing.job_finder import Subject, says_otherwise
from taskfold.nomad.importing.memory import Heard, Memory
from taskfold.nomad.importing.observation import UNTOLD, Kind, Observation, Statement, mismatches, tells
from taskfold.nomad.importing.rings import compare, is_whole, same_events
from taskfold.nomad.importing.sights import Sights
from taskfold.nomad.task_states import WireTask

__all__ = ["Importer", "JobConflict"]

_decode_number: Callable[[bytes], int | None] = msgspec.json.Decoder(int | None, strict=False).decode
_TIMES: Final = ("last_restart_ns", "started_at_ns", "finished_at_ns")
_SETTLED: Final = ("state", "failed", "restarts")
_VALUES: Final[dict[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {
    names: attrgetter(*names) for names in (_TIMES, _SETTLED)
}


class JobConflict(Struct, frozen=True):
    """An allocation whose Job, as it was told, is another than the one that a stream told of its job."""

    name: str
    """The source that showed it."""
    line: int
    index: int
    alloc: str
    job: bytes
    """The Job as it was told of the allocation."""
    write: JobWrite
    """What the stream told."""


class Importer:
    """Turns what is said of allocations, and of their jobs, into records, and folds them as it goes.

    It needs memory for the live state only, not for what it has read. It may go on from a fold that a log gave.
    """

    def __init__(
        self,
        dialect: str | Dialect,
        fold: Fold | None = None,
        *,
        memory: Memory | None = None,
    ) -> None:
        """Go on from a fold, and from what another importer remembers; or begin."""
        self.fold = Fold(dialect, on_illegal="keep") if fold is None else fold
        self.fold.on_illegal = "keep"
        self.observations = 0
        self.seq = 0
        """How many records were written."""
        self.repeats = 0
        """Observations that told nothing new."""
        self.conflicts_total = 0
        """Observations that say something else than another one of their index, and Jobs that a stream contradicts."""
        self.conflicts: list[Observation] = []
        """The last 100 of these observations."""
        self.job_conflicts: list[JobConflict] = []
        """The last 100 of these Jobs."""
        self.memory = Memory() if memory is None else memory
        self._sights = Sights()

    def observe(self, statement: Statement) -> list[Record]:
        """Return the records that explain what is said, in order; none when it says nothing new.

        Their ``Seq`` counts what this importer wrote; a log gives its own. Those of an observation share its index;
        those of a fact are of the allocations whose Job it tells. They are folded already. O(length of the statement).
        Raises DecodeError, and changes nothing, where an observation tells no index, and something else than what is
        known: nobody can tell which of both is newer.
        """
        if not isinstance(statement, Observation):
            is_news = self.memory.jobs.add(statement) or self.memory.is_unsure
            concerned = self.memory.concerned(statement) if is_news else ()
            return [record for alloc in concerned for record in self._concluded(alloc, statement)]
        self.observations += 1
        known = self.fold.allocations.get(statement.alloc)
        if known is not None and known.collected:
            self.repeats += 1  # nobody asks for it any more
            return []
        if known is not None and not statement.index:
            self._check_repeat(known, statement)
            self.repeats += 1
            return []
        if known is not None and self.memory.is_repeat(statement, known):
            self.repeats += 1
            return []
        records = self._observed(known, statement)
        self.repeats += not records
        return records

    def _observed(self, known: Allocation | None, observation: Observation) -> list[Record]:
        """Return the records of an observation of an allocation."""
        before = heard = self._heard(known, observation)
        conflicts_total = self.conflicts_total
        step = _Step(self.fold, observation, self.seq, heard, self._sights)
        if step.is_late:
            step.additions()
        else:
            step.records()
        known = self.fold.allocations[observation.alloc]
        if observation.index == known.modify_index:
            heard = heard.at(observation.index, observation.kind, observation.write_type)
        heard = self._job(step, known, heard).written(step.written)
        if heard.missing_type:
            step.keep_write_type(heard.missing_type)
            heard = replace(heard, kept_type=heard.told_type)
        self.memory.heard[observation.alloc] = heard
        self.seq += len(step.written)
        step.keep_sight()
        if step.is_late and observation.index == known.modify_index:
            self._compare(known, observation)
        if step.is_late and not step.written and heard == before and self.conflicts_total == conflicts_total:
            self.memory.repeated(observation, known)
        return step.written

    def _heard(self, known: Allocation | None, observation: Observation | None) -> Heard:
        """Return what was heard of an allocation before this observation, which may be of a newer index."""
        if known is None:
            return Heard(-1)
        heard = self.memory.heard.get(known.id)
        if heard is None or heard.index != known.modify_index:
            # A log told it, or another writer has: what it was called is kept there, for all that is known here.
            told_type = "" if observation is None else observation.write_type
            heard = replace(Heard.resumed(known.modify_index), kept_type=told_type)
        return heard

    def concerned(self, statement: Statement) -> list[str]:
        """Return the allocations that a statement may tell something of."""
        return [statement.alloc] if isinstance(statement, Observation) else self.memory.concerned(statement)

    # --- the Job, where only the stream tells of it ---

    def job_told(self, alloc: str) -> JobWrite | None:
        """Return the job that an allocation has by what streams told; None where they do not tell. O(fields)."""
        known = self.fold.owned(alloc)
        subject = _subject(known, current_fields(known.placed, known.updates), self._heard(known, None))
        return None if subject is None else self.memory.jobs.job_of(subject)

    def _concluded(self, alloc: str, fact: Fact) -> list[Record]:
        """Return the records of what a fact tells of an allocation's Job."""
        known = self.fold.allocations.get(alloc)
        if known is None or known.collected:
            self.memory.let_go(alloc, fact.job_key)
            return []
        nothing = Observation(
            kind="stream",
            alloc=alloc,
            index=known.modify_index,
            fields={},
            tasks=None,
            name=fact.name,
            line=fact.line,
        )
        heard = self._heard(known, None)
        step = _Step(self.fold, nothing, self.seq, heard, self._sights)
        self.memory.heard[alloc] = self._conclude(step, known, heard, late=fact if isinstance(fact, JobWrite) else None)
        self.seq += len(step.written)
        step.keep_sight()
        return step.written

    def _job(self, step: _Step, known: Allocation, heard: Heard) -> Heard:
        """Note who told the Job of an allocation; where nobody has, conclude it from what the stream tells."""
        seen, jobs = step.seen, self.memory.jobs
        if seen.kind == "stream":
            jobs.heard_index = max(jobs.heard_index, seen.index)
        evaluation = seen.fields.get("EvalID", b"")
        if seen.fields.get("Job", b"").startswith(b"{") and evaluation == step.current.get("EvalID", b""):
            job_index = max(heard.job_index, seen.index)
            heard = replace(heard, job_source="told", job_index=job_index, job_evaluation=evaluation, job_write=0)
        plan = evaluation, seen.fields.get("AllocModifyIndex")
        if heard.job_write and plan == (heard.job_evaluation, heard.job_planned):
            return heard  # nothing was planned since
        return heard if jobs.is_silent and seen.kind == "body" else self._conclude(step, known, heard)

    def _conclude(self, step: _Step, known: Allocation, heard: Heard, *, late: JobWrite | None = None) -> Heard:
        """Take the Job that the stream tells of an allocation, where it does; compare it with the one that was told.

        ``late`` is a write of the job from before the allocation was planned, which was heard of just now.
        """
        current = step.current
        subject = _subject(known, current, heard)
        if subject is None:
            return heard
        write, job = self.memory.jobs.job_of(subject), current.get("Job", b"null")
        is_same_plan = heard.job_evaluation == current.get("EvalID", b"")
        self.memory.wait(known.id, subject)
        if write is None or _version(current.get("JobVersion", b"-1")) > write.version:
            is_newer = late is not None and late.registered_index > _registered(job)[0]
            if heard.job_source == "stream" and (is_newer or not is_same_plan):
                step.write_job(None)  # which of several versions it is cannot be known any more
                return replace(heard, job_source="", job_write=0)
            return heard
        is_told = heard.job_source == "told" and is_same_plan
        written = write.registered_index, write.index
        is_ours = heard.job_source == "stream" and is_same_plan and job != write.text and written == _registered(job)
        if is_ours or (not is_told and written > _registered(job)):
            step.write_job(write.text)
            heard = replace(heard, job_source="stream")
        elif heard.job_write != write.index and (is_told or write.registered_index == _registered(job)[0]):
            self._compare_job(step.seen, job, write)
        if heard.job_source == "stream":
            heard = replace(heard, job_evaluation=current.get("EvalID", b""))
        return replace(heard, job_write=write.index, job_planned=current.get("AllocModifyIndex", b""))

    # --- what contradicts ---

    def _check_repeat(self, known: Allocation, observation: Observation) -> None:
        """Check that an observation without an index says what is known. Raises DecodeError."""
        for path, *_ in mismatches(known, observation, self.fold.dialect):
            if path != "$.ModifyIndex":
                raise DecodeError(
                    f"$.ModifyIndex: expected the index of this write of {observation.alloc}, found none: {path} is "
                    "not what was told before, and which of both is newer cannot be told"
                )

    def _compare_job(self, seen: Observation, job: bytes, write: JobWrite) -> None:
        """Count, and keep, a Job that was told of an allocation and is not what the stream tells of the job."""
        if job != write.text and says_otherwise(job, write):
            self.conflicts_total += 1
            conflict = JobConflict(seen.name, seen.line, seen.index, seen.alloc, job, write)
            self.job_conflicts = [*self.job_conflicts[-99:], conflict]

    def _compare(self, known: Allocation, observation: Observation) -> None:
        """Count, and keep, an observation that says something else than another one of its index."""
        if any(mismatches(known, observation, self.fold.dialect)):
            self.conflicts_total += 1
            self.conflicts = [*self.conflicts[-99:], observation]


def _subject(known: Allocation, fields: Mapping[str, bytes], heard: Heard) -> Subject | None:
    """Return what the Job of an allocation is found out by, which has these fields now; None without a job."""
    job = _text(fields, "JobID")
    if not job:
        return None
    # Who does not tell when it was planned tells that it was then, at the latest.
    planned_index = _version(fields.get("AllocModifyIndex", b"-1")) if _tell_plan(heard.kinds) else 0
    return Subject(
        job_key=(_text(fields, "Namespace") or DEFAULT_NAMESPACE, job),
        evaluation=_text(fields, "EvalID"),
        deployment=_text(fields, "DeploymentID"),
        planned_index=planned_index if planned_index > 0 else known.modify_index,
        is_terminal=is_terminal(
            _text(fields, "DesiredStatus"),
            _text(fields, "ClientStatus") if "ClientStatus" in fields else known.client_status or "",
        ),
    )


@cache
def _tell_plan(kinds: frozenset[Kind]) -> bool:
    """Tell whether one of these kinds of observations tells when an allocation was planned."""
    return any(tells(kind, "AllocModifyIndex") for kind in kinds)


def _text(fields: Mapping[str, bytes], name: str) -> str:
    """Return a field that is a text; nothing for what is none."""
    try:
        return _decode_text(fields.get(name, b'""'))
    except (msgspec.DecodeError, UnicodeError):
        return ""


_decode_text: Final[Callable[[bytes], str]] = msgspec.json.Decoder(str).decode


class _Step:
    """One observation on its way into records."""

    __slots__ = (
        "created_ns",
        "current",
        "fold",
        "heard",
        "index",
        "is_late",
        "known",
        "modified_ns",
        "seen",
        "seq",
        "sights",
        "time_ns",
        "version",
        "written",
    )

    def __init__(self, fold: Fold, observation: Observation, seq: int, heard: Heard, sights: Sights) -> None:
        self.fold = fold
        self.sights = sights
        self.seq = seq
        self.seen = observation
        self.heard = heard
        self.known = fold.allocations.get(observation.alloc)
        self.current = {} if self.known is None else sights.take(self.known)
        """The top-level fields as they are after what was written."""
        self.index = observation.index if self.known is None else max(observation.index, self.known.modify_index)
        """That of the records: an index never falls."""
        self.is_late = self.known is not None and observation.index <= self.known.modify_index
        self.version = 0 if self.known is None else self.known.version
        self.time_ns = 0
        """The newest time that is known, once something is written."""
        self.written: list[Record] = []
        self.created_ns, self.modified_ns = self._number("CreateTime"), self._number("ModifyTime")

    def keep_sight(self) -> None:
        """Keep the fields for the next observation of the allocation."""
        assert self.known is not None, "an allocation that is not known is placed"
        self.sights.keep(self.known, self.current)

    def records(self) -> None:
        """Write the records of an index that is new, folded."""
        if self.known is None:
            first = self._first_fields()
            body = fields_to_json(first)
            self._write("", Placed(body=Raw(body)), self.created_ns)
            self.known = self.fold.allocations[self.seen.alloc]
            # What Go escapes is escaped in a body: then a text is not what was told.
            self.current = first if body.isascii() else self.sights.take(self.known)
            self._tasks(self.known)
        else:
            self._tasks(self.known)
            changed = self._changes(self.known)
            if changed is not None or not self.written:
                self._write("", changed or Updated(), self.modified_ns)

    def keep_write_type(self, told: str) -> None:
        """Keep what the write was called, in the event of the allocation's fields, or in one of its own."""
        last = self.written[-1] if self.written else None
        if last is not None and isinstance(last.event, Updated) and not last.task:
            event = replace(last.event, write_type=told)  # which folds to the same
            self.written[-1] = replace(last, event=event)
        else:
            self._write("", Updated(write_type=told), self.modified_ns)

    def write_job(self, job: bytes | None) -> None:
        """Write the Job that was found out from what the stream tells of jobs; None takes it back."""
        assert self.known is not None, "an allocation that is not known is placed"
        # It tells all that stubs told of the one before.
        cleared = tuple(sorted(STUB_ONLY & self.current.keys())) if job is not None else ("Job",)
        fields = {} if job is None else {"Job": Raw(job)}
        self._write("", Updated(fields=fields, cleared=cleared, job_source="stream"), self.known.modified_ns)

    def additions(self) -> None:
        """Write the records of what was not told before, folded: of the index that is known, or of an older one."""
        known = self.known
        assert known is not None, "an allocation that is not known is placed"
        if self.seen.index == known.modify_index:
            self._added_tasks(known)
            changed = self._added_fields(known)
        else:
            changed = self._added_job()
        if changed is not None:
            self._write("", changed, known.modified_ns)

    def _write(self, task: str, event: Event, time_ns: int | None) -> None:
        """Write the next record, and fold it. Where no time is known, the newest one before stands in."""
        # Ordinals grow inside an index: no index has more records than its allocation has versions.
        ordinal = self.version if self.is_late else len(self.written)
        self.version += 1
        self.seq += 1
        if self.known is not None and not self.written:
            self.time_ns = newest_time_ns(self.known.tasks.values())
        if time_ns is None or not is_known_time(time_ns):
            time_ns = None
        elif time_ns > self.time_ns:
            self.time_ns = time_ns
        record = Record(
            seq=self.seq,
            index=self.index,
            alloc=self.seen.alloc,
            version=self.version,
            task=task,
            time_ns=time_ns or self.time_ns,
            id=ordinal,
            event=event,
        )
        if self.known is None:
            self.fold.apply(record)
        else:
            apply_record(self.known, record, self.fold.lifecycle, self.fold.on_illegal)
        if not task and isinstance(event, Updated):
            self.current.update({name: bytes(text) for name, text in event.fields.items()})
            for name in event.cleared:
                self.current.pop(name, None)
        self.written.append(record)

    def _number(self, name: str) -> int | None:
        """Return a top-level field that is an integer."""
        text = self.seen.fields.get(name, b"null")
        try:
            return _decode_number(text)
        except msgspec.DecodeError:
            msg = f"$.{name}: expected a time in nanoseconds, found {text[:60].decode(errors='replace')}"
            raise DecodeError(msg) from None

    # --- the other fields ---

    def _first_fields(self) -> dict[str, bytes]:
        """Return the fields to be placed: without what follows from the index and from the tasks."""
        dialect = self.fold.dialect
        derived = derived_fields(self.seen.tasks or {}, dialect)
        fields = {name: text for name, text in self.seen.fields.items() if derived.get(name) != text}
        fields.pop("ModifyIndex", None)
        if self.seen.kind == "stub":
            # It writes what is empty, where a body leaves it out.
            return {n: text for n, text in fields.items() if n in derived or not is_untold(n, text, dialect)}
        return fields

    def _changes(self, known: Allocation) -> Updated | None:
        """Return what changed in the other fields; None when nothing did."""
        current, seen, dialect = self.current, self.seen, self.fold.dialect
        had_of, told = current.get, seen.fields
        derived = derived_fields({name: task for name, task in known.tasks.items() if not task.seldom.hidden}, dialect)
        if not STUB_ONLY.isdisjoint(told):
            derived |= job_in_stub(current)
        fields: dict[str, bytes] = {}
        cleared: list[str] = []
        # Most are the same; comparing them is most of the work where nothing runs in Python.
        for name in compress(told, map(ne, map(had_of, told), told.values())):
            text, had = told[name], had_of(name)
            if name == "ModifyIndex":
                continue
            if text == derived.get(name) or (name not in derived and is_untold(name, text, dialect)):
                if had is not None and not (name not in derived and is_untold(name, had, dialect)):
                    cleared.append(name)
            elif had is None or not same_json(text, had):
                fields[name] = text
        if dialect.omits_empty and seen.kind != "stub":
            cleared += [
                name
                for name in current.keys() - told.keys()
                if name not in UNTOLD and not is_untold(name, current[name], dialect)
            ]
        elif "TaskStates" in current and "TaskStates" not in told:
            cleared.append("TaskStates")
        if "Job" in fields:
            # A new Job tells all that stubs told of the one before.
            cleared += [name for name in STUB_ONLY & current.keys() if name not in (*fields, *cleared)]
        return _updated(fields, cleared)

    def _added_fields(self, known: Allocation) -> Updated | None:
        """Return the other fields that were not told of this index before; None when there are none."""
        current, seen, dialect = self.current, self.seen, self.fold.dialect
        follows = derived_fields(known.tasks, dialect)
        of_job = {} if STUB_ONLY.isdisjoint(seen.fields) else job_in_stub(current)
        fields: dict[str, bytes] = {}
        cleared: list[str] = []
        for name, text in seen.fields.items():
            had = current.get(name)
            if name in follows or name == "ModifyIndex" or (had is not None and not self._is_open(name)):
                continue
            if is_untold(name, text, dialect) or text == of_job.get(name):
                cleared += [name] if had is not None and not is_untold(name, had, dialect) else []
            elif had is None or not same_json(text, had):
                fields[name] = text
        if dialect.omits_empty and seen.kind != "stub":
            cleared += [
                name
                for name, had in current.items()
                if name not in seen.fields
                and name not in UNTOLD
                and self._is_open(name)
                and not is_untold(name, had, dialect)
            ]
        return _updated(fields, [*cleared, *self._follows_from_job(current, fields)])

    def _is_open(self, name: str) -> bool:
        """Tell whether what is known of a field is older than this index, of which nobody has told it yet."""
        if name == "Job":
            return self.known is None or self.heard.job_index != self.known.modify_index
        return not any(tells(kind, name) for kind in self.heard.kinds)

    def _added_job(self) -> Updated | None:
        """Return what an older observation tells of the Job, where nobody has told a newer version of it; else None."""
        current, seen = self.current, self.seen.fields
        job, had = (fields.get("Job", b"null") for fields in (seen, current))
        is_told_of_same = (
            self.heard.job_source == "stream"
            and seen.get("EvalID") == current.get("EvalID") == self.heard.job_evaluation
            and not same_json(job, had)
        )
        if job.startswith(b"{") and (is_told_of_same or _registered(job) > _registered(had)):
            return _updated({"Job": job}, self._follows_from_job(current, {"Job": job}))
        version, had_version = (_version(fields.get("JobVersion", b"-1")) for fields in (seen, current))
        if version > had_version and not had.startswith(b"{"):
            return _updated({name: seen[name] for name in STUB_ONLY & seen.keys()}, ())
        return None

    def _follows_from_job(self, current: Mapping[str, bytes], added: Mapping[str, bytes]) -> list[str]:
        """Return the fields of stubs that need not be kept any more since the Job is known."""
        if "Job" not in added:
            return []
        return [name for name, text in job_in_stub(added).items() if current.get(name) == text]

    # --- the tasks ---

    def _added_tasks(self, known: Allocation) -> None:
        """Write what was not told before of the tasks."""
        for name, told in sorted((self.seen.tasks or {}).items()):
            task = known.tasks.get(name)
            if task is None:
                self._task(name, None, told)
                continue
            if told.events and not task.total and told.state in {task.state, UNSET}:
                self._write(name, _gap(task, told, self.fold.lifecycle), None)
                self._events(name, told.events, told)
                self._settle(name, told, {})
                continue
            times = {
                key: value for key, value in _differences(task, told, _TIMES).items() if getattr(task, key) is None
            }
            if times:
                self._write(name, Finished(dies=False, **times), None)
            fields = {key: Raw(text) for key, text in told.fields.items() if key not in task.seldom.fields}
            if fields:
                self._write(name, Updated(fields=fields), None)

    def _tasks(self, known: Allocation) -> None:
        """Write what happened to each task."""
        told = self.seen.tasks
        if told is None:
            return
        for name in sorted(told):
            self._task(name, known.tasks.get(name), told[name])
        for name in sorted(known.tasks.keys() - told.keys()):
            if not known.tasks[name].seldom.hidden:
                self._write(name, Observed(hidden=True), None)

    def _task(self, name: str, task: Task | None, told: WireTask) -> None:
        """Write what happened to one task, up to what is told of it now."""
        old = () if task is None else task.events()
        restarts = None if told.restarts is UNSET else told.restarts - (0 if task is None else task.restarts)
        if task is None:
            kind, new = ("grown" if is_whole(told.events) else "gap"), told.events
        else:
            kind, new = compare(old, told.events, restarts, task.dropped)
        if kind == "anew":
            self._write(name, Placed(), new[0].time_ns)
        elif kind == "gap":
            self._write(name, _gap(task or Task(), told, self.fold.lifecycle), None)
        shown: dict[str, Any] = {}
        if kind == "rolled back":
            shown["shown"] = new
        else:
            self._events(name, new, told)
        self._settle(name, told, shown)

    def _events(self, name: str, new: tuple[TaskEvent, ...], told: WireTask) -> None:
        """Write the new events; those that start or end the task take the times that are told."""
        allocation = self.fold.allocations[self.seen.alloc]
        task = allocation.tasks.get(name)
        states = _states(PENDING if task is None else task.state, new, self.fold.lifecycle)
        starts = [n for n, (before, after) in enumerate(states) if after == RUNNING != before]
        for n, event in enumerate(new):
            time_ns: int | None = event.time_ns
            if states[n][1] == DEAD and isinstance(told.finished_at_ns, int):
                time_ns = told.finished_at_ns
            elif starts and n == starts[-1] and isinstance(told.started_at_ns, int):
                time_ns = told.started_at_ns
            self._write(name, event, time_ns)

    def _settle(self, name: str, told: WireTask, shown: dict[str, Any]) -> None:
        """Write what no event explains: the end of the task, its times, and whatever else differs."""
        task = self.fold.allocations[self.seen.alloc].tasks.get(name) or Task()
        if told.state == DEAD != task.state and not shown:
            time_ns = told.finished_at_ns if isinstance(told.finished_at_ns, int) else None
            self._write(name, Finished(), time_ns)
            task = self.fold.allocations[self.seen.alloc].tasks[name]
        times = _differences(task, told, _TIMES)
        others = _differences(task, told, _SETTLED) | shown
        if task.seldom.hidden:
            others["hidden"] = False
        if not shown and task.seldom.shown is not None and not same_events(task.seldom.shown, told.events):
            others["shown"] = None
        if others:
            self._write(name, Observed(**others, **times), None)
        elif times or name not in self.fold.allocations[self.seen.alloc].tasks:
            self._write(name, Finished(dies=False, **times), None)
        had = task.seldom.fields
        fields = {
            key: Raw(text) for key, text in told.fields.items() if key not in had or not same_json(text, had[key])
        }
        cleared = tuple(key for key in had if key not in told.fields)
        if fields or cleared:
            self._write(name, Updated(fields=fields, cleared=cleared), None)


def _updated(fields: Mapping[str, bytes], cleared: Sequence[str]) -> Updated | None:
    """Return the event of fields that changed; None when none did."""
    if not fields and not cleared:
        return None
    return Updated(fields={name: Raw(text) for name, text in fields.items()}, cleared=tuple(sorted(cleared)))


class _Registered(Struct):
    JobModifyIndex: int | None = None
    ModifyIndex: int | None = None


def _registered(job: bytes) -> tuple[int, int]:
    """Return at which index a Job was registered, and then written; -1 without one."""
    if not job.startswith(b"{"):
        return -1, -1
    try:
        found = _decode_registered(job)
    except msgspec.ValidationError:
        return 0, 0
    return found.JobModifyIndex or 0, found.ModifyIndex or 0


def _version(text: bytes) -> int:
    """Return the version of a Job, as a stub tells it; -1 where that is no number."""
    try:
        version = _decode_number(text)
    except msgspec.DecodeError:
        version = None
    return -1 if version is None else version


_decode_registered: Final = msgspec.json.Decoder(_Registered, strict=False).decode


def _differences(task: Task, told: WireTask, names: tuple[str, ...]) -> dict[str, Any]:
    """Return which of these fields are told, and differ from what was folded."""
    found: dict[str, Any] = {}
    if _VALUES[names](told) == _VALUES[names](task):
        return found  # as mostly
    for name in names:
        value = getattr(told, name)
        if value is not UNSET and value != getattr(task, name):
            found[name] = value
    return found


def _states(state: str, events: tuple[TaskEvent, ...], lifecycle: Lifecycle) -> list[tuple[str, str]]:
    """Return the state before and after each event; one that the table refuses leaves it."""
    states = []
    for event in events:
        after = lifecycle.target(state, event) or state
        states.append((state, after))
        state = after
    return states


def _gap(task: Task, told: WireTask, lifecycle: Lifecycle) -> Gap:
    """Return the gap after which the visible events explain what is told now."""
    events = told.events
    state: State = next((s for s in STATES if _explains(s, told, lifecycle)), PENDING)
    states = _states(state, events, lifecycle)
    restarting = sum(type(event) is Restarting for event in events)
    starts = any(after == RUNNING != before for before, after in states)
    dies = told.state == DEAD and state != DEAD
    after = told.restarts if isinstance(told.restarts, int) else None
    return Gap(
        restarts_before=task.restarts if after is not None else 0,
        restarts_after=after or 0,
        state=state,
        failed=told.failed is True and not any(event.fails_task for event in events),
        restarts=task.restarts if after is None else max(after - restarting, 0),
        last_restart_ns=None if restarting else _told_time(told.last_restart_ns),
        started_at_ns=None if starts else _told_time(told.started_at_ns),
        finished_at_ns=None if dies else _told_time(told.finished_at_ns),
    )


def _told_time(time_ns: Any) -> int | None:
    return time_ns if isinstance(time_ns, int) else None


def _explains(state: str, told: WireTask, lifecycle: Lifecycle) -> bool:
    """Tell whether the visible events, from this state, are all legal and lead to what is told."""
    for event in told.events:
        after = lifecycle.target(state, event)
        if after is None:
            return False
        state = after
    return told.state is UNSET or told.state in {state, DEAD}
