"""Verification: the records fold to what was observed, at every index; and a log is intact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct, field

from taskfold.fold.allocation import Allocation, Fold, current_field
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.log.check import checkpoint_parts
from taskfold.log.checkpoint import from_parts
from taskfold.log.contract import Ledger, check_dialect
from taskfold.log.damage import Damage
from taskfold.log.names import shown_name
from taskfold.log.registry import LogLike, is_log, log_source
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import SourceError
from taskfold.model.record import LogHeader, Record, Updated
from taskfold.nomad.importing.importer import Importer, JobConflict
from taskfold.nomad.importing.observation import Observation, Statement, mismatches
from taskfold.sources.replay import Replay

__all__ = ["Divergence", "Verification", "verify"]

MAX_PAST_STATES: Final = 10_000
"""The most past states that are kept, to compare late observations with."""

MAX_DIVERGENCES: Final = 1_000
"""The most divergences that a report stores; it counts all."""


class Divergence(Struct, frozen=True, kw_only=True):
    """A place where the records differ from an observation, or a log from its rules."""

    position: str
    """File and line."""
    index: int
    alloc: str
    path: str
    """The JSON path inside the allocation; for a log, the field of the record."""
    expected_value: Any = field(name="expected")
    """The observed value, or the required one."""
    actual_value: Any = field(name="found")
    """The folded value, or the one in the log."""
    records: tuple[Record, ...] = field(name="recorded", default=())
    """The records that explain the observation."""
    state_before: dict[str, str] = {}
    """The states of the allocation's tasks before these records."""
    why: str = ""


class Verification(Struct, kw_only=True):
    """The result of `verify`."""

    dialect: str = ""
    allocations: int = 0
    tasks: int = 0
    observations: int = 0
    repeats: int = 0
    """The number of observations without anything new."""
    conflicts: int = 0
    """The number of contradictions between sources, of one index or one job; each is a divergence, too."""
    compared: int = 0
    """The number of observations compared with the fold at their index: all, except late ones whose index is not among
    the 10,000 newest past states."""
    records: Counter[str] = field(default_factory=Counter)
    """The number of records by type of event."""
    irregular: int = 0
    """The number of kept events that the lifecycle table refuses."""
    divergences: list[Divergence] = []
    divergences_total: int = 0

    @property
    def gaps(self) -> int:
        """The number of gaps where events were lost."""
        return self.records["Gap"]

    @property
    def observed(self) -> int:
        """The number of corrections, where the lifecycle table cannot explain the observation."""
        return self.records["Observed"]

    @property
    def agrees(self) -> bool:
        """Whether there is no divergence."""
        return self.divergences_total == 0

    def add(self, divergence: Divergence) -> None:
        """Count a divergence, and store it while there is room."""
        self.divergences_total += 1
        if len(self.divergences) < MAX_DIVERGENCES:
            self.divergences.append(divergence)


def verify(
    *sources: LogLike,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    skip_bad: bool = False,
) -> Verification:
    """Verify a source, or a log by name or open; return a report of all divergences.

    Observations are imported; each record is encoded and decoded as a log would, and folded; then the fold is compared
    with the observation at every index, key by key. Of a log, order, structure and checkpoint are checked. O(length);
    memory for the live state only. ``skip_bad`` skips unreadable documents of a source, with a note; nothing of a log
    is skipped. Raises SourceError for unreadable input.
    """
    verification = Verification()
    if len(sources) == 1 and is_log(sources[0]):
        _verify_log(sources[0], dialect, verification)
        return verification
    replay = Replay(*sources, dialect=dialect, on_note=on_note, skip_bad=skip_bad)
    fold: Fold | None = None
    check: _LogVerifier | None = None
    past = _Past()
    for statement, records in replay.steps():
        fold = fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
        if statement is None:  # a log on standard input
            check = check or _LogVerifier(replay.sources[0], replay.header, fold, verification)
            for record in records:
                check.record(record)
            continue
        alloc = statement.alloc if isinstance(statement, Observation) else records[0].alloc
        explained = _Explained(statement, alloc, records, _states_of(fold, alloc))
        past.keep(fold.allocations.get(alloc), records)
        for record in records:
            verification.records[_type_name(record)] += 1
            fold.apply(_as_read_back(record))
        if isinstance(statement, Observation):
            _compare(fold, statement, explained, past, verification)
        if any(isinstance(record.event, Updated) and record.event.job_source for record in records):
            _compare_job(fold, replay.importer, explained, verification)
    verification.dialect = replay.dialect or ""
    _count_states(fold, verification)
    if replay.importer is not None:
        verification.observations = replay.importer.observations
        verification.repeats = replay.importer.repeats
        verification.conflicts = replay.importer.conflicts_total
        for conflict in replay.importer.job_conflicts:
            verification.add(_job_divergence(conflict))
    return verification


