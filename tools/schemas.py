"""The JSON Schemas of everything that taskfold reads and writes, made from the types when it is built.

``python -m tools.schemas --write schemas`` writes them, ``--check schemas`` names those that are stale.

The types say the shape (`AllocationView` and the views below it, `Record`, `LogHeader`), and what stands in their
docstrings becomes the descriptions. Which fields a dialect has, and which of them it always sends, is asked of the
codecs: nothing about a Nomad is written here. Objects of the wire may have further properties, since a newer Nomad
sends more; those of the log may not.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from taskfold.fold.allocation import AllocationState
from taskfold.fold.task import TaskState
from taskfold.model.dialect import DIALECTS, Dialect
from taskfold.model.events import EVENT_TYPES, EventType, SiblingTaskFailed
from taskfold.model.inputs import PostedInput
from taskfold.model.record import FORMAT, LogHeader, Record, Write
from taskfold.nomad.events import event_fields
from taskfold.nomad.fields import ALLOCATION_FIELDS, allocation_fields
from taskfold.nomad.snapshot import Snapshot
from taskfold.nomad.task_states import task_state_to_json
from taskfold.nomad.views import AllocationView

__all__ = [
    "allocation_schema",
    "as_text",
    "documents",
    "event_types",
    "input_schema",
    "log_header_schema",
    "main",
    "record_schema",
    "schema_of",
    "stub_schema",
    "write_or_check",
    "write_schema",
]

Schema: TypeAlias = dict[str, Any]


# --- the documents ---


def documents() -> dict[str, bytes]:
    """Return every generated file: its text by name. The same types give the same bytes."""
    files = {
        "event-types": event_types(),
        f"log-header-{FORMAT}": log_header_schema(),
        f"record-{FORMAT}": record_schema(),
        f"write-{FORMAT}": write_schema(),
        f"input-{FORMAT}": input_schema(),
    }
    for dialect in DIALECTS.values():
        files[f"allocation-{dialect.name}"] = allocation_schema(dialect)
        files[f"stub-{dialect.name}"] = stub_schema(dialect)
    return {f"{name}.json": as_text(files[name]) for name in sorted(files)}


def allocation_schema(dialect: Dialect) -> Schema:
    """Return the schema of the body of ``/v1/allocation/<id>`` in a dialect."""
    body = Snapshot.of(_BARE, dialect).to_json()
    description = f"The body of GET /v1/allocation/<id> as Nomad {dialect.name} sends it."
    if dialect.omits_empty:
        description += " What is empty is left out: a property that is missing has its default."
    return _document(
        f"allocation-{dialect.name}",
        _wire_definitions(dialect, allocation_fields(dialect), _keys(body)),
        AllocationView,
        {"title": f"Allocation of Nomad {dialect.name}", "description": description},
    )


def stub_schema(dialect: Dialect) -> Schema:
    """Return the schema of an entry of the list of ``/v1/allocations`` in a dialect."""
    bare = Snapshot.of(_BARE, dialect)
    body, largest = (bare.to_stub_json(resources=with_resources) for with_resources in (False, True))
    description = f"An entry of the list that GET /v1/allocations gives, as Nomad {dialect.name} sends it."
    return _document(
        f"stub-{dialect.name}",
        _wire_definitions(dialect, _keys(largest), _keys(body)),
        AllocationView,
        {"title": f"Entry of a list of allocations of Nomad {dialect.name}", "description": description},
    )


_BARE: Final = AllocationState(id="a", version=1, modify_index=1, placed_body=b"{}", updates={}, tasks={})
"""An allocation of which nothing else is told: what is written of it is what a dialect always sends."""


_SEAL: Final = {
    "type": "string",
    "pattern": "^[0-9a-f]{8}$",
    "description": "In a file, of the last line of each write: the CRC-32 of all bytes since the seal before it.",
}


def record_schema() -> Schema:
    """Return the schema of a record: every line of a log but its first."""
    definitions = _definitions(Record)
    # Any JSON text to the type; the fold reads an object.
    definitions["Placed"]["properties"]["Body"]["type"] = "object"
    definitions["Record"]["properties"]["Seal"] = _SEAL
    return _document(f"record-{FORMAT}", definitions, Record, {"title": "Record of a taskfold log"})


def write_schema() -> Schema:
    """Return the schema of a line that ``POST /v1/allocations/events`` takes."""
    definitions = _definitions(Write)
    definitions["Placed"]["properties"]["Body"]["type"] = "object"
    return _document(f"write-{FORMAT}", definitions, Write, {"title": "Record that is asked for"})


def input_schema() -> Schema:
    """Return the schema of a line that ``POST /v1/allocations/inputs`` takes."""
    return schema_of(PostedInput, f"input-{FORMAT}", "Input that is to be decided on")


def schema_of(type_: type[Struct], name: str, title: str) -> Schema:
    """Return the schema of a struct and of all below it."""
    return _document(name, _definitions(type_), type_, {"title": title})


def log_header_schema() -> Schema:
    """Return the schema of the first line of an NDJSON log."""
    definitions = _definitions(LogHeader)
    fields = definitions["LogHeader"]["properties"]
    fields["taskfold"]["const"] = FORMAT
    fields["dialect"]["enum"] = list(DIALECTS)
    fields["Seal"] = _SEAL
    return _document(f"log-header-{FORMAT}", definitions, LogHeader, {"title": "Header of a taskfold log"})


def event_types() -> Schema:
    """Return the registry of task event types, as data: it is no schema."""
    rows = [
        {
            "aliases": row.aliases,
            "annotations": row.annotations,
            "documented": row.documented,
            "meaning": row.meaning,
            "since": row.since,
            "type": row.wire,
        }
        for row in EVENT_TYPES
    ]
    return {"description": "Every type of task event of every Nomad, the documented ones first.", "types": rows}


# --- what a dialect sends ---


def _wire_definitions(dialect: Dialect, names: Sequence[str], required: Sequence[str]) -> dict[str, Schema]:
    """Return the definitions below an allocation that has these top-level fields, some of them always."""
    definitions = _definitions(AllocationView, dialect)
    _keep(definitions["Allocation"], names, required)
    for name, field in definitions["Allocation"]["properties"].items():
        field["default"] = json.loads(ALLOCATION_FIELDS[name].zero)
    state_keys = _keys(task_state_to_json(TaskState(), dialect))
    _keep(definitions["TaskState"], state_keys, state_keys)
    _keep(definitions["TaskEvent"], event_fields(dialect), event_fields(dialect))
    definitions["TaskEvent"]["properties"]["Type"] |= _type_schema(dialect)
    return definitions


def _keys(body: bytes) -> list[str]:
    return list(json.loads(body))


def _keep(definition: Schema, names: Sequence[str], required: Sequence[str]) -> None:
    """Leave an object these properties, and have it require some of them."""
    definition["properties"] = {name: definition["properties"][name] for name in names}
    definition["required"] = list(required)


def _type_schema(dialect: Dialect) -> Schema:
    """Return what an event's Type may be: one that the dialect knows, or, since types are open, any other text."""
    meanings = {_spelling(row, dialect): row.meaning for row in EVENT_TYPES if dialect.has(row.since)}
    lines = ["What happened. Known types, others are fine:", *(f"{wire}: {text}" for wire, text in meanings.items())]
    return {"description": "\n".join(lines), "anyOf": [{"enum": list(meanings)}, {"type": "string"}]}


