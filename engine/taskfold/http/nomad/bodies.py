"""The cache of allocations as JSON: each version is written once, however often it is read."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from taskfold.fold.allocation import AllocationState
from taskfold.http.answers import Answer, json_answer
from taskfold.http.serve.compression import gzip_body
from taskfold.live.reader import Reader
from taskfold.model.cache import Cache
from taskfold.nomad.jobs.least import answered_job
from taskfold.nomad.snapshot import Snapshot

__all__ = ["Bodies", "Body"]


class Body(Struct, frozen=True, gc=False):
    """An allocation at one version, as text and as the whole answer of a plain read."""

    version: int
    index: int
    answer: Answer

    @property
    def text(self) -> bytes:
        """The JSON of the allocation."""
        return self.answer.body

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.answer.body) + len(self.answer.gzipped or b"")


class Bodies:
    """The JSON of the allocations read last, of a limited total size."""

    def __init__(self, reader: Reader, limit_bytes: int) -> None:
        self._reader = reader
        self._bodies: Cache[str, Body] = Cache(limit_bytes)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self._bodies.size

    def __contains__(self, alloc: object) -> bool:
        """Return whether any version of an allocation is cached."""
        return alloc in self._bodies

    def current(self, alloc: str, *, gzipped: bool) -> Answer | None:
        """Return the answer of a plain read, if it is cached and nothing has changed since; else None. O(1)."""
        body = self._bodies.get(alloc)
        if body is None or (gzipped and body.answer.gzipped is None):
            return None
        return body.answer if self._reader.version(alloc) == body.version else None

    def get(self, alloc: str, *, gzipped: bool = False) -> Body | None:
        """Return the body of an allocation as it is now; None where there is none. O(1) when it is cached."""
        body = self._bodies.get(alloc)
        if body is None or self._reader.version(alloc) != body.version:
            state = self._reader.find(alloc)
            if state is None:
                return None
            text = self._text(state)
            body = Body(state.version, state.modify_index, json_answer(text, state.modify_index))
            self._bodies.keep(alloc, body)
        if gzipped and body.answer.gzipped is None:
            body = replace(body, answer=replace(body.answer, gzipped=gzip_body(body.text)))
            self._bodies.keep(alloc, body)
        return body

    def _text(self, state: AllocationState) -> bytes:
        """Return the JSON of an allocation for clients: always with a Job, since they need one."""
        snapshot = self._reader.snapshot(state)
        header = self._reader.header
        job = answered_job(snapshot.fields, snapshot.tasks, snapshot.dialect, header.region)
        if job == snapshot.fields.get("Job"):
            return snapshot.to_json()
        return Snapshot({**snapshot.fields, "Job": job}, snapshot.tasks, snapshot.dialect).to_json()
