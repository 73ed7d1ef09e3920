"""The entry point that Hypothesis calls when it is imported beside taskfold."""

from __future__ import annotations

import sys

__all__ = ["register"]

_STRATEGIES = "taskfold.testing.strategies"


def register() -> None:
    """Have ``st.from_type`` know the public structs: importing the strategies does that."""
    # Where they are being imported, it is they who import Hypothesis.
    if _STRATEGIES not in sys.modules:
        __import__(_STRATEGIES)
