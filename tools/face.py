"""Writes ``engine/taskfold/__init__.pyi``, the public names for type checkers, from the table of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import taskfold

STUB: Final = Path(__file__).parents[1] / "engine" / "taskfold" / "__init__.pyi"


def stub() -> str:
    """Return the text of the stub."""
    modules = [("taskfold", name) for name in taskfold._MODULES]  # noqa: SLF001 - the table is of the package itself
    names = [(f"taskfold.{module}", name) for name, module in taskfold._HOME.items()]  # noqa: SLF001 - the same
    lines = [f"from {module} import {name} as {name}" for module, name in sorted({*modules, *names})]
    return "\n".join(["# Made by `make schemas` from the table of __init__.py.", *lines, "", "__version__: str", ""])


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
