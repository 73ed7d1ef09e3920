"""Reading JSON text as a view: strictly, with the types of Nomad's own documentation, and with what no view knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from taskfold.model.errors import DecodeError
from taskfold.nomad.views.allocation import part_types

__all__ = ["VIEWS", "optional_view", "unknown_keys", "view"]

T = TypeVar("T")

VIEWS: Final[dict[str, type[Any]]] = part_types()
"""The type of every top-level key of an allocation that is not plain text or a number, TaskStates aside.

`AllocationView` has them all."""


# What msgspec raises for a text it cannot read: ValidationError (a DecodeError) for a wrong type.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)

# Made once for each type: making them costs more than most decodes. Plain dicts, since typeshed's lru_cache takes no
# `type[T]` as a hashable argument.
_DECODERS: Final[dict[Any, tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]]] = {}
_TYPES: Final[dict[Any, inspect.Type]] = {}
_FIELDS: Final[dict[Any, dict[str, inspect.Type]]] = {}


def view(raw: bytes | msgspec.Raw, type_: type[T], *, path: str = "$") -> T:
    """Decode JSON text into a view; keys that the view does not know are passed over. O(size of the text).

    >>> from taskfold.model.policy import RestartPolicy
    >>> view(b'{"Attempts": 2, "Delay": 2.5e+10, "Jitter": true}', RestartPolicy).delay_ns
    25000000000

    `path` is where the text stands in its document, for the message of the `DecodeError` that a wrong type raises.
    """
    strict, lax = _decoders(type_)
    try:
        return strict.decode(raw)
    except msgspec.ValidationError:
        pass  # A wrong type, or a whole number written as a float: the lax decoder tells which.
    except _UNREADABLE as error:
        raise _refusal(error, path) from error
    # Nomad's own documentation writes durations as 1e+10. Of msgspec only the lax mode reads those as int, but it
    # takes "5" for 5 and 1 for true as well; so what it read is compared with what was sent. No recorded answer
    # needs any of this, hence strict first.
    try:
        value = lax.decode(raw)
        original = msgspec.json.decode(raw)
    except _UNREADABLE as error:
        raise _refusal(error, path) from error
    coerced = next(_coercions(original, msgspec.json.decode(msgspec.json.encode(value)), path), None)
    if coerced is not None:
        raise DecodeError(coerced)
    return value


def optional_view(raw: bytes | msgspec.Raw | None, type_: type[T], *, path: str = "$") -> T | None:
    """Decode like `view`; None where there is no text or it says `null`.

    >>> from taskfold.nomad.views import Job
    >>> optional_view(b"null", Job) is None
    True
    """
    if raw is None or bytes(raw).strip() in (b"", b"null"):
        return None
    return view(raw, type_, path=path)


def unknown_keys(raw: bytes | msgspec.Raw, type_: type[Any], *, path: str = "$") -> list[str]:
    """Return the JSON paths of the keys that a view does not know, at every level. O(size of the text).

    >>> from taskfold.nomad.views import Job
    >>> unknown_keys(b'{"TaskGroups": [{"Name": "cache", "Tasks": [{"Foo": 1}]}]}', Job)
    ['$.TaskGroups[0].Tasks[0].Foo']

    Inside free-form values (a task's Config, Meta) every key is known. Values of a wrong type are `view`'s business.
    """
    try:
        value = msgspec.json.decode(raw)
    except _UNREADABLE as error:
        raise _refusal(error, path) from error
    if type_ not in _TYPES:
        _TYPES[type_] = inspect.type_info(type_)
    return list(_unknown(value, _TYPES[type_], path))


def _decoders(type_: type[T]) -> tuple[msgspec.json.Decoder[T], msgspec.json.Decoder[T]]:
    """Return the strict and the lax decoder of a type."""
    if type_ not in _DECODERS:
        _DECODERS[type_] = (msgspec.json.Decoder(type_), msgspec.json.Decoder(type_, strict=False))
    return _DECODERS[type_]


def _fields(struct: inspect.StructType) -> dict[str, inspect.Type]:
    """Return the fields of a struct by their names on the wire."""
    if struct.cls not in _FIELDS:
        _FIELDS[struct.cls] = {field.encode_name: field.type for field in struct.fields}
    return _FIELDS[struct.cls]


def _plain(kind: inspect.Type) -> inspect.Type:
    """Return a type without its metadata and its null: every union of the views is "something or null"."""
    if isinstance(kind, inspect.Metadata):
        return _plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _plain(next(member for member in kind.types if not isinstance(member, inspect.NoneType)))
    return kind


def _unknown(value: object, kind: inspect.Type, path: str) -> Iterator[str]:
    """Walk a decoded value and the type it is read as side by side; yield the path of each key without a field."""
    kind = _plain(kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = _fields(kind)
        for key, item in value.items():
            if key in fields:
                yield from _unknown(item, fields[key], _member(path, key))
            else:
                yield _member(path, key)
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for key, item in value.items():
            yield from _unknown(item, kind.value_type, _member(path, key))
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        for position, item in enumerate(value):
            yield from _unknown(item, kind.item_type, f"{path}[{position}]")


def _coercions(original: object, read: object, path: str) -> Iterator[str]:
    """Yield a message for each value that was read as another type than it was sent; number for number is fine."""
    if isinstance(original, dict) and isinstance(read, dict):
        for key in original:
            if key in read:
                yield from _coercions(original[key], read[key], _member(path, key))
    elif isinstance(original, list) and isinstance(read, list):
        for position, (original_item, read_item) in enumerate(zip(original, read, strict=True)):
            yield from _coercions(original_item, read_item, f"{path}[{position}]")
    elif type(original) is not type(read) and not (type(original) in (int, float) and type(read) in (int, float)):
        yield f"Expected `{type(read).__name__}`, got `{type(original).__name__}` - at `{path}`"


def _member(path: str, key: str) -> str:
    """Return the path of a member: `$.redis`, or `$["a b"]` where the key is no plain word."""
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{msgspec.json.encode(key).decode()}]"


def _refusal(error: Exception, path: str) -> DecodeError:
    """Return the error to raise for one of msgspec's, its path beginning where the document does."""
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return DecodeError(f"not JSON: {message} - at `{path}`")
    what, _, where = message.rpartition(" - at `$")
    return DecodeError(f"{what} - at `{path}{where}" if what else f"{message} - at `{path}`")
