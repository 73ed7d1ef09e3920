"""Pictures of the lifecycle, drawn from the machine itself: mermaid, dot, and a table in markdown."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

from taskfold.fold.lifecycle import PENDING, STATES, TABLES, Lifecycle, lifecycle_of, trigger_name
from taskfold.fold.task import Task, apply
from taskfold.model.dialect import Dialect
from taskfold.model.errors import Refused
from taskfold.model.events import wire_type
from taskfold.model.record import Finished, Record
from taskfold.model.words import visible

__all__ = ["FORMATS", "TaskPath", "diagram", "path_of"]

_END_WITHOUT_EVENT: Final = "(no event)"
"""How the internal event that ends a task is shown: on the wire it is the absence of one."""


class _Label(NamedTuple):
    """An event type at an arrow, and whether it was reached there; None where nobody asks."""

    name: str
    is_reached: bool | None = None

    def __str__(self) -> str:
        """Return the name with its mark."""
        return f"{_MARKS[self.is_reached]}{self.name}"


_MARKS: Final[Mapping[bool | None, str]] = {None: "", True: "✓ ", False: "✗ "}
_COLOURS: Final[Mapping[bool | None, tuple[str, ...]]] = {
    None: (),
    True: ("color=darkgreen", "fontcolor=darkgreen"),
    False: ("color=red", "fontcolor=red"),
}

ReachedPairs: TypeAlias = Container[tuple[str, str]] | None
"""The (state, wire type) pairs that were reached, ``Finished`` among the types; None where nobody asks."""

_Labels: TypeAlias = dict[tuple[str, str], list[_Label]]

TaskPath: TypeAlias = Mapping[tuple[str, str, str], int]
"""The moves of one task: the state before, the type of the event, and the state after, with how often it moved so.