def _states_of(fold: Fold, alloc: str) -> dict[str, str]:
    allocation = fold.allocations.get(alloc)
    return {} if allocation is None else {name: task.state for name, task in allocation.tasks.items()}


def _as_read_back(record: Record) -> Record:
    """Return the record as a log would return it."""
    return msgspec.json.decode(msgspec.json.encode(record), type=Record)


def _type_name(record: Record) -> str:
    return str(type(record.event).__struct_config__.tag)


class _Explained(NamedTuple):
    """A statement, and the records that explain it."""

    statement: Statement
    alloc: str
    records: list[Record]
    state_before: dict[str, str]

    def divergence(self, path: str, wanted_value: Any, value: Any, why: str) -> Divergence:
        """Return a divergence found at this statement."""
        return Divergence(
            position=f"{self.statement.name}, line {self.statement.line}",
            index=self.statement.index,
            alloc=self.alloc,
            path=path,
            expected_value=wanted_value,
            actual_value=value,
            records=tuple(self.records),
            state_before=self.state_before,
            why=why,
        )


class _Past:
    """Past states, by allocation and index, for late observations. Memory is bounded."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, int], Allocation] = {}

    def keep(self, state: Allocation | None, records: list[Record]) -> None:
        """Keep a state that these records replace by that of another index. O(tasks)."""
        if state is None or not records or records[0].index == state.modify_index:
            return
        self._states[state.id, state.modify_index] = state.copy()
        if len(self._states) > MAX_PAST_STATES:
            del self._states[next(iter(self._states))]

    def at(self, alloc: str, index: int) -> Allocation | None:
        """Return the state of an allocation at an index; None if it is not kept."""
        return self._states.get((alloc, index))


_WRONG: Final = "the fold of the records differs from the observation"
_CONFLICT: Final = "another observation of this index differs"
_OTHER_JOB: Final = "the Job of the allocation differs from its job in the stream"


def _compare(
    fold: Fold, observation: Observation, explained: _Explained, past: _Past, verification: Verification
) -> None:
    """Compare the fold with one observation, at its index."""
    state = fold.owned(observation.alloc)
    if observation.index == state.modify_index:
        verification.compared += 1
        why = _WRONG if explained.records else _CONFLICT
        for path, wanted_value, value in mismatches(state, observation, fold.dialect):
            verification.add(explained.divergence(path, wanted_value, value, why))
        return
    then = past.at(observation.alloc, observation.index)
    if then is not None:
        verification.compared += 1
        for path, wanted_value, value in mismatches(then, observation, fold.dialect):
            # A late observation could not add its fields at that index.
            if value is not None and value != ():
                verification.add(explained.divergence(path, wanted_value, value, _CONFLICT))


def _compare_job(fold: Fold, importer: Importer | None, explained: _Explained, verification: Verification) -> None:
    """Compare a concluded Job with the stream's facts."""
    state = fold.owned(explained.alloc)
    write = None if importer is None else importer.stream_job(explained.alloc)
    wanted_job = b"" if write is None else write.text
    job = current_field(state.placed_body, state.updates, "Job") or b""
    if wanted_job != job:
        verification.add(explained.divergence("$.Job", wanted_job.decode() or None, job.decode() or None, _WRONG))


def _job_divergence(conflict: JobConflict) -> Divergence:
    """Return the divergence of a Job that the stream contradicts."""
    return Divergence(
        position=f"{conflict.name}, line {conflict.line}",
        index=conflict.index,
        alloc=conflict.alloc,
        path="$.Job",
        expected_value=conflict.write.text.decode(),
        actual_value=conflict.job.decode(),
        why=_OTHER_JOB,
    )


def _count_states(fold: Fold | None, verification: Verification) -> None:
    """Fill in the counts of the final state."""
    if fold is not None:
        verification.allocations = len(fold)
        for allocation in fold.allocations.values():
            verification.tasks += len(allocation.tasks)
            verification.irregular += sum(task.seldom.irregular for task in allocation.tasks.values())


