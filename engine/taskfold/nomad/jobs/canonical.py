"""Jobs as people write them, made into what a dialect's Nomad stores: the Job of its allocations.

A Nomad makes a job whole in three steps (its API package, its agent, its servers); this is their sum, as one pure
function. What absent fields become is a table (`taskfold.nomad.jobs.defaults`), what depends on other parts of the job
a rule (`taskfold.nomad.jobs.rules`). Texts are copied as they were written, so that a job that is whole comes back byte
for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from taskfold.model.dialect import DIALECTS, Dialect, dialect_of
from taskfold.model.errors import DecodeError
from taskfold.nomad.jobs.defaults import Slot, SlotKind, slots
from taskfold.nomad.jobs.go_floats import with_go_floats
from taskfold.nomad.jobs.rules import Stanza, fill_in_job
from taskfold.nomad.views.decode import view
from taskfold.nomad.views.job import Job

__all__ = ["GIVEN_BY_A_SERVER", "canonical_job", "is_registered", "placed_job"]

GIVEN_BY_A_SERVER: Final = (
    "CreateIndex",
    "JobModifyIndex",
    "ModifyIndex",
    "NomadTokenID",
    "Stable",
    "Status",
    "StatusDescription",
    "SubmitTime",
    "Version",
)
"""Fields of a job that only a server sets: kept if present, else zero (`pending`)."""

_JOBS_KEPT: Final = 256
_KEPT_BYTES: Final = 64 << 10
"""How many jobs are remembered with what became of them, and how long each may be."""
_LONGEST_NUMBER: Final = 20
"""How many characters a number of 64 bits may have."""
_EXCERPT_LENGTH: Final = 60
"""How much of a value an error shows."""
_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list: Final = msgspec.json.Decoder(list[Raw]).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Registered(Struct):
    """By what a job is known that a server has taken."""

    JobModifyIndex: float | None = None


_decode_registered: Final = msgspec.json.Decoder(_Registered).decode


def canonical_job(job: bytes | str, dialect: str | Dialect, *, region: str = "global", path: str = "$") -> bytes:
    """Return a job (bare, or under Job) as the Nomad of a dialect stores it. O(length), once for each of many the same.

    Every field that the dialect has is there, and those that only other Nomads have are not; what no Nomad knows is
    kept. One that names no region is of ``region``. ``GIVEN_BY_A_SERVER`` names what stays as it was told. A canonical
    job comes back byte for byte.
    Raises DecodeError, naming the path (below ``path``) and what would be right.

    >>> whole = canonical_job('{"ID": "web", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t"}]}]}', "1.1.2")
    >>> job = msgspec.json.decode(whole)
    >>> job["Version"], job["Type"], job["TaskGroups"][0]["Count"], job["TaskGroups"][0]["Tasks"][0]["KillTimeout"]
    (0, 'service', 1, 5000000000)
    """
    try:
        text = job.encode() if isinstance(job, str) else bytes(job)
    except UnicodeError as error:
        raise DecodeError(f"{path}: not the JSON of a job: {error}") from None
    canonical_of = _canonical if len(text) <= _KEPT_BYTES else _canonical.__wrapped__
    return canonical_of(text, dialect_of(dialect).name, region, path)


def placed_job(job: bytes, dialect: Dialect, region: str, *, path: str = "$.Job") -> bytes:
    """Return the Job to store for an allocation that is placed: null, and a job that a server took, unchanged.

    So a body that some Nomad has sent comes back byte for byte, whichever Nomad that was. Raises DecodeError.
    """
    return job if job == b"null" or is_registered(job) else canonical_job(job, dialect, region=region, path=path)


def is_registered(job: bytes) -> bool:
    """Return whether a server has taken a job, and so made it whole: it has a JobModifyIndex then. O(length).

    >>> is_registered(b'{"ID":"web"}'), is_registered(b'{"ID":"web","JobModifyIndex":24}')
    (False, True)
    """
    try:
        return bool(_decode_registered(job).JobModifyIndex)
    except _UNREADABLE:
        return False


@lru_cache(maxsize=_JOBS_KEPT)
def _canonical(text: bytes, dialect: str, region: str, path: str) -> bytes:
    """Return a canonical job; the allocations of one job share it, as its bytes."""
    try:
        text.decode()
        compact = msgspec.json.format(text, indent=-1)
    except _UNREADABLE as error:
        raise DecodeError(f"{path}: not the JSON of a job: {error}") from None
    parts = _object(compact, path)
    if "Job" in parts and parts.keys().isdisjoint(("ID", "TaskGroups")):
        compact, path = bytes(parts["Job"]), f"{path}.Job"
    resolved_dialect = DIALECTS[dialect]
    job = _Reader(resolved_dialect).read(compact, Job, path)
    fill_in_job(job, resolved_dialect, region)
    stored_text = _Writer(resolved_dialect, keeps_empty=is_registered(compact)).write(job, Job)
    try:
        view(stored_text, Job, path=path)  # what stands in maps and in lists of texts was not looked at
    except ValueError as error:
        raise DecodeError(str(error)) from None
    if b"\xe2" in stored_text:  # as `fields_to_json` has it
        stored_text = stored_text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return stored_text


_SHAPES: Final[Mapping[SlotKind, tuple[str, tuple[bytes, ...]]]] = {
    "text": ("a text", (b'"',)),
    "number": ("a whole number of 64 bits", (b"-", *(b"%d" % digit for digit in range(10)))),
    "duration": ("nanoseconds, a whole number of 64 bits", (b"-", *(b"%d" % digit for digit in range(10)))),
    "flag": ("true or false", (b"true", b"false")),
    "list": ("a list", (b"[",)),
    "stanzas": ("a list", (b"[",)),
    "map": ("an object", (b"{",)),
    "floats": ("an object", (b"{",)),
    "stanza": ("an object", (b"{",)),
    "named_stanzas": ("an object", (b"{",)),
}
"""The type of a field of each kind, and the first characters of its JSON."""


class _Reader:
    """Reads a job: which fields it says, and that each is of its kind."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def read(self, text: bytes, of: type[Struct], path: str) -> Stanza:
        """Return a stanza without its nulls, and without what only other Nomads have. Raises DecodeError."""
        slot_of = slots(of, self._dialect)
        stanza: Stanza = {}
        for name, raw in _object(text, path).items():
            value = bytes(raw)
            if value == b"null":
                continue
            if name not in slot_of:
                stanza[name] = value
            elif (slot := slot_of[name]) is not None and value != slot.also:
                stanza[name] = self._value(value, slot, f"{path}.{name}")
        return stanza

    def _value(self, text: bytes, slot: Slot, path: str) -> Any:
        """Return the value of a field. Raises DecodeError."""
        shape, beginnings = _SHAPES[slot.kind]
        if not text.startswith(beginnings):
            raise _wrong(path, shape, text)
        if slot.of is not None:
            return self._stanzas(text, slot.kind, slot.of, path)
        if slot.kind in {"number", "duration"}:
            if (number := _whole_number(text)) is None:
                raise _wrong(path, shape, text)
            return number
        if slot.kind == "floats":
            try:
                return with_go_floats(text, self._dialect)
            except ValueError as error:
                raise DecodeError(f"{path}: {error}") from None
        return text

    def _stanzas(self, text: bytes, kind: SlotKind, of: type[Struct], path: str) -> Any:
        """Return a stanza, or a list or a map of them. Raises DecodeError."""
        if kind == "stanza":
            return self.read(text, of, path)
        if kind == "stanzas":
            return [self.read(bytes(item), of, f"{path}[{place}]") for place, item in enumerate(_decode_list(text))]
        return {name: self.read(bytes(item), of, f"{path}.{name}") for name, item in _object(text, path).items()}


