"""A store of one's own: a file that is written whole whenever something is acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from taskfold.errors import LogError
from taskfold.log import Append, MemoryLog, StoreKind
from taskfold.log.read_only import ReadOnlyLog
from taskfold.model.record import LogHeader, Record

MAGIC = b"TOY STORE\n"


class ToyLog(MemoryLog):
    def __init__(self, path: str | Path, dialect: Any = None, region: str = "global") -> None:
        self.path = Path(path).absolute()
        self.name = self.location = str(self.path)
        lines = self.path.read_bytes().removeprefix(MAGIC).splitlines() if self.path.exists() else []
        self._is_new = not lines
        if self._is_new and dialect is None:
            raise LogError(f"{path}: there is no log, and a new one needs a dialect")
        header = msgspec.json.decode(lines[0], type=LogHeader) if lines else None
        super().__init__(dialect or header.dialect, region)
        if header is None:
            self.sync()
        else:
            super().take(header, [msgspec.json.decode(line, type=Record) for line in lines[1:]])

    def append(self, alloc: str, version: int, records: Sequence[Record], *, sync: bool = True) -> list[Record]:
        return self.append_all([Append(alloc, version, records)], sync=sync)

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        placed = super().append_all(appends)
        if sync:
            self.sync()
        return placed

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        super().take(header, records)
        self.sync()

    def compact(self, before_ns: int | None = None) -> int:
        removed = super().compact(before_ns)
        self.sync()
        return removed

    def sync(self) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_bytes(MAGIC + b"\n".join(map(msgspec.json.encode, [self.header, *self.read_kept()])))
        draft.replace(self.path)

    def roll_back(self) -> None:
        if self._is_new:
            self.path.unlink()

    def close(self) -> None:
        if self.path.exists():
            self.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ToyReader(ReadOnlyLog, ToyLog):
    def close(self) -> None:
        pass


class ToyKind(StoreKind):
    title = "a toy"
    noun = "a toy"
    endings = (".toy",)
    magic = MAGIC

    def open(self, name, dialect=None, region="global", *, reader=None):  # noqa: ARG002
        return ToyLog(name, dialect, region)

    def open_reader(self, name, *, reader=None):  # noqa: ARG002
        return ToyReader(name)


KIND = ToyKind()
