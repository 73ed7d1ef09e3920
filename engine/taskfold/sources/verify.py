"""Verify: whether the records fold to what was observed, at every index; and whether a log is what it should be."""

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
"""How many states of before are kept, to compare with them what comes late."""

MAX_DIVERGENCES: Final = 1_000
"""How many divergences a report keeps; it counts all of them."""


class Divergence(Struct, frozen=True, kw_only=True):
    """A place where the records do not say what was observed, or where a log is not what it should be."""

    position: str
    """File and line."""
    index: int
    alloc: str
    path: str
    """The JSON path inside the allocation; for a log, the field of the record."""
    expected_value: Any = field(name="expected")
    """What was observed, or what must stand there."""
    actual_value: Any = field(name="found")
    """What the records fold to, or what stands there."""
    records: tuple[Record, ...] = field(name="recorded", default=())
    """The records that explain this observation."""
    state_before: dict[str, str] = {}
    """The states of the allocation's tasks before those."""
    why: str = ""


class Verification(Struct, kw_only=True):
    """What `verify` found."""

    dialect: str = ""
    allocations: int = 0
    tasks: int = 0
    observations: int = 0
    repeats: int = 0
    """Observations that told nothing new."""
    conflicts: int = 0
    """What contradicts another source, of the same index or of the same job: each is a divergence, too."""
    compared: int = 0
    """Observations that were compared with the fold at their index: all but those that came late, of one that is none
    of the 10 000 newest states of before."""
    records: Counter[str] = field(default_factory=Counter)
    """Records by the type of their event."""
    irregular: int = 0
    """Events that the lifecycle table refuses, and that were kept."""
    divergences: list[Divergence] = []
    divergences_total: int = 0

    @property
    def gaps(self) -> int:
        """How often events were lost."""
        return self.records["Gap"]

    @property
    def observed(self) -> int:
        """How many corrections were needed: what the lifecycle table cannot explain."""
        return self.records["Observed"]

    @property
    def agrees(self) -> bool:
        """Whether there is no divergence."""
        return self.divergences_total == 0

    def add(self, divergence: Divergence) -> None:
        """Count a divergence, and keep it while there is room."""
        self.divergences_total += 1
        if len(self.divergences) < MAX_DIVERGENCES:
            self.divergences.append(divergence)


def verify(
    *sources: LogLike, dialect: str | None = None, on_note: Callable[[str], None] = lambda _: None
) -> Verification:
    """Return what is wrong with a source, or with a log, named or open, if anything.

    What a Nomad said is imported, each record is written and read as a log would, and folded; then the fold is compared
    with what was observed, at every index and key by key. In a log, order and structure are checked.
    O(length); memory for the live state only. Raises SourceError for what cannot be read at all.
    """
    verification = Verification()
    if len(sources) == 1 and is_log(sources[0]):
        _verify_log(sources[0], dialect, verification)
        return verification
    replay = Replay(*sources, dialect=dialect, on_note=on_note)
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
    """Return the record as a log would give it back."""
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
        """Return a divergence that showed with this statement."""
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
    """States of before, by allocation and index: what comes late is compared with them. Memory is bounded."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, int], Allocation] = {}

    def keep(self, state: Allocation | None, records: list[Record]) -> None:
        """Keep a state that these records move on from to another index. O(tasks)."""
        if state is None or not records or records[0].index == state.modify_index:
            return
        self._states[state.id, state.modify_index] = state.copy()
        if len(self._states) > MAX_PAST_STATES:
            del self._states[next(iter(self._states))]

    def at(self, alloc: str, index: int) -> Allocation | None:
        """Return the state of an allocation at an index; None where it is not kept, or there was none."""
        return self._states.get((alloc, index))


_WRONG: Final = "the records fold to something else than what was observed"
_CONFLICT: Final = "another observation of this index says something else"
_OTHER_JOB: Final = "what the stream tells of the job says something else than what was told of the allocation"


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
            # It came too late to add what was not told of its index.
            if value is not None and value != ():
                verification.add(explained.divergence(path, wanted_value, value, _CONFLICT))


def _compare_job(fold: Fold, importer: Importer | None, explained: _Explained, verification: Verification) -> None:
    """Compare a Job that was found out with what the stream tells."""
    state = fold.owned(explained.alloc)
    write = None if importer is None else importer.job_told(explained.alloc)
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
    """Fill in what was counted."""
    if fold is not None:
        verification.allocations = len(fold)
        for allocation in fold.allocations.values():
            verification.tasks += len(allocation.tasks)
            verification.irregular += sum(task.seldom.irregular for task in allocation.tasks.values())


# --- logs -----------------------------------------------------------------------------------------------------------


def _verify_log(log: LogLike, dialect: str | None, verification: Verification) -> None:
    """Check a log: whether it is as it was written, its order, and the checkpoint that it keeps."""
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
    """The checks of a log: its order, its versions, its indexes."""

    def __init__(self, name: str, header: LogHeader | None, fold: Fold, verification: Verification) -> None:
        self.name = shown_name(name)
        self.header = header
        self.fold = fold
        self.verification = verification
        self.ledger = Ledger(header)
        self.indexes: dict[str, int] = {}
        self.count = 0

    def record(self, record: Record) -> None:
        """Check that a record follows the ones before it, and fold it."""
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
        """Report what is not as it was written."""
        places = (("line", damage.line), ("Seq", damage.seq))
        where = next((f", {name} {place}" for name, place in places if place is not None), "")
        self._add(f"{self.name}{where}", "$", "what was written", "something else", damage.message)

    def checkpoint(self, restored: Fold) -> None:
        """Check that the checkpoint that was made at this position is the state there."""
        live = {
            alloc: allocation.freeze()
            for alloc, allocation in self.fold.allocations.items()
            if not allocation.collected
        }
        saved = {alloc: allocation.freeze() for alloc, allocation in restored.allocations.items()}
        for alloc in sorted({*live, *saved}):
            if live.get(alloc) != saved.get(alloc):
                why = "the checkpoint says something else than the records before it: it is to be made anew"
                position = f"{self.name}, checkpoint at {self.ledger.seq}"
                self._add(position, "$", "what the records fold to", "what the checkpoint holds", why, alloc=alloc)

    def _header(self, record: Record) -> None:
        """Check that the log was written with the table that it is read with."""
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
