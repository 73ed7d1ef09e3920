"""IDs of allocations as Nomad's state store reads them: 16 bytes, however they are written."""

from __future__ import annotations

from typing import Final

__all__ = ["LOOKUP_FAILED", "InvalidIdentifier", "canonical", "uuid_key"]

LOOKUP_FAILED: Final = "alloc lookup failed: index error: "
"""Nomad's prefix of an error for an invalid ID. Source: nomad/state/state_store.go AllocByID."""

_LENGTH: Final = 36
_MAX_HYPHENS: Final = 4
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_HYPHEN_AFTER: Final = (8, 12, 16, 20)
"""The numbers of hexadecimal digits before each hyphen."""


class InvalidIdentifier(ValueError):
    """The text is no ID; the message is Nomad's."""


def uuid_key(text: str, *, exact: bool = True) -> bytes:
    """Return the bytes of an ID, or, with ``exact=False``, of a prefix of one.

    Neither the case of letters nor the places of hyphens count. Lengths are of UTF-8.
    Raises InvalidIdentifier. Source: go-memdb UUIDFieldIndex.

    >>> uuid_key("AB12-", exact=False).hex()
    'ab12'
    """
    raw = text.encode(errors="surrogateescape")
    if exact and len(raw) != _LENGTH:
        raise InvalidIdentifier(f"UUID must be {_LENGTH} characters")
    if len(raw) > _LENGTH:
        raise InvalidIdentifier(f"Invalid UUID length. UUID have {_LENGTH} characters; got {len(raw)}")
    hyphens = raw.count(b"-")
    if hyphens > _MAX_HYPHENS:
        raise InvalidIdentifier(f'UUID should have maximum of {_MAX_HYPHENS} "-"; got {hyphens}')
    digits = raw.replace(b"-", b"")
    if len(digits) % 2:
        raise InvalidIdentifier("Input (without hyphens) must be even length")
    for byte in digits:
        if byte not in _HEX:
            raise InvalidIdentifier(f"Invalid UUID: encoding/hex: invalid byte: {_show(byte)}")
    return bytes.fromhex(digits.decode())


def _show(byte: int) -> str:
    """Return a byte as Go's ``%#U`` prints it."""
    character = chr(byte)
    return f"U+{byte:04X} '{character}'" if character.isprintable() else f"U+{byte:04X}"


def canonical(key: bytes) -> str:
    """Return the usual text of an ID's bytes, or of a prefix of them.

    >>> canonical(bytes.fromhex("203266e5e0d6948656e5397ed2b184af")), canonical(bytes.fromhex("203266e5e0"))
    ('203266e5-e0d6-9486-56e5-397ed2b184af', '203266e5-e0')
    """
    text = key.hex()
    parts = [text[start:end] for start, end in zip((0, *_HYPHEN_AFTER), (*_HYPHEN_AFTER, None), strict=True)]
    return "-".join(part for part in parts if part)
