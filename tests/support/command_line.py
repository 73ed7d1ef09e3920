"""The command line, run in this process, and what a refusal of it looks like."""

from __future__ import annotations

import inspect

from click.testing import CliRunner, Result

from taskfold.cli._commands import taskfold

# Until click 8.2 what is written to stderr is kept apart only where one asks for it; since then always.
APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}


def run(*args: object, input: bytes | None = None, env: dict[str, str | None] | None = None) -> Result:
    """Run a command."""
    return CliRunner(**APART).invoke(taskfold, [str(arg) for arg in args], input=input, env=env)


def refused(result: Result, *parts: object, may_show: bool = False) -> str:
    """Assert that a command was refused in one sentence which has these parts, and return it."""
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr)
    assert may_show or result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("taskfold: ")
    assert "Traceback" not in sentence
    assert "bug of taskfold" not in sentence
    for part in parts:
        assert str(part) in sentence
    return sentence
