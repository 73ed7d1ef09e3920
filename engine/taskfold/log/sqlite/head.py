"""The head of a log in SQLite: one row, written by every commit, that describes the log at that commit.

It names the log, counts its commits, and sums its records' checksums. So a write-ahead log of another log, or of
another history of the same log, is recognised, and no record can be missing unnoticed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple, Self
from uuid import UUID

__all__ = ["HEAD_BYTES", "MARK", "Head", "digest_of"]

MARK: Final = b"tfhd"
_FIELDS: Final = struct.Struct(">4s16sQ8s8sQQQQ")
_CHECKSUM: Final = struct.Struct(">I")
HEAD_BYTES: Final = _FIELDS.size + _CHECKSUM.size
"""Constant, so that a commit overwrites the row in place, at the end of its page."""
_DIGESTS: Final = 1 << 64


def digest_of(checksums: Iterable[int]) -> int:
    """Return the digest of records: the sum of their checksums, from which removed records can be subtracted."""
    return sum(checksums) % _DIGESTS


class Head(NamedTuple):
    """The state of a log at a commit."""

    uuid: str
    """The UUID of the log."""
    commit: int = 0
    """The number of commits."""
    token: bytes = bytes(8)
    """A random value, drawn for each commit: it differs between two histories of one log."""
    before: bytes = bytes(8)
    """The token of the previous commit."""
    seq: int = 0
    """The newest position."""
    digest: int = 0
    """The digest of all records."""
    checkpoint_seq: int = 0
    """The position of the checkpoint."""
    checkpoint_digest: int = 0
    """The digest of the records up to the checkpoint."""

    def after(self, seq: int, digest: int) -> Self:
        """Return the head of the next commit."""
        token = os.urandom(len(self.token))
        return type(self)(self.uuid, self.commit + 1, token, self.token, seq, digest % _DIGESTS, *self[6:])

    def digest_after(self, seq: int) -> int | None:
        """Return the digest of the records after a position; None if it is unknown."""
        if seq == 0:
            return self.digest
        return (self.digest - self.checkpoint_digest) % _DIGESTS if seq == self.checkpoint_seq else None

    def packed(self) -> bytes:
        """Encode the head, with a checksum of its own."""
        data = _FIELDS.pack(MARK, bytes.fromhex(self.uuid.replace("-", "")), *self[1:])
        return data + _CHECKSUM.pack(zlib.crc32(data))

    @classmethod
    def unpacked(cls, data: object) -> Self | None:
        """Decode a head; None if it is missing or damaged."""
        if not isinstance(data, bytes) or len(data) != HEAD_BYTES:
            return None
        mark, uuid, *rest = _FIELDS.unpack_from(data)
        (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
        if mark != MARK or checksum != zlib.crc32(data[: _FIELDS.size]):
            return None
        return cls(str(UUID(bytes=uuid)), *rest)
