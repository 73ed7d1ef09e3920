"""The registry of stores: the only place that maps a name, a URL or a file's first bytes to a kind of store.

The built-in stores are imported on demand. Another store is registered by `register`, or by an entry point of the group
``taskfold.stores`` whose object is a `StoreKind`:
```toml
[project.entry-points."taskfold.stores"]
mine = "my_package.store:KIND"
```
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

from taskfold.log.compression import COMPRESSIONS
from taskfold.log.contract import EventLog, StoredLog, TakesRecords
from taskfold.log.files import is_new
from taskfold.log.lines import readable
from taskfold.log.log_source import OpenLog
from taskfold.log.names import shown_name
from taskfold.log.store_kind import LogSource, NamedLog, StoreKind
from taskfold.model.errors import LogError

__all__ = [
    "LogLike",
    "check_new",
    "is_log",
    "is_new_log",
    "kind_named",
    "kind_of",
    "kind_of_bytes",
    "kinds",
    "log_source",
    "open_log",
    "open_reader",
    "register",
    "server_kind",
    "stored_log",
]

LogLike: TypeAlias = str | Path | EventLog
"""A log by its name, or an open one."""

_BUILT_IN: Final = ("taskfold.log.sqlite.kind", "taskfold.log.ndjson.kind", "taskfold.log.postgres.kind")
"""SQLite comes first: it must recognise its databases before anything else opens them."""
_TEXT: Final = "taskfold.log.ndjson.kind"
"""The store that reads any file that no other store recognises."""
_GROUP: Final = "taskfold.stores"
_TEXT_BEGINNINGS: Final = (b"{", b"[", *(compression.magic for compression in COMPRESSIONS))
"""The first bytes of JSON lines, compressed or not; for these, no entry point is imported."""

_registered: Final[list[StoreKind]] = []


def register(kind: StoreKind) -> None:
    """Register a kind of store for this process. Raises ValueError if another kind has one of its names.

    A kind of the same class is replaced.
    """
    _registered[:] = [other for other in _registered if type(other) is not type(kind)]
    for other in (*_built_in(), *_registered):
        if shared := {*kind.endings, *kind.schemes} & {*other.endings, *other.schemes}:
            raise ValueError(f"{', '.join(sorted(shared))} names a log of {other.title}: choose another name")
    _registered.append(kind)


@cache
def _built_in() -> tuple[StoreKind, ...]:
    return tuple(_kind_in(module) for module in _BUILT_IN)


def _kind_in(module: str) -> StoreKind:
    kind: StoreKind = import_module(module).KIND
    return kind


@cache
def _installed() -> tuple[StoreKind, ...]:
    """Return the stores installed as entry points. Raises LogError for one that is unusable."""
    from importlib.metadata import entry_points  # slow to import

    return tuple(_loaded(point) for point in entry_points(group=_GROUP))


def _loaded(point: Any) -> StoreKind:
    try:
        kind = point.load()
    except Exception as error:
        raise LogError(f"the store {point.name!r} ({point.value}) cannot be imported: {error!r}") from error
    kind = kind() if isinstance(kind, type) else kind
    if not isinstance(kind, StoreKind):
        raise LogError(f"the store {point.name!r} ({point.value}) must be a taskfold.log.StoreKind, not {kind!r}")
    return kind


def _others() -> Iterator[StoreKind]:
    """Yield the kinds from outside taskfold; the entry points are imported last."""
    yield from _registered
    yield from (kind for kind in _installed() if type(kind) not in map(type, _registered))


def kinds() -> Iterator[StoreKind]:
    """Yield every kind of store: built-in, registered, installed."""
    return chain(_built_in(), _others())


# --- recognising ------------------------------------------------------------------------------------------------------


def kind_named(name: str | Path) -> StoreKind | None:
    """Return the kind of store for a log of this name; None if no kind has such names."""
    text = str(name)
    return next((kind for kind in kinds() if kind.has_name(text)), None)


def server_kind(name: str | Path) -> StoreKind | None:
    """Return the kind of store for a URL; None for a path."""
    text = str(name)
    return next((kind for kind in kinds() if kind.schemes and kind.has_name(text)), None) if "://" in text else None


def stored_log(name: str | Path, label: str = "") -> NamedLog | None:
    """Return the log, intact or damaged, with this name; None for lines of JSON: a file, a pipe, or ``-``.

    A file is recognised by its content. Raises SourceError when it cannot be read.
    """
    text, label = str(name), label or str(name)
    if (kind := server_kind(text)) is not None:
        return NamedLog(kind, text)
    if text == "-":
        return None
    path = Path(text)
    with readable(label):
        for kind in (kind for kind in _built_in() if not kind.is_text and not kind.schemes):
            if kind.recognises(path):
                return NamedLog(kind, text, label)
        if path.is_file() and (_registered or not _begins_as_text(path)):
            for kind in _others():
                if not kind.schemes and kind.recognises(path):
                    return NamedLog(kind, text, label)
    return None


def kind_of(name: str | Path) -> StoreKind | None:
    """Return the kind of store of a log; None for a file that is no log, and for a pipe.

    Raises SourceError when it cannot be read.
    """
    log = stored_log(name)
    if log is not None:
        return log.kind
    text, kind = str(name), _kind_in(_TEXT)
    if text == "-" or (Path(text).exists() and not Path(text).is_file()):
        return None
    with readable(text):
        return kind if kind.recognises(Path(text)) else None


def kind_of_bytes(beginning: bytes) -> StoreKind | None:
    """Return the kind of store whose files start with these bytes; None for lines."""
    if beginning.startswith(_TEXT_BEGINNINGS):
        return None
    return next((kind for kind in kinds() if kind.magic and beginning.startswith(kind.magic)), None)


def _begins_as_text(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1 << 6).lstrip().startswith(_TEXT_BEGINNINGS)


def is_log(source: LogLike) -> bool:
    """Tell whether this is a log, by its first bytes; a pipe is not read, and counts as none."""
    return not isinstance(source, (str, os.PathLike)) or kind_of(source) is not None


def is_new_log(name: str | Path) -> bool:
    """Tell whether opening this name creates a log. Raises LogError when a database cannot be reached."""
    text = str(name)
    kind = server_kind(text)
    return is_new(name) if kind is None else kind.is_new(text)


def check_new(name: str | Path) -> None:
    """Check that no log of this name exists. Raises LogError."""
    if not is_new_log(name):
        raise LogError(f"{shown_name(str(name))}: exists already, and is never overwritten: choose another name")


# --- opening ----------------------------------------------------------------------------------------------------------


def open_log(
    name: str | Path, dialect: str | None = None, region: str = "global", *, reader: TakesRecords | None = None
) -> StoredLog:
    """Open the log with this name, or create it.

    A store that reads the whole log to open it passes the records to ``reader``, as a file of lines does. Raises
    LogError for a name of no store, and the errors of the store.
    """
    text = str(name)
    kind = kind_named(text)
    if kind is None:
        writable = (each for each in kinds() if each.endings or each.schemes)
        raise LogError(f"{text}: a log {', or '.join(map(_names_of, writable))}")
    return kind.open(text, dialect, region, reader=reader)


def _names_of(kind: StoreKind) -> str:
    """Describe the names of a kind's logs, for a list."""
    names = f"begins with {', '.join(kind.schemes)}" if kind.schemes else f"ends in {', '.join(kind.endings)}"
    return f"{names} ({kind.title})"


def open_reader(name: str | Path, *, reader: TakesRecords | None = None) -> EventLog:
    """Open the log with this name read-only, while others write it.

    A store that reads the whole log to open it passes the records to ``reader``. Raises LogError.
    """
    text = str(name)
    if is_new_log(name):
        raise LogError(f"{shown_name(text)}: there is no log")
    log = stored_log(text)
    return (_kind_in(_TEXT) if log is None else log.kind).open_reader(text, reader=reader)


def log_source(source: LogLike) -> LogSource:
    """Return a log as a source: an open one, or the one with this name.

    A file that no store recognises is read as lines, and errors appear when it is read. Raises SourceError when a file
    cannot be opened.
    """
    if not isinstance(source, (str, os.PathLike)):
        return OpenLog(source)
    text = str(source)
    is_file = text != "-" and Path(text).is_file()
    log = stored_log(text) if is_file or server_kind(text) is not None else None
    return NamedLog(_kind_in(_TEXT), text, text) if log is None else log
