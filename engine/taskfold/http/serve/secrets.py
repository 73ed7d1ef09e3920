"""Reading the token, which is never printed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from taskfold.model.errors import ServeError

__all__ = ["VARIABLE", "read_token"]

VARIABLE: Final = "TASKFOLD_TOKEN"
"""The variable of the environment that holds a token."""


def read_token(
    text: str | None,
    file: str | None,
    environment: Mapping[str, str] = os.environ,
    on_note: Callable[[str], None] = lambda _: None,
) -> str | None:
    """Return the token from the option, a file, or the environment; None if there is none.

    Raises ServeError for one that is empty, given twice, or in a file that cannot be read.
    """
    if text is not None and file is not None:
        raise ServeError("a token is given twice: use --token or --token-file")
    if file is not None:
        return _check(_first_line(file, on_note), f"{file} holds no token in its first line")
    if text is not None:
        return _check(text, "--token is empty")
    variable = environment.get(VARIABLE)
    return None if variable is None else _check(variable, f"{VARIABLE} is empty")


def _check(token: str, problem: str) -> str:
    """Return a token that a header can hold. Raises ServeError."""
    stripped = token.strip()
    if not stripped:
        raise ServeError(problem)
    if not (stripped.isascii() and stripped.isprintable()):
        raise ServeError("a token has printable ASCII characters only, since it is sent in a header")
    return stripped


def _first_line(file: str, on_note: Callable[[str], None]) -> str:
    try:
        with Path(file).open(encoding="utf-8", errors="replace") as opened:
            if os.name == "posix" and os.fstat(opened.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH):
                on_note(f"others can read {file}, which holds the token")
            return opened.readline()
    except OSError as error:
        raise ServeError(f"{file}: cannot be read: {error.strerror or error}") from None