def _spelling(row: EventType, dialect: Dialect) -> str:
    return dialect.sibling_type if row.cls is SiblingTaskFailed else row.wire


# --- from types to definitions ---


def _definitions(type_: type[Struct], dialect: Dialect | None = None) -> dict[str, Schema]:
    """Return the schema of a struct and of every struct below it, by name, with their docstrings."""
    _, components = msgspec.json.schema_components([type_], ref_template="#/$defs/{name}")
    for cls in set(_structs(types.type_info(type_))):
        _describe(components[cls.__name__], cls)
    return {_name(name): _tidied(schema, dialect) for name, schema in components.items()}


def _name(cls_name: str) -> str:
    """Return the name of a definition: to who reads the schema, a view is the thing itself."""
    return cls_name.removesuffix("View")


def _structs(kind: types.Type, ancestors: frozenset[type[Struct]] = frozenset()) -> Iterator[type[Struct]]:
    """Yield every struct of a type, at every level; some come more than once."""
    match kind:
        case types.StructType(cls=cls, fields=fields) if cls not in ancestors:
            yield cls
            for field in fields:
                yield from _structs(field.type, ancestors | {cls})
        case types.Metadata(type=inner) | types.VarTupleType(item_type=inner) | types.DictType(value_type=inner):
            yield from _structs(inner, ancestors)
        case types.UnionType(types=members):
            for member in members:
                yield from _structs(member, ancestors)


def _describe(schema: Schema, cls: type[Struct]) -> None:
    """Put the docstrings of a struct and of its attributes into its schema, in the words of the wire."""
    schema["title"] = _name(cls.__name__)
    names = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    schema["description"] = _in_words_of_the_wire(cls.__doc__ or "", names)
    for attribute, text in _attribute_docs(cls).items():
        if attribute not in names:  # of the class itself
            continue
        schema["properties"][names[attribute]].setdefault("description", _in_words_of_the_wire(text, names))


@cache  # reading sources takes longest by far
def _attribute_docs(cls: type[Struct]) -> dict[str, str]:
    """Return the text below each attribute of a struct, its own or inherited. O(length of the source)."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not (issubclass(base, Struct) and base is not Struct):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in pairwise(definition.body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = text
    return docs


def _in_words_of_the_wire(text: str, names: Mapping[str, str]) -> str:
    """Return a docstring as somebody who does not know Python should read it: no examples, Nomad's names, null."""
    prose = inspect.cleandoc(text).partition(">>>")[0].strip()
    prose = re.sub(r"(?<!\n)\n(?!\n)", " ", prose)
    prose = re.sub(r"\bNone\b", "null", prose)
    return re.sub(r"`+([^`]*)`+", lambda match: names.get(match[1], match[1]), prose)


