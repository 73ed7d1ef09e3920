"""Pictures of the lifecycle, drawn from the machine itself: mermaid, dot, and a table in markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from taskfold.fold.lifecycle import PENDING, STATES, TABLES, Lifecycle, lifecycle_of, trigger_name
from taskfold.model.dialect import Dialect
from taskfold.model.errors import Refused
from taskfold.model.record import Finished

__all__ = ["FORMATS", "diagram"]

_END_WITHOUT_EVENT: Final = "(no event)"
"""How the internal event that ends a task is shown: on the wire it is the absence of one."""


def _arrows(lifecycle: Lifecycle) -> dict[tuple[str, str], list[str]]:
    """Return the event types that move a task from one state to another (or leave it), in the order of the table."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cls in TABLES[lifecycle.dialect.name]:
        name = _END_WITHOUT_EVENT if cls is Finished else str(cls.__struct_config__.tag)
        for transition in lifecycle.machine.get_transitions(trigger_name(cls)):
            # An internal transition has no destination: the state stays.
            arrows[transition.source, transition.dest or transition.source].append(name)
    return {(a, b): arrows[a, b] for a in STATES for b in STATES if (a, b) in arrows}


def _mermaid(lifecycle: Lifecycle) -> str:
    lines = ["stateDiagram-v2", f"    [*] --> {PENDING}"]
    for (source, target), names in _arrows(lifecycle).items():
        if source != target:
            lines.append(f"    {source} --> {target}: {'<br/>'.join(names)}")
    lines += [f"    note right of {s}: stays {s}<br/>{'<br/>'.join(names)}" for s, names in _stays(lifecycle).items()]
    return "\n".join(lines) + "\n"


def _stays(lifecycle: Lifecycle) -> dict[str, list[str]]:
    """Return the event types that leave each state as it is."""
    return {source: names for (source, target), names in _arrows(lifecycle).items() if source == target}


def _dot(lifecycle: Lifecycle) -> str:
    lines = ["digraph lifecycle {", "    rankdir=LR;", "    node [shape=box, style=rounded];"]
    lines += ["    start [shape=point];", f"    start -> {PENDING};"]
    for (source, target), names in _arrows(lifecycle).items():
        style = ", style=dashed, color=gray40, fontcolor=gray40" if source == target else ""
        label = "\\n".join(names)
        lines.append(f'    {source} -> {target} [label="{label}"{style}];')
    return "\n".join([*lines, "}"]) + "\n"


def _table(lifecycle: Lifecycle) -> str:
    lines = [
        f"| event | {' | '.join(f'from {state}' for state in STATES)} | source |",
        "|---" * (len(STATES) + 2) + "|",
    ]
    for cls, row in TABLES[lifecycle.dialect.name].items():
        name = _END_WITHOUT_EVENT if cls is Finished else str(cls.__struct_config__.tag)
        targets = lifecycle.rules[cls].targets
        cells = [_cell(state, targets[state]) for state in STATES]
        lines.append(f"| {name} | {' | '.join(cells)} | {row.source} |")
    return "\n".join(lines) + "\n"


def _cell(state: str, target: str | None) -> str:
    if target is None:
        return "–"
    return "=" if target == state else f"**{target}**"


FORMATS: Final[dict[str, Callable[[Lifecycle], str]]] = {"mermaid": _mermaid, "dot": _dot, "table": _table}
"""What can be drawn."""


def diagram(dialect: str | Dialect, format: str = "mermaid") -> str:
    """Return the lifecycle of a dialect as a text in one of `FORMATS`.

    In the table, ``=`` is a state that stays, and a dash an event that is illegal there.

    >>> print(diagram("0.5.6", "table").splitlines()[10])
    | Driver Failure | = | – | – | task_runner.go run after startTask; seen |

    Raises DialectError, and Refused for an unknown format.
    """
    try:
        draw = FORMATS[format]
    except KeyError:
        msg = f"{format!r} is not a format of diagrams; there are {', '.join(FORMATS)}"
        raise Refused(msg) from None
    return draw(lifecycle_of(dialect))
