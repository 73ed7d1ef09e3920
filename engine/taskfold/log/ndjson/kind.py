"""JSON lines as a kind of store: for exchange, and for small logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final

from taskfold.log.compression import is_unpacked
from taskfold.log.contract import TakesRecords
from taskfold.log.damage import LogCheck, Scanned
from taskfold.log.files import new_file
from taskfold.log.header import is_header
from taskfold.log.lines import BLOCK_BYTES, open_bytes
from taskfold.log.store_kind import StoreKind
from taskfold.model.dialect import Dialect
from taskfold.model.errors import UnreadableLog
from taskfold.model.record import LogHeader, Record

if TYPE_CHECKING:
    from taskfold.log.ndjson.log import NdjsonLog
    from taskfold.log.ndjson.reader import NdjsonReader

__all__ = ["KIND"]

_PEEK_BYTES: Final = 64


class _Ndjson(StoreKind):
    title = "JSON lines"
    endings: ClassVar = (".jsonl", ".ndjson")
    is_text = True

    def recognises(self, path: Path) -> bool:
        with open_bytes(path) as stream:
            return _begins_as_log(stream)

    def open(
        self,
        name: str,
        dialect: str | Dialect | None = None,
        region: str = "global",
        *,
        reader: TakesRecords | None = None,
    ) -> NdjsonLog:
        from taskfold.log.ndjson.log import NdjsonLog

        return NdjsonLog(name, dialect, region, reader=reader)

    def open_reader(self, name: str, *, reader: TakesRecords | None = None) -> NdjsonReader:
        from taskfold.log.ndjson.reader import NdjsonReader

        return NdjsonReader(name, reader=reader)

    @contextmanager
    def snapshot(self, name: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
        from taskfold.log.ndjson.records import read_records

        with open_bytes(Path(name).absolute(), name) as stream:
            _check_lines(stream, name)
            yield read_records(stream, name)

    def checkpoint_parts(self, _: str) -> Iterator[bytes]:
        return iter(())

    def scan(
        self, name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        from taskfold.log.ndjson.scan import scan

        return scan(name, dialect, is_thorough=is_thorough)

    def copy(self, name: str, draft: Path) -> bool:
        """Copy a file of lines up to its last seal, byte for byte; the bytes after it were never acknowledged."""
        from taskfold.log.ndjson.offsets import Part
        from taskfold.log.ndjson.records import opened

        with open_bytes(Path(name).absolute(), name) as stream:
            if is_unpacked(stream):
                return False
            _check_lines(stream, name)
            size = len(stream.readline())
            stream.seek(0)
            _, runs = opened(stream, name, lambda _: None)
            part = Part(stream, 0, size + sum(run.size for run in runs))
            with BufferedWriter(new_file(draft)) as file:
                while block := part.read(BLOCK_BYTES):
                    file.write(block)
        return True


def _begins_as_log(stream: BinaryIO) -> bool:
    return is_header(stream.peek(_PEEK_BYTES))  # type: ignore[attr-defined]


def _check_lines(stream: BinaryIO, name: str) -> None:
    if not _begins_as_log(stream):
        raise UnreadableLog(f"{name}: is not a taskfold log; `taskfold import` makes one from what Nomad sent")


KIND: Final = _Ndjson()
