"""The list of changes of the rules that no test notices, each with the reason: tests/mutants/*.toml.

`tools.mutants` finds such changes, and compares them with this list; a test sees that each still applies.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["LISTS", "PACKAGE", "ROOT", "Change", "Survivor", "listed_survivors"]

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "engine" / "taskfold"
LISTS: Final = ROOT / "tests" / "mutants"


class Change(NamedTuple):
    """A change of some lines of a module, wherever they stand in their function."""

    module: str
    """Its path inside the package."""
    scope: str
    """The function or class; empty outside."""
    before: str
    """The lines that change, without what indents them."""
    after: str
    nth: int = 0
    """Which of equal places in the scope it is."""

    @classmethod
    def between(cls, module: str, scope: str, before: str, after: str) -> Change:
        """Return the change that makes one text of a module the other."""
        old, new = _stripped(before), _stripped(after)
        start = 0
        while start < min(len(old), len(new)) and old[start] == new[start]:
            start += 1
        end = 0
        while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
            end += 1
        lines = old[start : len(old) - end]
        first, _ = _scope_lines(before, scope)
        nth = sum(old[n : n + len(lines)] == lines for n in range(first, start))
        return cls(module, scope, "\n".join(lines), "\n".join(new[start : len(new) - end]), nth)

    def applies(self, text: str) -> bool:
        """Tell whether the lines that change stand in this text of the module."""
        old, lines = _stripped(text), self.before.split("\n")
        first, last = _scope_lines(text, self.scope)
        return sum(old[n : n + len(lines)] == lines for n in range(first, last)) > self.nth


class Survivor(NamedTuple):
    """A change that no test notices, and why that is right."""

    change: Change
    reason: str

    def as_toml(self) -> str:
        """Return the entry of the list, to be completed by the reason."""
        change = self.change
        rows = [f"module = {_quoted(change.module)}", f"in = {_quoted(change.scope)}"]
        rows += [f"before = {_quoted(change.before)}", f"after = {_quoted(change.after)}"]
        rows += [f"nth = {change.nth}"] if change.nth else []
        return "\n".join(["[[survivors]]", *rows, f"reason = {_quoted(self.reason)}", ""])


def _quoted(text: str) -> str:
    # What JSON writes of a text is TOML, too.
    return json.dumps(text, ensure_ascii=False) if "'" in text or "\n" in text else f"'{text}'"


def _stripped(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


@cache
def _scope_lines(text: str, scope: str) -> tuple[int, int]:
    """Return the first line and the one after the last (from 0) of a function or class; none where it is gone."""
    node: ast.AST = ast.parse(text)
    first, last = 0, len(text.splitlines())
    for name in filter(None, scope.split(".")):
        # The nearest of this name: a walk has what is nested deeper later.
        part = next((part for part in ast.walk(node) if isinstance(part, _SCOPES) and part.name == name), None)
        if part is None:
            return 0, 0
        node, first, last = part, part.lineno - 1, part.end_lineno or last
    return first, last


_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def listed_survivors() -> Iterator[Survivor]:
    """Yield what the list has. Raises KeyError and TypeError where an entry is not of its form."""
    for path in sorted(LISTS.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["survivors"]:
            change = Change(entry["module"], entry["in"], entry["before"], entry["after"], entry.get("nth", 0))
            yield Survivor(change, entry["reason"])
