"""Coverage of the tables by a run: transitions, inputs by their place, effects, and verdicts of restart policies.

While a `Reached` watches, the tables of the fold and of the decisions note their look-ups. Nothing else of them
changes, and without a watcher there is no cost. The entries to reach are read from the same tables.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TypeAlias, get_args

import msgspec

from taskfold.decision import decision as decisions
from taskfold.decision.restart import VERDICTS, Verdict, decide_restart
from taskfold.decision.rules import ALLOCATION_RULES, RULES, place_of
from taskfold.fold.diagram import diagram
from taskfold.fold.lifecycle import STATES, Lifecycle, lifecycle_of
from taskfold.model.dialect import DIALECTS, Dialect, dialect_of
from taskfold.model.effects import AnyEffect, Step
from taskfold.model.errors import IllegalEvent
from taskfold.model.events import TaskEvent
from taskfold.model.inputs import NEW_CLIENT_ONLY, Input
from taskfold.model.policy import EXCEEDED, RestartPolicy
from taskfold.model.record import Finished

__all__ = ["KINDS", "Pair", "Reached", "reachable", "refusable", "watched"]

Pair: TypeAlias = tuple[str, str]
"""An entry of a table: a state and an event, a place and an input, a decision and its reason."""

WHOLE: Final = "allocation"
"""The place of an input of an allocation as a whole."""
_ANYWHERE: Final = ""
"""The place of effects, which have none."""


# --- what there is to reach ---


def _pairs(dialect: Dialect) -> Iterator[tuple[Pair, bool]]:
    """Yield the (state, event) pairs of a dialect, and whether each is legal."""
    for cls, rule in lifecycle_of(dialect).rules.items():
        for state in STATES:
            # `get` is not noted.
            yield (state, _tag(cls)), rule.targets.get(state) is not None


def _tag(cls: type[Any]) -> str:
    return str(cls.__struct_config__.tag)


def _transitions(dialect: Dialect) -> Iterator[Pair]:
    return (pair for pair, is_legal in _pairs(dialect) if is_legal)


def _inputs(dialect: Dialect) -> Iterator[Pair]:
    places = [*((kind, place) for kind, rule in RULES.items() for place in rule.fits)]
    for kind, place in [*places, *((kind, WHOLE) for kind in ALLOCATION_RULES)]:
        if dialect.has_new_client or kind not in NEW_CLIENT_ONLY:
            yield place, kind.__name__


def _effects(_: Dialect) -> Iterator[Pair]:
    return ((_ANYWHERE, cls.__name__) for cls in get_args(AnyEffect))


def _verdicts(dialect: Dialect) -> Iterator[Pair]:
    for decision, reasons in VERDICTS.items():
        if dialect.has_new_client or decision != "Killed":
            yield from ((decision, reason) for reason in reasons)


KINDS: Final[Mapping[str, Callable[[Dialect], Iterable[Pair]]]] = {
    "transitions": _transitions,
    "inputs": _inputs,
    "effects": _effects,
    "restarts": _verdicts,
}
"""A kind of entry, and all its entries in a dialect."""


def reachable(kind: str, dialect: str | Dialect) -> list[Pair]:
    """Return what there is to reach of a kind in a dialect, in the order of its table. O(table).

    >>> ("pending", "Started") in reachable("transitions", "1.1.2")
    True
    >>> reachable("effects", "1.1.2")
    [('', 'StartTask'), ('', 'KillTask'), ('', 'SignalTask'), ('', 'ReleaseResources')]
    """
    return [*KINDS[kind](dialect_of(dialect))]


def refusable(dialect: str | Dialect) -> list[Pair]:
    """Return the (state, event) pairs that a dialect refuses, in the order of its table. O(table)."""
    return [pair for pair, is_legal in _pairs(dialect_of(dialect)) if not is_legal]


# --- what was reached ---


class Reached:
    """The reached entries, of each kind and in each dialect."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[str, str], set[Pair]] = {}
        """The pairs by kind and dialect."""

    def note(self, kind: str, dialect: str, where: str, what: str) -> None:
        """Note that something was reached. O(1)."""
        self.pairs.setdefault((kind, dialect), set()).add((where, what))

    def to_lists(self) -> list[list[str]]:
        """Return what was reached as lists of texts, for another process."""
        return sorted([*key, *pair] for key, pairs in self.pairs.items() for pair in pairs)

    def add(self, lists: Iterable[Iterable[str]]) -> None:
        """Add what another process reached."""
        for kind, dialect, where, what in lists:
            self.note(kind, dialect, where, what)

    @property
    def dialects(self) -> list[str]:
        """The dialects that were used at all, in their order."""
        used = {dialect for (_, dialect), pairs in self.pairs.items() if pairs}
        return [name for name in DIALECTS if name in used]

    def kinds(self, dialect: str) -> list[str]:
        """Return what kinds were reached at all in a dialect: who records events himself has no inputs."""
        return [kind for kind in KINDS if self.of(kind, dialect)]

    def of(self, kind: str, dialect: str) -> list[Pair]:
        """Return what was reached of a kind in a dialect, in the order of its table."""
        reached = self.pairs.get((kind, dialect), ())
        return [pair for pair in reachable(kind, dialect) if pair in reached]

    def missing(self, kind: str, dialect: str) -> list[Pair]:
        """Return what was not reached of a kind in a dialect, in the order of its table."""
        reached = self.pairs.get((kind, dialect), ())
        return [pair for pair in reachable(kind, dialect) if pair not in reached]

    def percent(self, kind: str, dialect: str) -> float:
        """Return how much of a kind was reached in a dialect, of a hundred."""
        return 100 * len(self.of(kind, dialect)) / len(reachable(kind, dialect))

    def lines(self) -> Iterator[str]:
        """Yield what is worth reading: for each dialect a table of how much was reached, and what was not."""
        for dialect in self.dialects:
            yield f"{f'dialect {dialect}':<18}{'reached':>8}{'of':>6}{'%':>8}"
            for kind in KINDS:
                count, total = len(self.of(kind, dialect)), len(reachable(kind, dialect))
                yield f"  {kind:<16}{count:>8}{total:>6}{self.percent(kind, dialect):>8.1f}"
            events = self.pairs.get(("transitions", dialect), set())
            refused = sum(pair in events for pair in refusable(dialect))
            yield f"  {'refused':<16}{refused:>8}{len(refusable(dialect)):>6}"
            for kind in self.kinds(dialect):
                yield from self._missing_lines(kind, dialect)

    def _missing_lines(self, kind: str, dialect: str) -> Iterator[str]:
        """Yield what was not reached of a kind."""
        missing = self.missing(kind, dialect)
        if missing:
            yield f"  {kind} that were not reached:"
        for place in dict.fromkeys(where for where, _ in missing):
            names = "; ".join(what or "(asked for)" for where, what in missing if where == place)
            text = f"{place}: {names}" if place else names
            yield from textwrap.wrap(
                text, 100, initial_indent=" " * 4, subsequent_indent=" " * 6, break_on_hyphens=False
            )

    def picture(self, dialect: str, format: str = "mermaid") -> str:
        """Return the lifecycle of a dialect with what was reached marked, in a format of `taskfold.diagram`."""
        return diagram(dialect, format, reached=self.of("transitions", dialect))


