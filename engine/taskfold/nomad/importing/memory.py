"""The memory of an importer beside the state that it folds: the sources of each allocation, and the jobs of streams."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, MutableMapping, Sequence
from itertools import combinations
from typing import Final, Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from taskfold.fold.allocation import Allocation
from taskfold.model.record import Record
from taskfold.nomad.importing.facts import EvaluationWrite, Fact, JobWrite
from taskfold.nomad.importing.job_finder import Jobs, Subject
from taskfold.nomad.importing.observation import Observation, ObservationKind
from taskfold.nomad.importing.repeats import Repeats
from taskfold.nomad.importing.writes import BY_CLIENT, naming

__all__ = ["Memory", "Provenance", "Waiting"]

_KINDS: Final[tuple[ObservationKind, ...]] = get_args(ObservationKind)
_ANY_KIND: Final[frozenset[ObservationKind]] = frozenset(("stub",))
_SETS: Final = {
    kinds: kinds for size in range(4) for kinds in map(frozenset[ObservationKind], combinations(_KINDS, size))
}
"""One object for each set of kinds, as every allocation refers to one."""
_ONE: Final[dict[ObservationKind, frozenset[ObservationKind]]] = {kind: _SETS[frozenset((kind,))] for kind in _KINDS}
_PRUNED_FROM: Final = 1024


class Provenance(Struct, frozen=True):
    """The sources of an allocation's newest index and of its Job, which are not in its state."""

    index: int
    """The newest index observed."""
    kinds: frozenset[ObservationKind] = _SETS[frozenset()]
    """The kinds of the observations of that index."""
    stream_type: str = ""
    """The type of the write of that index in a stream; empty without one."""
    recorded_type: str = ""
    """The type in its records."""
    implied_type: str = ""
    """The type that its changes imply; empty if none."""
    job_source: Literal["", "told", "stream"] = ""
    """The source of the Job: ``told`` with the allocation itself, or concluded from a ``stream``'s facts."""
    job_index: int = -1
    """The newest index at which it was observed."""
    job_evaluation: bytes = b""
    """The allocation's evaluation then, as JSON."""
    job_write: int = 0
    """The index of the job's write that the Job was taken from, or last compared with."""
    job_planned: bytes = b""
    """The allocation's AllocModifyIndex then, as JSON."""

    @classmethod
    def resumed(cls, index: int) -> Provenance:
        """Return the provenance of an allocation from a log: any kind of source, at least the fields of a stub."""
        return cls(index, _ANY_KIND)

    def at(self, index: int, kind: ObservationKind, write_type: str) -> Provenance:
        """Return the provenance after an observation of a kind, of this index or a newer one."""
        if index == self.index:
            return replace(self, kinds=_SETS[self.kinds | {kind}], stream_type=self.stream_type or write_type)
        return Provenance(
            index,
            _ONE[kind],
            write_type,
            job_source=self.job_source,
            job_index=self.job_index,
            job_evaluation=self.job_evaluation,
            job_write=self.job_write,
            job_planned=self.job_planned,
        )

    def with_records(self, records: Sequence[Record]) -> Provenance:
        """Return the provenance after these records of its index."""
        stored_type, implied = naming(records)
        if not stored_type and (self.implied_type or not implied):
            return self  # the usual case
        return replace(self, recorded_type=self.recorded_type or stored_type, implied_type=self.implied_type or implied)

    @property
    def missing_type(self) -> str:
        """The type of the write that its records lack; empty if they have it."""
        is_named = self.recorded_type or (self.implied_type or BY_CLIENT) == self.stream_type
        return "" if is_named else self.stream_type


class Waiting:
    """The allocations of a job whose Job may still follow from later facts, or change."""

    def __init__(self) -> None:
        self.subjects: dict[str, Subject] = {}
        self.evaluations: dict[str, list[str]] = {}
        """The allocations of each evaluation; mostly there are few."""
        self.planned_index = 0
        """The newest index of a plan among them, including removed ones."""

    def add(self, alloc: str, subject: Subject) -> None:
        """Add an allocation, or change its key. O(1), or O(allocations of its evaluation)."""
        before = self.subjects.get(alloc)
        self.subjects[alloc] = subject
        self.planned_index = max(self.planned_index, subject.planned_index)
        if before is None or before.evaluation != subject.evaluation:
            if before is not None:
                self._leave(alloc, before.evaluation)
            self.evaluations.setdefault(subject.evaluation, []).append(alloc)

    def remove(self, alloc: str) -> None:
        """Remove an allocation. O(allocations of its evaluation)."""
        self._leave(alloc, self.subjects.pop(alloc).evaluation)

    def _leave(self, alloc: str, evaluation: str) -> None:
        self.evaluations[evaluation].remove(alloc)
        if not self.evaluations[evaluation]:
            del self.evaluations[evaluation]