class _Writer:
    """Writes a job: every field that its dialect has."""

    def __init__(self, dialect: Dialect, *, keeps_empty: bool) -> None:
        self._dialect = dialect
        # A first version of a job has null for an empty list; a later one may have what was sent.
        self._keeps_empty = keeps_empty

    def write(self, stanza: Stanza, of: type[Struct]) -> bytes:
        """Return a stanza as JSON, with what is unknown, in the order of the names."""
        slot_of = slots(of, self._dialect)
        texts = {
            name: self._text(stanza.get(name) if slot.is_kept else None, slot)
            for name, slot in slot_of.items()
            if slot is not None and slot.is_stored
        }
        if unknown := [name for name in stanza if name not in slot_of]:
            texts.update((name, stanza[name]) for name in unknown)
            texts = dict(sorted(texts.items()))
        return b"{" + b",".join([_key(name) + text for name, text in texts.items()]) + b"}"

    def _text(self, value: Any, slot: Slot) -> bytes:
        """Return a field as JSON."""
        if slot.of is None:
            is_nothing = value is None or (value in {b"[]", b"{}"} and not self._keeps_empty)
            return slot.default if is_nothing else bytes(value)
        if slot.kind == "stanza":
            return slot.default if value is None and slot.default != b"{}" else self.write(value or {}, slot.of)
        if value is None or not (value or self._keeps_empty):
            return slot.default
        if slot.kind == "stanzas":
            return b"[" + b",".join([self.write(item, slot.of) for item in value]) + b"]"
        return b"{" + b",".join([_key(name) + self.write(item, slot.of) for name, item in value.items()]) + b"}"


def _object(text: bytes, path: str) -> dict[str, Raw]:
    try:
        return _decode_object(text)
    except _UNREADABLE:
        raise _wrong(path, "an object", text) from None


def _whole_number(text: bytes) -> bytes | None:
    """Return a whole number of 64 bits, written without an exponent, as 1e+10 in the documented API; else None."""
    digits = text.removeprefix(b"-")
    if not digits.isdigit():
        number = float(text)
        text = b"%d" % int(number) if number.is_integer() else b""
    return text if text and len(text) <= _LONGEST_NUMBER and -(1 << 63) <= int(text) < 1 << 64 else None


@lru_cache(maxsize=1_024)
def _key(name: str) -> bytes:
    return msgspec.json.encode(name) + b":"


def _wrong(path: str, shape: str, text: bytes) -> DecodeError:
    excerpt = text[:_EXCERPT_LENGTH].decode(errors="replace") + ("…" if len(text) > _EXCERPT_LENGTH else "")
    return DecodeError(f"{path}: expected {shape}, found {excerpt}")