# --- watching ---


class _Watched(dict[str, "str | None"]):
    """The targets of an event type, which note in which state they are asked."""

    def __init__(self, targets: Mapping[str, str | None], dialect: str, event: str, reached: Reached) -> None:
        super().__init__(targets)
        pairs = reached.pairs.setdefault(("transitions", dialect), set())
        self.note = pairs.add
        self.pair_of = {state: (state or STATES[0], event) for state in targets}

    def __getitem__(self, state: str) -> str | None:
        """Return the state that follows, and note the pair."""
        self.note(self.pair_of[state])
        return super().__getitem__(state)


@contextmanager
def watched(reached: Reached) -> Iterator[Reached]:
    """Note what is reached until the end of the block, in every fold and engine of this process.

    >>> from taskfold import Engine, events
    >>> with watched(Reached()) as reached:
    ...     engine = Engine(dialect="1.1.2")
    ...     engine.place({"ID": "a"})
    ...     _ = engine.record("a", "web", events.Started())
    >>> reached.of("transitions", "1.1.2")
    [('pending', 'Started')]
    """
    with ExitStack() as watch:
        for name in DIALECTS:
            _watch_transitions(watch, name, reached)
        _watch_refusals(watch, reached)
        _watch_inputs(watch, reached)
        _watch_effects_and_verdicts(watch, reached)
        yield reached


def _watch_transitions(watch: ExitStack, dialect: str, reached: Reached) -> None:
    lifecycle = lifecycle_of(dialect)
    for cls, rule in [*lifecycle.rules.items()]:
        targets = _Watched(rule.targets, dialect, _tag(cls), reached)
        _put(watch, lifecycle.rules, cls, msgspec.structs.replace(rule, targets=targets))


def _watch_refusals(watch: ExitStack, reached: Reached) -> None:
    illegal_of = Lifecycle.illegal

    def illegal(self: Lifecycle, task: str, state: str, event: TaskEvent | Finished) -> IllegalEvent:
        reached.note("transitions", self.dialect.name, state, _tag(type(event)))
        return illegal_of(self, task, state, event)

    watch.callback(setattr, Lifecycle, "illegal", illegal_of)
    Lifecycle.illegal = illegal  # type: ignore[method-assign]


def _put(watch: ExitStack, table: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    """Have another value in a table for a time."""
    watch.callback(table.__setitem__, key, table[key])
    table[key] = value


def _watch_inputs(watch: ExitStack, reached: Reached) -> None:
    def of_task(kind: type[Input], does: Callable[..., None]) -> Callable[..., None]:
        def note(decision: Any, task: Any, report: Any) -> None:
            reached.note("inputs", decision.dialect.name, place_of(task), kind.__name__)
            does(decision, task, report)

        return note

    def of_allocation(kind: type[Input], does: Callable[..., None]) -> Callable[..., None]:
        def note(decision: Any, report: Any) -> None:
            reached.note("inputs", decision.dialect.name, WHOLE, kind.__name__)
            does(decision, report)

        return note

    for kind, rule in [*RULES.items()]:
        _put(watch, RULES, kind, rule._replace(does=of_task(kind, rule.does)))
    for kind, does in [*ALLOCATION_RULES.items()]:
        _put(watch, ALLOCATION_RULES, kind, of_allocation(kind, does))


def _watch_effects_and_verdicts(watch: ExitStack, reached: Reached) -> None:
    step_of = decisions.Decision.step

    def step(self: decisions.Decision) -> Step:
        step = step_of(self)
        for effect in step.effects:
            reached.note("effects", self.dialect.name, _ANYWHERE, type(effect).__name__)
        return step

    def verdict(policy: RestartPolicy, *arguments: Any, dialect: Dialect, **options: Any) -> Verdict:
        verdict = decide_restart(policy, *arguments, dialect=dialect, **options)
        reason = EXCEEDED if verdict.reason == policy.exceeded else verdict.reason
        reached.note("restarts", dialect.name, verdict.decision, reason)
        return verdict

    _put(watch, vars(decisions), "decide_restart", verdict)
    watch.callback(setattr, decisions.Decision, "step", step_of)
    decisions.Decision.step = step  # type: ignore[method-assign]