# --- logs -----------------------------------------------------------------------------------------------------------


def _verify_log(log: LogLike, dialect: str | None, verification: Verification) -> None:
    """Check a log's integrity, its order, and its checkpoint."""
    source = log_source(log)
    state, scanned = source.scan()
    if dialect is not None:
        check_dialect(state.header, dialect)
    verification.dialect = state.header.dialect
    fold = Fold(state.header.dialect, on_illegal="keep")
    verifier = _LogVerifier(source.name, state.header, fold, verification)
    checkpoint = from_parts(checkpoint_parts(log), fold.dialect)
    for item in scanned:
        if isinstance(item, Damage):
            if item.is_unreadable:
                raise SourceError(source.name, item.message, line=item.line)
            verifier.damage(item)
            continue
        verifier.record(item)
        if checkpoint is not None and item.seq == checkpoint.seq:
            verifier.checkpoint(checkpoint.fold)
    _count_states(fold, verification)


class _LogVerifier:
    """The checks of a log's order, versions and indexes."""

    def __init__(self, name: str, header: LogHeader | None, fold: Fold, verification: Verification) -> None:
        self.name = shown_name(name)
        self.header = header
        self.fold = fold
        self.verification = verification
        self.ledger = Ledger(header)
        self.indexes: dict[str, int] = {}
        self.count = 0

    def record(self, record: Record) -> None:
        """Check that a record follows the previous ones, and fold it."""
        self.verification.records[_type_name(record)] += 1
        self.count += 1
        if self.count == 1:
            self._header(record)
        index = self.indexes.get(record.alloc, 0)
        if not self.ledger.follows(record):
            self._expect(record, "$.Seq", self.ledger.seq + 1, record.seq, "positions count 1, 2, 3 … without a hole")
            version = self.ledger.versions.get(record.alloc, 0) + 1
            self._expect(record, "$.Version", version, record.version, "versions count 1, 2, 3 … inside an allocation")
        if record.index < index:
            self._expect(record, "$.Index", f"at least {index}", record.index, "the index of an allocation never falls")
        self.indexes[record.alloc] = max(index, record.index)
        self.ledger.seq, self.ledger.versions[record.alloc] = record.seq, record.version
        self.fold.apply(record)

    def damage(self, damage: Damage) -> None:
        """Verification damage."""
        places = (("line", damage.line), ("Seq", damage.seq))
        where = next((f", {name} {place}" for name, place in places if place is not None), "")
        self._add(f"{self.name}{where}", "$", "the record as written", "another content", damage.message)

    def checkpoint(self, restored: Fold) -> None:
        """Check that a checkpoint of this position equals the state here."""
        live = {
            alloc: allocation.freeze()
            for alloc, allocation in self.fold.allocations.items()
            if not allocation.collected
        }
        saved = {alloc: allocation.freeze() for alloc, allocation in restored.allocations.items()}
        for alloc in sorted({*live, *saved}):
            if live.get(alloc) != saved.get(alloc):
                why = "the checkpoint differs from the records before it: rebuild it"
                position = f"{self.name}, checkpoint at {self.ledger.seq}"
                self._add(position, "$", "the fold of the records", "the content of the checkpoint", why, alloc=alloc)

    def _header(self, record: Record) -> None:
        """Check that the log was written with the current lifecycle table."""
        if self.header is not None and self.header.lifecycle:
            own_table = lifecycle_of(self.header.dialect).fingerprint
            why = "the log was written with another lifecycle table: its states may be folded differently now"
            self._expect(record, "header.lifecycle", own_table, self.header.lifecycle, why)

    def _expect(self, record: Record, path: str, wanted_value: Any, value: Any, why: str) -> None:
        if wanted_value != value:
            position = f"{self.name}, record {self.count}"
            self._add(position, path, wanted_value, value, why, alloc=record.alloc, record=record)

    def _add(
        self,
        position: str,
        path: str,
        wanted_value: Any,
        value: Any,
        why: str,
        *,
        alloc: str = "",
        record: Record | None = None,
    ) -> None:
        self.verification.add(
            Divergence(
                position=position,
                index=0 if record is None else record.index,
                alloc=alloc,
                path=path,
                expected_value=wanted_value,
                actual_value=value,
                records=() if record is None else (record,),
                state_before=_states_of(self.fold, alloc),
                why=why,
            )
        )