_MARKS: Final = ("x-since", "x-until")
_UNWANTED: Final = (*_MARKS, "discriminator")
"""What is not in the vocabulary of JSON Schema, and strict validators refuse."""


def _tidied(value: Any, dialect: Dialect | None) -> Any:
    """Return a schema without the properties that the dialect does not have, in the vocabulary of JSON Schema only."""
    if isinstance(value, list):
        return [_tidied(item, dialect) for item in value]
    if not isinstance(value, dict):
        return value
    tidied = {name: _tidied(item, dialect) for name, item in value.items() if name not in _UNWANTED}
    if "$ref" in value:
        tidied["$ref"] = _name(value["$ref"])
    if "anyOf" in value:
        # Releases of msgspec differ in where null stands; here it is the last.
        tidied["anyOf"].sort(key=_NULL_SCHEMA.__eq__)
    if "properties" in value and dialect is not None:
        lacking = [name for name, schema in value["properties"].items() if not _has(dialect, schema)]
        tidied["properties"] = {name: tidied["properties"][name] for name in value["properties"] if name not in lacking}
    if tidied.get("required") == []:
        del tidied["required"]
    return tidied


_NULL_SCHEMA: Final[Schema] = {"type": "null"}


def _has(dialect: Dialect, schema: Schema) -> bool:
    """Tell whether a dialect has a property, by the marks that `since` and `until` left."""
    since, until = (schema.get(mark, dialect.name) for mark in _MARKS)
    return dialect.has(since) and (until == dialect.name or not dialect.has(until))


_HOME: Final = "https://taskfold.invalid/schemas"
"""A name to resolve references against, also by who knows no URN. No host has it (RFC 2606): nobody fetches it."""


def _document(name: str, definitions: dict[str, Schema], root: type[Struct], root_schema: Schema) -> Schema:
    """Return the document whose root is this struct, with those definitions that it needs."""
    top = definitions[_name(root.__name__)] | root_schema
    needed = _needed(top, definitions)
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{_HOME}/{name}.json"} | top
    return document | ({"$defs": {each: definitions[each] for each in needed}} if needed else {})


def _needed(schema: Schema, definitions: Mapping[str, Schema]) -> set[str]:
    """Return the names of the definitions that a schema refers to, and those that these refer to."""
    names: set[str] = set()
    waiting = [schema]
    while waiting:
        new = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(waiting.pop()))) - names
        names |= new
        waiting.extend(definitions[name] for name in new)
    return names


# --- the command ---


_MADE_ELSEWHERE: Final = "openapi*.json"
"""What `tools.openapi` makes of these schemas, and checks by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the schemas into a folder, or check those that are there; return the exit status."""

    def there(folder: Path) -> set[str]:
        return {path.name for path in folder.glob("*.json") if not path.match(_MADE_ELSEWHERE)}

    return write_or_check("python -m tools.schemas", documents, there, arguments)


def write_or_check(
    program: str,
    make: Callable[[], dict[str, bytes]],
    there: Callable[[Path], set[str]],
    arguments: Sequence[str] | None,
) -> int:
    """Write what is made into a folder, or name each of the files there that is not what is made; return the status."""
    parser = argparse.ArgumentParser(prog=program, description="Write what the types say into a folder, or check it.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="FOLDER", type=Path, help="write every file into this folder")
    action.add_argument("--check", metavar="FOLDER", type=Path, help="exit with 1 and name what is stale")
    options = parser.parse_args(arguments)
    try:
        if options.write is not None:
            options.write.mkdir(parents=True, exist_ok=True)
            for name, text in make().items():
                (options.write / name).write_bytes(text)
            return 0
        stale = _stale_files(options.check, make(), there(options.check))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    sys.stderr.writelines(f"{line}\n" for line in stale)
    return 1 if stale else 0


def _stale_files(folder: Path, files: Mapping[str, bytes], there: set[str]) -> list[str]:
    """Return a sentence for each file of a folder that is not what the types say."""
    problems = dict.fromkeys(files.keys() - there, "is missing")
    problems |= dict.fromkeys(there - files.keys(), "no type makes it")
    problems |= {name: "is stale" for name in files.keys() & there if (folder / name).read_bytes() != files[name]}
    return [f"{folder / name}: {problems[name]}" for name in sorted(problems)]


def as_text(value: object, *, is_sorted: bool = True) -> bytes:
    """Return JSON as the committed files have it: indented, with a newline at its end."""
    return (json.dumps(value, indent=2, sort_keys=is_sorted, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    sys.exit(main())
