"""Which transitions a run reached: (state, event) pairs of the lifecycle tables, noted while somebody wants to know.

While a `Reached` watches, the compiled tables of every dialect note what they are asked. Nothing else of the fold
changes, and nothing is paid by who does not watch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import msgspec

from taskfold.fold.lifecycle import STATES, lifecycle_of
from taskfold.model.dialect import DIALECTS

__all__ = ["Pair", "Reached", "reachable", "watched"]

Pair: TypeAlias = tuple[str, str, str]
"""A dialect, a state and the wire type of an event, or ``Finished``."""


def reachable(dialect: str) -> dict[Pair, bool]:
    """Return every pair of a dialect's table, and whether it is legal. O(table).

    >>> reachable("1.1.2")["1.1.2", "pending", "Started"], reachable("1.1.2")["1.1.2", "running", "Received"]
    (True, False)
    """
    rules = lifecycle_of(dialect).rules
    # `get` is not noted.
    return {
        (dialect, state, str(cls.__struct_config__.tag)): rule.targets.get(state) is not None
        for cls, rule in rules.items()
        for state in STATES
    }


class Reached:
    """Which pairs were reached."""

    def __init__(self) -> None:
        self.pairs: set[Pair] = set()

    def add(self, pairs: Iterable[Iterable[str]]) -> None:
        """Add what another process reached."""
        for dialect, state, event in pairs:
            self.pairs.add((dialect, state, event))

    @property
    def dialects(self) -> list[str]:
        """The dialects that were used at all, in their order."""
        used = {dialect for dialect, _, _ in self.pairs}
        return [name for name in DIALECTS if name in used]

    def missing(self, dialect: str) -> list[Pair]:
        """Return the legal pairs of a dialect that were not reached, in the order of its table."""
        return [pair for pair, is_legal in reachable(dialect).items() if is_legal and pair not in self.pairs]

    def percent(self, dialect: str) -> float:
        """Return how many of the legal pairs of a dialect were reached, of a hundred."""
        legal = sum(reachable(dialect).values())
        return 100 * (legal - len(self.missing(dialect))) / legal

    def lines(self) -> Iterator[str]:
        """Yield what is worth reading: for each dialect how much was reached, and what was not."""
        for dialect in self.dialects:
            refused = sum(1 for pair, is_legal in reachable(dialect).items() if not is_legal and pair in self.pairs)
            yield f"{dialect}: {self.percent(dialect):.1f} % of the legal transitions; {refused} pairs were refused"
            missing = self.missing(dialect)
            for state in STATES:
                names = [event for _, where, event in missing if where == state]
                if names:
                    yield f"  not reached while {state}: {', '.join(names)}"


class _Watched(dict[str, "str | None"]):
    """The targets of an event type, which note in which state they are asked."""

    def __init__(self, targets: Mapping[str, str | None], dialect: str, event: str, reached: Reached) -> None:
        super().__init__(targets)
        self.pairs = {state: (dialect, state or STATES[0], event) for state in targets}
        self.reached = reached

    def __getitem__(self, state: str) -> str | None:
        """Return the state that follows, and note the pair."""
        self.reached.pairs.add(self.pairs[state])
        return super().__getitem__(state)


@contextmanager
def watched(reached: Reached) -> Iterator[Reached]:
    """Note what is reached until the end of the block, in every fold and engine of this process.

    >>> from taskfold import Engine, events
    >>> with watched(Reached()) as reached:
    ...     engine = Engine(dialect="1.1.2")
    ...     engine.place({"ID": "a"})
    ...     _ = engine.record("a", "web", events.Started())
    >>> [*reached.pairs]
    [('1.1.2', 'pending', 'Started')]
    """
    before: list[tuple[dict[type[Any], Any], dict[type[Any], Any]]] = []
    for name in DIALECTS:
        lifecycle = lifecycle_of(name)
        assert lifecycle.fingerprint  # it reads the tables once, now
        rules = lifecycle.rules
        before.append((rules, dict(rules)))
        for cls, rule in list(rules.items()):
            event = str(cls.__struct_config__.tag)
            targets = _Watched(rule.targets, name, event, reached)
            rules[cls] = msgspec.structs.replace(rule, targets=targets)
    try:
        yield reached
    finally:
        for rules, original in before:
            rules.update(original)
