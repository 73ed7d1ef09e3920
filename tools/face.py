"""Writes what type checkers see in place of what is made at run time: the public names, and the unions of classes.

``engine/taskfold/__init__.pyi`` is made from the table of the package, ``engine/taskfold/model/_unions.pyi`` from the
registries of events and inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import taskfold
from taskfold.model.events import EVENT_CLASSES
from taskfold.model.inputs import INPUTS

PACKAGE: Final = Path(__file__).parents[1] / "engine" / "taskfold"


def public_names() -> str:
    """Return the stub of the package."""
    modules = [("taskfold", name) for name in taskfold._MODULES]  # noqa: SLF001 - the table is of the package itself
    names = [(f"taskfold.{module}", name) for name, module in taskfold._HOME.items()]  # noqa: SLF001 - the same
    lines = [f"from {module} import {name} as {name}" for module, name in sorted({*modules, *names})]
    return "\n".join(["# Made by `make schemas` from the table of __init__.py.", *lines, "", "__version__: str", ""])


def unions() -> str:
    """Return the stub of the unions: a type checker evaluates no tuple of classes."""
    unions = {"AnyTaskEvent": ("events", EVENT_CLASSES), "AnyInput": ("inputs", INPUTS)}
    members = {
        name: "\n    | ".join(f"{module}.{cls.__name__}" for cls in classes)
        for name, (module, classes) in unions.items()
    }
    aliases = [f"{name}: TypeAlias = (\n    {union}\n)" for name, union in members.items()]
    return "\n".join(
        [
            "# Made by `make schemas` from the registries of events.py and inputs.py.",
            "from typing import TypeAlias\n",
            "from taskfold.model import events, inputs\n",
            *aliases,
            "",
        ]
    )


STUBS: Final = {"__init__.pyi": public_names, "model/_unions.pyi": unions}
"""What writes each of the stubs."""


if __name__ == "__main__":
    for name, make in STUBS.items():
        (PACKAGE / name).write_text(make(), encoding="utf-8")
