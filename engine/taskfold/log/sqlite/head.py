"""The head of a log in SQLite: one row that every commit writes, and that says where the log then ended.

It names the log, counts its commits, and sums up its records, so that a write-ahead log of another log, or of another
history of the same one, is told from its own, and no record can be missing without a word.
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
"""Always the same, so that a commit changes the row in its place, at the end of its page."""
_DIGESTS: Final = 1 << 64


def digest_of(checksums: Iterable[int]) -> int:
    """Return the digest of records: the sum of their checksums, of which those of removed ones can be taken away."""
    return sum(checksums) % _DIGESTS


class Head(NamedTuple):
    """Where a log ended when a commit was made."""

    uuid: str
    """The UUID of the log."""
    commit: int = 0
    """How many commits there were."""
    token: bytes = bytes(8)
    """Drawn for this commit: two histories of one log have different ones."""
    before: bytes = bytes(8)
    """The token of the commit before."""
    seq: int = 0
    """The newest position."""
    digest: int = 0
    """The digest of all records."""
    checkpoint_seq: int = 0
    """The position at which the checkpoint was saved."""
    checkpoint_digest: int = 0
    """The digest of the records up to there."""

    def after(self, seq: int, digest: int) -> Self:
        """Return the head of the next commit."""
        token = os.urandom(len(self.token))
        return type(self)(self.uuid, self.commit + 1, token, self.token, seq, digest % _DIGESTS, *self[6:])

    def digest_after(self, seq: int) -> int | None:
        """Return the digest of the records after a position; None where it is not known."""
        if seq == 0:
            return self.digest
        return (self.digest - self.checkpoint_digest) % _DIGESTS if seq == self.checkpoint_seq else None

    def packed(self) -> bytes:
        """Return the row's value, with a checksum of its own."""
        data = _FIELDS.pack(MARK, bytes.fromhex(self.uuid.replace("-", "")), *self[1:])
        return data + _CHECKSUM.pack(zlib.crc32(data))

    @classmethod
    def unpacked(cls, data: object) -> Self | None:
        """Return the head that a row's value says; None for what is none, or is damaged."""
        if not isinstance(data, bytes) or len(data) != HEAD_BYTES:
            return None
        mark, uuid, *rest = _FIELDS.unpack_from(data)
        (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
        if mark != MARK or checksum != zlib.crc32(data[: _FIELDS.size]):
            return None
        return cls(str(UUID(bytes=uuid)), *rest)