class Memory:
    """The provenance of allocations, and the jobs of streams."""

    def __init__(self) -> None:
        self.provenances: MutableMapping[str, Provenance] = {}
        self.jobs = Jobs()
        self.repeats = Repeats()
        self.waiting: dict[tuple[str, str], Waiting] = {}
        """By job, the allocations whose Job may still follow from later facts, or change."""
        self.is_uncertain = False
        """Recent conclusions may not have reached the log: repeated facts count as new."""
        self._is_draft = False
        self._drafted_repeats: list[tuple[Observation, tuple[object, ...]]] = []
        self._released: list[tuple[str, tuple[str, str]]] = []
        """Allocations to unsubscribe; delayed in a draft, which may be dropped."""

    def is_repeat(self, observation: Observation, allocation: Allocation) -> bool:
        """Return whether an observation repeats the last one of its allocation in the same state. O(length)."""
        return self.repeats.has(observation, self._context(allocation))

    def repeated(self, observation: Observation, allocation: Allocation) -> None:
        """Remember an observation without anything new. O(fields)."""
        if self._is_draft:
            self._drafted_repeats.append((observation, self._context(allocation)))
        else:
            self.repeats.add(observation, self._context(allocation))

    def _context(self, allocation: Allocation) -> tuple[object, ...]:
        """Return the values, beside the observation, that its effect depends on."""
        return allocation.version, self.provenances.get(allocation.id), self.jobs.facts_total, self.jobs.stream_index

    def concerned(self, fact: Fact) -> list[str]:
        """Return the allocations whose Job a fact may determine. O(those), or O(all of the job) if it arrives late."""
        waiting = self.waiting.get(fact.job_key)
        if waiting is None:
            return []
        if isinstance(fact, EvaluationWrite):
            return waiting.evaluations.get(fact.id, []).copy()
        if isinstance(fact, JobWrite):
            # Usually no plan uses the newest write of a job yet.
            is_late = fact.index < waiting.planned_index
            subjects = waiting.subjects.items() if is_late else ()
            return [alloc for alloc, subject in subjects if fact.index < subject.planned_index]
        return [alloc for alloc, subject in waiting.subjects.items() if fact.id == subject.deployment]

    def wait(self, alloc: str, subject: Subject) -> None:
        """Subscribe an allocation to the facts of its job."""
        waiting = self.waiting.get(subject.job_key)
        if waiting is None:
            waiting = self.waiting[subject.job_key] = Waiting()
        waiting.add(alloc, subject)

    def release(self, alloc: str, job_key: tuple[str, str]) -> None:
        """Unsubscribe an allocation from the facts of its job."""
        self._released.append((alloc, job_key))
        if not self._is_draft:
            self._release()

    def _release(self) -> None:
        for alloc, job_key in self._released:
            waiting = self.waiting.get(job_key)
            if waiting is not None and alloc in waiting.subjects:
                waiting.remove(alloc)
                if not waiting.subjects:
                    del self.waiting[job_key]
        self._released.clear()

    def resume(self, record: Record) -> None:
        """Note the provenance that a record of a log shows, as the next record of its allocation."""
        provenance = self.provenances.get(record.alloc)
        if provenance is None or provenance.index != record.index:
            provenance = Provenance.resumed(record.index)
        self.provenances[record.alloc] = provenance.with_records([record])

    def draft(self) -> Memory:
        """Return a draft of this memory; `keep` commits it.

        The jobs of streams are shared, as facts are true whether the draft is kept or not. Until a draft is kept, this
        memory counts repeated facts as new.
        """
        draft = Memory()
        draft.provenances, draft.jobs, draft.waiting = ChainMap({}, self.provenances), self.jobs, self.waiting
        draft.repeats = self.repeats
        draft._is_draft, draft.is_uncertain = True, self.is_uncertain
        self.is_uncertain = True
        return draft

    def keep(self, draft: Memory, live: Collection[str]) -> None:
        """Commit a draft; drop the provenance of allocations that are not live, when there are many."""
        assert isinstance(draft.provenances, ChainMap)
        self.provenances.update(draft.provenances.maps[0])
        self.is_uncertain = False
        draft._release()
        for observation, beside in draft._drafted_repeats:
            self.repeats.add(observation, beside)
        if len(self.provenances) > 2 * len(live) + _PRUNED_FROM:
            for alloc in [alloc for alloc in self.provenances if alloc not in live]:
                del self.provenances[alloc]
            for job_key, waiting in list(self.waiting.items()):
                for alloc in [alloc for alloc in waiting.subjects if alloc not in live]:
                    self.release(alloc, job_key)