The type is that of the wire, or of an internal event such as ``Finished``; a state that nobody knows is empty.
"""


def path_of(records: Iterable[Record], dialect: str | Dialect) -> TaskPath:
    """Return the path that a task took, from its records in order, and nothing else's. O(records).

    >>> from taskfold.events import Restarting, Started, Terminated
    >>> events = [Started(), Terminated(exit_code=1), Restarting(), Started()]
    >>> records = [Record(index=n, alloc="a", version=n, task="web", event=each) for n, each in enumerate(events, 1)]
    >>> path = path_of(records, "1.1.2")
    >>> path["pending", "Started", "running"], path["running", "Restarting", "pending"]
    (2, 1)
    """
    lifecycle, task, moves = lifecycle_of(dialect), Task(), Counter[tuple[str, str, str]]()
    for record in records:
        before = task.state
        apply(task, record, lifecycle, "keep")
        moves[before, wire_type(record.event), task.state] += 1
    return moves


def _label(cls: type[Any], state: str, reached: ReachedPairs) -> _Label:
    """Return how an event type is shown where it is legal in a state."""
    tag = str(cls.__struct_config__.tag)
    name = _END_WITHOUT_EVENT if cls is Finished else tag
    return _Label(name, None if reached is None else (state, tag) in reached)


def _arrows(lifecycle: Lifecycle, reached: ReachedPairs) -> _Labels:
    """Return the event types that move a task from one state to another (or leave it), in the order of the table."""
    arrows: _Labels = defaultdict(list)
    for cls in TABLES[lifecycle.dialect.name]:
        for transition in lifecycle.machine.get_transitions(trigger_name(cls)):
            # An internal transition has no destination: the state stays.
            source, target = transition.source, transition.dest or transition.source
            arrows[source, target].append(_label(cls, source, reached))
    return {(a, b): arrows[a, b] for a in STATES for b in STATES if (a, b) in arrows}


def _mermaid(lifecycle: Lifecycle, reached: ReachedPairs) -> str:
    lines = ["stateDiagram-v2", f"    [*] --> {PENDING}"]
    arrows = {ends: "<br/>".join(map(str, labels)) for ends, labels in _arrows(lifecycle, reached).items()}
    lines += [f"    {a} --> {b}: {labels}" for (a, b), labels in arrows.items() if a != b]
    lines += [f"    note right of {a}: stays {a}<br/>{labels}" for (a, b), labels in arrows.items() if a == b]
    return "\n".join(lines) + "\n"


def _dot(lifecycle: Lifecycle, reached: ReachedPairs) -> str:
    lines = ["digraph lifecycle {", "    rankdir=LR;", "    node [shape=box, style=rounded];"]
    lines += ["    start [shape=point];", f"    start -> {PENDING};"]
    for (source, target), labels in _arrows(lifecycle, reached).items():
        # What was reached and what was not are two arrows, each of a colour.
        for is_reached, group in groupby(sorted(labels, key=_is_missing), key=lambda label: label.is_reached):
            colours = _COLOURS[is_reached]
            if source == target:
                colours = ("style=dashed", *(colours or ("color=gray40", "fontcolor=gray40")))
            label = "\\n".join(map(str, group))
            attributes = ", ".join((f'label="{label}"', *colours))
            lines.append(f"    {source} -> {target} [{attributes}];")
    return "\n".join([*lines, "}"]) + "\n"


def _moves(path: TaskPath) -> dict[tuple[str, str], list[str]]:
    """Return the events of a path with their counts, by the states before and after, in the order of the states."""
    order = (*STATES, "")
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for before, name, after in sorted(path, key=lambda move: (order.index(move[0]), order.index(move[2]))):
        # An unknown type may be any text, and must not end the label that it stands in.
        event = _END_WITHOUT_EVENT if name == "Finished" else _QUOTES.sub("'", visible(name))
        labels[before or _UNKNOWN, after or _UNKNOWN].append(f"{event} ×{path[before, name, after]}")
    return labels


_UNKNOWN: Final = "unknown"
_QUOTES: Final = re.compile(r"[\"|<>:;\\]")


def _mermaid_path(path: TaskPath) -> str:
    lines = ["stateDiagram-v2", f"    [*] --> {PENDING}"]
    moves = {ends: "<br/>".join(labels) for ends, labels in _moves(path).items()}
    lines += [f"    {a} --> {b}: {labels}" for (a, b), labels in moves.items() if a != b]
    lines += [f"    note right of {a}: stays {a}<br/>{labels}" for (a, b), labels in moves.items() if a == b]
    return "\n".join(lines) + "\n"


def _dot_path(path: TaskPath) -> str:
    lines = ["digraph path {", "    rankdir=LR;", "    node [shape=box, style=rounded];"]
    lines += ["    start [shape=point];", f"    start -> {PENDING};"]
    for (before, after), labels in _moves(path).items():
        style = ", style=dashed" if before == after else ""
        label = "\\n".join(labels)
        lines.append(f'    {before} -> {after} [label="{label}"{style}];')
    return "\n".join([*lines, "}"]) + "\n"


def _table_path(path: TaskPath) -> str:
    lines = ["| from | event | to | times |", "|---|---|---|--:|"]
    for (before, after), labels in _moves(path).items():
        for label in labels:
            name, _, times = label.rpartition(" ×")
            lines.append(f"| {before} | {name} | {'=' if before == after else f'**{after}**'} | {times} |")
    return "\n".join(lines) + "\n"


_PATH_FORMATS: Final[dict[str, Callable[[TaskPath], str]]] = {
    "mermaid": _mermaid_path,
    "dot": _dot_path,
    "table": _table_path,
}


def _is_missing(label: _Label) -> bool:
    return label.is_reached is False


def _table(lifecycle: Lifecycle, reached: ReachedPairs) -> str:
    lines = [
        f"| event | {' | '.join(f'from {state}' for state in STATES)} | source |",
        "|---" * (len(STATES) + 2) + "|",
    ]
    for cls, row in TABLES[lifecycle.dialect.name].items():
        targets = lifecycle.rules[cls].targets
        labels = {state: _label(cls, state, reached) for state in STATES}
        cells = [_cell(state, targets.get(state), _MARKS[labels[state].is_reached]) for state in STATES]
        lines.append(f"| {labels[PENDING].name} | {' | '.join(cells)} | {row.source} |")
    return "\n".join(lines) + "\n"


def _cell(state: str, target: str | None, mark: str) -> str:
    if target is None:
        return "–"
    return mark + ("=" if target == state else f"**{target}**")


FORMATS: Final[dict[str, Callable[[Lifecycle, ReachedPairs], str]]] = {
    "mermaid": _mermaid,
    "dot": _dot,
    "table": _table,
}
"""The formats of a diagram."""


def diagram(
    dialect: str | Dialect, format: str = "mermaid", *, reached: ReachedPairs = None, path: TaskPath | None = None
) -> str:
    """Return the lifecycle of a dialect as a text in one of `FORMATS`.

    With the (state, wire type) pairs that were `reached`, each event is marked: ✓ where it was, ✗ where it was not; a
    `dot` has them in two colours.

    With the `path` of a task, only its moves are drawn, each with how often it was made.

    In the table, ``=`` is a state that stays, and a dash an event that is illegal there.

    >>> print(diagram("0.5.6", "table").splitlines()[10])
    | Driver Failure | = | – | – | task_runner.go run after startTask; seen |
    >>> print(diagram("0.5.6", reached={("running", "Restarting")}).splitlines()[4])
        running --> pending: ✗ Driver<br/>✓ Restarting

    Raises DialectError, and Refused for an unknown format.
    """
    try:
        draw = FORMATS[format]
    except KeyError:
        msg = f"{format!r} is not a format of diagrams; there are {', '.join(FORMATS)}"
        raise Refused(msg) from None
    if path is not None:
        return _PATH_FORMATS[format](path)
    return draw(lifecycle_of(dialect), reached)
